//! `cargo +nightly fuzz run offsets`; see fuzz/README.md.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| colo_proxy_fuzz::offsets::run(input));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    colo_proxy_fuzz::replay::files(colo_proxy_fuzz::offsets::run)
}
