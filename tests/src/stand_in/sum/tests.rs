use etherparse::PacketBuilder;

use super::super::packet::{PacketPlaces, be16, parse};
use super::super::shift::Shift;
use super::super::tap::VnetHdr;
use super::{fault, fold, pseudo, put};

fn segment(v6: bool, payload: &[u8]) -> (Vec<u8>, PacketPlaces) {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder = if v6 {
        builder.ipv6([1; 16], [2; 16], 64)
    } else {
        builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
    };
    let timestamps = etherparse::TcpOptionElement::Timestamp(7, 9);
    // There is only one NOP, so that the numbers are at odd places.
    let options = [etherparse::TcpOptionElement::Noop, timestamps];
    let builder = builder.tcp(7000, 40000, 1, 1024).ack(99).options(&options);
    let mut frame = Vec::new();
    builder.expect("options that fit").write(&mut frame, payload).expect("memory does not fail");
    let packet = parse(&frame).expect("a packet");
    (frame, packet)
}

fn partial(frame: &mut [u8], packet: &PacketPlaces) -> VnetHdr {
    let sum = fold(&[], pseudo(frame, packet));
    let sum_at = packet.sum_at().expect("TCP has a sum");
    frame[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let csum_offset = (sum_at - packet.l4_at) as u16;
    VnetHdr { flags: 1, gso_type: 0, csum_start: packet.l4_at as u16, csum_offset }
}

#[test]
fn a_full_sum_is_checked() {
    for v6 in [false, true] {
        let (mut frame, packet) = segment(v6, b"odd");
        assert_eq!(fault(&frame, &packet, VnetHdr::default()), None);
        *frame.last_mut().expect("a payload") ^= 1;
        assert_eq!(fault(&frame, &packet, VnetHdr::default()), Some("full sum"));
    }
}

#[test]
fn a_partial_sum_is_checked() {
    for v6 in [false, true] {
        let (mut frame, packet) = segment(v6, b"odd");
        let vnet = partial(&mut frame, &packet);
        assert_eq!(fault(&frame, &packet, vnet), None);
        assert!(fault(&frame, &packet, VnetHdr::default()).is_some());
        frame[packet.l4_at + 17] ^= 1;
        assert_eq!(fault(&frame, &packet, vnet), Some("partial sum"));
    }
}

#[test]
fn changes_keep_a_sum_as_right_or_wrong_as_it_was() {
    let shift = Shift { seq: 0x8123_4567, timestamp: 0xdead_beef };
    for (v6, payload) in [(false, b"odd".as_slice()), (true, b"even"), (false, b"")] {
        let (mut frame, packet) = segment(v6, payload);
        let before = frame.clone();
        let plain = VnetHdr::default();
        shift.from_guest(&mut frame, &packet, plain).expect("it has timestamps");
        shift.to_guest(&mut frame, &packet, plain).expect("it has timestamps");
        assert_ne!(frame, before);
        assert_eq!(fault(&frame, &packet, plain), None);
        if let Some(last) = packet.end.checked_sub(1).filter(|_| !payload.is_empty()) {
            put(&mut frame, &packet, plain, last, b"!").expect("inside");
            assert_eq!(fault(&frame, &packet, plain), None);
            frame[last] ^= 4;
            put(&mut frame, &packet, plain, last - 1, b"?").expect("inside");
            assert_eq!(fault(&frame, &packet, plain), Some("full sum"));
        }
    }
}

#[test]
fn a_partial_sum_does_not_change_with_the_numbers() {
    let (mut frame, packet) = segment(false, b"payload");
    let vnet = partial(&mut frame, &packet);
    let sum = be16(&frame, packet.l4_at + 16);
    Shift { seq: 5, timestamp: 6 }.from_guest(&mut frame, &packet, vnet).expect("timestamps");
    assert_eq!(be16(&frame, packet.l4_at + 16), sum);
    assert_eq!(fault(&frame, &packet, vnet), None);
}
