//! The guests' root file system, in memory: busybox, the drivers of a virtio-net card, and the
//! lab's service.

use super::cpio::Archive;
use super::kernel::{self, GuestKernel};
use super::modules;
use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];
/// The guest prints this when the service listens.
pub(super) const READY: &str = "guest: ready";
/// The guest prints this between the counters that come in pairs of lines and those that have one
/// line each.
pub(super) const MIDDLE: &str = "guest: one counter per line";
/// The guest prints this after the requested counters.
pub(super) const END: &str = "guest: end of counters";

/// Addresses and other settings, which are the same in both guests.
#[derive(Clone, Debug)]
pub struct GuestNetwork {
    /// With the length of the prefix.
    pub ipv4: String,
    pub ipv6: String,
    /// The addresses and the MAC of the client. A guest that is restored from a checkpoint knows
    /// its neighbours.
    pub neighbours: Vec<String>,
    pub neighbour_mac: String,
}

/// Builds the file system with the program `service` in it.
pub fn build(kernel: &GuestKernel, service: &Path, network: &GuestNetwork) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let drivers = modules::in_load_order(&kernel.modules, &MODULES)?;
    let mut load = String::new();
    for driver in &drivers {
        let name = driver.file_name().and_then(|name| name.to_str()).context("a module's name")?;
        copy(&mut archive, &format!("modules/{name}"), driver)?;
        let _ = writeln!(load, "insmod /modules/{name}");
    }
    for folder in ["proc", "sys", "dev", "etc", "tmp"] {
        archive.folder(folder);
    }
    copy_program(&mut archive, "bin/busybox", Path::new("/bin/busybox"))?;
    archive.link("bin/sh", "busybox");
    copy_program(&mut archive, "bin/lab-service", service)?;
    // busybox's own `ip` cannot set a neighbour.
    copy_program(&mut archive, "sbin/ip", &find_ip()?)?;
    archive.file("init", init(&load, network).as_bytes());
    Ok(archive.finish())
}

/// iproute2's program. Distributions keep it in different folders.
fn find_ip() -> Result<PathBuf> {
    let places = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"];
    let found = places.iter().map(PathBuf::from).find(|path| path.is_file());
    found.context("no `ip` to copy into a guest: install iproute2")
}

/// A program with the shared libraries that it needs, each at its own path.
fn copy_program(archive: &mut Archive, name: &str, program: &Path) -> Result<()> {
    copy(archive, name, program)?;
    let Ok(listed) = kernel::run(Command::new("ldd").arg(program)) else {
        // A static program needs none.
        return Ok(());
    };
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(archive, library.trim_start_matches('/'), Path::new(library))?;
    }
    Ok(())
}

fn copy(archive: &mut Archive, name: &str, from: &Path) -> Result<()> {
    archive.copy(name, from).with_context(|| format!("copying {} into a guest", from.display()))
}

/// The first program of the guest. If it ends, the kernel panics, and the guest ends.
fn init(load: &str, network: &GuestNetwork) -> String {
    let GuestNetwork { ipv4, ipv6, neighbours, neighbour_mac } = network;
    let mut links = format!(
        "link set lo up\\nlink set eth0 up\\naddr add {ipv4} dev eth0\\naddr add {ipv6} dev eth0\\n"
    );
    for address in neighbours {
        let to = format!("{address} lladdr {neighbour_mac} dev eth0 nud permanent");
        let _ = write!(links, "neigh replace {to}\\n");
    }
    format!(
        "#!/bin/sh\n\
         /bin/busybox --install -s /bin\n\
         mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev\n\
         {load}\
         echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad\n\
         echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_ra\n\
         echo 0 > /proc/sys/net/ipv6/conf/eth0/router_solicitations\n\
         printf '{links}' | /sbin/ip -batch -\n\
         lab-service 2>/tmp/service &\n\
         until grep -q ready /tmp/service; do kill -0 $! || exit 1; done\n\
         echo '{READY}'\n\
         stty -echo\n\
         while read ask; do\n\
         cat /proc/net/snmp /proc/net/netstat; echo '{MIDDLE}'; cat /proc/net/snmp6; echo '{END}'\n\
         done\n"
    )
}
