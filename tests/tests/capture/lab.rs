//! The kernel programs of one instance on a secondary host, and its output gate.

use std::{path::Path, sync::Arc};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{ProgramError, SchedClassifier, TcAttachType, Xdp},
};
use colo_proxy::{
    datapath::{
        OBJECT,
        af_xdp::{XdpRefusal, XdpTarget},
        capture::{CaptureBackend, CaptureKind, choose},
    },
    gate::{Gate, GateOptions},
};
use colo_proxy_common::record::{
    FlowKey, FlowRecord, LAYOUT_VERSION, ProgramCounters, Settings, mode,
};

use crate::guest::{Guest, NETDEV};

const PINS: &str = "/sys/fs/bpf";
pub(crate) const LINK_PIN: &str = "/sys/fs/bpf/link_colo_xdp_capture";
pub(crate) const PROGRAM_PIN: &str = "/sys/fs/bpf/prog_colo_xdp_capture";

pub(crate) struct Lab {
    ebpf: Ebpf,
    pub(crate) gate: Arc<Gate>,
}

impl Lab {
    /// An instance in mode `PROTECTED`.
    pub(crate) fn new() -> Self {
        Self::with_gate(true)
    }

    pub(crate) fn with_gate(vnet_hdr: bool) -> Self {
        let mut lab = Self::without_settings(vnet_hdr);
        lab.set_mode(mode::PROTECTED);
        lab
    }

    pub(crate) fn without_settings(vnet_hdr: bool) -> Self {
        let mut ebpf = Ebpf::load(OBJECT).expect("object");
        ebpf.map_mut("xsks").expect("xsks").pin(Path::new(PINS).join("xsks")).expect("pin");
        let gate = Gate::open(&GateOptions { vnet_hdr, ..GateOptions::default() }).expect("gate");
        gate.set_up().expect("up");
        Self { ebpf, gate: Arc::new(gate) }
    }

    /// The XDP program. It is loaded only when a test needs it.
    fn xdp(&mut self) -> &mut Xdp {
        self.ebpf.program_mut("colo_xdp_capture").expect("program").try_into().expect("XDP")
    }

    /// The XDP program, loaded.
    pub(crate) fn loaded_xdp(&mut self) -> &mut Xdp {
        let program = self.xdp();
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => program,
            Err(error) => unreachable!("the verifier refuses it: {error}"),
        }
    }

    /// Attaches a TC program to the ingress of `interface`, for as long as the lab lives.
    pub(crate) fn attach_ingress(&mut self, program: &str, interface: &str) {
        let program: &mut SchedClassifier =
            self.ebpf.program_mut(program).expect("program").try_into().expect("TC");
        program.load().expect("verifier");
        program.attach(interface, TcAttachType::Ingress).expect("attach");
    }

    pub(crate) fn set_mode(&mut self, mode: u32) {
        let settings = Settings {
            layout_version: LAYOUT_VERSION,
            mode,
            netdev_ifindex: nix::net::if_::if_nametoindex(NETDEV).unwrap_or(0),
            output_gate_ifindex: self.gate.ifindex(),
            mark: 0xc010,
            epoch: 1,
            ..Settings::default()
        };
        let map = self.ebpf.map_mut("settings").expect("settings");
        let mut map: Array<&mut MapData, Settings> = map.try_into().expect("array");
        map.set(0, settings, 0).expect("set");
    }

    pub(crate) fn add_flow(&mut self, key: FlowKey, flow: FlowRecord) {
        let map = self.ebpf.map_mut("flows").expect("flows");
        let mut map: HashMap<&mut MapData, FlowKey, FlowRecord> = map.try_into().expect("hash");
        map.insert(key, flow, 0).expect("insert");
    }

    /// The sum of a counter over all processors.
    pub(crate) fn counter(&self, counter: impl Fn(&ProgramCounters) -> u64) -> u64 {
        let map = self.ebpf.map("counters").expect("counters");
        let map: PerCpuArray<&MapData, ProgramCounters> = map.try_into().expect("array");
        map.get(&0, 0).expect("counters").iter().map(counter).sum()
    }

    /// Asks for `AF_XDP` on the interface.
    pub(crate) fn choose(&mut self, ifindex: u32) -> (Box<dyn CaptureBackend>, Option<XdpRefusal>) {
        self.choose_kind(CaptureKind::AfXdp, ifindex)
    }

    pub(crate) fn choose_kind(
        &mut self,
        kind: CaptureKind,
        ifindex: u32,
    ) -> (Box<dyn CaptureBackend>, Option<XdpRefusal>) {
        let gate = Arc::clone(&self.gate);
        let target =
            XdpTarget { netdev: NETDEV, ifindex, program: self.xdp(), pins: Path::new(PINS) };
        choose(kind, &gate, target)
    }

    /// Captures the guest's output by `AF_XDP`.
    pub(crate) fn af_xdp(&mut self, guest: &Guest) -> Box<dyn CaptureBackend> {
        let (capture, refusal) = self.choose(guest.ifindex);
        assert!(refusal.is_none(), "{refusal:?}");
        assert_eq!(capture.name(), "af-xdp");
        capture
    }
}
