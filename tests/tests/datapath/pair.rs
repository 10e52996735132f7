//! A whole pair with real TCP stacks: a client, two hosts, two guests that run the same program.
//! The test is both daemons, reduced to what the kernel's half needs: it mirrors, releases what both
//! guests have said, and gives held input back.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use colo_proxy::datapath::{Datapath, Events};
use colo_proxy_common::decode::{decode, decode_tcp, flag};
use colo_proxy_engine::pair::{ProgramMode, Role};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

use crate::tap::{DEADLINE, Offloads, Tap, VNET_HDR_LEN, enter, in_netns, ip, new_netns};
use crate::{Host, instance};

const ECHO_PORT: u16 = 7;
const SINK_PORT: u16 = 9;
const GUEST_PORT: u16 = 30_000;
/// Less than a first window. The client sees the primary's window alone; what it sends beyond the
/// secondary's is lost there, and a real pair makes a checkpoint then.
const CHUNK: usize = 30_000;
const TURNS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slow {
    Neither,
    Primary,
    Secondary,
}

/// How long the slow guest's frames take.
const DELAY: Duration = Duration::from_millis(4);

/// A host with a bridge, on which the guest's TAP and the rest of the LAN are.
struct BridgedHost {
    host: Host,
    lan: Tap,
    datapath: Datapath,
}

fn bridged_host(role: Role) -> (File, BridgedHost) {
    let netns = new_netns();
    let host = Host::new();
    let lan = Tap::new("lan0", Offloads::On);
    ip("link add br0 type bridge");
    ip("link set br0 up");
    ip("link set guest0 master br0");
    ip("link set lan0 master br0");
    let datapath = Datapath::attach(&host.plan(&instance(), role)).expect("attach");
    (netns, BridgedHost { host, lan, datapath })
}

/// A machine with one interface; `number` is the end of its addresses.
fn machine(number: u8, offloads: Offloads) -> (File, Tap) {
    let netns = new_netns();
    let tap = Tap::new("eth0", offloads);
    ip(&format!("link set eth0 address 02:00:00:00:00:0{number}"));
    ip(&format!("addr add 10.7.0.{number}/24 dev eth0"));
    ip(&format!("-6 addr add fd07::{number}/64 dev eth0 nodad"));
    for other in [1, 2] {
        ip(&format!("neigh add 10.7.0.{other} lladdr 02:00:00:00:00:0{other} dev eth0"));
        ip(&format!("-6 neigh add fd07::{other} lladdr 02:00:00:00:00:0{other} dev eth0"));
    }
    (netns, tap)
}

/// All wires, and the two daemons.
struct Wires {
    client: Tap,
    guests: [Tap; 2],
    hosts: [BridgedHost; 2],
    events: Events,
    slow: Slow,
    delayed: VecDeque<(Instant, Vec<u8>)>,
    held: Vec<Vec<u8>>,
    rule: Rule,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    failed_over: AtomicBool,
    /// Frames that went anywhere, to see when there are no more.
    frames: AtomicU64,
    held: AtomicU64,
}

impl Wires {
    fn taps(&self) -> [&Tap; 11] {
        let [p, s] = &self.hosts;
        [
            &self.client,
            &p.lan,
            &s.lan,
            &self.guests[0],
            &self.guests[1],
            &p.host.netdev,
            &s.host.netdev,
            &p.host.input,
            &s.host.input,
            &p.host.output,
            &s.host.output,
        ]
    }

    fn run(mut self) -> Self {
        while !self.shared.stop.load(Ordering::Acquire) {
            let events = self.events.as_fd();
            let mut fds: Vec<_> =
                self.taps().iter().map(|tap| PollFd::new(tap.fd(), PollFlags::POLLIN)).collect();
            fds.push(PollFd::new(events, PollFlags::POLLIN));
            poll(&mut fds, PollTimeout::from(1u8)).expect("poll");
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            for (i, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
                self.forward(i);
            }
            self.send_delayed();
        }
        self
    }

    fn forward(&mut self, from: usize) {
        let failed_over = self.shared.failed_over.load(Ordering::Acquire);
        for _ in 0..64 {
            let Some(frame) = self.taps().get(from).and_then(|tap| tap.try_read()) else { break };
            self.shared.frames.fetch_add(1, Ordering::AcqRel);
            let [p, s] = &self.hosts;
            match (from, failed_over) {
                (0, false) => p.lan.write(&frame),
                (0, true) => s.lan.write(&frame),
                (1, false) | (2, true) => self.client.write(&frame),
                (3, false) => self.send_from(0, frame),
                (4, _) => self.send_from(1, frame),
                (5, false) => self.guests[0].write(&frame),
                (6, _) => self.guests[1].write(&frame),
                (7, false) => s.host.input.write(&frame),
                (8, _) => {
                    self.shared.held.fetch_add(1, Ordering::AcqRel);
                    self.held.push(frame);
                }
                (9, false) => {
                    self.rule.note(0, &frame);
                    self.rule.waiting.push_back(frame);
                }
                (10, false) => self.rule.note(1, &frame),
                // The primary host is no more, or the bridge speaks for itself.
                _ => {}
            }
        }
        for frame in self.rule.release() {
            self.hosts[0].host.output.write(&frame);
        }
        if from == self.taps().len() {
            while self.events.next_event().is_some() {}
            for frame in std::mem::take(&mut self.held) {
                self.hosts[1].host.input.write(&frame);
            }
        }
    }

    fn send_from(&mut self, guest: usize, frame: Vec<u8>) {
        let slow = [Slow::Primary, Slow::Secondary][guest];
        if self.slow == slow && !self.shared.failed_over.load(Ordering::Acquire) {
            self.delayed.push_back((Instant::now() + DELAY, frame));
        } else {
            self.hosts[guest].host.netdev.write(&frame);
        }
    }

    fn send_delayed(&mut self) {
        let guest = usize::from(self.slow == Slow::Secondary);
        while self.delayed.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            if let Some((_, frame)) = self.delayed.pop_front() {
                self.shared.frames.fetch_add(1, Ordering::AcqRel);
                self.hosts[guest].host.netdev.write(&frame);
            }
        }
    }
}

/// What both guests have said on one connection.
#[derive(Default)]
struct Stream {
    /// The number of the first octet.
    base: u32,
    octets: [Vec<Option<u8>>; 2],
    acks: [Option<u32>; 2],
}

/// A segment of a guest, in the network's numbers.
struct Spoken<'a> {
    ports: (u16, u16),
    flags: u8,
    seq: u32,
    ack: u32,
    payload: &'a [u8],
}

fn parse(frame: &[u8]) -> Option<Spoken<'_>> {
    let bytes = &frame[VNET_HDR_LEN..];
    let ip = decode(bytes, None).ok()?.ip?;
    let tcp = decode_tcp(bytes, &ip).ok()?;
    Some(Spoken {
        ports: (tcp.src_port, tcp.dst_port),
        flags: tcp.flags,
        seq: tcp.seq,
        ack: tcp.ack,
        payload: &bytes[tcp.payload_at as usize..ip.end as usize],
    })
}

/// The output rule for TCP: the network hears what both have said, and acknowledgments of what both
/// have received. A SYN goes at once, so that the peer's answer can be early.
#[derive(Default)]
struct Rule {
    streams: HashMap<(u16, u16), Stream>,
    waiting: VecDeque<Vec<u8>>,
}

impl Rule {
    fn note(&mut self, guest: usize, frame: &[u8]) {
        let Some(spoken) = parse(frame) else { return };
        if spoken.flags & flag::SYN != 0 {
            if guest == 0 {
                let base = spoken.seq.wrapping_add(1);
                self.streams.insert(spoken.ports, Stream { base, ..Stream::default() });
            }
            return;
        }
        let Some(stream) = self.streams.get_mut(&spoken.ports) else { return };
        let start = spoken.seq.wrapping_sub(stream.base) as usize;
        assert!(start < 1 << 24, "guest {guest} is elsewhere: {start}");
        let octets = &mut stream.octets[guest];
        octets.resize(octets.len().max(start + spoken.payload.len()), None);
        for (to, from) in octets[start..].iter_mut().zip(spoken.payload) {
            assert!(to.is_none_or(|before| before == *from), "guest {guest} changes its mind");
            *to = Some(*from);
        }
        let ack = &mut stream.acks[guest];
        let before = ack.unwrap_or(spoken.ack);
        *ack = Some(if spoken.ack.wrapping_sub(before) as i32 > 0 { spoken.ack } else { before });
    }

    fn allows(&self, frame: &[u8]) -> bool {
        let Some(spoken) = parse(frame) else { return true };
        let Some(stream) = self.streams.get(&spoken.ports) else { return true };
        if spoken.flags & (flag::SYN | flag::RST) != 0 {
            return true;
        }
        let start = spoken.seq.wrapping_sub(stream.base) as usize;
        let said = stream.octets[1].get(start..start + spoken.payload.len());
        let same =
            said.is_some_and(|said| said.iter().zip(spoken.payload).all(|(a, b)| *a == Some(*b)));
        same && stream.acks[1].is_some_and(|ack| ack.wrapping_sub(spoken.ack) as i32 >= 0)
    }

    /// What may leave now.
    fn release(&mut self) -> Vec<Vec<u8>> {
        let (go, stay) =
            std::mem::take(&mut self.waiting).into_iter().partition(|frame| self.allows(frame));
        self.waiting = stay;
        Vec::from(go)
    }
}

/// Runs `body` on a thread in `netns`.
fn spawn_in<T: Send + 'static>(
    netns: &File,
    body: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let netns = netns.try_clone().expect("clone the namespace");
    std::thread::spawn(move || {
        enter(&netns);
        body()
    })
}

/// The program of both guests: an echo server, and a connection of its own.
fn guest_program(netns: &File, guest: IpAddr, client: IpAddr) {
    let listening = spawn_in(netns, move || TcpListener::bind((guest, ECHO_PORT)));
    let listener = listening.join().expect("a listener").expect("listen");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            std::thread::spawn(move || {
                let mut buffer = vec![0; 16_384];
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..len]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    spawn_in(netns, move || {
        let mut stream = connect_from((guest, GUEST_PORT).into(), (client, SINK_PORT).into());
        let mut turn = [0; 1];
        // The client asks, the guest answers with a chunk.
        while stream.read_exact(&mut turn).is_ok() {
            if stream.write_all(&chunk(turn[0])).is_err() {
                break;
            }
        }
    });
}

/// A connection from a given port, so that both guests use the same.
fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::empty(), None).expect("socket");
    setsockopt(&fd, sockopt::ReuseAddr, &true).expect("reuse");
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from)).expect("bind");
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).expect("connect");
    TcpStream::from(fd)
}

fn chunk(turn: u8) -> Vec<u8> {
    (0..CHUNK).map(|i| (i / 256) as u8 ^ (i as u8).wrapping_mul(31) ^ turn).collect()
}

/// The client's end of all connections.
struct Client {
    echoes: Vec<TcpStream>,
    from_guest: TcpStream,
    turn: u8,
}

impl Client {
    fn open(listener: &TcpListener, guest: IpAddr) -> Self {
        let (from_guest, _) = listener.accept().expect("the guest's connection");
        let echoes = (0..4)
            .map(|_| TcpStream::connect((guest, ECHO_PORT)).expect("connect to the guest"))
            .collect();
        let client = Self { echoes, from_guest, turn: 0 };
        for stream in client.echoes.iter().chain([&client.from_guest]) {
            stream.set_read_timeout(Some(DEADLINE)).expect("set a timeout");
            stream.set_nodelay(true).expect("no delay");
        }
        client
    }

    /// Every connection, in both directions, with every octet checked.
    fn talk(&mut self) {
        self.turn += 1;
        let sent = chunk(self.turn);
        for stream in &mut self.echoes {
            let mut writer = stream.try_clone().expect("clone");
            let to_write = sent.clone();
            let writing = std::thread::spawn(move || writer.write_all(&to_write));
            let mut got = vec![0; sent.len()];
            stream.read_exact(&mut got).expect("the echo");
            assert!(got == sent, "wrong octets");
            writing.join().expect("the writer").expect("write");
        }
        self.from_guest.write_all(&[self.turn]).expect("ask");
        let mut got = vec![0; CHUNK];
        self.from_guest.read_exact(&mut got).expect("the guest's chunk");
        assert!(got == sent, "wrong octets");
    }
}

fn checksum_errors() -> u64 {
    let snmp = fs::read_to_string("/proc/thread-self/net/snmp").expect("snmp");
    let lines: Vec<_> = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: ")).collect();
    let at = lines[0].split(' ').position(|name| name == "InCsumErrors").expect("a column");
    lines[1].split(' ').nth(at).expect("a value").parse().expect("a number")
}

/// Until no frame has gone anywhere for a while.
fn wait_for_silence(shared: &Shared) {
    let end = Instant::now() + DEADLINE;
    let mut before = (shared.frames.load(Ordering::Acquire), Instant::now());
    while before.1.elapsed() < 20 * DELAY {
        assert!(Instant::now() < end, "there is always something on the wires");
        std::thread::sleep(DELAY);
        let now = shared.frames.load(Ordering::Acquire);
        if now != before.0 {
            before = (now, Instant::now());
        }
    }
}

fn fail_over_with_live_connections(slow: Slow, offloads: Offloads, guest: &str, client: &str) {
    let (guest, client): (IpAddr, IpAddr) =
        (guest.parse().expect("an address"), client.parse().expect("an address"));
    let (_, primary) = bridged_host(Role::Primary);
    let (_, mut secondary) = bridged_host(Role::Secondary);
    let (guest_netns, guest_tap) = machine(2, offloads);
    let (twin_netns, twin_tap) = machine(2, offloads);
    let (client_netns, client_tap) = machine(1, offloads);
    let shared = Arc::new(Shared::default());
    let wires = Wires {
        client: client_tap,
        guests: [guest_tap, twin_tap],
        events: secondary.datapath.take_events().expect("events"),
        hosts: [primary, secondary],
        slow,
        delayed: VecDeque::new(),
        held: Vec::new(),
        rule: Rule::default(),
        shared: Arc::clone(&shared),
    };
    let wiring = std::thread::spawn(move || wires.run());
    enter(&client_netns);
    let listener = TcpListener::bind((client, SINK_PORT)).expect("listen");
    guest_program(&guest_netns, guest, client);
    guest_program(&twin_netns, guest, client);
    let mut talking = Client::open(&listener, guest);
    for _ in 0..TURNS {
        talking.talk();
    }
    wait_for_silence(&shared);

    shared.stop.store(true, Ordering::Release);
    let mut wires = wiring.join().expect("the wires");
    let octets = wires.rule.streams.values().map(|stream| stream.octets[0].len());
    assert!(octets.sum::<usize>() >= 5 * TURNS * CHUNK, "all went through the rule");
    wires.rule.waiting.clear();
    let flows: Vec<_> = wires.hosts[1].datapath.flows().collect();
    assert!(flows.len() >= 5 && flows.iter().any(|(_, flow)| flow.seq_offset != 0), "{flows:?}");
    if slow == Slow::Secondary {
        assert!(shared.held.load(Ordering::Acquire) >= 5, "each handshake was held");
    }

    wires.hosts[1].datapath.set_mode(ProgramMode::FailedOver).expect("fail over");
    shared.failed_over.store(true, Ordering::Release);
    shared.stop.store(false, Ordering::Release);
    let wiring = std::thread::spawn(move || wires.run());
    for _ in 0..TURNS {
        talking.talk();
    }
    let mut new = TcpStream::connect((guest, ECHO_PORT)).expect("a new connection");
    new.write_all(b"new").expect("write");
    new.read_exact(&mut [0; 3]).expect("the echo");

    for netns in [&client_netns, &guest_netns, &twin_netns] {
        enter(netns);
        assert_eq!(checksum_errors(), 0);
    }
    shared.stop.store(true, Ordering::Release);
    let wires = wiring.join().expect("the wires");
    let [primary, secondary] = wires.hosts;
    let counters = secondary.datapath.counters().expect("counters");
    assert_eq!((counters.rewrite_failed, counters.malformed, counters.flow_table_full), (0, 0, 0));
    assert!(counters.translated_to_guest > 0 && counters.translated_from_guest > 0);
    primary.datapath.detach().expect("detach");
    secondary.datapath.detach().expect("detach");
}

#[test]
fn connections_survive_a_failover() {
    in_netns(|| {
        fail_over_with_live_connections(Slow::Neither, Offloads::On, "10.7.0.2", "10.7.0.1");
    });
}

#[test]
fn connections_survive_a_failover_without_offloads() {
    in_netns(|| {
        fail_over_with_live_connections(Slow::Neither, Offloads::Off, "10.7.0.2", "10.7.0.1");
    });
}

#[test]
fn connections_survive_a_failover_when_the_primary_was_faster() {
    in_netns(|| {
        fail_over_with_live_connections(Slow::Secondary, Offloads::On, "10.7.0.2", "10.7.0.1");
    });
}

#[test]
fn connections_survive_a_failover_when_the_primary_was_slower() {
    in_netns(|| {
        fail_over_with_live_connections(Slow::Primary, Offloads::On, "10.7.0.2", "10.7.0.1");
    });
}

#[test]
fn ipv6_connections_survive_a_failover() {
    in_netns(|| {
        fail_over_with_live_connections(Slow::Secondary, Offloads::On, "fd07::2", "fd07::1");
    });
}
