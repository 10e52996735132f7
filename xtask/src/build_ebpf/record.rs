//! The record beside the committed object: its toolchain and its sources.

use anyhow::{Context as _, Result, bail};
use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

const HEADING: &str = "# What built colo-proxy.bpf.o; written by `cargo xtask build-ebpf`.";
const REBUILD: &str = "run `cargo xtask build-ebpf` and commit the object with its record";

/// Everything that decides the bytes of the object, except the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub rustc: String,
    pub llvm: String,
    pub cargo: String,
    pub linker: String,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub toolchain: Identity,
    /// SHA-256 over the sources.
    pub sources: String,
    /// SHA-256 of the object.
    pub object: String,
}

impl Record {
    /// Reads the record at `path`; `None` if there is none yet.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text)
                .map(Some)
                .with_context(|| format!("cannot use {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.to_text()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Fails if the committed record `self`, the digest of the committed object and the fresh build
    /// do not belong together.
    pub fn verify(&self, object: &str, fresh: &Self) -> Result<()> {
        if self.object != object {
            bail!("the committed object does not belong to its record: {REBUILD}");
        }
        if self.sources != fresh.sources {
            bail!(
                "the kernel programs' sources have changed since the object was built: {REBUILD}"
            );
        }
        if self.toolchain == fresh.toolchain && self.object != fresh.object {
            bail!("the sources give another object than the committed one: {REBUILD}");
        }
        Ok(())
    }

    fn parse(text: &str) -> Result<Self> {
        let value = |name: &str| -> Result<String> {
            text.lines()
                .filter_map(|line| line.split_once(" = "))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
                .with_context(|| format!("the record has no line `{name} = ...`: {REBUILD}"))
        };
        Ok(Self {
            toolchain: Identity {
                rustc: value("rustc")?,
                llvm: value("llvm")?,
                cargo: value("cargo")?,
                linker: value("linker")?,
            },
            sources: value("sources-sha256")?,
            object: value("object-sha256")?,
        })
    }

    fn to_text(&self) -> String {
        let Identity { rustc, llvm, cargo, linker } = &self.toolchain;
        let mut text = format!("{HEADING}\n");
        for (name, value) in [
            ("rustc", rustc),
            ("llvm", llvm),
            ("cargo", cargo),
            ("linker", linker),
            ("sources-sha256", &self.sources),
            ("object-sha256", &self.object),
        ] {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name} = {value}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, Record};

    fn record() -> Record {
        Record {
            toolchain: Identity {
                rustc: "rustc 1.96.0 (abc)".into(),
                llvm: "22.1.8".into(),
                cargo: "cargo 1.95.0".into(),
                linker: "bpf-linker 0.13.0".into(),
            },
            sources: "aa".into(),
            object: "bb".into(),
        }
    }

    #[test]
    fn a_record_survives_its_text() {
        assert_eq!(Record::parse(&record().to_text()).unwrap(), record());
        assert!(Record::parse("rustc = 1").is_err());
    }

    #[test]
    fn the_same_everything_is_accepted_and_each_change_refused() {
        let committed = record();
        committed.verify("bb", &record()).unwrap();

        let other_object = committed.verify("cc", &record()).unwrap_err().to_string();
        assert!(other_object.contains("belong to its record"), "{other_object}");

        let sources = Record { sources: "a0".into(), ..record() };
        let other_sources = committed.verify("bb", &sources).unwrap_err().to_string();
        assert!(other_sources.contains("have changed"), "{other_sources}");

        let object = Record { object: "b0".into(), ..record() };
        let other_bytes = committed.verify("bb", &object).unwrap_err().to_string();
        assert!(other_bytes.contains("another object"), "{other_bytes}");
    }

    #[test]
    fn another_toolchain_may_give_other_bytes() {
        let mut fresh = Record { object: "b0".into(), ..record() };
        fresh.toolchain.rustc = "rustc 1.97.0-nightly".into();
        record().verify("bb", &fresh).unwrap();
    }
}
