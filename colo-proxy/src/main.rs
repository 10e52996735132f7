//! The `colo-proxy` command.

fn main() {}
