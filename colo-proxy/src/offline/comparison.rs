//! Drives the engine over two captures.

use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use super::clock::{CaptureClock, FrameOrigin};
use super::connections::is_opening;
use super::early::{EarlyFrame, EarlyFrames};
use super::guest::ComparedGuest;
use super::in_flight::{InFlight, LEAD_MAX_NS, LeadFrame};
use super::report::{CaptureReport, DiffReport, DivergenceRecorder, UndecidedCounts};
use super::translation::{CaptureTranslator, TcpVerdict};
use super::{Alignment, CaptureSurvey, Connections};
use crate::capture_file::Packet;
use colo_proxy_engine::compare::{
    Content, Divergence, Engine, Limits, Output, Reason, Side, content,
};
use colo_proxy_engine::frame::Frame;

/// Turns without progress after which a timer counts as stuck.
const TURNS_MAX: u32 = 1024;
/// Looks of the engine at its timers between two packets. Some timers repeat every second, as for a
/// window that stays closed, and a capture may claim that centuries passed.
const LOOKS_MAX: u32 = 10_000;
/// Differences that the engine remembers. They are read after every frame.
const DIVERGENCES_MAX: usize = 64;

/// Frames and bytes of either guest that may wait for the other guest's.
const FRAMES_MAX: usize = 1 << 20;
const BYTES_MAX: usize = 256 << 20;

/// The settings of a comparison.
#[derive(Clone, Debug)]
pub struct ComparisonOptions {
    pub limits: Limits,
    /// Time for which a checkpoint stops both guests.
    pub checkpoint: Duration,
}

impl Default for ComparisonOptions {
    /// Nobody waits for held output here, so one flow may have all the room. A missing datagram should
    /// be found by the timeout, and not by a limit before.
    fn default() -> Self {
        let limits = Limits {
            divergences_max: DIVERGENCES_MAX,
            frames_max: FRAMES_MAX,
            flow_frames_max: FRAMES_MAX,
            bytes_max: BYTES_MAX,
            flow_bytes_max: BYTES_MAX,
            ..Limits::default()
        };
        Self { limits, checkpoint: Duration::from_millis(20) }
    }
}

/// The time that a capture covers, on the primary's clock.
#[derive(Clone, Copy, Debug)]
struct CaptureWindow {
    start_ns: u64,
    end_ns: u64,
}

/// A comparison under way.
#[derive(Debug)]
pub struct Comparison {
    guest: ComparedGuest,
    alignment: Alignment,
    options: ComparisonOptions,
    /// By side.
    windows: [CaptureWindow; 2],
    captures: [CaptureReport; 2],
    engine: Engine,
    clock: CaptureClock,
    /// Capture time now, on the primary's clock.
    start_ns: u64,
    translator: CaptureTranslator,
    in_flight: InFlight,
    early: EarlyFrames,
    out: Output,
    recorder: DivergenceRecorder,
    undecided: UndecidedCounts,
    not_translated: u64,
    connections: u64,
}

impl Comparison {
    pub fn new(
        guest: ComparedGuest,
        [primary, secondary]: [&CaptureSurvey; 2],
        connections: Connections,
        alignment: Alignment,
        options: ComparisonOptions,
    ) -> Self {
        let windows = [
            CaptureWindow { start_ns: primary.first_ns, end_ns: primary.last_ns },
            CaptureWindow {
                start_ns: alignment.secondary(secondary.first_ns),
                end_ns: alignment.secondary(secondary.last_ns),
            },
        ];
        let start_ns = windows[0].start_ns.min(windows[1].start_ns);
        Self {
            guest,
            alignment,
            windows,
            captures: [primary, secondary].map(CaptureReport::new),
            engine: Engine::new(options.limits.clone(), seed()),
            clock: CaptureClock::new(start_ns),
            start_ns,
            in_flight: InFlight::new(options.limits.compare_timeout),
            early: EarlyFrames::default(),
            options,
            not_translated: connections.not_remembered,
            connections: connections.matched(),
            translator: CaptureTranslator::new(connections),
            out: Output::default(),
            recorder: DivergenceRecorder::default(),
            undecided: UndecidedCounts::default(),
        }
    }

    /// Takes the next packet of both captures, in order of time (see [`super::merge`]).
    pub fn take(&mut self, side: Side, packet: &Packet) {
        if !self.guest.sent(&packet.bytes) {
            return;
        }
        let time_ns = self.on_primary_clock(side, packet.time_ns);
        let other = self.window(opposite(side));
        let reach = self.timeout_ns();
        let report = self.capture(side);
        report.output_frames += 1;
        report.output_bytes += packet.bytes.len() as u64;
        if time_ns < other.start_ns.saturating_sub(reach)
            || time_ns > other.end_ns.saturating_add(reach)
        {
            report.outside_frames += 1;
            return;
        }
        self.run_until(self.clock.at(time_ns));
        if let Some(frame) = Frame::new(packet.bytes.clone(), 0) {
            let origin = FrameOrigin { side, number: packet.number, time_ns: packet.time_ns };
            self.give_up_waiting(time_ns.saturating_sub(reach));
            self.sort(EarlyFrame { origin, at_ns: time_ns, frame });
        }
    }

    /// Lets the rest of the time run, and reports the findings.
    pub fn finish(mut self) -> DiffReport {
        let end_ns = self.windows[0].end_ns.max(self.windows[1].end_ns);
        let grace = duration_ns(self.options.limits.datagram_grace);
        self.run_until(self.clock.at(end_ns.saturating_add(grace)));
        if !self.early.is_empty() {
            self.give_up_waiting(u64::MAX);
            let until_ns = end_ns.saturating_add(grace).saturating_add(self.timeout_ns());
            self.run_until(self.clock.at(until_ns));
        }
        self.count_undecided();
        self.engine.release_all(self.clock.now(), &mut self.out);
        self.out.release.iter().for_each(|frame| self.undecided.note(frame));
        let start_ns = self.windows[0].start_ns.max(self.windows[1].start_ns);
        let both_end_ns = self.windows[0].end_ns.min(self.windows[1].end_ns);
        let [primary, secondary] = self.captures;
        let (engine, recorder) = (self.engine.stats().clone(), self.recorder);
        DiffReport {
            guest: self.guest,
            primary,
            secondary,
            alignment: self.alignment,
            covered_ns: both_end_ns.saturating_sub(start_ns),
            checkpoint: self.options.checkpoint,
            connections: self.connections,
            not_translated: self.not_translated,
            undecided: self.undecided,
            engine,
            found: recorder,
        }
    }

    fn on_primary_clock(&self, side: Side, time_ns: u64) -> u64 {
        match side {
            Side::Primary => time_ns,
            Side::Secondary => self.alignment.secondary(time_ns),
        }
    }

    fn window(&self, side: Side) -> CaptureWindow {
        let [primary, secondary] = self.windows;
        match side {
            Side::Primary => primary,
            Side::Secondary => secondary,
        }
    }

    fn capture(&mut self, side: Side) -> &mut CaptureReport {
        let [primary, secondary] = &mut self.captures;
        match side {
            Side::Primary => primary,
            Side::Secondary => secondary,
        }
    }

    /// Capture time now, on the primary's clock.
    fn now_ns(&self) -> u64 {
        self.start_ns.saturating_add(self.clock.since_start_ns(self.clock.now()))
    }

    /// Sorts a frame of the guest, and after it the frames that waited for it.
    fn sort(&mut self, waiting: EarlyFrame) {
        let is_primary = waiting.origin.side == Side::Primary;
        let name = match content(&waiting.frame) {
            Some(Content::Tcp(name, tcp)) if is_primary && is_opening(&tcp) => Some(name),
            _ => None,
        };
        self.sort_one(waiting, true);
        for waiting in name.map(|name| self.early.take(&name)).unwrap_or_default() {
            // Frames of a later connection wait again.
            self.sort_one(waiting, true);
        }
    }

    /// Compares the frames that waited for the primary in vain.
    fn give_up_waiting(&mut self, until_ns: u64) {
        while let Some(overdue) = self.early.take_overdue(until_ns) {
            for waiting in overdue {
                self.sort_one(waiting, false);
            }
        }
    }

    /// Passes one frame on, most often to the engine. It `may_wait` for the primary.
    fn sort_one(&mut self, waiting: EarlyFrame, may_wait: bool) {
        let EarlyFrame { origin, at_ns, frame } = waiting;
        let lead = |frame: Frame, tcp| LeadFrame { number: origin.number, at_ns, frame, tcp };
        let frame = match (content(&frame), origin.side) {
            (Some(Content::Tcp(name, tcp)), side) => {
                match self.translator.take(side, &name, &tcp, frame.clone()) {
                    TcpVerdict::Undecided => return self.undecided.add(side),
                    TcpVerdict::Early(_) if may_wait => {
                        let waiting = EarlyFrame { origin, at_ns, frame };
                        if let Some(waiting) = self.early.add(&name, waiting) {
                            self.sort_one(waiting, false);
                        }
                        return;
                    }
                    TcpVerdict::Compare(frame) | TcpVerdict::Early(frame)
                        if side == Side::Secondary =>
                    {
                        if let Some(Content::Tcp(name, tcp)) = content(&frame) {
                            let lead = lead(frame.clone(), Some((name, tcp)));
                            self.in_flight.on_secondary_tcp(lead);
                        }
                        frame
                    }
                    TcpVerdict::Compare(frame) | TcpVerdict::Early(frame) => frame,
                }
            }
            (Some(Content::Datagram(datagram)), Side::Primary) => {
                self.in_flight.on_primary(at_ns, &datagram);
                frame
            }
            (Some(Content::Datagram(datagram)), Side::Secondary) => {
                if !self.in_flight.on_secondary(&datagram, lead(frame.clone(), None)) {
                    return self.engine.dropped_stale(1);
                }
                frame
            }
            (None, _) => frame,
        };
        self.hand_in(origin, at_ns, frame);
        self.settle();
    }

    fn hand_in(&mut self, origin: FrameOrigin, at_ns: u64, frame: Frame) {
        // The engine holds no frame for longer than the timeout, which it may notice late.
        let keep = self.options.limits.compare_timeout.saturating_mul(2);
        let at = self.clock.stamp(at_ns, origin, keep);
        self.engine.on_frame(at, origin.side, frame, &mut self.out);
    }

    /// Lets the timers run up to `until`.
    fn run_until(&mut self, until: Instant) {
        let mut turns = 0;
        for _ in 0..LOOKS_MAX {
            let Some(due) = self.engine.poll_timeout().filter(|due| *due <= until) else { break };
            turns = if due > self.clock.now() { 0 } else { turns + 1 };
            if turns > TURNS_MAX {
                break;
            }
            self.clock.advance(due);
            self.engine.on_timeout(self.clock.now(), &mut self.out);
            self.settle();
        }
        // A timer after a checkpoint is due later by the time of the checkpoint.
        self.clock.advance(until);
    }

    /// Carries out the engine's requests, after every call of it.
    fn settle(&mut self) {
        self.out.release.clear();
        self.out.acknowledgments.clear();
        let mut is_decided = self.record();
        while let Some(reason) = self.out.requests.pop() {
            self.out.requests.clear();
            self.checkpoint(reason, is_decided);
            is_decided = self.record();
            self.out.release.clear();
            self.out.acknowledgments.clear();
        }
    }

    /// Records the new differences; says whether one of them is certain.
    fn record(&mut self) -> bool {
        if self.engine.stats().divergences == self.recorder.seen {
            return false;
        }
        let seen = std::mem::replace(&mut self.recorder.seen, self.engine.stats().divergences);
        let mut is_any_decided = false;
        for divergence in self.engine.divergences().filter(|new| new.number > seen) {
            let is_decided = self.is_decided(divergence);
            is_any_decided |= is_decided;
            self.recorder.add(divergence, is_decided, &self.clock);
        }
        is_any_decided
    }

    /// The other capture covers the time in which the other guest could have sent the same.
    fn is_decided(&self, divergence: &Divergence) -> bool {
        let (side, frame) = match divergence.reason {
            Reason::Timeout => (Side::Primary, &divergence.primary_frame),
            Reason::SecondaryOnly => (Side::Secondary, &divergence.secondary_frame),
            // Both guests have sent something, and it differs.
            _ => return true,
        };
        let timeout = self.timeout_ns();
        let origin = frame.as_ref().and_then(|frame| self.clock.origin(frame.since));
        let sent_ns = origin.map_or_else(
            || {
                self.start_ns
                    .saturating_add(self.clock.since_start_ns(divergence.at))
                    .saturating_sub(timeout)
            },
            |origin| self.on_primary_clock(side, origin.time_ns),
        );
        let other = self.window(opposite(side));
        if sent_ns.saturating_add(timeout) > other.end_ns {
            return false;
        }
        self.translator.is_whole(&divergence.flow)
            || sent_ns >= other.start_ns.saturating_add(LEAD_MAX_NS)
    }

    fn timeout_ns(&self) -> u64 {
        duration_ns(self.options.limits.compare_timeout)
    }

    fn checkpoint(&mut self, reason: Reason, is_decided: bool) {
        let [primary, secondary] = self.windows;
        let both_ran = self.now_ns() <= primary.end_ns.min(secondary.end_ns);
        let waited = matches!(reason, Reason::Timeout | Reason::SecondaryOnly);
        let counts = is_decided || (!waited && both_ran);
        if counts {
            self.recorder.checkpoint(reason);
        } else {
            self.count_undecided();
        }
        let now_ns = self.now_ns();
        self.engine.checkpoint_began(self.clock.now());
        self.clock.pause(self.options.checkpoint);
        self.engine.checkpoint_done(self.clock.now(), &mut self.out);
        if !counts {
            self.out.release.iter().for_each(|frame| self.undecided.note(frame));
        }
        for lead in self.in_flight.on_checkpoint(now_ns) {
            if lead.tcp.as_ref().is_some_and(|(name, tcp)| !self.translator.is_ahead(name, tcp)) {
                continue;
            }
            let time_ns = lead.at_ns.saturating_add_signed(-self.alignment.shift_ns);
            let origin = FrameOrigin { side: Side::Secondary, number: lead.number, time_ns };
            self.hand_in(origin, now_ns, lead.frame);
        }
    }

    /// Counts the frames in the engine as undecided.
    fn count_undecided(&mut self) {
        let stats = self.engine.stats();
        self.undecided.primary_frames += stats.held.frames;
        self.undecided.secondary_frames += stats.secondary_waiting.frames;
    }
}

/// A number that the author of the captures cannot know.
fn seed() -> u64 {
    foldhash::fast::RandomState::default().hash_one(())
}

fn opposite(side: Side) -> Side {
    match side {
        Side::Primary => Side::Secondary,
        Side::Secondary => Side::Primary,
    }
}

fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
