//! Build, test and demonstration tasks of colo-proxy.

fn main() {}
