//! What `diff --json` prints: names that scripts rely on.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::alignment::AlignmentKind;
use super::report::{CaptureReport, DiffReport, DivergenceRecord, FramePlace, UndecidedCounts};
use crate::status::FoundDivergence;
use colo_proxy_engine::compare::Reason;

/// What `colo-proxy diff --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct DiffAnswer {
    /// The guests differ. The exit code says the same.
    pub diverged: bool,
    /// The guest's addresses.
    pub guest: Vec<String>,
    /// The addresses were inferred from the captures.
    pub guest_inferred: bool,
    /// The primary's capture.
    pub primary: CaptureReport,
    /// The secondary's capture.
    pub secondary: CaptureReport,
    /// How the clocks of the two captures were aligned.
    pub align: AlignmentKind,
    /// Milliseconds that were added to the secondary's times.
    pub shift_ms: f64,
    /// Milliseconds that both captures cover.
    pub covered_ms: f64,
    /// Flows in all.
    pub flows: u64,
    /// Flows that differ.
    pub flows_diverged: usize,
    /// Connections that both guests opened.
    pub connections_in_both: u64,
    /// Frames of output that were found to be the same.
    pub compared_frames: u64,
    /// Bytes of output that were found to be the same.
    pub compared_bytes: u64,
    /// Frames for which it is unknown whether the other guest sent the same.
    pub undecided: UndecidedCounts,
    /// Checkpoints that the guest would have needed.
    pub checkpoints: u64,
    /// The same per minute of the time that both captures cover. Null if they share no time.
    pub checkpoints_per_minute: Option<f64>,
    /// Checkpoints by the reason of their request.
    pub checkpoints_by_reason: BTreeMap<String, u64>,
    /// Milliseconds that a checkpoint takes in this comparison.
    pub checkpoint_ms: u64,
    /// Differences, listed or not.
    pub divergences_total: u64,
    /// Differences by reason.
    pub divergences_by_reason: BTreeMap<String, u64>,
    /// The first differences, in the order of their discovery.
    pub divergences: Vec<ComparedDivergence>,
    /// Sentences for people.
    pub notes: Vec<String>,
}

/// A difference between two captures, with places in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ComparedDivergence {
    /// The difference. Its times count from the first packet of both captures.
    #[serde(flatten)]
    pub found: FoundDivergence,
    /// The difference as a sentence.
    pub summary: String,
    /// The primary's frame in its capture. Null without one.
    pub primary: Option<FramePlace>,
    /// The secondary's frame in its capture. Null without one.
    pub secondary: Option<FramePlace>,
}

impl From<&DivergenceRecord> for ComparedDivergence {
    fn from(record: &DivergenceRecord) -> Self {
        let at_ms = record.at_ns / 1_000_000;
        Self {
            found: FoundDivergence { at_ms, ..FoundDivergence::from(&record.divergence) },
            summary: record.divergence.summary(),
            primary: record.primary,
            secondary: record.secondary,
        }
    }
}

impl From<&DiffReport> for DiffAnswer {
    fn from(report: &DiffReport) -> Self {
        Self {
            diverged: report.diverged(),
            guest: report.guest.addresses.iter().map(ToString::to_string).collect(),
            guest_inferred: report.guest.inferred,
            primary: report.primary.clone(),
            secondary: report.secondary.clone(),
            align: report.alignment.align,
            shift_ms: report.alignment.shift_ns as f64 / 1e6,
            covered_ms: report.covered_ns as f64 / 1e6,
            flows: report.engine.flows_opened,
            flows_diverged: report.flows_diverged(),
            connections_in_both: report.connections,
            compared_frames: report.engine.compared.frames,
            compared_bytes: report.engine.compared.bytes,
            undecided: report.undecided.clone(),
            checkpoints: report.checkpoints(),
            checkpoints_per_minute: report.checkpoints_per_minute(),
            checkpoints_by_reason: by_name(report.checkpoints_by_reason()),
            checkpoint_ms: report.checkpoint.as_millis() as u64,
            divergences_total: report.divergences_total(),
            divergences_by_reason: by_name(report.by_reason()),
            divergences: report.divergences().iter().map(ComparedDivergence::from).collect(),
            notes: report.notes(),
        }
    }
}

fn by_name(counts: &[(Reason, u64)]) -> BTreeMap<String, u64> {
    counts.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect()
}
