//! The program of a guest; see `colo_lab::service`. It can be linked statically, to be the only
//! program of an initramfs: `cargo rustc --bin lab-service -- -C target-feature=+crt-static`.

fn main() -> std::io::Result<()> {
    colo_lab::service::run(|| eprintln!("lab-service: ready"))
}
