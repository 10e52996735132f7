//! datapath
pub mod af_xdp;
pub mod capture;

/// The kernel programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("colo-proxy.bpf.o");
