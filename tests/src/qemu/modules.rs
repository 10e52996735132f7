//! Kernel modules in the order in which the kernel can load them.
//!
//! A package has no `modules.dep` before it is installed, but every module names the modules that
//! it needs.

use anyhow::{Context as _, Result};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The key of the needed modules in a module's file.
const DEPENDS: &[u8] = b"\0depends=";

/// The files of `wanted` and of all modules that they need. Needed modules come first.
pub fn in_load_order(modules: &Path, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = HashMap::new();
    list(modules, &mut files)?;
    let mut order = Vec::new();
    for name in wanted {
        add(name, &files, &mut order)?;
    }
    Ok(order)
}

fn add(name: &str, files: &HashMap<String, PathBuf>, order: &mut Vec<PathBuf>) -> Result<()> {
    let file = files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
    if order.contains(file) {
        return Ok(());
    }
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    // Modules cannot need each other in a circle, so this ends.
    for needed in needs(&bytes) {
        add(&needed, files, order)?;
    }
    order.push(file.clone());
    Ok(())
}

/// The names behind `depends=` in the module's `.modinfo`.
fn needs(module: &[u8]) -> Vec<String> {
    let Some(at) = module.windows(DEPENDS.len()).position(|window| window == DEPENDS) else {
        return Vec::new();
    };
    let rest = module.get(at + DEPENDS.len()..).unwrap_or_default();
    let list = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let names = list.split(|byte| *byte == b',').filter(|name| !name.is_empty());
    names.map(|name| normal(&String::from_utf8_lossy(name))).collect()
}

fn list(folder: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry.with_context(|| format!("listing {}", folder.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            list(&path, files)?;
        } else if let Some(name) = name.strip_suffix(".ko") {
            files.insert(normal(name), path);
        }
    }
    Ok(())
}

/// A module's name is the same with dashes and underscores.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::{in_load_order, needs};
    use std::fs;

    #[test]
    fn reads_what_a_module_needs() {
        assert_eq!(needs(b"x\0depends=virtio,net-failover\0y"), ["virtio", "net_failover"]);
        assert!(needs(b"x\0depends=\0y").is_empty());
        assert!(needs(b"").is_empty());
    }

    #[test]
    fn needed_modules_come_first_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, needs: &str| {
            let content = format!("\0depends={needs}\0");
            fs::write(folder.path().join(format!("{name}.ko")), content).unwrap();
        };
        write("net", "ring,bus");
        write("ring", "bus");
        write("bus", "");
        let order = in_load_order(folder.path(), &["net", "bus"]).unwrap();
        let names: Vec<_> = order.iter().map(|file| file.file_stem().unwrap().to_owned()).collect();
        assert_eq!(names, ["bus", "ring", "net"]);
        let missing = in_load_order(folder.path(), &["disk"]).unwrap_err().to_string();
        assert_eq!(missing, "the kernel has no module disk");
    }
}
