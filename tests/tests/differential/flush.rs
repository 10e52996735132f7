//! Requests, queues, and the effect of a checkpoint.

use std::time::Duration;

use anyhow::{Result, ensure};
use colo_lab::colo_compare::{Engine, Setup, Stand, datagram, segment};
use colo_lab::lab_test;

use super::{Checkpoint, P, S, row};

const NOTHING: (&[usize], usize) = (&[], 0);

fn numbered(i: usize) -> Vec<u8> {
    datagram(7).data(&(i as u32).to_be_bytes()).build()
}

fn of(port: u16, data: &[u8]) -> Vec<u8> {
    segment(1000).port(port).ack(1).data(data).build()
}

#[lab_test(qemu)]
fn datagrams_leave_in_order_of_arrival_at_a_checkpoint() -> Result<()> {
    let steps = [P(numbered(1)), P(numbered(2)), P(numbered(3)), Checkpoint];
    row(
        &steps,
        &[NOTHING, NOTHING, NOTHING, (&[2, 1, 0], 0)],
        &[NOTHING, NOTHING, NOTHING, (&[0, 1, 2], 0)],
    )
}

/// QEMU handles its connections one by one.
#[lab_test(qemu)]
fn all_flows_together_leave_in_order_of_arrival_at_a_checkpoint() -> Result<()> {
    let steps = [
        P(of(5000, b"a")),
        P(of(5001, b"b")),
        P(segment(1001).port(5000).ack(1).data(b"c").build()),
        Checkpoint,
    ];
    row(
        &steps,
        &[NOTHING, NOTHING, NOTHING, (&[0, 2, 1], 0)],
        &[NOTHING, NOTHING, NOTHING, (&[0, 1, 2], 0)],
    )
}

#[lab_test(qemu)]
fn one_request_is_outstanding_whatever_else_differs() -> Result<()> {
    let mut steps = Vec::new();
    for port in 5000..5010 {
        steps.extend([P(of(port, b"good")), S(of(port, b"evil"))]);
    }
    let qemu: Vec<_> = (0..20).map(|i| (&[][..], i % 2)).collect();
    let ours: Vec<_> = (0..20).map(|i| (&[][..], usize::from(i == 1))).collect();
    row(&steps, &qemu, &ours)
}

#[lab_test(qemu)]
fn a_stale_frame_of_the_secondary_is_no_reason_for_another_checkpoint() -> Result<()> {
    let next = segment(1004).port(5000).ack(1).data(b"next").build();
    let steps = [P(of(5000, b"old.")), Checkpoint, P(next), S(of(5000, b"old."))];
    row(&steps, &[NOTHING, (&[0], 0), NOTHING, (&[], 1)], &[NOTHING, (&[0], 0), NOTHING, NOTHING])
}

/// Above 1025 frames, QEMU drops the guest's output.
#[lab_test(qemu)]
fn a_full_queue_loses_nothing() -> Result<()> {
    const SENT: usize = 1100;
    for (engine, left) in [(Engine::Qemu, 1025), (Engine::Ours, SENT)] {
        let mut stand = Stand::new(engine, &Setup::default())?;
        for i in 0..SENT {
            stand.primary(&numbered(i))?;
        }
        if engine == Engine::Qemu {
            // Ours reads no further, so it does not see a fence.
            stand.settle()?;
        }
        stand.checkpoint()?;
        let frames = (0..left).map(|_| stand.next_out()).collect::<Result<Vec<_>>>()?;
        // Ours has made a request, if it saw the full queue before the checkpoint.
        ensure!(stand.settle()?.frames.is_empty());
        let in_order = frames.iter().enumerate().all(|(i, frame)| *frame == numbered(i));
        ensure!(in_order == (engine == Engine::Ours), "{engine:?}: order");
    }
    Ok(())
}

/// In QEMU, a blocked writer sends the newest frame first.
#[lab_test(qemu)]
fn an_outdev_that_is_slow_does_not_change_the_order() -> Result<()> {
    const SENT: u32 = 600;
    for engine in [Engine::Qemu, Engine::Ours] {
        let mut stand = Stand::new(engine, &Setup::default())?;
        let frames: Vec<_> = (0..SENT)
            .map(|i| segment(1000 + i * 900).ack(1).data(&[i as u8; 900]).build())
            .collect();
        for frame in &frames {
            stand.primary(frame)?;
        }
        stand.expect(&[])?;
        // Nobody reads meanwhile.
        stand.checkpoint()?;
        let left = (0..SENT).map(|_| stand.next_out()).collect::<Result<Vec<_>>>()?;
        ensure!((left == frames) == (engine == Engine::Ours), "{engine:?}: order");
    }
    Ok(())
}

#[lab_test(qemu)]
fn a_frame_that_waits_for_too_long_is_asked_for() -> Result<()> {
    for engine in [Engine::Qemu, Engine::Ours] {
        let setup = Setup { compare_timeout_ms: 200, ..Setup::default() };
        let mut stand = Stand::new(engine, &setup)?;
        stand.primary(&of(5000, b"lone"))?;
        stand.wait_request()?;
    }
    Ok(())
}

/// QEMU makes a request for any waiting frame. But the secondary's acknowledgments contain nothing
/// that the primary would have to repeat.
#[lab_test(qemu)]
fn an_acknowledgment_of_the_secondary_alone_is_no_reason() -> Result<()> {
    let setup = Setup { compare_timeout_ms: 200, ..Setup::default() };
    for engine in [Engine::Qemu, Engine::Ours] {
        let mut stand = Stand::new(engine, &setup)?;
        let data = of(5000, b"data");
        stand.primary(&data)?;
        stand.secondary(&data)?;
        stand.expect(&[&data])?;
        stand.secondary(&segment(1004).ack(9).build())?;
        match engine {
            Engine::Qemu => stand.wait_request()?,
            Engine::Ours => stand.expect_no_request(Duration::from_millis(600))?,
        }
        // The twin: both make a request for data of the secondary alone.
        stand.secondary(&segment(1004).ack(9).data(b"more").build())?;
        stand.wait_request()?;
    }
    Ok(())
}

/// After a failover, the peer would send into a closed window.
#[lab_test(qemu)]
fn a_window_that_is_closed_at_the_secondary_alone_is_asked_for() -> Result<()> {
    for engine in [Engine::Qemu, Engine::Ours] {
        let mut stand = Stand::new(engine, &Setup::default())?;
        let data = segment(1000).ack(1).data(b"data");
        stand.primary(&data.build())?;
        stand.secondary(&data.clone().window(0).build())?;
        stand.expect(&[&data.build()])?;
        match engine {
            Engine::Qemu => stand.expect_no_request(Duration::from_secs(3))?,
            Engine::Ours => stand.wait_request()?,
        }
    }
    Ok(())
}
