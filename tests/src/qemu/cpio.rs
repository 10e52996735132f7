//! A cpio archive in the form that the kernel unpacks as its first root file system ("newc", see
//! the kernel's `buffer-format.rst`): an ASCII header of hexadecimal fields, the name, the content,
//! each padded to four bytes.

use std::path::Path;
use std::{fs, io};

/// File types and permissions, as in `st_mode`.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const TRAILER: &str = "TRAILER!!!";

/// An archive that is not complete yet.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: Vec<String>,
}

impl Archive {
    /// Adds an executable file. `name` has no leading slash.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.folders_of(name);
        self.entry(name, PROGRAM, content);
    }

    /// Adds the file at `from`.
    pub fn copy(&mut self, name: &str, from: &Path) -> io::Result<()> {
        self.file(name, &fs::read(from)?);
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, target: &str) {
        self.folders_of(name);
        self.entry(name, SYMLINK, target.as_bytes());
    }

    /// Adds an empty folder.
    pub fn folder(&mut self, name: &str) {
        self.folders_of(&format!("{name}/"));
    }

    /// The archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    /// Adds every folder on the way to `name` once.
    fn folders_of(&mut self, name: &str) {
        for (end, _) in name.match_indices('/') {
            let folder = name.get(..end).unwrap_or_default().to_owned();
            if !self.folders.contains(&folder) {
                self.entry(&folder, DIRECTORY, &[]);
                self.folders.push(folder);
            }
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = 1;
        // inode, mode, uid, gid, links, mtime, size, the device's and the node's two numbers, the
        // name's length with its NUL, and a checksum that this form leaves at 0.
        let name_len = name.len() as u32 + 1;
        let fields =
            [self.entries, mode, 0, 0, links, 0, content.len() as u32, 0, 0, 0, 0, name_len, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// busybox also knows the format.
    #[test]
    fn another_program_reads_the_archive() {
        let mut archive = Archive::default();
        archive.file("bin/deep/tool", b"#!/bin/sh\n");
        archive.file("bin/odd", b"12345");
        archive.link("bin/sh", "deep/tool");
        archive.folder("proc");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let listed = list(&bytes);
        assert_eq!(listed, ["bin", "bin/deep", "bin/deep/tool", "bin/odd", "bin/sh", "proc"]);
    }

    fn list(archive: &[u8]) -> Vec<String> {
        let mut cpio = Command::new("busybox")
            .args(["cpio", "-t"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("busybox is one of the tests' packages: `cargo xtask setup qemu`");
        cpio.stdin.take().unwrap().write_all(archive).unwrap();
        let done = cpio.wait_with_output().unwrap();
        assert!(done.status.success());
        String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}
