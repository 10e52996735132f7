//! `filter-rewriter` alone on a TAP, as on a secondary host. Its guest has chosen other numbers
//! than the network knows.

use anyhow::Result;
use colo_lab::colo_frame::{BEGAN, DONE, FAILED, FAILOVER, ScriptFrame};
use colo_lab::daemon::{Daemon, DaemonStatus, binary};
use colo_lab::lab_test;
use colo_lab::pair::left_on;
use colo_lab::phrases;

use crate::stand::{Stand, TIMEOUT, Way, end, receive, wait_mode};

pub(crate) const PEER: ([u8; 4], u16) = ([192, 0, 2, 1], 40_000);
const GUEST: ([u8; 4], u16) = ([198, 51, 100, 2], 80);
/// The peer's initial sequence number.
pub(crate) const PEER_ISN: u32 = 1000;
/// This guest's initial number, and the primary's, which the network knows.
pub(crate) const GUEST_ISN: u32 = 7;
pub(crate) const WIRE_ISN: u32 = 0xffff_fff0;

/// One segment of a connection from the peer's `port`.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) way: Way,
    port: u16,
    seq: u32,
    ack: Option<u32>,
    syn: bool,
    data: &'static [u8],
}

pub(crate) fn segment(way: Way, seq: u32, ack: u32) -> Segment {
    Segment { way, port: PEER.1, seq, ack: Some(ack), syn: false, data: b"" }
}

impl Segment {
    pub(crate) fn syn(self) -> Self {
        Self { syn: true, ..self }
    }

    pub(crate) fn without_ack(self) -> Self {
        Self { ack: None, ..self }
    }

    pub(crate) fn data(self, data: &'static [u8]) -> Self {
        Self { data, ..self }
    }

    fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    pub(crate) fn build(self) -> Vec<u8> {
        let (macs, ips, ports) = match self.way {
            Way::Tx => {
                (([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]), (PEER.0, GUEST.0), (self.port, GUEST.1))
            }
            Way::Rx => {
                (([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]), (GUEST.0, PEER.0), (GUEST.1, self.port))
            }
        };
        let mut builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1)
            .ipv4(ips.0, ips.1, 64)
            .tcp(ports.0, ports.1, self.seq, 60_000);
        if self.syn {
            builder = builder.syn();
        }
        if let Some(ack) = self.ack {
            builder = builder.ack(ack);
        }
        let mut frame = Vec::new();
        builder.write(&mut frame, self.data).expect("a Vec takes everything");
        frame
    }
}

fn send(stand: &Stand, segment: Segment) {
    stand.send(segment.way, &segment.build());
}

fn arrives(stand: &Stand, segment: Segment) {
    stand.arrives(segment.way, &segment.build());
}

/// The peer opens a connection, and the guest and the primary have answered. From now on the
/// guest's numbers are translated.
fn open(stand: &Stand, port: u16) {
    let syn = segment(Way::Tx, PEER_ISN, 0).syn().port(port).without_ack();
    send(stand, syn);
    arrives(stand, syn);
    let answer = segment(Way::Rx, GUEST_ISN, PEER_ISN + 1).syn().port(port);
    send(stand, answer);
    // The peer already has the primary's answer. The fate of this one does not matter.
    send(stand, segment(Way::Tx, PEER_ISN + 1, WIRE_ISN.wrapping_add(1)).port(port));
    arrives(stand, segment(Way::Tx, PEER_ISN + 1, GUEST_ISN + 1).port(port));
}

/// A request and its answer, with the numbers that each end uses.
fn talk(stand: &Stand, port: u16) {
    let guest = |seq| segment(Way::Rx, seq, PEER_ISN + 4).data(b"answer").port(port);
    let peer = |ack| segment(Way::Tx, PEER_ISN + 1, ack).data(b"ask").port(port);
    send(stand, peer(WIRE_ISN.wrapping_add(1)));
    arrives(stand, peer(GUEST_ISN + 1));
    send(stand, guest(GUEST_ISN + 1));
    arrives(stand, guest(WIRE_ISN.wrapping_add(1)));
}

/// The guest's numbers are the network's.
fn talk_as_it_is(stand: &Stand, port: u16, isn: u32) {
    let guest = segment(Way::Rx, isn.wrapping_add(7), PEER_ISN + 4).data(b"more").port(port);
    let peer = segment(Way::Tx, PEER_ISN + 4, isn.wrapping_add(7)).data(b"ask").port(port);
    for segment in [peer, guest] {
        send(stand, segment);
        arrives(stand, segment);
    }
}

fn until(
    filter: &Daemon,
    what: &str,
    wanted: impl Fn(&DaemonStatus) -> bool,
) -> Result<DaemonStatus> {
    filter.wait_status(what, TIMEOUT, wanted)
}

fn epoch_is(status: &DaemonStatus, epoch: u64) -> bool {
    status.number("epoch").is_ok_and(|found| found == epoch)
}

#[lab_test(root)]
fn a_connection_is_translated_in_both_directions() -> Result<()> {
    let stand = Stand::new()?;
    let rewriter = stand.filter("rewriter", &[])?;
    open(&stand, PEER.1);
    talk(&stand, PEER.1);
    let status = rewriter.status()?;
    assert_eq!(status.number("flows")?, 1, "{status:#?}");
    assert!(status.detail("/kernel/translated_to_guest")? >= 2, "{status:#?}");
    assert_eq!(status.detail("/kernel/translated_from_guest")?, 1, "{status:#?}");
    // Traffic other than TCP passes unchanged.
    stand.passes(Way::Tx, "datagram");
    stand.passes(Way::Rx, "datagram");
    Ok(())
}

#[lab_test(root)]
fn a_connection_that_the_guest_opens_is_translated_too() -> Result<()> {
    let stand = Stand::new()?;
    let _rewriter = stand.filter("rewriter", &[])?;
    let syn = segment(Way::Rx, GUEST_ISN, 0).syn().without_ack();
    send(&stand, syn);
    send(&stand, segment(Way::Tx, PEER_ISN, WIRE_ISN.wrapping_add(1)).syn());
    arrives(&stand, segment(Way::Tx, PEER_ISN, GUEST_ISN + 1).syn());
    send(&stand, segment(Way::Rx, GUEST_ISN + 1, PEER_ISN + 1));
    arrives(&stand, segment(Way::Rx, WIRE_ISN.wrapping_add(1), PEER_ISN + 1));
    talk(&stand, PEER.1);
    Ok(())
}

/// Input that arrives before the guest's answer is parked, and resumes in its place: the filter
/// before the rewriter has seen it, and the filter after it has not.
#[lab_test(root)]
fn input_that_is_too_early_waits_and_resumes_at_the_rewriter() -> Result<()> {
    let stand = Stand::new()?;
    let mirror = |id: &str| {
        let out = stand.server(id);
        stand.filter("mirror", &["--id", id, "--queue", "tx", "--outdev", &out])
    };
    let head = mirror("head")?;
    let rewriter = stand.filter("rewriter", &[])?;
    let tail = mirror("tail")?;
    let mut before = stand.connect("head", false)?;
    let mut behind = stand.connect("tail", false)?;
    wait_mode(&head, "connected")?;
    wait_mode(&tail, "connected")?;
    let syn = segment(Way::Tx, PEER_ISN, 0).syn().without_ack();
    let early = segment(Way::Tx, PEER_ISN + 1, WIRE_ISN.wrapping_add(1)).data(b"early");
    let translated = segment(Way::Tx, PEER_ISN + 1, GUEST_ISN + 1).data(b"early");
    send(&stand, syn);
    arrives(&stand, syn);
    send(&stand, early);
    until(&rewriter, "held input", |status| {
        status.number("held_frames").is_ok_and(|held| held == 1)
    })?;
    assert!(stand.arrived(Way::Tx).is_empty());
    send(&stand, segment(Way::Rx, GUEST_ISN, PEER_ISN + 1).syn());
    arrives(&stand, translated);
    stand.passes(Way::Tx, "fence");
    let fence = crate::stand::named("fence");
    let seen = crate::stand::receive_to(&mut before, &fence)?;
    assert_eq!(seen, [syn.build(), early.build()], "before the rewriter");
    let seen = crate::stand::receive_to(&mut behind, &fence)?;
    assert_eq!(seen, [syn.build(), translated.build()], "behind the rewriter");
    assert_eq!(head.status()?.detail("/kernel/passed_over")?, 1);
    assert_eq!(tail.status()?.detail("/kernel/passed_over")?, 0);
    talk(&stand, PEER.1);
    Ok(())
}

/// Frames that an earlier redirector injects are translated, as the primary's input is on a
/// secondary.
#[lab_test(root)]
fn what_is_injected_before_it_is_translated_and_output_behind_it_is_the_networks() -> Result<()> {
    let stand = Stand::new()?;
    let (input, out) = (stand.server("in"), stand.server("out"));
    let f1 = stand.filter("redirector", &["--id", "f1", "--queue", "tx", "--indev", &input])?;
    let f2 = stand.filter("redirector", &["--id", "f2", "--queue", "rx", "--outdev", &out])?;
    let _rewriter = stand.filter("rewriter", &["--id", "rew0"])?;
    let mut input = stand.connect("in", false)?;
    let mut out = stand.connect("out", false)?;
    wait_mode(&f1, "connected")?;
    wait_mode(&f2, "connected")?;
    let syn = segment(Way::Tx, PEER_ISN, 0).syn().without_ack();
    input.send(&syn.build())?;
    arrives(&stand, syn);
    send(&stand, segment(Way::Rx, GUEST_ISN, PEER_ISN + 1).syn());
    out.receive(TIMEOUT)?;
    input.send(&segment(Way::Tx, PEER_ISN + 1, WIRE_ISN.wrapping_add(1)).build())?;
    arrives(&stand, segment(Way::Tx, PEER_ISN + 1, GUEST_ISN + 1));
    let answer = |seq| segment(Way::Rx, seq, PEER_ISN + 1).data(b"answer");
    send(&stand, answer(GUEST_ISN + 1));
    receive(&mut out, &answer(WIRE_ISN.wrapping_add(1)).build())?;
    assert!(stand.arrived(Way::Rx).is_empty(), "nothing of a secondary reaches the network");
    Ok(())
}

#[lab_test(root)]
fn a_checkpoint_ends_translation() -> Result<()> {
    let frame = ScriptFrame::silent()?;
    let stand = Stand::new()?;
    let rewriter = stand.filter("rewriter", &["--colo-frame", &frame.kind()])?;
    open(&stand, PEER.1);
    talk(&stand, PEER.1);
    frame.say(r#"{"event":"checkpoint-done","state_copied":false}"#)?;
    frame.say(DONE)?;
    until(&rewriter, "an epoch", |status| epoch_is(status, 1))?;
    talk_as_it_is(&stand, PEER.1, WIRE_ISN);
    // A connection of the new epoch is translated.
    open(&stand, 40_001);
    talk(&stand, 40_001);
    frame.say(DONE)?;
    until(&rewriter, "another epoch", |status| epoch_is(status, 2))?;
    // No connection depends on the translation now.
    end(rewriter)?;
    let left = left_on(stand.host())?;
    assert!(left.iter().all(|name| name == "lan0"), "{left:?}");
    Ok(())
}

/// The guest stands still during the checkpoint. If the checkpoint fails, the guest continues as it
/// was.
#[lab_test(root)]
fn a_checkpoint_that_fails_leaves_translation_as_it_was() -> Result<()> {
    let frame = ScriptFrame::silent()?;
    let stand = Stand::new()?;
    let rewriter = stand.filter("rewriter", &["--colo-frame", &frame.kind()])?;
    open(&stand, PEER.1);
    talk(&stand, PEER.1);
    frame.say(BEGAN)?;
    until(&rewriter, "the epoch of the state that comes", |status| epoch_is(status, 1))?;
    frame.say(FAILED)?;
    until(&rewriter, "the old epoch", |status| epoch_is(status, 0))?;
    talk(&stand, PEER.1);
    // A failover waits while the end of a checkpoint is unknown, but not for ever.
    frame.say(BEGAN)?;
    frame.say(FAILOVER)?;
    wait_mode(&rewriter, phrases::mode::REWRITER_FAILED_OVER)?;
    talk(&stand, PEER.1);
    Ok(())
}

#[lab_test(root)]
fn after_a_failover_known_connections_stay_translated_and_new_ones_are_not() -> Result<()> {
    let stand = Stand::new()?;
    let rewriter = stand.filter("rewriter", &[])?;
    open(&stand, PEER.1);
    let binary = binary()?;
    let said =
        stand.run(binary.to_str().expect("a path"), &["failover", "filter-rewriter@tap0"])?;
    assert!(said.contains(phrases::filter::STAY_TRANSLATED), "{said}");
    assert_eq!(rewriter.status()?.mode()?, phrases::mode::REWRITER_FAILED_OVER);
    talk(&stand, PEER.1);
    let port = 40_002;
    let syn = segment(Way::Tx, PEER_ISN, 0).syn().port(port).without_ack();
    let answer = segment(Way::Rx, GUEST_ISN, PEER_ISN + 1).syn().port(port);
    for segment in [syn, answer] {
        send(&stand, segment);
        arrives(&stand, segment);
    }
    talk_as_it_is(&stand, port, GUEST_ISN);
    Ok(())
}

/// The programs stay while the guest lives and connections need them, whether or not the process
/// ends in good order.
#[lab_test(root)]
fn its_programs_stay_while_connections_need_them() -> Result<()> {
    let stand = Stand::new()?;
    let mut rewriter = stand.filter("rewriter", &[])?;
    open(&stand, PEER.1);
    rewriter.process.kill()?;
    talk(&stand, PEER.1);
    let rewriter = stand.filter("rewriter", &[])?;
    assert!(
        rewriter.process.stderr().contains(phrases::filter::TOOK_OVER),
        "{}",
        rewriter.process.stderr()
    );
    talk(&stand, PEER.1);
    let log = end(rewriter)?;
    assert!(log.contains(phrases::filter::CONNECTIONS_DEPEND), "{log}");
    talk(&stand, PEER.1);
    let rewriter = stand.filter("rewriter", &[])?;
    assert_eq!(rewriter.status()?.number("flows")?, 1);
    talk(&stand, PEER.1);
    Ok(())
}

#[lab_test(root)]
fn a_guest_that_restarts_is_rewritten_again() -> Result<()> {
    let mut stand = Stand::new()?;
    let rewriter = stand.filter("rewriter", &[])?;
    stand.restart_guest()?;
    rewriter.process.wait_for(phrases::filter::TAP_IS_BACK, TIMEOUT)?;
    open(&stand, PEER.1);
    talk(&stand, PEER.1);
    Ok(())
}
