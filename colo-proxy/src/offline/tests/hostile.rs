//! Captures of hostile guests, and captures with random content.

use std::time::Duration;

use proptest::prelude::*;

use super::{guest, packet, tcp, udp};
use crate::capture_file::Packet;
use crate::offline::{
    Alignment, AlignmentKind, CaptureSurvey, Comparison, ComparisonOptions, Connections,
    DiffReport, merge,
};
use colo_proxy_engine::compare::{Limits, Side};

fn compare(files: &[Vec<Packet>; 2], align: Option<AlignmentKind>) -> DiffReport {
    let mut surveys = [CaptureSurvey::default(), CaptureSurvey::default()];
    let mut connections = Connections::default();
    for ((side, file), survey) in
        [Side::Primary, Side::Secondary].into_iter().zip(files).zip(&mut surveys)
    {
        for packet in file {
            survey.add(packet);
            connections.add(side, packet, &guest());
        }
    }
    connections.settle();
    let [primary, secondary] = &surveys;
    let alignment = Alignment::new(align, primary, secondary, &connections);
    let limits = Limits {
        flows_max: 8,
        frames_max: 16,
        divergences_max: 4,
        compare_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let options = ComparisonOptions { limits, checkpoint: Duration::from_millis(20) };
    let mut comparison =
        Comparison::new(guest(), [primary, secondary], connections, alignment, options);
    let packets = files.each_ref().map(|file| file.iter().cloned().map(Ok::<_, ()>));
    let [ours, theirs] = packets;
    for next in merge(ours, theirs, alignment) {
        let (side, packet) = next.expect("there is no file to fail");
        comparison.take(side, &packet);
    }
    comparison.finish()
}

/// Frames that a strange guest may send, and others.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => sound_frame(),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| {
            let mut frame = tcp(1, 2, "A", b"abcdef");
            let at = at % frame.len();
            frame[at] = byte;
            frame
        }),
    ]
}

/// Frames of one connection that is all in one place, datagrams, and noise.
fn sound_frame() -> impl Strategy<Value = Vec<u8>> {
    let flags = proptest::sample::select(vec!["S", "SA", "A", "FA", "R", "RA", ""]);
    let segment = (any::<u32>(), 0..3u32, flags, proptest::collection::vec(any::<u8>(), 0..40));
    prop_oneof![
        segment.prop_map(|(seq, ack, flags, payload)| tcp(seq % 64, ack, flags, &payload)),
        (0..3u8).prop_map(|byte| udp(&[byte])),
        proptest::collection::vec(any::<u8>(), 0..80),
    ]
}

fn file(frame: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<Packet>> {
    let time = prop_oneof![
        9 => 0..400_000_000_u64,
        1 => any::<u64>(),
    ];
    proptest::collection::vec((time, frame), 0..60).prop_map(|packets| {
        (1..).zip(packets).map(|(number, (time, frame))| packet(number, time, frame)).collect()
    })
}

fn align() -> impl Strategy<Value = Option<AlignmentKind>> {
    proptest::sample::select(vec![
        None,
        Some(AlignmentKind::Absolute),
        Some(AlignmentKind::First),
        Some(AlignmentKind::Connections),
    ])
}

proptest! {
    /// With any captures the comparison ends, and its counts make sense.
    #[test]
    fn any_captures_are_compared_to_their_end(ours in file(frame()), theirs in file(frame()), align in align()) {
        let report = compare(&[ours, theirs], align);
        prop_assert!(report.divergences().len() as u64 <= report.divergences_total());
        prop_assert!(report.diverged() || report.divergences_total() + report.checkpoints() == 0);
        for capture in [&report.primary, &report.secondary] {
            prop_assert!(capture.output_frames <= capture.frames);
            prop_assert!(capture.outside_frames <= capture.output_frames);
        }
        let answer = serde_json::to_value(crate::offline::DiffAnswer::from(&report)).expect("it is written");
        prop_assert!(answer.is_object());
        prop_assert!(!report.to_string().is_empty());
    }

    /// A guest never differs from itself, with any output, if the times in its capture are in
    /// order.
    #[test]
    fn a_capture_never_differs_from_itself(mut file in file(sound_frame()), align in align()) {
        file.sort_by_key(|packet| packet.time_ns);
        let report = compare(&[file.clone(), file], align);
        prop_assert!(!report.diverged(), "{report}");
        prop_assert_eq!(report.checkpoints(), 0);
    }
}
