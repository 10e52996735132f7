//! The processes and namespaces that the lab has made, for the case that a signal ends the process.
//!
//! Every child and every namespace is listed here while it exists. Their owners remove them when
//! they are dropped. The list is for SIGINT, SIGTERM and SIGHUP.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::IntoRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

/// The lab's children and namespaces.
#[derive(Debug, Default)]
struct Made {
    pids: BTreeSet<i32>,
    namespaces: BTreeSet<String>,
}

static MADE: Mutex<Made> = Mutex::new(Made { pids: BTreeSet::new(), namespaces: BTreeSet::new() });

fn made() -> MutexGuard<'static, Made> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn enter_pid(pid: i32) {
    made().pids.insert(pid);
}

/// Call this before the child is reaped. Afterwards, its number may belong to another process.
pub(crate) fn leave_pid(pid: i32) {
    made().pids.remove(&pid);
}

pub(crate) fn enter_namespace(name: &str) {
    made().namespaces.insert(name.to_owned());
}

pub(crate) fn leave_namespace(name: &str) {
    made().namespaces.remove(name);
}

/// The write end of the pipe through which the handler wakes the thread; -1 before the pipe exists.
static TOLD: AtomicI32 = AtomicI32::new(-1);

extern "C" fn tell(signal: libc::c_int) {
    let byte = [signal as u8];
    // SAFETY: write(2) is async-signal-safe, and `byte` lives through the call. An fd of -1 or a
    // full pipe makes the call fail, which is harmless.
    unsafe { libc::write(TOLD.load(Ordering::Relaxed), byte.as_ptr().cast(), 1) };
}

/// Makes SIGINT, SIGTERM and SIGHUP end the lab in good order. Later calls do nothing.
pub fn on_signals() -> nix::Result<()> {
    static ONCE: Mutex<bool> = Mutex::new(false);
    let mut done = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    if *done {
        return Ok(());
    }
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    TOLD.store(write.into_raw_fd(), Ordering::Relaxed);
    std::thread::spawn(move || {
        let mut byte = [0];
        if matches!(File::from(read).read(&mut byte), Ok(1)) {
            eprintln!("\nsignal {}: taking the lab down", byte[0]);
            remove_all();
            std::process::exit(128 + i32::from(byte[0]));
        }
    });
    let action = SigAction::new(SigHandler::Handler(tell), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only makes a call that is allowed in a signal handler.
        unsafe { sigaction(signal, &action) }?;
    }
    *done = true;
    Ok(())
}

/// Ends every child and removes every namespace.
pub fn remove_all() {
    let (pids, namespaces) = {
        let made = made();
        (made.pids.clone(), made.namespaces.clone())
    };
    for pid in pids {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for name in namespaces {
        remove_namespace(&name);
        leave_namespace(&name);
    }
}

pub(crate) fn remove_namespace(name: &str) {
    let _ = Command::new("ip").args(["netns", "delete", name]).output();
}

/// Removes the namespaces of labs whose process has ended. Only `kill -9` leaves them.
pub fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix("colo-").and_then(|rest| rest.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid: i32| kill(Pid::from_raw(pid), None).is_err()) {
            remove_namespace(&name);
        }
    }
}
