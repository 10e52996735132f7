//! A QEMU from Debian's unstable suite, with every library that it needs down to libc. It is
//! unpacked into a folder and runs from there. Nothing is installed, and nothing on this machine
//! changes.
//!
//! apt does the work. With a configuration, an empty list of installed packages and a cache of our
//! own, it finds and downloads all dependencies.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Emulator, NAME, OLDEST, run};

const PACKAGE: &str = "qemu-system-x86";
const SUITE: &str = "sid";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The folder of the packages' libraries, and the program that loads them.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// The firmware. QEMU looks for it in the folder where Debian installs it.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// The QEMU in `cache`. It is downloaded if it is missing.
pub(super) fn bring(cache: &Path) -> Result<Emulator> {
    fs::create_dir_all(cache).with_context(|| at("make", cache))?;
    // The lock is held to the end, because two runs must not unpack into one folder. The kernel
    // releases it if a process dies.
    let lock = cache.join("qemu.lock");
    let lock = File::create(&lock).with_context(|| at("make", &lock))?;
    lock.lock().context("waiting for another process that downloads QEMU")?;
    let root = cache.join("qemu");
    if let Ok(emulator) = check(&root) {
        return Ok(emulator);
    }
    let work = cache.join("qemu.partial");
    for left in [&root, &work] {
        // The folder of an interrupted run, or of an older release.
        if left.exists() {
            fs::remove_dir_all(left).with_context(|| at("remove", left))?;
        }
    }
    let unpacked = Apt::prepare(work.clone())?.unpack()?;
    check(&unpacked)?;
    // The folder is moved into place when it is complete.
    fs::rename(&unpacked, &root).with_context(|| at("move", &unpacked))?;
    fs::remove_dir_all(&work).with_context(|| at("remove", &work))?;
    check(&root)
}

/// The program in an unpacked `root`, if it runs and is new enough.
fn check(root: &Path) -> Result<Emulator> {
    let emulator = emulator(root);
    let release = emulator.release()?;
    ensure!(release >= OLDEST, "Debian's {SUITE} has only {release}");
    Ok(emulator)
}

/// It runs with the loader and the libraries of its folder, because this machine's are older.
fn emulator(root: &Path) -> Emulator {
    let libraries = root.join(LIBRARIES);
    let mut arguments: Vec<OsString> = vec![
        "--library-path".into(),
        libraries.clone().into(),
        root.join("usr/bin").join(NAME).into(),
    ];
    for folder in FIRMWARE {
        arguments.extend(["-L".into(), root.join(folder).into()]);
    }
    Emulator {
        program: libraries.join("ld-linux-x86-64.so.2"),
        arguments,
        environment: vec![("QEMU_MODULE_DIR", libraries.join("qemu").into())],
    }
}

/// An apt of our own in a folder.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn prepare(folder: PathBuf) -> Result<Self> {
        ensure!(cfg!(target_arch = "x86_64"), "this machine is no x86-64");
        let uri = mirror()?;
        ensure!(Path::new(KEYRING).exists(), "this machine has no keyring of Debian's archive");
        for name in ["none", "state/lists/partial", "cache/archives/partial", "root"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).with_context(|| at("make", &path))?;
        }
        let apt = Self { folder };
        apt.write("sources.list", &format!("deb [signed-by={KEYRING}] {uri} {SUITE} main\n"))?;
        apt.write("state/status", "")?;
        Ok(apt)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| at("write", &path))
    }

    /// Downloads everything and unpacks it; returns the folder.
    fn unpack(&self) -> Result<PathBuf> {
        eprintln!("lab: bringing QEMU {OLDEST} or newer from Debian's {SUITE}");
        // Without the option, a failed download is only a warning.
        run(self.get().args(["-o", "APT::Update::Error-Mode=any", "update"]))
            .context("Debian's packages cannot be listed")?;
        run(self
            .get()
            .args(["--yes", "--no-install-recommends", "--download-only"])
            .args(["install", PACKAGE]))
        .with_context(|| format!("Debian's {SUITE} has no {PACKAGE}"))?;
        let (archives, root) = (self.folder.join("cache/archives"), self.folder.join("root"));
        let mut packages = 0;
        for entry in fs::read_dir(&archives).with_context(|| at("list", &archives))? {
            let path = entry.with_context(|| at("list", &archives))?.path();
            if path.extension().is_some_and(|end| end == "deb") {
                run(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(&root))?;
                packages += 1;
            }
        }
        ensure!(packages > 0, "apt-get has downloaded nothing");
        Ok(root)
    }

    /// `apt-get` on our folder. It uses this machine's way to the network, and nothing else of this
    /// machine.
    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        let folder = |key: &str, name: &str| format!("{key}={}", self.folder.join(name).display());
        let options = [
            folder("Dir::Etc::sourcelist", "sources.list"),
            folder("Dir::Etc::sourceparts", "none"),
            folder("Dir::Etc::preferences", "none/preferences"),
            folder("Dir::Etc::preferencesparts", "none"),
            folder("Dir::State", "state"),
            // Nothing counts as installed, so libc is also downloaded.
            folder("Dir::State::status", "state/status"),
            folder("Dir::Cache", "cache"),
            "APT::Architecture=amd64".to_owned(),
            // The user of apt's downloads cannot write to our folder.
            "APT::Sandbox::User=root".to_owned(),
            // The mirror may stand still on purpose, so the age of its lists does not matter.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        command.arg("-qq").env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command.args(options.iter().flat_map(|option| ["-o", option]));
        command
    }
}

/// The address from which this machine gets its own packages.
fn mirror() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    // apt names the archives whose lists it has. A new machine has none.
    for update in [false, true] {
        if update {
            run(Command::new("apt-get").args(["-qq", "update"]))?;
        }
        let mut targets = Command::new("apt-get");
        targets.args(["indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)"]);
        let listed = run(&mut targets).context("there is no apt to download one")?;
        if let Some(uri) = choose(&listed, codename(&release)) {
            return Ok(uri.to_owned());
        }
    }
    bail!("this machine's apt knows no archive of Debian")
}

/// The running release's name.
fn codename(os_release: &str) -> &str {
    let line = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    line.unwrap_or(SUITE).trim_matches('"')
}

/// The archive with the main component of the running release, from lines of URI, code name and
/// component. Security updates, which are elsewhere, and other vendors' packages do not count.
fn choose<'a>(targets: &'a str, codename: &str) -> Option<&'a str> {
    targets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (uri, name, component) = (words.next()?, words.next()?, words.next()?);
        let ours = name == codename || name == SUITE;
        (ours && component == "main" && !uri.contains("security")).then_some(uri)
    })
}

fn at(what: &str, path: &Path) -> String {
    format!("cannot {what} {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::{choose, codename};

    const TARGETS: &str = "\
        http://security.example/debian-security/ bookworm-security main\n\
        http://security.example/debian-security/ bookworm main\n\
        https://packages.example/apt tools-bookworm main\n\
        https://node.example/node nodistro main\n\
        http://mirror.example/debian/ bookworm-updates main\n\
        http://mirror.example/debian/ bookworm contrib\n\
        http://mirror.example/debian/ bookworm main\n\
        http://second.example/debian/ bookworm main\n";

    #[test]
    fn the_mirror_is_that_of_the_release() {
        assert_eq!(choose(TARGETS, "bookworm"), Some("http://mirror.example/debian/"));
        assert_eq!(choose(TARGETS, "trixie"), None);
        assert_eq!(choose("", "bookworm"), None);
        assert_eq!(choose("one\n\nhttp://two bookworm\n", "bookworm"), None);
        let sid = "http://mirror.example/debian/ sid main\n";
        assert_eq!(choose(sid, "forky"), Some("http://mirror.example/debian/"));
    }

    #[test]
    fn the_code_name_is_read_with_and_without_quotes() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), "bookworm");
        assert_eq!(codename("VERSION_CODENAME=\"trixie\"\n"), "trixie");
        assert_eq!(codename("ID=debian\n"), "sid");
    }
}
