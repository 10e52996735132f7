//! The LAN, and the ways between the daemons.

use std::ops::Range;

use super::plan::{DaemonWire, Site};
use super::world::{PairWorld, WireCargo, WireState, WorldEvent};
use crate::frame::Frame;
use crate::pair::ProgramMode;
use crate::pair::message::ControlMessage;
use crate::pair::primary::PeerLane;

/// Time until an end notices that its connection is gone.
const NOTICE_US: Range<u64> = 1..2_000;
/// Time until a connection is made again; longer than until its end is noticed.
const RECONNECT_US: Range<u64> = 3_000..300_000;

impl PairWorld {
    /// Sends a frame over the LAN, which loses, repeats and reorders.
    pub(super) fn send_on_lan(&mut self, frame: &Frame, arrives: fn(Frame) -> WorldEvent) {
        let lan = self.plan.lan.clone();
        let copies = 1 + u64::from(self.random.chance(lan.duplicates));
        for _ in 0..copies {
            if self.random.chance(lan.loss) {
                self.say(|| "the LAN loses a frame".into());
            } else {
                self.after(lan.delay_us.clone(), arrives(frame.clone()));
            }
        }
    }

    /// A frame of the LAN, for the guest that is on the network now.
    pub(super) fn input(&mut self, frame: &Frame) {
        if self.has_failed_over {
            self.secondary.kernel.now = self.now;
            self.secondary.kernel.write(frame);
            return self.settle_secondary();
        }
        if !self.primary.is_alive {
            return;
        }
        self.give(Site::Primary, frame.clone());
        let mirrors =
            self.primary.kernel.mode == ProgramMode::Protected && self.primary.daemon.is_some();
        if mirrors {
            self.send_by(DaemonWire::Mirror, Site::Secondary, WireCargo::Frame(frame.clone()));
        }
    }

    pub(super) fn line(&mut self, wire: DaemonWire) -> &mut WireState {
        match wire {
            DaemonWire::Mirror => &mut self.mirror,
            DaemonWire::Output => &mut self.output,
            DaemonWire::Control => &mut self.control,
        }
    }

    /// Sends in order. Without a connection the cargo is lost.
    pub(super) fn send_by(&mut self, wire: DaemonWire, to: Site, cargo: WireCargo) {
        let delay = self.random.within(self.plan.wire_us.clone());
        let now = self.now;
        let line = self.line(wire);
        if !line.is_up {
            return;
        }
        line.sent += 1;
        let generation = line.generation;
        let busy_until = &mut line.busy_until[1 - to as usize];
        let time = (*busy_until).max(now + delay);
        *busy_until = time;
        self.at(time, WorldEvent::Arrives(wire, generation, cargo));
    }

    pub(super) fn on_cargo(&mut self, wire: DaemonWire, generation: u32, cargo: WireCargo) {
        if self.line(wire).generation != generation {
            return;
        }
        match cargo {
            WireCargo::Frame(frame) => self.on_mirrored(frame),
            WireCargo::Returned(returned) => self.on_returned(returned),
            WireCargo::ToSecondary(message) => self.on_message_to_secondary(&message),
            WireCargo::ToPrimary(ControlMessage::EpochDone { epoch, sent, .. }) => {
                self.on_epoch_done(epoch, sent);
            }
            WireCargo::ToPrimary(message) => self.on_service_message(&message),
        }
    }

    /// The connection will be up, unless another fault prevents that.
    pub(super) fn connect(&mut self, wire: DaemonWire, delay: Range<u64>) {
        if wire == DaemonWire::Control && !self.plan.has_control() {
            return;
        }
        let generation = self.line(wire).generation;
        self.after(delay, WorldEvent::Wire(wire, generation, true));
    }

    /// The connection ends, and both ends notice. It is made again if the host can be reached.
    pub(super) fn disconnect(&mut self, wire: DaemonWire) {
        let line = self.line(wire);
        let was_up = line.is_up;
        line.is_up = false;
        line.generation += 1;
        line.sent = 0;
        let generation = line.generation;
        if was_up {
            self.after(NOTICE_US, WorldEvent::Wire(wire, generation, false));
        }
        if !self.is_lost {
            self.connect(wire, RECONNECT_US);
        }
    }

    pub(super) fn on_wire(&mut self, wire: DaemonWire, generation: u32, up: bool) {
        if self.line(wire).generation != generation {
            return;
        }
        let daemons = self.primary.daemon.is_some() && self.secondary.daemon.is_some();
        if up && (self.is_lost || self.has_failed_over || !self.primary.is_alive) {
            return;
        }
        if up && !daemons {
            return self.connect(wire, RECONNECT_US);
        }
        self.line(wire).is_up = up;
        if !self.plan.has_control() {
            // A front end does not see the mirror lane, and loses the frames in a socket that closes.
            if wire == DaemonWire::Mirror {
                return;
            }
            self.primary.kernel.returned.clear();
        }
        if let Some(daemon) =
            self.secondary.daemon.as_mut().filter(|_| up && wire == DaemonWire::Output)
        {
            daemon.on_output_connection();
            self.begin_digests();
        }
        let now = self.instant();
        if let Some(daemon) = self.secondary.daemon.as_mut().filter(|_| wire == DaemonWire::Control)
        {
            daemon.decide(now, |takeover| {
                if up { takeover.on_peer_up() } else { takeover.on_peer_down(false) }
            });
        }
        let lane = match wire {
            DaemonWire::Mirror => PeerLane::Mirror,
            DaemonWire::Output => PeerLane::Secondary,
            DaemonWire::Control => PeerLane::Control,
        };
        if let Some(daemon) = &mut self.primary.daemon {
            daemon.on_lane(now, lane, up, &mut self.primary.kernel);
        }
        self.settle_primary();
    }
}
