//! Child processes: they run in the namespaces of a host, their stderr is collected, and they end
//! with the lab.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::cleanup;

/// The number of stderr lines to keep. The last lines stay.
const LINES_MAX: usize = 10_000;
/// The default time between SIGTERM and SIGKILL.
const TERM_TIMEOUT: Duration = Duration::from_secs(5);

/// A child process. It is killed when this value is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    exited: Option<ExitStatus>,
    stderr: Arc<Stderr>,
}

#[derive(Debug, Default)]
struct Stderr {
    state: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    closed: bool,
}

impl Process {
    /// Starts `command` in the namespaces of these handles. The command decides about stdin and
    /// stdout.
    ///
    /// The child is killed when the calling *thread* ends, so that a killed lab leaves no child.
    /// Start children from a thread that outlives them.
    pub fn spawn(name: &str, mut command: Command, namespaces: &[&File]) -> Result<Self> {
        let fds: Vec<i32> = namespaces.iter().map(|handle| handle.as_raw_fd()).collect();
        command.stderr(Stdio::piped()).process_group(0);
        // SAFETY: between fork and exec, the closure only makes system calls that are
        // async-signal-safe, on descriptors that the parent keeps open through the call.
        unsafe {
            command.pre_exec(move || {
                for &fd in &fds {
                    check(libc::setns(fd, 0))?;
                }
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))
            });
        }
        let mut child = command.spawn().with_context(|| format!("starting {name}: {command:?}"))?;
        cleanup::enter_pid(child.id() as i32);
        let stderr = Arc::new(Stderr::default());
        if let Some(pipe) = child.stderr.take() {
            let stderr = Arc::clone(&stderr);
            let echo = std::env::var_os("COLO_LAB_ECHO").map(|_| name.to_owned());
            std::thread::spawn(move || stderr.collect(pipe, echo.as_deref()));
        }
        Ok(Self { name: name.to_owned(), child, exited: None, stderr })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its reports on the piped stdout from now on, one line of JSON each. Other lines are ignored.
    pub fn reports<T: DeserializeOwned + Send + 'static>(&mut self) -> Result<Receiver<T>> {
        let stdout = self.take_stdout();
        let stdout = stdout.with_context(|| format!("stdout of {} is not piped", self.name))?;
        let (sender, reports) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(report) = serde_json::from_str(&line) else { continue };
                if sender.send(report).is_err() {
                    return;
                }
            }
        });
        Ok(reports)
    }

    /// Its stderr so far.
    pub fn stderr(&self) -> String {
        let state = self.stderr.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// All of its stderr. This waits until stderr is closed. A child of the process may keep it
    /// open.
    pub fn stderr_to_end(&self) -> String {
        // No line contains a newline, so this waits for the end.
        let _ = self.stderr.wait_for("\n", Instant::now() + TERM_TIMEOUT);
        self.stderr()
    }

    /// Waits for a line on stderr that contains `word`.
    pub fn wait_for(&self, word: &str, timeout: Duration) -> Result<String> {
        match self.stderr.wait_for(word, Instant::now() + timeout) {
            Ok(line) => Ok(line),
            Err(closed) => bail!(
                "{}: no line with `{word}` {}; its stderr:\n{}",
                self.name,
                if closed { "before its stderr closed".into() } else { format!("in {timeout:?}") },
                self.stderr()
            ),
        }
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            let pid = self.child.id() as i32;
            // Look before the child is reaped: afterwards, its number may belong to another
            // process.
            if has_ended(pid) {
                cleanup::leave_pid(pid);
                self.exited = self.child.wait().ok();
            }
        }
        self.exited
    }

    /// Waits until the process ends by itself.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exited() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not end in {timeout:?}; its stderr:\n{}", self.name, self.stderr());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.exited().is_none() {
            kill(Pid::from_raw(self.child.id() as i32), signal)
                .with_context(|| format!("sending {signal} to {}", self.name))?;
        }
        Ok(())
    }

    /// Sends SIGTERM and returns the exit status.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(TERM_TIMEOUT)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(TERM_TIMEOUT).map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
    }
}

impl Stderr {
    fn collect(&self, pipe: impl std::io::Read, echo: Option<&str>) {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if let Some(name) = echo {
                eprintln!("[{name}] {line}");
            }
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.lines.len() == LINES_MAX {
                state.lines.pop_front();
            }
            state.lines.push_back(line);
            self.changed.notify_all();
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
    }

    /// Returns the first line with `word`. The error says whether stderr was closed.
    fn wait_for(&self, word: &str, deadline: Instant) -> Result<String, bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = state.lines.iter().find(|line| line.contains(word)) {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return Err(state.closed);
            }
            (state, _) =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn check(result: libc::c_int) -> std::io::Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn has_ended(pid: i32) -> bool {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(waitid(Id::Pid(Pid::from_raw(pid)), flags), Ok(WaitStatus::StillAlive))
}

/// A program that Cargo built beside the running one, or that `variable` names.
pub fn program(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let exe = std::env::current_exe().context("asking for the path of this program")?;
    let folders = exe.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("no program `{name}` beside {}: build it, or set {variable}", exe.display())
    })
}

/// Waits until `ready` returns something, for at most `timeout`.
pub fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("{what}: it did not happen in {timeout:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
