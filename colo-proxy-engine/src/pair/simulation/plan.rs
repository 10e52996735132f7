//! The plan of one run: conversations, links, guests and faults, all from one seed.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::app::{App, Expect, Script, ScriptTurn, content, request};
use super::endpoint::Nature;
use super::machine::{PlannedCall, PlannedQuestion, Station};
use super::random::{Digest, SeededRandom};
use super::wire::{Net, PortPair};

/// Ports of the guest's applications, and one that nothing listens on.
const ECHO: u16 = 7;
const UPLOAD: u16 = 21;
const GREETING: u16 = 25;
const DOWNLOAD: u16 = 80;
const DOWNLOAD_ONCE: u16 = 81;
const LOTTERY: u16 = 13;
const QUESTIONS: u16 = 53;
/// A service of the client, to which the guest connects.
const REPORTS: u16 = 514;

/// A link that is not reliable, in permille and microseconds.
#[derive(Clone, Debug)]
pub(super) struct LossyLink {
    pub(super) loss: u64,
    pub(super) duplicates: u64,
    pub(super) delay_us: Range<u64>,
}

/// The ways between the two daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DaemonWire {
    Mirror,
    Output,
    Control,
}

/// The kind of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TalkKind {
    Echo,
    Upload,
    Greeting,
    DownloadOnce,
    Download,
    /// Datagrams.
    Question,
    /// The guest opens the connection.
    Report,
    /// The answers are only this guest's.
    Lottery,
}

/// Conversations in which equal guests say the same.
pub(super) const KINDS: [TalkKind; 7] = [
    TalkKind::Echo,
    TalkKind::Upload,
    TalkKind::Greeting,
    TalkKind::DownloadOnce,
    TalkKind::Download,
    TalkKind::Question,
    TalkKind::Report,
];

/// How long a conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Short,
    Any,
    /// As [`Size::Any`], and perhaps once more with the same ports.
    Repeated,
}

/// The two daemons, guests, hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    Primary,
    Secondary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A connection between the daemons ends, and is made again.
    Disconnect(DaemonWire),
    /// A daemon dies and is started again.
    Restart(Site),
    /// The secondary's host cannot be reached for this time.
    Lose { us: u64 },
    /// A checkpoint that nobody asked for.
    Checkpoint,
    /// The primary's host dies, and the secondary takes over.
    FailOver,
}

/// A sabotage of the run's own code, which the oracle must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunSabotage {
    Nothing,
    /// Everything is released at once.
    ReleaseAll,
    /// Frames of the secondary acknowledge as much as the primary's do.
    Acknowledgments,
    /// A checkpoint does not void the offsets.
    OldOffsets,
    /// Frames from before a checkpoint are compared after it.
    StaleFrames,
    /// Nothing is translated after the failover.
    NoTranslation,
    /// The guest goes on before its output so far has been counted.
    EarlyResume,
    /// All payloads of a length have the same digest.
    Digests,
}

/// When the primary's guest goes on after its state was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// At once, while the state is still on its way.
    Early,
    /// When the checkpoint is done.
    Done,
}

/// How the secondary's daemon learns of a checkpoint from its own COLO-frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecondaryNews {
    /// It learns nothing from it. Only the primary's daemon is notified.
    Nothing,
    /// It is notified when its guest has the state.
    Loaded,
    /// Its guest is stopped first, and it is notified of that too, as QEMU does it.
    StoppedAndLoaded,
}

/// The form in which the secondary returns its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReturnForm {
    Frames,
    Digests,
}

/// The program on the primary's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PrimaryProgram {
    /// The daemon, with a control lane to the other one.
    Daemon,
    /// The front end between QEMU's sockets. It has no control lane.
    FrontEnd,
}

#[derive(Clone, Debug)]
pub(super) struct RunPlan {
    pub(super) seed: u64,
    pub(super) net: Net,
    pub(super) lan: LossyLink,
    /// Input that a guest's own queue loses, in permille: the primary's, the secondary's.
    pub(super) input_loss: [u64; 2],
    /// Time that a guest needs for a frame.
    pub(super) guest_us: [Range<u64>; 2],
    /// Delay of the ways between the daemons.
    pub(super) wire_us: Range<u64>,
    /// Time until the daemons are connected for the first time.
    pub(super) connect_us: Range<u64>,
    pub(super) natures: [Nature; 2],
    /// Checkpoints that fail, in permille.
    pub(super) checkpoint_failures: u64,
    pub(super) resume: Resume,
    pub(super) secondary_news: SecondaryNews,
    /// Time that a checkpoint takes.
    pub(super) copy_us: Range<u64>,
    /// After so many events, in this order.
    pub(super) faults: VecDeque<(u64, Fault)>,
    pub(super) return_form: ReturnForm,
    pub(super) program: PrimaryProgram,
    pub(super) sabotage: RunSabotage,
    pub(super) frames_max: usize,
    pub(super) client: Station,
    pub(super) guest: Station,
}

impl RunPlan {
    /// A run without faults on a good network.
    pub(super) fn quiet(seed: u64) -> Self {
        let mut random = SeededRandom::new(seed);
        let net = Net { v6: random.chance(400), vlan: if random.chance(300) { 5 } else { 0 } };
        let natures = [(); 2].map(|()| Nature {
            random: random.fork(),
            segment_max: [1448, 1448, 1000, 536, 200][random.below(5)],
            delayed_ack_us: [0, 5_000, 40_000][random.below(3)],
            buffer: [65_535, 30_000, 9_000][random.below(3)],
            numbers: None,
        });
        let plan = Self {
            seed,
            net,
            lan: LossyLink { loss: 0, duplicates: 0, delay_us: 100..2_000 },
            input_loss: [0; 2],
            guest_us: [10..400, 10..1 + [500, 5_000, 20_000][random.below(3)]],
            wire_us: 50..51 + [300, 3_000][random.below(2)],
            connect_us: 1..900,
            natures,
            checkpoint_failures: 0,
            resume: if random.chance(500) { Resume::Early } else { Resume::Done },
            secondary_news: if random.chance(500) {
                SecondaryNews::StoppedAndLoaded
            } else {
                SecondaryNews::Loaded
            },
            copy_us: 1_000..40_000,
            faults: VecDeque::new(),
            return_form: if seed % 2 == 1 { ReturnForm::Digests } else { ReturnForm::Frames },
            program: PrimaryProgram::Daemon,
            sabotage: RunSabotage::Nothing,
            frames_max: 65_536,
            client: Station {
                served: BTreeMap::from([(REPORTS, App::Upload)]),
                ..Station::default()
            },
            guest: Station { served: served(), ..Station::default() },
        };
        let is_fast = matches!(seed % 8, 3 | 4);
        if is_fast { plan.with_fast_open().with_same_numbers() } else { plan }
    }

    /// Data go with the SYN and with the SYN/ACK, on connections from either end.
    pub(super) fn with_fast_open(mut self) -> Self {
        for machine in [&mut self.client, &mut self.guest] {
            (machine.opens_fast, machine.accepts_fast) = (true, true);
        }
        self
    }

    /// Both guests choose the same first numbers, so nothing needs to be translated.
    pub(super) fn with_same_numbers(mut self) -> Self {
        for nature in &mut self.natures {
            nature.numbers = Some(self.seed);
        }
        self
    }

    pub(super) fn has_control(&self) -> bool {
        self.program == PrimaryProgram::Daemon
    }

    /// Makes the network lossy. Each guest loses other input, too.
    pub(super) fn with_bad_links(mut self, random: &mut SeededRandom) -> Self {
        self.lan.loss = random.within(0..60);
        self.lan.duplicates = random.within(0..40);
        self.lan.delay_us = 100..[2_000, 10_000, 30_000][random.below(3)];
        self.input_loss = [random.within(0..30), random.within(0..30)];
        self
    }

    /// Some conversations of all kinds to which both guests give the same answers.
    pub(super) fn with_conversations(mut self, random: &mut SeededRandom, count: usize) -> Self {
        for number in 0..count {
            let kind = KINDS[random.below(KINDS.len())];
            self.add(random, number as u16, kind, Size::Any);
        }
        self
    }

    /// Likewise, and some whose answers only one guest can know.
    pub(super) fn with_lotteries(mut self, random: &mut SeededRandom, count: usize) -> Self {
        for number in 0..count {
            let drawn = random.chance(500);
            let kind = if drawn { TalkKind::Lottery } else { KINDS[random.below(KINDS.len())] };
            // Frames of a lottery may be held when its ports are used again. That requests a checkpoint.
            self.add(random, number as u16, kind, Size::Repeated);
        }
        self
    }

    /// Likewise, some of them once more with the same ports; the answers are those of both guests.
    pub(super) fn with_tuples_used_again(
        mut self,
        random: &mut SeededRandom,
        count: usize,
    ) -> Self {
        for number in 0..count {
            let kind = KINDS[random.below(KINDS.len())];
            self.add(random, number as u16, kind, Size::Repeated);
        }
        self
    }

    /// One short conversation.
    pub(super) fn with_one(mut self, random: &mut SeededRandom, kind: TalkKind) -> Self {
        self.add(random, 0, kind, Size::Short);
        self
    }

    fn add(&mut self, random: &mut SeededRandom, number: u16, kind: TalkKind, size: Size) {
        let at = random.within(1_000..400_000);
        let tuple = |port| PortPair { own_port: 2000 + number, peer_port: port };
        let len = match size {
            Size::Short => 300,
            Size::Any | Size::Repeated => [1, 200, 3_000, 9_000][random.below(4)],
        };
        let (port, steps) = match kind {
            TalkKind::Echo => (ECHO, echo(random, len)),
            TalkKind::Upload => (UPLOAD, upload(random, len)),
            TalkKind::Greeting => (GREETING, greeting(random, len)),
            TalkKind::DownloadOnce => (DOWNLOAD_ONCE, [download(random, len), vec![END]].concat()),
            TalkKind::Download => {
                (DOWNLOAD, [download(random, len), download(random, 300)].concat())
            }
            TalkKind::Lottery => (LOTTERY, lottery(random, len)),
            TalkKind::Question => return self.add_question(random, number),
            TalkKind::Report => return self.add_report(random, number, len),
        };
        let app = App::Script(Script::new(steps));
        let tuple = tuple(port);
        if size == Size::Repeated && random.chance(250) {
            // The same tuple once more, as soon as it is free.
            let at = at + random.within(1_000..600_000);
            self.client.calls.push(PlannedCall { at, tuple, app: app.clone() });
        }
        self.client.calls.push(PlannedCall { at, tuple, app });
    }

    fn add_question(&mut self, random: &mut SeededRandom, number: u16) {
        for turn in 0..4 {
            let tuple = PortPair { own_port: 2000 + number, peer_port: QUESTIONS + turn };
            let (at, payload) = (random.within(1_000..400_000), random.octets(40));
            self.client.questions.push(PlannedQuestion { at, tuple, payload, answered: false });
        }
    }

    /// The guest opens a connection by itself.
    fn add_report(&mut self, random: &mut SeededRandom, number: u16, len: usize) {
        let tuple = PortPair { own_port: 3000 + number, peer_port: REPORTS };
        let app = App::Script(Script::new(upload(random, len)));
        self.guest.calls.push(PlannedCall { at: random.within(1_000..400_000), tuple, app });
    }

    /// Gives the engine little room, in some of the runs.
    pub(super) fn with_little_room(mut self, random: &mut SeededRandom) -> Self {
        self.frames_max = [65_536, 40, 8][random.below(3)];
        self
    }

    /// Adds a fault after `event` events.
    pub(super) fn with_fault(mut self, event: u64, fault: Fault) -> Self {
        let at = self.faults.partition_point(|(other, _)| *other <= event);
        self.faults.insert(at, (event, fault));
        self
    }
}

const END: ScriptTurn = ScriptTurn { say: Vec::new(), expect: Expect::End };

fn served() -> BTreeMap<u16, App> {
    BTreeMap::from([
        (ECHO, App::Echo),
        (UPLOAD, App::Upload),
        (GREETING, App::Greeting { greeted: false }),
        (DOWNLOAD, App::Download { closes: false }),
        (DOWNLOAD_ONCE, App::Download { closes: true }),
        (LOTTERY, App::Lottery),
    ])
}

fn echo(random: &mut SeededRandom, len: usize) -> Vec<ScriptTurn> {
    let turn = |random: &mut SeededRandom| {
        let say = random.octets(len / 2 + 1);
        ScriptTurn { expect: Expect::Octets(say.clone()), say }
    };
    (0..3).map(|_| turn(random)).collect()
}

fn upload(random: &mut SeededRandom, len: usize) -> Vec<ScriptTurn> {
    let octets = random.octets(len);
    let expect = Expect::Octets(Digest::of(&octets).0.to_be_bytes().to_vec());
    vec![ScriptTurn { say: [request(len, 0), octets].concat(), expect }]
}

fn download(random: &mut SeededRandom, len: usize) -> Vec<ScriptTurn> {
    let salt = random.next() as u32;
    let expect = Expect::Octets(content(u64::from(salt), len));
    vec![ScriptTurn { say: request(len, salt), expect }]
}

fn greeting(random: &mut SeededRandom, len: usize) -> Vec<ScriptTurn> {
    let hello = ScriptTurn { say: Vec::new(), expect: Expect::Octets(content(25, 100)) };
    [vec![hello], echo(random, len)].concat()
}

fn lottery(random: &mut SeededRandom, len: usize) -> Vec<ScriptTurn> {
    let turn = |random: &mut SeededRandom| {
        let salt = random.next() as u32;
        ScriptTurn { say: request(len, salt), expect: Expect::Drawn(len, salt) }
    };
    (0..2).map(|_| turn(random)).collect()
}
