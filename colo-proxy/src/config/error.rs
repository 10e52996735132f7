//! Why a configuration is refused.

use std::path::{Path, PathBuf};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, message: String },
    #[error("guest `{name}`: {what}")]
    Guest { name: String, what: String },
    /// As [`Self::Guest`], for a guest in a file. The line is that of its `[[guest]]`.
    #[error("{}:{line}: guest `{name}`: {what}", path.display())]
    GuestInFile { path: PathBuf, line: usize, name: String, what: String },
    #[error("the configuration {} has no [[guest]]", path.display())]
    Empty { path: PathBuf },
}

impl ConfigError {
    /// Says where the guest is described.
    pub(super) fn in_file(self, path: &Path, line: usize) -> Self {
        match self {
            Self::Guest { name, what } => Self::GuestInFile { path: path.into(), line, name, what },
            other => other,
        }
    }
}
