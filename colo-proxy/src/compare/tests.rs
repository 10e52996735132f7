mod connection;
mod model;
mod packet;
mod random;
mod rig;
mod script;
mod streams;
