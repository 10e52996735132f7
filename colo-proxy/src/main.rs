//! The `colo-proxy` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let log = env_logger::Env::default().default_filter_or("info");
    env_logger::Builder::from_env(log).format_target(false).init();
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("colo-proxy: error: {error:#}");
            if let Some(hint) = cli::hint(&error) {
                eprintln!("hint: {hint}");
            }
            cli::exit_code(&error)
        }
    }
}
