//! What must hold, seen from outside: by somebody who sees both guests and the client at once.
//!
//! The rule is checked against the state of the secondary *guest* at the moment of each release:
//! has it produced this, and has it received what is acknowledged? A completed checkpoint makes
//! that true by itself, because the guest's state is the primary's then. Nothing of the engine is
//! asked.

use super::endpoint::{Endpoint, place};
use super::hosts::{PrimaryHost, SecondaryHost};
use super::machine::{Connection, Machine};
use super::wire::{Body, Segment, Tuple, read};
use super::world::brief;
use crate::frame::Frame;
use crate::pair::protection::ProtectionState;

#[derive(Debug, Default)]
pub(super) struct Oracle {
    wrong: Option<String>,
    /// Something left that the secondary does not vouch for.
    uncovered: bool,
    uncovered_since_capture: bool,
    /// Answers to datagrams that have left.
    answered: Vec<(Tuple, Vec<u8>)>,
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
    pub(super) fn on_release(&mut self, frame: &Frame, primary: &Machine, secondary: &Machine) {
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
        answer: (Tuple, Vec<u8>),
        secondary: &Machine,
    ) -> Result<(), String> {
        let count = |all: &[(Tuple, Vec<u8>)]| all.iter().filter(|one| **one == answer).count();
        if count(&self.answered) >= count(&secondary.answers) {
            return Err("the secondary has not said so, or not so often".into());
        }
        self.answered.push(answer);
        Ok(())
    }

    /// The primary is dead: what the client knows, the secondary must know as well.
    pub(super) fn on_death(&mut self, client: &Machine, secondary: &Machine) {
        if let Err(wrong) = consistent(client, secondary) {
            self.report(format!("at the death of the primary, {wrong}"));
        }
    }

    /// The run is over: everything that was said is as it should be.
    pub(super) fn end(client: &Machine, survivor: &Machine) -> Result<(), String> {
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

    /// What is not at its end.
    pub(super) fn unfinished(
        client: &Machine,
        primary: &PrimaryHost,
        secondary: &SecondaryHost,
    ) -> String {
        let sides = [
            ("client", client),
            ("primary", &primary.guest.machine),
            ("secondary", &secondary.guest.machine),
        ];
        let mut lines = vec!["it does not come to an end".to_owned()];
        for (name, machine) in sides {
            for connection in machine.connections.values() {
                let Connection { endpoint: e, app } = connection;
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
fn check_segment(segment: &Segment, primary: &Machine, secondary: &Machine) -> Result<(), String> {
    if segment.rst {
        let said = |reset: &Segment| {
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
    check_octets(at, segment, other)?;
    let Some((ack, irs)) = segment.ack.zip(own.irs) else { return Ok(()) };
    let ack = place(ack, irs, own.rcvd);
    let known = if other.irs.is_some() { other.rcvd as i64 } else { 0 };
    if ack > known {
        return Err(format!("it acknowledges {ack}, and the secondary has {known}"));
    }
    Ok(())
}

/// The secondary has put out the same.
fn check_octets(at: u64, segment: &Segment, other: &Endpoint) -> Result<(), String> {
    let octets_at = at + u64::from(segment.syn);
    let len = segment.payload.len() as u64;
    let end = octets_at + len + u64::from(segment.fin);
    if (segment.syn || len > 0 || segment.fin) && other.max < end {
        return Err(format!("it reaches {end}, and the secondary is at {}", other.max));
    }
    if len > 0 {
        let from = octets_at as usize - 1;
        if other.stream.get(from..from + len as usize) != Some(&segment.payload[..]) {
            return Err(format!("the secondary says something else at {octets_at}"));
        }
    }
    if segment.fin && !(other.has_finished() && other.max == end) {
        return Err("the secondary does not end there".into());
    }
    Ok(())
}

fn find(machine: &Machine, tuple: Tuple, is_it: impl Fn(&Endpoint) -> bool) -> Option<&Endpoint> {
    machine.all().map(|c| &c.endpoint).find(|e| e.tuple == tuple && is_it(e))
}

/// Both speak with the same connection of the peer, as far as they have heard of it.
fn same_peer(a: &Endpoint, b: &Endpoint) -> bool {
    a.irs.is_none() || b.irs.is_none() || a.irs == b.irs
}

/// What the client was told, `guest` has said; what it was acknowledged, `guest` has.
fn consistent(client: &Machine, guest: &Machine) -> Result<(), String> {
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
