//! The programs in the kernel, without an interface.

use std::sync::Mutex;

use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{Program, SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use colo_proxy_common::filter::{FilterCounters, FilterRecord};
use colo_proxy_common::record::{
    EventRecord, FlowKey, FlowRecord, LAYOUT_VERSION, ProgramCounters, Settings, event,
};

use crate::frame::{Shape, TcpOption};

/// `TCX_NEXT`, `TC_ACT_SHOT`, `TC_ACT_REDIRECT`.
pub(crate) const NEXT: i32 = -1;
pub(crate) const DROP: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

pub(crate) const MARK: u32 = 0x00c0_1000;
/// Interfaces that do not exist.
pub(crate) const NETDEV: u32 = 0x7fff_0001;
const OUTPUT_GATE: u32 = 0x7fff_0002;
const INPUT_GATE: u32 = 0x7fff_0003;

pub(crate) fn settings(mode: u32) -> Settings {
    Settings {
        layout_version: LAYOUT_VERSION,
        mode,
        netdev_ifindex: NETDEV,
        output_gate_ifindex: OUTPUT_GATE,
        input_gate_ifindex: INPUT_GATE,
        mark: MARK,
        epoch: 3,
        ..Settings::default()
    }
}

/// Timestamps, and SACK blocks at an odd place.
pub(crate) fn with_all_options() -> Shape {
    Shape {
        options: vec![
            TcpOption::Timestamps(0x1111_2222, 0x3333_4444),
            TcpOption::Nop,
            TcpOption::Nop,
            TcpOption::Nop,
            TcpOption::Sack(vec![(0xffff_fff0, 5), (7, 0x8000_0000)]),
        ],
        ..Shape::default()
    }
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().expect("no panic while logging").push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// The outcome of a program's run on a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) verdict: i32,
    pub(crate) mark: u32,
    pub(crate) frame: Vec<u8>,
}

pub(crate) struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Loads all of them.
    pub(crate) fn load() -> Self {
        // `cargo xtask build-ebpf --check` names an object that another toolchain has built.
        let other = std::env::var_os("COLO_PROXY_BPF_OBJECT");
        let other = other.map(|path| std::fs::read(path).expect("read the object to be tested"));
        let mut ebpf = EbpfLoader::new()
            .load(other.as_deref().unwrap_or(colo_proxy::datapath::OBJECT))
            .expect("load the object of kernel programs");
        for (name, program) in ebpf.programs_mut() {
            let loaded = match program {
                Program::SchedClassifier(program) => program.load(),
                Program::Xdp(program) => program.load(),
                _ => continue,
            };
            loaded.unwrap_or_else(|error| panic!("verify {name}: {error}"));
            // The limit is a tenth of the kernel's, because a small change can multiply the
            // verifier's work.
            let walked = program.info().expect("its info").verified_instruction_count();
            assert!(walked < Some(100_000), "{name}: the verifier walked {walked:?} instructions");
        }
        Self { ebpf }
    }

    pub(crate) fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    pub(crate) fn program(&mut self, name: &str) -> &mut SchedClassifier {
        self.ebpf.program_mut(name).expect("a program").try_into().expect("a TC program")
    }

    pub(crate) fn run(&mut self, name: &str, frame: &[u8], mark: u32) -> Run {
        self.run_gso(name, frame, mark, 0)
    }

    /// The same for a frame that has to be segmented by `gso_size`, unless that is 0.
    pub(crate) fn run_gso(&mut self, name: &str, frame: &[u8], mark: u32, gso_size: u32) -> Run {
        // `struct __sk_buff`: the mark is the third number. The size of segments comes after the
        // flow keys, the time stamp, the length, the number of segments and the socket. The kernel
        // wants the rest to be 0.
        let mut context = [0u8; 192];
        context[8..12].copy_from_slice(&mark.to_ne_bytes());
        context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
        let mut context_out = [0u8; 192];
        let mut frame_out = vec![0u8; frame.len() + 64];
        let result = self
            .program(name)
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut frame_out),
                ctx_in: Some(&context),
                ctx_out: Some(&mut context_out),
                ..TestRunOptions::default()
            })
            .unwrap_or_else(|error| panic!("run {name} on {} bytes: {error:?}", frame.len()));
        frame_out.truncate(result.data_size_out as usize);
        let mark = context_out[8..12].try_into().expect("four bytes");
        Run {
            verdict: result.return_value as i32,
            mark: u32::from_ne_bytes(mark),
            frame: frame_out,
        }
    }

    pub(crate) fn set(&mut self, settings: &Settings) {
        let map = self.ebpf.map_mut("settings").expect("settings");
        Array::try_from(map).expect("an array").set(0, *settings, 0).expect("write settings");
    }

    pub(crate) fn set_filter(&mut self, filter: &FilterRecord) {
        let map = self.ebpf.map_mut("filter").expect("filter");
        Array::try_from(map).expect("an array").set(0, *filter, 0).expect("write a filter");
    }

    pub(crate) fn filter_counters(&self) -> FilterCounters {
        let map = self.ebpf.map("filter_counters").expect("filter_counters");
        let map: PerCpuArray<_, FilterCounters> = map.try_into().expect("a per-CPU array");
        let mut sum = FilterCounters::default();
        map.get(&0, 0).expect("read counters").iter().for_each(|one| sum.add(one));
        sum
    }

    pub(crate) fn counters(&self) -> ProgramCounters {
        let map = self.ebpf.map("counters").expect("counters");
        let map: PerCpuArray<_, ProgramCounters> = map.try_into().expect("a per-CPU array");
        let mut sum = ProgramCounters::default();
        map.get(&0, 0).expect("read counters").iter().for_each(|one| sum.add(one));
        sum
    }

    /// The entries of `flows`, `unconfirmed` or `half_open`.
    pub(crate) fn entries(&self, map: &str) -> Vec<(FlowKey, FlowRecord)> {
        let map: HashMap<&MapData, FlowKey, FlowRecord> =
            self.ebpf.map(map).expect("a map").try_into().expect("a hash map");
        map.iter().collect::<Result<_, _>>().expect("read a map")
    }

    pub(crate) fn insert_flow(&mut self, key: FlowKey, flow: FlowRecord) {
        let map = self.ebpf.map_mut("flows").expect("flows");
        HashMap::try_from(map).expect("a hash map").insert(key, flow, 0).expect("insert a flow");
    }

    /// The log of the programs.
    pub(crate) fn logged(&mut self) -> Vec<String> {
        let lines = Lines::default();
        let mut log =
            EbpfLogger::init_with_logger(&mut self.ebpf, &lines).expect("the programs' log");
        log.flush();
        drop(log);
        lines.0.into_inner().expect("no panic while logging")
    }

    /// Connections whose offset has been announced since the last call.
    pub(crate) fn announced(&mut self) -> Vec<FlowKey> {
        let map = self.ebpf.map_mut("events").expect("events");
        let mut ring = RingBuf::try_from(map).expect("a ring buffer");
        let mut keys = Vec::new();
        while let Some(item) = ring.next() {
            assert_eq!(item.len(), size_of::<EventRecord>());
            // SAFETY: the item is as long as an `EventRecord`, which is made of integers only.
            let told = unsafe { item.as_ptr().cast::<EventRecord>().read_unaligned() };
            assert_eq!(told.kind, event::OFFSET_KNOWN);
            keys.push(told.key);
        }
        keys
    }
}
