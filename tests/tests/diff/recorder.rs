//! A capture of one interface, like that of `tcpdump -w`.

use std::fs::File;
use std::io::{self, BufWriter};
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use colo_lab::namespace::Namespace;
use colo_lab::process::eventually;
use colo_proxy::capture_file::Writer;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

/// The buffer for frames that arrive while the recorder has no processor.
static BUFFER_BYTES: libc::c_int = 64 << 20;
const FRAME_MAX: usize = 1 << 17;
/// The silence after which a capture counts as complete.
const SILENCE: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_secs(20);

/// Frames with their times, in nanoseconds since 1970.
type Recorded = Vec<(u64, Vec<u8>)>;

/// A recording in progress.
#[derive(Debug)]
pub(crate) struct Recorder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Recorded>>,
}

impl Recorder {
    /// Records everything that `interface` sends and receives from now on.
    pub(crate) fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        let socket = namespace.run(|| open(interface))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || record(&socket, &stopped));
        Ok(Self { stop, thread })
    }

    /// Waits until no more frames come, and writes the frames.
    pub(crate) fn finish(self, path: &Path) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        eventually("the end of the recording", TIMEOUT, || {
            Ok(self.thread.is_finished().then_some(()))
        })?;
        let frames = self.thread.join().ok().context("the recorder panicked")??;
        let mut writer = Writer::new(BufWriter::new(File::create(path)?), &["recorded"])?;
        for (time_ns, frame) in frames {
            writer.write(0, time_ns, &frame, frame.len() as u32, "")?;
        }
        writer.finish()?;
        Ok(())
    }
}

fn record(socket: &OwnedFd, stop: &AtomicBool) -> Result<Recorded> {
    let mut frames = Vec::new();
    let mut buffer = vec![0; FRAME_MAX];
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(SILENCE)?)? == 0 {
            if stopping {
                break;
            }
            continue;
        }
        let len = nix::unistd::read(socket, &mut buffer)?;
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        frames.push((u64::try_from(time.as_nanos())?, buffer[..len].to_vec()));
    }
    ensure!(lost(socket)? == 0, "the recorder was too slow");
    Ok(frames)
}

fn open(interface: &str) -> Result<OwnedFd> {
    let index = nix::net::if_::if_nametoindex(interface).context("the interface")?;
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: takes no pointer.
    let fd = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol))
    };
    ensure!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and ours.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the option is one int, which lives across the call.
    let set = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const BUFFER_BYTES).cast(),
            size_of::<libc::c_int>() as u32,
        )
    };
    ensure!(set == 0, "SO_RCVBUFFORCE: {}", io::Error::last_os_error());
    // SAFETY: integers only.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = i32::try_from(index)?;
    // SAFETY: the address lives across the call and has the length given.
    let bound = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    ensure!(bound == 0, "binding to {interface}: {}", io::Error::last_os_error());
    Ok(fd)
}

/// The frames that found no room in the buffer.
fn lost(socket: &OwnedFd) -> Result<u32> {
    // SAFETY: integers only.
    let mut counts: libc::tpacket_stats = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tpacket_stats>() as u32;
    // SAFETY: both live across the call, and the length is that of the record.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut counts).cast(),
            &raw mut len,
        )
    };
    ensure!(got == 0, "PACKET_STATISTICS: {}", io::Error::last_os_error());
    Ok(counts.tp_drops)
}
