mod connection;
mod packet;
mod rig;
