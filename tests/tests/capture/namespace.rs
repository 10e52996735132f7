//! A thread in its own namespaces.

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Runs `test` in a thread with its own network and mount namespaces, which nothing else sees, and
/// with its own BPF filesystem. All of them end with the thread.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
        let flags = MsFlags::empty();
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), flags, None::<&str>).expect("bpffs");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
