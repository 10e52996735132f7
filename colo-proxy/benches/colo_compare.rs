//! `colo-compare` between unix sockets, as QEMU would use it: pairs of equal frames a second.
//!
//! `cargo bench -p colo-proxy --bench colo_compare`

#[allow(dead_code, reason = "the other benchmarks have no sockets")]
mod load;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use colo_proxy::colo_compare::{self, CompareOptions};
use colo_proxy_engine::frame::Frame;

use self::load::{Chunk, Load, Order, PAIRS, Says};

const FLOWS: u32 = 64;
const ROUNDS: usize = 5;
/// Bytes that a guest's side writes at once.
const WRITE_BYTES: usize = 32 * 1024;
const SHORT: &[Says] = &[Says::Tcp { payload: 64 }];
const LONG: &[Says] = &[Says::Tcp { payload: 1448 }];

fn main() {
    for (says, pairs, name) in [(SHORT, 400 * PAIRS, "64 B"), (LONG, 100 * PAIRS, "1448 B")] {
        let wires = Wires::new(says, pairs);
        let mut rounds: Vec<(f64, f64)> = (0..ROUNDS).map(|_| round(&wires)).collect();
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (rate, cpu) = rounds[ROUNDS / 2];
        let (least, most) = (rounds[0].0, rounds[ROUNDS - 1].0);
        println!(
            "{name}: {rate:.3} M pairs/s ({least:.3} to {most:.3}), \
             {cpu:.0} ns of colo-compare's thread a pair"
        );
    }
}

/// The streams of both sockets.
struct Wires {
    primary: Vec<u8>,
    secondary: Vec<u8>,
    pairs: usize,
}

impl Wires {
    fn new(says: &'static [Says], pairs: usize) -> Self {
        let mut load = Load::new(FLOWS, Order::Random, says);
        let mut wires = Self { primary: Vec::new(), secondary: Vec::new(), pairs: 0 };
        for at in 0..FLOWS as usize {
            let opening = load.opening(at).expect("it is TCP");
            wires.add(opening);
        }
        while wires.pairs < pairs {
            load.chunks().into_iter().for_each(|chunk| wires.add(chunk));
        }
        wires
    }

    fn add(&mut self, (primary, secondary): Chunk) {
        self.pairs += primary.len();
        for (frames, wire) in [(primary, &mut self.primary), (secondary, &mut self.secondary)] {
            for frame in &frames {
                record(wire, frame);
            }
        }
    }
}

/// Without a virtio-net header, as QEMU's default is.
fn record(into: &mut Vec<u8>, frame: &Frame) {
    let bytes = frame.ethernet();
    into.extend((bytes.len() as u32).to_be_bytes());
    into.extend(bytes);
}

/// One run: millions of pairs a second, and nanoseconds of colo-compare's own time for each pair.
fn round(wires: &Wires) -> (f64, f64) {
    let directory = Directory::new();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let comparer = directory.start(stopped);
    let mut secondary = directory.connect("secondary");
    let mut outdev = directory.connect("out");
    let mut primary = directory.connect("primary");
    // Only a comparison releases frames: nothing leaves before the secondary has sent the same.
    let (first, rest) = wires.primary.split_at(WRITE_BYTES);
    primary.write_all(first).expect("it is read");
    outdev.set_read_timeout(Some(Duration::from_millis(200))).expect("a time");
    assert!(outdev.read(&mut [0; 1]).is_err(), "the secondary has sent nothing");
    outdev.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| feed(&mut primary, rest));
        scope.spawn(|| feed(&mut secondary, &wires.secondary));
        drain(&mut outdev, wires.primary.len());
    });
    let elapsed = start.elapsed();
    stop.send(()).expect("it runs");
    let cpu_ns = comparer.join().expect("it ends well");
    let pairs = wires.pairs as f64;
    (pairs / elapsed.as_secs_f64() / 1e6, cpu_ns as f64 / pairs)
}

fn feed(socket: &mut UnixStream, wire: &[u8]) {
    for part in wire.chunks(WRITE_BYTES) {
        socket.write_all(part).expect("it is read");
    }
}

fn drain(socket: &mut UnixStream, mut left: usize) {
    let mut buffer = vec![0; 256 * 1024];
    while left > 0 {
        left -= socket.read(&mut buffer).expect("everything leaves");
    }
}

/// The directory of the sockets. It is removed with its value.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let name = format!("colo-compare-bench-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    /// Runs `colo-compare` in a thread, and waits until it accepts connections. The thread returns its
    /// processor time in nanoseconds.
    fn start(&self, stopped: tokio::sync::oneshot::Receiver<()>) -> JoinHandle<u64> {
        let endpoint = |name| {
            let text = format!("unix:{},server", self.socket(name).display());
            text.parse().expect("an endpoint")
        };
        let options = CompareOptions {
            primary_in: endpoint("primary"),
            secondary_in: endpoint("secondary"),
            outdev: endpoint("out"),
            colo_frame: None,
            vnet_hdr_support: false,
            compare_timeout: Duration::from_secs(30),
            max_queue_size: 1 << 20,
            secondary_timeout: Duration::from_secs(30),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (started, is_started) = std::sync::mpsc::channel();
        let comparer = std::thread::spawn(move || {
            let stop = async { stopped.await.unwrap_or_default() };
            let started = move || started.send(()).expect("it is waited for");
            runtime.block_on(colo_compare::run(options, started, stop)).expect("it runs");
            let stat = std::fs::read_to_string("/proc/thread-self/schedstat");
            let stat = stat.expect("Linux has it");
            stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number")
        });
        is_started.recv().expect("it starts");
        comparer
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn connect(&self, name: &str) -> UnixStream {
        UnixStream::connect(self.socket(name)).expect("it is listened on")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let path: &Path = &self.0;
        std::fs::remove_dir_all(path).expect("it was there");
    }
}
