//! `colo-proxy` as a child on a host.
