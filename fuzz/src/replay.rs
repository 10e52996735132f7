//! The same targets without libFuzzer. They run on the committed files, or on files that a person
//! names.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

/// The folders with the inputs of all targets. `corpus` has inputs that libFuzzer found worth
/// keeping. `regressions` has inputs that once broke a target.
pub const FOLDERS: [&str; 2] = ["corpus", "regressions"];

/// The files in `folder` of the target `name`, in the order of their names.
pub fn inputs(folder: &str, name: &str) -> io::Result<Vec<PathBuf>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name);
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Runs a target on one file, and prints the file's name before. A panic after this line belongs to
/// that file.
pub fn file(run: fn(&[u8]), path: &Path) -> io::Result<()> {
    println!("{}", path.display());
    run(&fs::read(path)?);
    Ok(())
}

/// The program of a target that cargo-fuzz did not build. It runs the target on the files of the
/// command line.
pub fn files(run: fn(&[u8])) -> ExitCode {
    let mut count = 0;
    for path in env::args_os().skip(1).map(PathBuf::from) {
        if let Err(error) = file(run, &path) {
            eprintln!("error: cannot read {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        count += 1;
    }
    println!("{count} inputs replayed; to fuzz: cargo +nightly fuzz run TARGET");
    ExitCode::SUCCESS
}
