//! The translation of one frame: its connection's entry is found, advanced, and put where it belongs.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_log_ebpf::debug;
use colo_proxy_common::decode::{
    Ip, Malformed, Octets, Sack, Tcp, TcpOptions, Timestamps, decode, decode_tcp,
    decode_tcp_options, protocol,
};
use colo_proxy_common::flow::{self, Change, Entry, Now, Segment, Step, Verdict, known};
use colo_proxy_common::record::{Event, Flow, FlowKey, event};
use colo_proxy_common::rewrite::{self, Edit};

use crate::maps::{EVENTS, FLOWS, HALF_OPEN, Scratch, UNCONFIRMED, count, scratch};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToGuest,
    FromGuest,
}

/// What the translation wants of a frame.
pub trait Frame {
    /// Takes the frame apart; `false` where it is no whole TCP segment.
    fn parse(&self, direction: Direction, into: &mut Parsed) -> Result<bool, Malformed>;

    /// To change it.
    fn edit(&mut self) -> impl Edit;
}

/// What matters of a TCP segment. Numbers only: the kernel takes no map whose type tells of a Rust
/// enum, and no write of what the compiler has left undefined.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Parsed {
    key: FlowKey,
    tcp: Tcp,
    timestamps: Timestamps,
    sack_at: u32,
    sack_blocks: u32,
}

impl Parsed {
    #[inline(always)]
    fn options(&self) -> TcpOptions {
        // Nothing lies at 0 but an address.
        let timestamps = (self.timestamps.at != 0).then_some(self.timestamps);
        let sack = Sack { at: self.sack_at, blocks: self.sack_blocks as u8 };
        TcpOptions { timestamps, sack: (sack.at != 0).then_some(sack), ..TcpOptions::default() }
    }
}

/// [`Frame::parse`] of a frame that can be read.
#[inline(always)]
pub fn parse<F: Octets>(
    frame: &F,
    outer_tag: Option<u16>,
    direction: Direction,
    into: &mut Parsed,
) -> Result<bool, Malformed> {
    let packet = decode(frame, outer_tag)?;
    let Some(ip) = packet.ip else { return Ok(false) };
    if ip.protocol != protocol::TCP || ip.fragment.is_some() {
        return Ok(false);
    }
    let tcp = decode_tcp(frame, &ip)?;
    let options = decode_tcp_options(frame, &tcp);
    fill_key(&mut into.key, packet.vlan, &ip, &tcp, direction);
    into.tcp = tcp;
    into.timestamps = options.timestamps.unwrap_or(Timestamps { value: 0, echo: 0, at: 0 });
    let sack = options.sack.unwrap_or(Sack { at: 0, blocks: 0 });
    (into.sack_at, into.sack_blocks) = (sack.at, u32::from(sack.blocks));
    Ok(true)
}

/// What becomes of a frame that has been through the translation.
pub enum Fate {
    Go,
    Hold,
    Drop,
}

/// Finds the frame's connection and translates the frame accordingly. What is not a whole TCP
/// segment goes on as it is. `epoch` is of the settings. With `known_only`, no connection is made known that is not.
#[inline(always)]
pub fn translate<F: Frame>(
    frame: &mut F,
    epoch: u32,
    known_only: bool,
    direction: Direction,
) -> Fate {
    let Some(scratch) = scratch() else { return Fate::Drop };
    let Ok(is_segment) = frame.parse(direction, &mut scratch.parsed) else {
        count(|c| &mut c.malformed);
        return Fate::Go;
    };
    if !is_segment {
        return Fate::Go;
    }
    let Scratch { record, parsed } = forget(scratch);
    let key = &parsed.key;
    let now = Now {
        failed_over: known_only,
        epoch,
        // SAFETY: a helper without arguments.
        ns: unsafe { bpf_ktime_get_coarse_ns() },
    };
    let step = advance(&now, key, parsed, direction, record);
    apply(key, &step, record);
    if step.change == Change::Establish {
        trace(key, record);
    }
    carry_out(frame, parsed, &step, direction)
}

/// What is in `scratch` is read from there from now on, so that the verifier does not know what it
/// was: it would follow the rest of the program once for each way in which a frame was parsed.
#[inline(always)]
fn forget(scratch: &mut Scratch) -> &mut Scratch {
    let known: *mut Scratch = scratch;
    let forgotten: *mut Scratch;
    // SAFETY: a move; the compiler has to think that the memory has changed.
    unsafe {
        core::arch::asm!(
            "{forgotten} = {known}",
            forgotten = lateout(reg) forgotten,
            known = in(reg) known,
            options(nostack),
        );
        &mut *forgotten
    }
}

#[inline(always)]
fn fill_key(key: &mut FlowKey, vlan: [u16; 2], ip: &Ip, tcp: &Tcp, direction: Direction) {
    key.vlan = vlan;
    key.ip_version = ip.version;
    key.protocol = ip.protocol;
    key.reserved = [0; 2];
    if direction == Direction::ToGuest {
        (key.guest_addr, key.guest_port) = (ip.dst, tcp.dst_port);
        (key.peer_addr, key.peer_port) = (ip.src, tcp.src_port);
    } else {
        (key.guest_addr, key.guest_port) = (ip.src, tcp.src_port);
        (key.peer_addr, key.peer_port) = (ip.dst, tcp.dst_port);
    }
}

#[inline(always)]
fn advance(
    now: &Now,
    key: &FlowKey,
    parsed: &Parsed,
    direction: Direction,
    record: &mut Flow,
) -> Step {
    let segment = Segment::new(&parsed.tcp, parsed.options().timestamps);
    match direction {
        Direction::ToGuest => flow::to_guest(now, &segment, find(key), record),
        Direction::FromGuest => flow::from_guest(now, &segment, find(key), record),
    }
}

/// The connection's entry. One that another processor is moving from map to map is in both for a
/// moment, never in neither, so a second look finds it.
#[inline(always)]
fn find(key: &FlowKey) -> Option<Entry<'static>> {
    let at = FLOWS
        .get_ptr_mut(key)
        .or_else(|| UNCONFIRMED.get_ptr_mut(key))
        .or_else(|| HALF_OPEN.get_ptr_mut(key))
        .or_else(|| UNCONFIRMED.get_ptr_mut(key))
        .or_else(|| FLOWS.get_ptr_mut(key))?;
    // SAFETY: the kernel's value, aligned to 8, accessible until the program ends. It may be
    // deleted and used again for another connection meanwhile, which `Entry` survives: one frame
    // is then translated wrongly, and the receiver discards it.
    unsafe { Entry::from_ptr(at) }
}

#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value the record would be copied to a stack of 512 octets"
)]
#[inline(always)]
fn apply(key: &FlowKey, step: &Step, record: &mut Flow) {
    match step.change {
        Change::Keep => {}
        Change::Open => {
            let _full = HALF_OPEN.insert(key, &*record, 0);
            let _absent = UNCONFIRMED.remove(key);
            let _absent = FLOWS.remove(key);
        }
        Change::Establish => establish(key, record),
        Change::Forget => {
            let _absent = HALF_OPEN.remove(key);
            let _absent = UNCONFIRMED.remove(key);
            let _absent = FLOWS.remove(key);
        }
    }
    if step.release_held {
        tell(key, record);
    }
}

/// Into the map that nobody else's frames push it out of, if the guest has shown that the connection
/// is real.
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value the record would be copied to a stack of 512 octets"
)]
#[inline(always)]
fn establish(key: &FlowKey, record: &mut Flow) {
    if record.known & known::CONFIRMED != 0 {
        if FLOWS.insert(key, &*record, 0).is_ok() {
            let _absent = UNCONFIRMED.remove(key);
            let _absent = HALF_OPEN.remove(key);
            return;
        }
        count(|c| &mut c.flow_table_full);
        // The guest's next frame tries again.
        record.known &= !known::CONFIRMED;
    }
    // A full table pushes out another one. Where the kernel finds none in a hurry, the connection
    // stays where it is, and its next frame tries again.
    if UNCONFIRMED.insert(key, &*record, 0).is_ok() {
        let _absent = FLOWS.remove(key);
        let _absent = HALF_OPEN.remove(key);
    }
}

/// Tells the daemon that input held for this connection may go to the guest now. Where the ring is
/// full the peer repeats what was held.
#[inline(always)]
fn tell(key: &FlowKey, record: &Flow) {
    if let Some(mut slot) = EVENTS.reserve(0) {
        slot.write(Event { kind: event::OFFSET_KNOWN, key: *key, flow: *record });
        slot.submit(0);
    }
}

/// For operators who follow a connection; the verifier removes this where the daemon's log is not
/// at "debug".
#[inline(always)]
fn trace(key: &FlowKey, record: &Flow) {
    debug!(
        &(),
        "connection of guest port {} with port {}: wire = guest + {:x}, timestamps + {:x}",
        key.guest_port,
        key.peer_port,
        record.seq_offset,
        record.ts_offset
    );
}

#[inline(always)]
fn carry_out<F: Frame>(frame: &mut F, parsed: &Parsed, step: &Step, direction: Direction) -> Fate {
    let options = parsed.options();
    let done = match step.verdict {
        Verdict::Pass => return Fate::Go,
        Verdict::Hold => return Fate::Hold,
        Verdict::Drop => {
            count(|c| &mut c.dropped_no_offset);
            return Fate::Drop;
        }
        Verdict::Translate(translation) if direction == Direction::ToGuest => {
            count(|c| &mut c.translated_to_guest);
            rewrite::to_guest(&mut frame.edit(), &parsed.tcp, &options, translation)
        }
        Verdict::Translate(translation) => {
            count(|c| &mut c.translated_from_guest);
            rewrite::from_guest(&mut frame.edit(), &parsed.tcp, &options, translation)
        }
    };
    if done {
        return Fate::Go;
    }
    count(|c| &mut c.rewrite_failed);
    Fate::Drop
}
