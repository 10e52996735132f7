//! Tests that need root say so here.

/// Whether this process may make namespaces. Where `COLO_PROXY_REQUIRE_ROOT=1` says that it must,
/// it panics instead of letting a test pass by being skipped.
pub fn require_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let required = std::env::var_os("COLO_PROXY_REQUIRE_ROOT").is_some_and(|v| v == "1");
    assert!(
        root || !required,
        "this test needs root, and COLO_PROXY_REQUIRE_ROOT=1 forbids a skip"
    );
    if !root {
        eprintln!("skipped: needs root (COLO_PROXY_REQUIRE_ROOT=1 makes this a failure)");
    }
    root
}
