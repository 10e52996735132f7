//! `colo-proxy diff`: reads the captures, several times if the comparison needs it.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use colo_proxy::capture_file::{CaptureError, Packet, Reader};
use colo_proxy::offline::{
    Alignment, CaptureReport, CaptureSurvey, ComparedGuest, Comparison, ComparisonOptions,
    Connections, DiffAnswer, DiffReport, merge,
};
use colo_proxy_engine::compare::Side;

use super::args::DiffArgs;
use super::capture::{self, CapturedFrame};
use super::output;

/// The guests' output differs.
const DIVERGED: u8 = 1;
/// The captures cannot be compared. clap has the same exit code for wrong arguments.
pub(super) const CANNOT_COMPARE: u8 = 2;

/// The context of an error that leaves it open whether the guests differ.
#[derive(Clone, Copy, Debug)]
pub(super) struct CannotCompare;

impl fmt::Display for CannotCompare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot compare the captures")
    }
}

pub(super) fn diff(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let report = compare(args).context(CannotCompare)?;
    if let Some(path) = &args.capture {
        capture::write(path, &frames(&report)).context(CannotCompare)?;
    }
    let text = if args.json {
        output::json(&DiffAnswer::from(&report)).context("cannot write the report")?
    } else {
        report.to_string()
    };
    output::print(&text).context("cannot print the report").context(CannotCompare)?;
    Ok(if report.diverged() { DIVERGED.into() } else { ExitCode::SUCCESS })
}

fn compare(args: &DiffArgs) -> anyhow::Result<DiffReport> {
    let files = [Capture::new(&args.primary)?, Capture::new(&args.secondary)?];
    if let Some(capture) = &args.capture {
        for file in &files {
            ensure!(!is_same(capture, file.path), "{} would be overwritten", capture.display());
        }
    }
    let [(primary, primary_truncated), (secondary, secondary_truncated)] =
        [files[0].survey()?, files[1].survey()?];
    let guest = ComparedGuest::find(&args.guest, &primary, &secondary)?;
    let connections = connections(&files, &guest)?;
    let alignment = Alignment::new(args.align, &primary, &secondary, &connections);
    let mut options = ComparisonOptions::default();
    options.limits.compare_timeout = Duration::from_millis(args.compare_timeout_ms.into());
    options.checkpoint = Duration::from_millis(args.checkpoint_ms.into());
    let surveys = [&primary, &secondary];
    let mut comparison = Comparison::new(guest, surveys, connections, alignment, options);
    for next in merge(files[0].packets()?, files[1].packets()?, alignment) {
        let (side, packet) = next?;
        comparison.take(side, &packet);
    }
    let mut report = comparison.finish();
    name(&mut report.primary, &files[0], primary_truncated);
    name(&mut report.secondary, &files[1], secondary_truncated);
    if let Some(reason) = report.nothing_compared() {
        return Err(reason.into());
    }
    Ok(report)
}

fn name(report: &mut CaptureReport, file: &Capture<'_>, truncated: bool) {
    report.file = file.path.display().to_string();
    report.truncated = truncated;
}

fn connections(files: &[Capture<'_>; 2], guest: &ComparedGuest) -> anyhow::Result<Connections> {
    let mut connections = Connections::default();
    for (side, file) in [Side::Primary, Side::Secondary].into_iter().zip(files) {
        for packet in file.packets()? {
            connections.add(side, &packet?, guest);
        }
        if let Some((truncated, first)) = connections.truncated(side) {
            bail!(
                "{}: {truncated} frames of the guest are truncated (the first is packet {first}): \
                 capture with `tcpdump -s 0`",
                file.path.display()
            );
        }
    }
    connections.settle();
    Ok(connections)
}

/// A capture that is read from its start several times.
#[derive(Debug)]
struct Capture<'a> {
    path: &'a Path,
}

impl<'a> Capture<'a> {
    fn new(path: &'a Path) -> anyhow::Result<Self> {
        let found = std::fs::metadata(path).with_context(|| path.display().to_string())?;
        let path_shown = path.display();
        ensure!(found.is_file(), "{path_shown} is not a file, and must be read several times");
        Ok(Self { path })
    }

    fn open(&self) -> anyhow::Result<Reader<BufReader<File>>> {
        let named = || self.path.display().to_string();
        let file = File::open(self.path).with_context(named)?;
        Reader::new(BufReader::with_capacity(1 << 16, file)).with_context(named)
    }

    fn packets(&self) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Packet>>> {
        let named = |error: CaptureError| {
            anyhow::Error::new(error).context(self.path.display().to_string())
        };
        Ok(self.open()?.map(move |packet| packet.map_err(named)))
    }

    /// The survey of the capture, and whether it ends in the middle of a packet.
    fn survey(&self) -> anyhow::Result<(CaptureSurvey, bool)> {
        let mut survey = CaptureSurvey::default();
        let mut reader = self.open()?;
        for packet in &mut reader {
            survey.add(&packet.with_context(|| self.path.display().to_string())?);
        }
        Ok((survey, reader.is_truncated()))
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn frames(report: &DiffReport) -> Vec<CapturedFrame> {
    let mut all = Vec::new();
    for record in report.divergences() {
        let summary = format!("divergence {}, {}", record.divergence.number, record.summary());
        for (side, frame) in record.divergence.frames() {
            let place = match side {
                Side::Primary => record.primary,
                Side::Secondary => record.secondary,
            };
            all.push(CapturedFrame {
                side,
                time_ns: place.map_or(0, |place| place.time_ns),
                octets: frame.octets.to_vec(),
                original_len: u32::try_from(frame.original_len).unwrap_or(u32::MAX),
                summary: summary.clone(),
            });
        }
    }
    all
}
