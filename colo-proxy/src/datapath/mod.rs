//! datapath

/// The kernel programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("colo-proxy.bpf.o");
