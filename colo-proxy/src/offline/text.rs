//! The report for people.

use std::fmt::{self, Write as _};

use super::report::{CaptureReport, DiffReport, DivergenceRecord, FramePlace};
use crate::utc::rfc3339;
use colo_proxy_engine::compare::{Context, Reason};

impl fmt::Display for DiffReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inferred = if self.guest.inferred { " (inferred)" } else { "" };
        writeln!(f, "guest {}{inferred}", self.guest)?;
        capture(f, "primary", &self.primary)?;
        capture(f, "secondary", &self.secondary)?;
        writeln!(
            f,
            "compared {} bytes of {} over {:.1} s",
            self.engine.compared.bytes,
            counted(self.engine.flows_opened, "flow"),
            self.covered_ns as f64 / 1e9
        )?;
        self.verdict(f)?;
        let undecided = &self.undecided;
        if undecided.primary_frames + undecided.secondary_frames > 0 {
            writeln!(
                f,
                "undecided: {} frames of the primary, {} of the secondary; the other capture may \
                 not cover their counterparts",
                undecided.primary_frames, undecided.secondary_frames
            )?;
            undecided.flows.iter().try_for_each(|flow| writeln!(f, "   {flow}"))?;
        }
        for note in self.notes() {
            writeln!(f, "note: {note}")?;
        }
        for record in self.divergences() {
            f.write_char('\n')?;
            divergence(f, record)?;
        }
        let left_out = self.divergences_total() - self.divergences().len() as u64;
        if left_out > 0 {
            writeln!(f, "\nand {left_out} more")?;
        }
        Ok(())
    }
}

impl DiffReport {
    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.divergences_total() > 0 {
            writeln!(
                f,
                "different: {} in {} ({})",
                counted(self.divergences_total(), "divergence"),
                counted(self.flows_diverged() as u64, "flow"),
                counts(self.by_reason())
            )?;
        } else if self.diverged() {
            writeln!(f, "different: too much output of one guest waited for the other")?;
        } else {
            writeln!(f, "no difference")?;
        }
        let per_minute = self
            .checkpoints_per_minute()
            .map_or_else(String::new, |rate| format!(", {rate:.1} a minute"));
        let reasons = if self.checkpoints() > 0 {
            format!("; {}", counts(self.checkpoints_by_reason()))
        } else {
            String::new()
        };
        let each_ms = self.checkpoint.as_millis();
        let needed = self.checkpoints();
        writeln!(f, "checkpoints needed: {needed}{per_minute} (at {each_ms} ms each{reasons})")
    }
}

fn counts(counts: &[(Reason, u64)]) -> String {
    let counts: Vec<String> = counts.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
    counts.join(", ")
}

fn counted(n: u64, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

fn capture(f: &mut fmt::Formatter<'_>, side: &str, capture: &CaptureReport) -> fmt::Result {
    write!(
        f,
        "{side} {}: {} frames, {} of them from the guest",
        capture.file, capture.frames, capture.output_frames
    )?;
    if capture.outside_frames > 0 {
        write!(f, ", {} outside the time of the other capture", capture.outside_frames)?;
    }
    f.write_char('\n')
}

fn divergence(f: &mut fmt::Formatter<'_>, record: &DivergenceRecord) -> fmt::Result {
    writeln!(f, "{}. {}", record.divergence.number, record.summary())?;
    let found = &record.divergence;
    side(f, "primary", record.primary, found.primary_byte, &found.primary_context)?;
    side(f, "secondary", record.secondary, found.secondary_byte, &found.secondary_context)
}

fn side(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    place: Option<FramePlace>,
    byte: Option<u8>,
    context: &Context,
) -> fmt::Result {
    if place.is_none() && byte.is_none() {
        return Ok(());
    }
    write!(f, "   {name:<9}")?;
    if let Some(place) = place {
        write!(f, " frame {} at {}", place.frame, rfc3339(place.time_ns))?;
    }
    if let Some(byte) = byte {
        write!(f, ": {byte:02x}")?;
    }
    if !context.bytes.is_empty() {
        write!(f, " in {context}")?;
    }
    f.write_char('\n')
}
