//! Network namespaces that disappear with their owner.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::cleanup;

/// A named network namespace, listed by `ip netns` while it exists.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    pub fn create(name: &str) -> Result<Self> {
        cleanup::enter_namespace(name);
        run_ip(&["netns", "add", name], "")?;
        let path = PathBuf::from("/run/netns").join(name);
        let handle = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let namespace = Self { name: name.to_owned(), handle };
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// For `setns`.
    pub fn handle(&self) -> &File {
        &self.handle
    }

    /// Moves the calling thread into this namespace for good.
    pub fn enter(&self) -> Result<()> {
        setns(&self.handle, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("entering namespace {}", self.name))
    }

    /// Runs `body` on a thread in this namespace. Its sockets stay in the namespace, also when
    /// another thread uses them.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter()?;
                body()
            });
            match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Feeds lines of `ip` commands, without the word `ip`, to one `ip -batch`.
    pub fn ip(&self, commands: &str) -> Result<()> {
        run_ip(&["-n", &self.name, "-batch", "-"], commands)
    }

    /// Runs a program in this namespace and returns its stdout.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.name, program])
            .args(args)
            .output()
            .with_context(|| format!("running {program} in {}", self.name))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {args:?} in {}: {stderr}", self.name);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Sets `net.*` values. `settings` are pairs of a path below `/proc/sys/net` and a value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                std::fs::write(format!("/proc/sys/net/{key}"), value)
                    .with_context(|| format!("setting net/{key} to {value} in {}", self.name))
            })
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        cleanup::remove_namespace(&self.name);
        cleanup::leave_namespace(&self.name);
    }
}

fn run_ip(args: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting `ip`: apt-get install iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).context("writing to `ip`")?;
    }
    let output = child.wait_with_output().context("waiting for `ip`")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {stderr}\n{input}", args.join(" "));
    Ok(())
}
