//! `AF_XDP` together with all other programs on a secondary host.

use std::{path::PathBuf, sync::Arc};

use aya::programs::{XdpMode, links::FdLink};
use colo_proxy::{
    datapath::{
        Datapath, DatapathPlan, TranslationLimits,
        capture::{CaptureBackend, CaptureKind, choose},
    },
    gate::{Gate, GateOptions},
};
use colo_proxy_engine::pair::{OnDeath, ProgramMode, Role};

use crate::{
    af_xdp::{assert_nothing_waits, read},
    frames,
    guest::{Guest, NETDEV},
    namespace::in_namespace,
    packet_socket::{PACKET_VNET_LEN, PacketSocket},
};
use colo_lab::lab_test;

struct Host {
    datapath: Datapath,
    output: Arc<Gate>,
    _input: Gate,
}

impl Host {
    fn start(guest: &Guest) -> Self {
        let output = Gate::open(&GateOptions::default()).expect("gate");
        let input = Gate::open(&GateOptions::default()).expect("gate");
        let plan = DatapathPlan {
            instance: "guest",
            role: Role::Secondary,
            mode: ProgramMode::Protected,
            netdev_ifindex: guest.ifindex,
            output_gate_ifindex: output.ifindex(),
            input_gate_ifindex: input.ifindex(),
            on_death: OnDeath::Hold,
            limits: TranslationLimits::default(),
        };
        let datapath = Datapath::attach(&plan).expect("attach");
        output.set_up().expect("up");
        input.set_up().expect("up");
        Self { datapath, output: Arc::new(output), _input: input }
    }

    fn af_xdp(&mut self) -> Box<dyn CaptureBackend> {
        let target = self.datapath.xdp_target(NETDEV).expect("program");
        let (capture, refusal) = choose(CaptureKind::AfXdp, &self.output, target);
        assert!(refusal.is_none(), "{refusal:?}");
        capture
    }

    fn pin(&self, name: &str) -> PathBuf {
        self.datapath.dir().path().join(name)
    }
}

#[lab_test(root)]
fn capture_ends_with_failover_and_all_pins_with_the_daemon() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut host = Host::start(&guest);
        let mut capture = host.af_xdp();
        for name in ["xsks", "prog_colo_xdp_capture", "link_colo_xdp_capture"] {
            assert!(host.pin(name).exists(), "{name}");
        }
        let network = PacketSocket::behind_programs(guest.ifindex);
        guest.send(&[0; 12], &frames::tcp(1, b"protected"));
        assert_eq!(read(&mut *capture, 1)[0].ethernet(), frames::tcp(1, b"protected"));
        assert_eq!(host.datapath.counters().expect("counters").captured, 1);
        host.datapath.set_mode(ProgramMode::FailedOver).expect("mode");
        guest.send(&[0; 12], &frames::tcp(2, b"failed over"));
        assert_eq!(network.receive()[PACKET_VNET_LEN..], frames::tcp(2, b"failed over"));
        assert_nothing_waits(&mut *capture);
        drop(capture);
        let directory = host.datapath.dir().path().to_owned();
        host.datapath.detach().expect("detach");
        assert!(!directory.exists());
    });
}

#[lab_test(root)]
fn the_next_daemon_takes_over_from_a_dead_one() {
    in_namespace(|| {
        let guest = Guest::with_queues(1);
        let mut dead = Host::start(&guest);
        let link_pin = dead.pin("link_colo_xdp_capture");
        let program = dead.datapath.xdp_target(NETDEV).expect("program").program;
        program.load().expect("load");
        let link = program.attach(NETDEV, XdpMode::Driver).expect("attach");
        let link = program.take_link(link).expect("link");
        drop(FdLink::try_from(link).expect("link").pin(&link_pin).expect("pin"));
        drop(dead);
        let mut host = Host::start(&guest);
        assert!(host.datapath.taken_over());
        let mut capture = host.af_xdp();
        guest.send(&[0; 12], &frames::tcp(1, b"x"));
        assert_eq!(read(&mut *capture, 1)[0].ethernet(), frames::tcp(1, b"x"));
        assert_eq!(capture.stats().gate_frames, 0);
    });
}
