//! The contract, checked from outside. The oracle sees both guests and the client at once.
//!
//! It checks each release against the state of the secondary *guest* at that moment. The guest must
//! have produced the same output, and must have received the input that is acknowledged. A checkpoint
//! makes that true by itself, because the guest's state is the primary's then. The oracle never asks
//! the engine.

use super::endpoint::{TcpEnd, place};
use super::hosts::{PrimaryHost, SecondaryHost};
use super::machine::{Station, StationConnection};
use super::wire::{Body, PlainSegment, PortPair, read};
use super::world::brief;
use crate::frame::Frame;
use crate::pair::protection::ProtectionState;

#[derive(Debug, Default)]
pub(super) struct Oracle {
    wrong: Option<String>,
    /// A frame left for which the secondary does not vouch.
    uncovered: bool,
    uncovered_since_capture: bool,
    /// Answers to datagrams that have left.
    answered: Vec<(PortPair, Vec<u8>)>,
    /// Frames that were checked.
    pub(super) checked: u64,
}

impl Oracle {
    pub(super) fn is_covered(&self) -> bool {
        !self.uncovered
    }

    pub(super) fn on_unprotected(&mut self) {
        (self.uncovered, self.uncovered_since_capture) = (true, true);
    }

    pub(super) fn on_capture(&mut self) {
        self.uncovered_since_capture = false;
    }

    pub(super) fn on_load(&mut self) {
        self.uncovered = self.uncovered_since_capture;
    }

    fn report(&mut self, wrong: String) {
        self.wrong.get_or_insert(wrong);
    }

    /// After every event: nothing was wrong so far, and protection is not claimed in vain.
    pub(super) fn verdict(&mut self, primary: &PrimaryHost) -> Result<(), String> {
        let state = primary.daemon.as_ref().map(|daemon| daemon.protection().state());
        if state == Some(ProtectionState::Protected) && self.uncovered {
            self.report("protection is claimed, and the secondary lacks what has left".into());
        }
        self.wrong.take().map_or(Ok(()), Err)
    }

    /// A frame leaves while protection is on.
    pub(super) fn on_release(&mut self, frame: &Frame, primary: &Station, secondary: &Station) {
        self.checked += 1;
        let checked = match read(frame) {
            Some(Body::Tcp(segment)) => check_segment(&segment, primary, secondary),
            Some(Body::Udp(tuple, payload)) => self.check_answer((tuple, payload), secondary),
            None => Err("its checksum is wrong".into()),
        };
        if let Err(wrong) = checked {
            self.report(format!("{} left: {wrong}", brief(frame)));
        }
    }

    fn check_answer(
        &mut self,
        answer: (PortPair, Vec<u8>),
        secondary: &Station,
    ) -> Result<(), String> {
        let count = |all: &[(PortPair, Vec<u8>)]| all.iter().filter(|one| **one == answer).count();
        if count(&self.answered) >= count(&secondary.answers) {
            return Err("the secondary has not said so, or not so often".into());
        }
        self.answered.push(answer);
        Ok(())
    }

    /// The primary is dead. The secondary must know everything that the client knows.
    pub(super) fn on_death(&mut self, client: &Station, secondary: &Station) {
        if let Err(wrong) = consistent(client, secondary) {
            self.report(format!("at the death of the primary, {wrong}"));
        }
    }

    /// The run is over. Checks all conversations.
    pub(super) fn end(client: &Station, survivor: &Station) -> Result<(), String> {
        for (tuple, script) in client.scripts().chain(survivor.scripts()) {
            if let Some(wrong) = &script.wrong {
                return Err(format!("{tuple:?}: {wrong}"));
            }
        }
        if let Some(connection) = client.all().find(|c| c.endpoint.was_reset) {
            return Err(format!("{:?} was reset", connection.endpoint.tuple));
        }
        consistent(client, survivor)
    }

    /// Describes the conversations that are not over.
    pub(super) fn unfinished(
        client: &Station,
        primary: &PrimaryHost,
        secondary: &SecondaryHost,
    ) -> String {
        let sides = [
            ("client", client),
            ("primary", &primary.guest.machine),
            ("secondary", &secondary.guest.machine),
        ];
        let mut lines = vec!["the run does not end".to_owned()];
        for (name, machine) in sides {
            for connection in machine.connections.values() {
                let StationConnection { endpoint: e, app } = connection;
                if !e.is_over() {
                    let got = (e.rcvd, e.max, e.stream.len(), e.alien, e.was_reset);
                    lines.push(format!("{name} {:?}: {got:?} {app:?}", e.tuple));
                }
            }
            let unanswered = machine.questions.iter().filter(|q| !q.answered).count();
            lines.push(format!("{name}: {unanswered} unanswered, {} calls", machine.calls.len()));
        }
        if let Some(daemon) = &primary.daemon {
            let (held, state) = (daemon.engine().stats().held, daemon.protection().state());
            let sorts = daemon.sorts();
            lines.push(format!("{state:?}, held {held:?}, waits for a cut {sorts}"));
        }
        lines.join("\n")
    }
}

/// The rule for one segment of the primary.
fn check_segment(
    segment: &PlainSegment,
    primary: &Station,
    secondary: &Station,
) -> Result<(), String> {
    if segment.rst {
        let said = |reset: &PlainSegment| {
            reset.tuple == segment.tuple && (reset.seq, reset.ack) == (segment.seq, segment.ack)
        };
        let is_known = secondary.resets.iter().any(said);
        return if is_known { Ok(()) } else { Err("the secondary did not reset".into()) };
    }
    let own = find(primary, segment.tuple, |endpoint| {
        let at = place(segment.seq, endpoint.iss, endpoint.max);
        (0..=endpoint.max as i64).contains(&at)
    });
    let Some(own) = own else { return Err("the primary has no such connection".into()) };
    let Some(other) = find(secondary, segment.tuple, |endpoint| same_peer(own, endpoint)) else {
        return Err("the secondary has no such connection".into());
    };
    let at = place(segment.seq, own.iss, own.max) as u64;
    check_bytes(at, segment, other)?;
    let Some((ack, irs)) = segment.ack.zip(own.irs) else { return Ok(()) };
    let ack = place(ack, irs, own.rcvd);
    let known = if other.irs.is_some() { other.rcvd as i64 } else { 0 };
    if ack > known {
        return Err(format!("it acknowledges {ack}, and the secondary has {known}"));
    }
    Ok(())
}

/// The secondary has put out the same.
fn check_bytes(at: u64, segment: &PlainSegment, other: &TcpEnd) -> Result<(), String> {
    let bytes_at = at + u64::from(segment.syn);
    let len = segment.payload.len() as u64;
    let end = bytes_at + len + u64::from(segment.fin);
    if (segment.syn || len > 0 || segment.fin) && other.max < end {
        return Err(format!("it reaches {end}, and the secondary is at {}", other.max));
    }
    if len > 0 {
        let from = bytes_at as usize - 1;
        if other.stream.get(from..from + len as usize) != Some(&segment.payload[..]) {
            return Err(format!("the secondary says something else at {bytes_at}"));
        }
    }
    if segment.fin && !(other.has_finished() && other.max == end) {
        return Err("the secondary does not end there".into());
    }
    Ok(())
}

fn find(machine: &Station, tuple: PortPair, is_it: impl Fn(&TcpEnd) -> bool) -> Option<&TcpEnd> {
    machine.all().map(|c| &c.endpoint).find(|e| e.tuple == tuple && is_it(e))
}

/// Both talk to the same connection of the peer, as far as they know that yet.
fn same_peer(a: &TcpEnd, b: &TcpEnd) -> bool {
    a.irs.is_none() || b.irs.is_none() || a.irs == b.irs
}

/// `guest` has sent everything that the client got, and has everything that was acknowledged to it.
fn consistent(client: &Station, guest: &Station) -> Result<(), String> {
    for connection in client.all().filter(|c| c.endpoint.is_established()) {
        let endpoint = &connection.endpoint;
        let tuple = endpoint.tuple;
        let other =
            find(guest, tuple.reversed(), |e| e.irs == Some(endpoint.iss) || e.irs.is_none());
        let Some(other) = other else {
            return Err(format!("{tuple:?} is not known to the survivor"));
        };
        if !other.stream.starts_with(&endpoint.received) || endpoint.rcvd > other.max {
            return Err(format!("{tuple:?} was told what the survivor has not said"));
        }
        let acknowledged = endpoint.acknowledged();
        if acknowledged > other.rcvd.max(1) {
            let has = other.rcvd;
            return Err(format!(
                "{tuple:?} had {acknowledged} acknowledged; the survivor has {has}"
            ));
        }
    }
    Ok(())
}
