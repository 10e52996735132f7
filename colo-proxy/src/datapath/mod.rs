//! datapath
pub mod af_xdp;
pub mod capture;
