//! The findings of a comparison.

use std::collections::HashSet;
use std::time::Duration;

use colo_proxy_common::record::FlowKey;
use schemars::JsonSchema;
use serde::Serialize;

use super::alignment::Alignment;
use super::clock::CaptureClock;
use super::guest::ComparedGuest;
use super::survey::CaptureSurvey;
use colo_proxy_engine::compare::{
    Captured, Content, Divergence, FlowName, Reason, Side, Stats, content,
};
use colo_proxy_engine::frame::Frame;

/// Differences that are reported one by one.
const RECORDS_MAX: usize = 256;
/// Bytes of the frames that are kept with them.
const FRAMES_BYTES_MAX: usize = 16 << 20;
/// Differing flows that are counted one by one.
const FLOWS_MAX: usize = 65536;
/// In captures shorter than this a rate per minute says little.
const SHORT_NS: u64 = 10_000_000_000;
/// Flows with undecided frames that are named.
const UNDECIDED_FLOWS_MAX: usize = 16;
/// If the connections say that the clocks are further off than this, a note says so.
const DOUBTFUL_SHIFT_NS: u64 = 100_000_000;

/// One of the captures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CaptureReport {
    // The caller fills in this field and `truncated`.
    /// The name of the file.
    pub file: String,
    /// Frames in it.
    pub frames: u64,
    /// Frames of the guest.
    pub output_frames: u64,
    /// Bytes of the guest.
    pub output_bytes: u64,
    /// Frames of the guest from before or after the other capture.
    pub outside_frames: u64,
    /// The file ends in the middle of a packet.
    pub truncated: bool,
    #[serde(skip)]
    pub(super) interfaces: u32,
}

impl CaptureReport {
    pub(super) fn new(survey: &CaptureSurvey) -> Self {
        Self { frames: survey.packets, interfaces: survey.interfaces, ..Self::default() }
    }
}

/// Frames for which it is unknown whether the other guest sent the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct UndecidedCounts {
    /// Frames of the primary.
    pub primary_frames: u64,
    /// Frames of the secondary.
    pub secondary_frames: u64,
    /// Flows of the primary's undecided frames, the first few.
    pub flows: Vec<String>,
}

impl UndecidedCounts {
    pub(super) fn add(&mut self, side: Side) {
        match side {
            Side::Primary => self.primary_frames += 1,
            Side::Secondary => self.secondary_frames += 1,
        }
    }

    /// Notes the flow of a frame of the primary.
    pub(super) fn note(&mut self, frame: &Frame) {
        let name = match content(frame) {
            Some(Content::Tcp(name, _)) => name,
            Some(Content::Datagram(datagram)) => datagram.name,
            None => return,
        };
        let name = FlowName(&name).to_string();
        if self.flows.len() < UNDECIDED_FLOWS_MAX && !self.flows.contains(&name) {
            self.flows.push(name);
        }
    }
}

/// A frame in its capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FramePlace {
    /// From 1, as Wireshark counts.
    pub frame: u64,
    /// Nanoseconds since 1970, as the capture has it.
    pub time_ns: u64,
}

/// A difference, and where its frames are.
#[derive(Clone, Debug)]
pub struct DivergenceRecord {
    pub divergence: Divergence,
    /// The time at which it was found: nanoseconds of capture time since the first packet of both.
    pub at_ns: u64,
    pub primary: Option<FramePlace>,
    pub secondary: Option<FramePlace>,
}

/// Collects the differences.
#[derive(Debug, Default)]
pub(super) struct DivergenceRecorder {
    /// Differences of the engine that were read.
    pub(super) seen: u64,
    pub(super) total: u64,
    by_reason: Vec<(Reason, u64)>,
    records: Vec<DivergenceRecord>,
    frames_bytes: usize,
    /// Frames that are not kept with their difference.
    frames_dropped: u64,
    flows: HashSet<FlowKey>,
    checkpoints: u64,
    checkpoints_by_reason: Vec<(Reason, u64)>,
}

impl DivergenceRecorder {
    pub(super) fn add(&mut self, divergence: &Divergence, is_decided: bool, clock: &CaptureClock) {
        if !is_decided {
            return;
        }
        self.total += 1;
        count(&mut self.by_reason, divergence.reason);
        if self.flows.len() < FLOWS_MAX {
            self.flows.insert(divergence.flow);
        }
        if self.records.len() >= RECORDS_MAX {
            return;
        }
        let place = |frame: &Option<Captured>| {
            let origin = clock.origin(frame.as_ref()?.since)?;
            Some(FramePlace { frame: origin.number, time_ns: origin.time_ns })
        };
        let mut record = DivergenceRecord {
            at_ns: clock.since_start_ns(divergence.at),
            primary: place(&divergence.primary_frame),
            secondary: place(&divergence.secondary_frame),
            divergence: Divergence { number: self.total, ..divergence.clone() },
        };
        let bytes: usize = divergence.frames().map(|(_, frame)| frame.octets.len()).sum();
        if self.frames_bytes + bytes <= FRAMES_BYTES_MAX {
            self.frames_bytes += bytes;
        } else {
            self.frames_dropped += divergence.frames().count() as u64;
            record.divergence.primary_frame = None;
            record.divergence.secondary_frame = None;
        }
        self.records.push(record);
    }

    pub(super) fn checkpoint(&mut self, reason: Reason) {
        self.checkpoints += 1;
        count(&mut self.checkpoints_by_reason, reason);
    }
}

fn count(counts: &mut Vec<(Reason, u64)>, reason: Reason) {
    match counts.iter_mut().find(|(known, _)| *known == reason) {
        Some((_, count)) => *count += 1,
        None => counts.push((reason, 1)),
    }
}

/// The findings of a comparison.
#[derive(Debug)]
pub struct DiffReport {
    pub guest: ComparedGuest,
    pub primary: CaptureReport,
    pub secondary: CaptureReport,
    pub alignment: Alignment,
    pub undecided: UndecidedCounts,
    /// The time that both captures cover.
    pub(super) covered_ns: u64,
    pub(super) checkpoint: Duration,
    /// Connections that both guests opened.
    pub(super) connections: u64,
    pub(super) not_translated: u64,
    pub(super) engine: Stats,
    pub(super) found: DivergenceRecorder,
}

impl DiffReport {
    /// The guests differ: a difference was found, or so much output of one guest waited for the other
    /// that a limit was reached.
    pub fn diverged(&self) -> bool {
        self.found.total > 0 || self.found.checkpoints > 0
    }

    /// The first differences, in the order of their discovery.
    pub fn divergences(&self) -> &[DivergenceRecord] {
        &self.found.records
    }

    /// The number of all differences, listed or not.
    pub fn divergences_total(&self) -> u64 {
        self.found.total
    }

    /// Checkpoints that the guest would have needed.
    pub fn checkpoints(&self) -> u64 {
        self.found.checkpoints
    }

    /// Checkpoints per minute of the time that both captures cover; `None` if they share no time.
    pub fn checkpoints_per_minute(&self) -> Option<f64> {
        let minutes = self.covered_ns as f64 / 60e9;
        (minutes > 0.0).then(|| self.found.checkpoints as f64 / minutes)
    }

    /// Facts that the reader of the result should know.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for capture in [&self.primary, &self.secondary] {
            if capture.truncated {
                notes.push(format!("{} ends in the middle of a packet", capture.file));
            }
            if capture.interfaces > 1 {
                let many = capture.interfaces;
                notes.push(format!(
                    "{} was captured on {many} interfaces: a frame that is in it twice counts twice",
                    capture.file
                ));
            }
        }
        if let Some(by_connections) = self.alignment.by_connections_ns
            && by_connections.abs_diff(self.alignment.shift_ns) > DOUBTFUL_SHIFT_NS
        {
            notes.push(format!(
                "the connections say that the secondary's clock is off by {:.3} s more: see --align",
                by_connections.saturating_sub(self.alignment.shift_ns) as f64 / 1e9
            ));
        }
        if self.not_translated > 0 {
            let many = self.not_translated;
            notes.push(format!(
                "too many connections: the numbers of {many} of them were not translated"
            ));
        }
        if self.found.checkpoints > 0 && self.covered_ns < SHORT_NS {
            notes.push("the captures are short: a rate per minute says little".into());
        }
        if self.found.checkpoints > 1 {
            notes.push(
                "a captured guest stays different after a difference: a running pair may need fewer \
                 checkpoints"
                    .into(),
            );
        }
        notes
    }

    pub(super) fn checkpoints_by_reason(&self) -> &[(Reason, u64)] {
        &self.found.checkpoints_by_reason
    }

    pub(super) fn by_reason(&self) -> &[(Reason, u64)] {
        &self.found.by_reason
    }

    pub(super) fn flows_diverged(&self) -> usize {
        self.found.flows.len()
    }
}

impl DivergenceRecord {
    /// The difference in a few words: flow, reason and place.
    pub fn summary(&self) -> String {
        format!("{}: {}", FlowName(&self.divergence.flow), self.divergence.summary())
    }
}
