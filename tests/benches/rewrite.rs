//! The cost of the rewriter in the kernel: nanoseconds per frame, by `BPF_PROG_TEST_RUN`.
//!
//! Run `cargo bench -p colo-proxy-tests --bench rewrite` as root. Each `-- --object FILE` is
//! measured beside the embedded object, in alternation, so that an older object can be compared
//! under the same load of the machine. A program that does nothing shows the cost of the run
//! itself. Targets are about the difference from it.

#[path = "../../colo-proxy-common/tests/frame/mod.rs"]
mod frame;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use clap::Parser;
use colo_proxy_common::decode::protocol;
use colo_proxy_common::flow::{known, state};
use colo_proxy_common::record::{
    FlowKey, FlowRecord, LAYOUT_VERSION, ProgramCounters, Settings, mode,
};
use frame::{Checksum, Extension, Ip, Shape, TcpOption};

/// `TCX_NEXT`.
const NEXT: i32 = -1;
const EPOCH: u32 = 3;
const SEQ_OFFSET: u32 = 0x89ab_cdef;
const TS_OFFSET: u32 = 0xfedc_ba98;

#[derive(Parser)]
#[command(about = "What the rewriter costs in the kernel, in nanoseconds a frame")]
struct Options {
    /// Another object, measured beside the embedded one.
    #[arg(long, value_name = "FILE")]
    object: Vec<PathBuf>,
    /// The turns of all cases. The median and the fastest turn are printed.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Runs of a program in each turn.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// The option that cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One kind of frame, and the program that handles it.
struct Case {
    name: String,
    program: &'static str,
    frame: Vec<u8>,
    /// The connection of the frame. Without it, the frame is not translated.
    key: Option<FlowKey>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut objects = vec![Object::load("embedded", colo_proxy::datapath::OBJECT)?];
    for path in &options.object {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into());
        objects.push(Object::load(&name, &bytes)?);
    }
    let cases: Vec<Case> = cases();
    for object in &mut objects {
        for key in cases.iter().filter_map(|case| case.key) {
            object.insert(key)?;
        }
    }
    let empty = empty::Program::load()?;
    let mut of_empty = Vec::new();
    let mut figures = vec![vec![Vec::new(); objects.len()]; cases.len()];
    for _ in 0..options.rounds {
        of_empty.push(empty.run(&Shape::default().build(Checksum::Full), options.repeat)?);
        for (case, figures) in cases.iter().zip(&mut figures) {
            for (object, figures) in objects.iter_mut().zip(figures) {
                figures.push(object.run(case, options.repeat)?);
            }
        }
    }
    print(&objects, &cases, &mut of_empty, &mut figures);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is what it is for")]
fn print(objects: &[Object], cases: &[Case], of_empty: &mut [u32], figures: &mut [Vec<Vec<u32>>]) {
    let (empty, fastest) = median_and_fastest(of_empty);
    println!("nanoseconds a frame: median (fastest), and the median without the empty program's");
    print!("{:34}", "");
    for object in objects {
        print!("  {:>20}", object.name);
    }
    println!("\n{:34}  {empty:>7} ({fastest:>4})", "empty program");
    for (case, figures) in cases.iter().zip(figures) {
        print!("{:34}", case.name);
        for figures in figures {
            let (median, fastest) = median_and_fastest(figures);
            print!("  {median:>7} ({fastest:>4}) {:>5}", median.saturating_sub(empty));
        }
        println!();
    }
    for object in objects {
        let walked: Vec<_> =
            object.walked.iter().map(|(name, walked)| format!("{name} {walked}")).collect();
        println!("{}: instructions walked by the verifier: {}", object.name, walked.join(", "));
    }
}

fn median_and_fastest(figures: &mut [u32]) -> (u32, u32) {
    figures.sort_unstable();
    let median = figures.get(figures.len() / 2).copied().unwrap_or_default();
    (median, figures.first().copied().unwrap_or_default())
}

fn cases() -> Vec<Case> {
    let timestamps =
        || vec![TcpOption::Nop, TcpOption::Nop, TcpOption::Timestamps(0x1111_2222, 0x3333_4444)];
    let sack = || TcpOption::Sack(vec![(0xffff_fff0, 5), (7, 0x8000_0000), (9, 10)]);
    // RFC 7323, appendix A, and the padding that Linux adds.
    let all = || [timestamps(), vec![TcpOption::Nop, TcpOption::Nop, sack()]].concat();
    let odd = || [vec![TcpOption::Nop], timestamps(), vec![sack()]].concat();
    let mut cases = Vec::new();
    for (version, ip) in [
        ("IPv4", Ip::V4 { options_words: 0 }),
        ("IPv6", Ip::V6 { extensions: vec![] }),
        ("IPv6, an extension", Ip::V6 { extensions: vec![Extension::Destination(0)] }),
    ] {
        let mut add = |name: &str, program: &'static str, options: Vec<TcpOption>| {
            let shape = Shape { ip: ip.clone(), options, payload: vec![7; 64], ..Shape::default() };
            let mut frame = shape.build(Checksum::Full);
            let mut key = Some(key(&shape, program == "colo_to_guest"));
            if name.starts_with("UDP") {
                let at = if frame.get(12) == Some(&8) { 23 } else { 20 };
                if let Some(of) = frame.get_mut(at) {
                    *of = protocol::UDP;
                }
                key = None;
            }
            cases.push(Case { name: format!("{version}: {name}"), program, frame, key });
        };
        if !version.contains(',') {
            add("UDP, not translated", "colo_from_guest", vec![]);
            add("seq", "colo_from_guest", vec![]);
        }
        add("seq, timestamps", "colo_from_guest", timestamps());
        if !version.contains(',') {
            add("ack", "colo_to_guest", vec![]);
            add("ack, timestamps", "colo_to_guest", timestamps());
            add("ack, timestamps, 3 SACK", "colo_to_guest", all());
            add("the same, at odd places", "colo_to_guest", odd());
        }
    }
    cases
}

fn key(shape: &Shape, to_guest: bool) -> FlowKey {
    let address = |v4: [u8; 4], v6: [u8; 16]| {
        let mut address = [0; 16];
        match shape.ip {
            Ip::V4 { .. } => address.iter_mut().zip(v4).for_each(|(to, from)| *to = from),
            Ip::V6 { .. } => address = v6,
        }
        address
    };
    let src = (address(frame::V4_SRC, frame::V6_SRC), shape.ports.0);
    let dst = (address(frame::V4_DST, frame::V6_DST), shape.ports.1);
    let (guest, peer) = if to_guest { (dst, src) } else { (src, dst) };
    FlowKey {
        guest_addr: guest.0,
        peer_addr: peer.0,
        guest_port: guest.1,
        peer_port: peer.1,
        ip_version: if matches!(shape.ip, Ip::V4 { .. }) { 4 } else { 6 },
        protocol: protocol::TCP,
        ..FlowKey::default()
    }
}

struct Object {
    name: String,
    ebpf: Ebpf,
    walked: Vec<(String, u32)>,
}

impl Object {
    fn load(name: &str, bytes: &[u8]) -> Result<Self> {
        let what = || format!("load the programs of {name}");
        // The daemon does this unless somebody debugs it.
        let mut ebpf = EbpfLoader::new()
            .override_global("AYA_LOG_LEVEL", &0u8, true)
            .load(bytes)
            .with_context(what)?;
        let mut walked = Vec::new();
        for name in ["colo_to_guest", "colo_from_guest"] {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).with_context(what)?.try_into()?;
            program.load().with_context(what)?;
            let count = program.info()?.verified_instruction_count().unwrap_or_default();
            walked.push((name.to_owned(), count));
        }
        // After a takeover, frames are neither redirected nor marked. So every run of a program
        // finds the frame as the first run did, except for its numbers.
        let settings = Settings {
            layout_version: LAYOUT_VERSION,
            mode: mode::FAILED_OVER,
            mark: 0x00c0_1000,
            epoch: EPOCH,
            ..Settings::default()
        };
        Array::try_from(ebpf.map_mut("settings").with_context(what)?)?.set(0, settings, 0)?;
        Ok(Self { name: name.to_owned(), ebpf, walked })
    }

    fn insert(&mut self, key: FlowKey) -> Result<()> {
        let flow = FlowRecord {
            epoch: EPOCH,
            state: state::ESTABLISHED,
            known: known::GUEST | known::WIRE | known::OFFSET | known::CONFIRMED,
            seq_offset: SEQ_OFFSET,
            ts_offset: TS_OFFSET,
            ..FlowRecord::default()
        };
        let mut flows: HashMap<&mut MapData, FlowKey, FlowRecord> =
            self.ebpf.map_mut("flows").context("flows")?.try_into()?;
        Ok(flows.insert(key, flow, 0)?)
    }

    fn translated(&self) -> Result<u64> {
        let map: PerCpuArray<_, ProgramCounters> =
            self.ebpf.map("counters").context("counters")?.try_into()?;
        let mut sum = ProgramCounters::default();
        map.get(&0, 0)?.iter().for_each(|one| sum.add(one));
        ensure!(sum.malformed == 0 && sum.rewrite_failed == 0, "{}: {sum:?}", self.name);
        Ok(sum.translated_to_guest + sum.translated_from_guest)
    }

    /// Nanoseconds per run, from `repeat` runs on one frame.
    fn run(&mut self, case: &Case, repeat: u32) -> Result<u32> {
        let before = self.translated()?;
        let program: &mut SchedClassifier =
            self.ebpf.program_mut(case.program).context("a program")?.try_into()?;
        let mut out = vec![0; case.frame.len()];
        let result = program.test_run(TestRunOptions {
            data_in: Some(&case.frame),
            data_out: Some(&mut out),
            repeat,
            ..TestRunOptions::default()
        })?;
        let translated = self.translated()? - before;
        let wanted = if case.key.is_some() { u64::from(repeat) } else { 0 };
        ensure!(result.return_value as i32 == NEXT, "{}: not let through", case.name);
        ensure!(translated == wanted, "{}: {translated} translated", case.name);
        ensure!((out != case.frame) == case.key.is_some(), "{}: the bytes", case.name);
        Ok(result.duration.as_nanos() as u32)
    }
}

/// A program that does nothing.
mod empty {
    use std::io;
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

    use anyhow::{Context as _, Result};
    use nix::libc::{self, c_int};

    /// `enum bpf_cmd`.
    const PROG_LOAD: c_int = 5;
    const PROG_TEST_RUN: c_int = 10;
    /// `enum bpf_prog_type`.
    const SCHED_CLS: u32 = 3;
    /// `r0 = -1`, which is `TCX_NEXT`; `exit`.
    const CODE: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
    const LICENSE: &std::ffi::CStr = c"GPL";

    /// The first fields of `union bpf_attr` that `BPF_PROG_LOAD` reads.
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
    }

    /// The fields that `BPF_PROG_TEST_RUN` reads and writes.
    #[repr(C)]
    #[derive(Default)]
    struct TestRun {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }

    pub(super) struct Program(OwnedFd);

    impl Program {
        pub(super) fn load() -> Result<Self> {
            let mut attr = Load {
                prog_type: SCHED_CLS,
                insn_cnt: CODE.len() as u32,
                insns: CODE.as_ptr() as u64,
                license: LICENSE.as_ptr() as u64,
            };
            // SAFETY: the pointers are to constants, of the lengths that go with them.
            let fd = unsafe { bpf(PROG_LOAD, &mut attr) }.context("load the empty program")?;
            // SAFETY: the kernel has just made it, and nobody else knows it.
            Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
        }

        pub(super) fn run(&self, frame: &[u8], repeat: u32) -> Result<u32> {
            let mut attr = TestRun {
                prog_fd: self.0.as_raw_fd() as u32,
                data_size_in: frame.len() as u32,
                data_in: frame.as_ptr() as u64,
                repeat,
                ..TestRun::default()
            };
            // SAFETY: `frame` outlives the call, and nothing is written but `attr`.
            unsafe { bpf(PROG_TEST_RUN, &mut attr) }.context("run the empty program")?;
            Ok(attr.duration)
        }
    }

    /// # Safety
    /// `A` is what `command` reads of `union bpf_attr`, and every pointer in it is valid for it.
    unsafe fn bpf<A>(command: c_int, attr: &mut A) -> io::Result<c_int> {
        let attr: *mut A = attr;
        // SAFETY: the kernel uses as many bytes as `A` has; the rest is the caller's promise.
        match unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<A>()) } {
            result @ 0.. => Ok(result as c_int),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
