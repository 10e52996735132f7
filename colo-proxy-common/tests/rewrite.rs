//! The rewrite, on every shape of frame: exact, reversible, and honest about checksums.

mod frame;

use colo_proxy_common::checksum;
use colo_proxy_common::decode::{
    IpHeader, Tcp, TcpOptions, decode, decode_tcp, decode_tcp_options, flag,
};
use colo_proxy_common::rewrite::{Edit, PartialChecksum, Translation, from_guest, to_guest};
use frame::{Checksum, any_shape, ones_complement_sum};
use proptest::prelude::*;

fn parse(bytes: &[u8]) -> (IpHeader, Tcp, TcpOptions) {
    let ip = decode(bytes, None).expect("a whole frame").ip.expect("IP");
    let tcp = decode_tcp(bytes, &ip).expect("TCP");
    let options = decode_tcp_options(bytes, &tcp);
    (ip, tcp, options)
}

#[derive(Clone, Copy, Debug)]
enum Way {
    ToGuest,
    FromGuest,
}

fn translate(bytes: &mut [u8], way: Way, translation: Translation, kind: Checksum) {
    fn apply<F: Edit + ?Sized>(
        frame: &mut F,
        (_, tcp, options): &(IpHeader, Tcp, TcpOptions),
        way: Way,
        translation: Translation,
    ) -> bool {
        match way {
            Way::ToGuest => to_guest(frame, tcp, options, translation),
            Way::FromGuest => from_guest(frame, tcp, options, translation),
        }
    }
    let parsed = parse(bytes);
    assert!(match kind {
        Checksum::Full => apply(bytes, &parsed, way, translation),
        Checksum::Partial => apply(&mut PartialChecksum(bytes), &parsed, way, translation),
    });
}

fn checksum_of(bytes: &[u8]) -> u16 {
    let at = parse(bytes).1.at as usize + 16;
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn set_checksum(bytes: &mut [u8], value: u16) {
    let at = parse(bytes).1.at as usize + 16;
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// What is wrong with the checksum; 0 is right (the sum of everything is all ones).
fn error_of(bytes: &[u8]) -> u16 {
    let (ip, tcp, _) = parse(bytes);
    let len = if ip.version == 4 { 4 } else { 16 };
    let segment = &bytes[tcp.at as usize..ip.end as usize];
    let pseudo = [&ip.src[..len], &ip.dst[..len], &[0, 6], &(segment.len() as u32).to_be_bytes()];
    !ones_complement_sum(&[&pseudo.concat(), segment])
}

fn any_way() -> impl Strategy<Value = Way> {
    prop_oneof![Just(Way::ToGuest), Just(Way::FromGuest)]
}

fn any_translation() -> impl Strategy<Value = Translation> {
    let number = || prop_oneof![Just(0u32), Just(1), any::<u32>()];
    (number(), number()).prop_map(|(seq, ts)| Translation { seq, ts })
}

/// There are two zeros in ones' complement. No sender writes the positive one for a TCP segment
/// (its pseudo-header is not zero), and a receiver takes either for the other.
fn same_checksum(a: u16, b: u16) -> bool {
    a % 0xffff == b % 0xffff
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn there_and_back_is_the_identity(
        shape in any_shape(),
        translation in any_translation(),
        way in any_way(),
        partial in any::<bool>(),
    ) {
        let kind = if partial { Checksum::Partial } else { Checksum::Full };
        let before = shape.build(kind);
        let mut after = before.clone();
        translate(&mut after, way, translation, kind);
        if kind == Checksum::Full {
            prop_assert_eq!(error_of(&after), 0);
        } else {
            prop_assert_eq!(checksum_of(&after), checksum_of(&before));
        }
        translate(&mut after, way, translation.inverse(), kind);
        prop_assert_eq!(after, before);
    }

    /// The same frame, built with the translated numbers from the start, is the same frame.
    #[test]
    fn exactly_the_numbers_change(
        shape in any_shape(),
        translation in any_translation(),
        way in any_way(),
        partial in any::<bool>(),
    ) {
        use frame::TcpOption::{Sack, Timestamps};

        let kind = if partial { Checksum::Partial } else { Checksum::Full };
        let mut wanted = shape.clone();
        // Of several options of a kind, the last one counts for a receiver; build only one.
        let single = |of: fn(&frame::TcpOption) -> bool| {
            shape.options.iter().filter(|option| of(option)).count() <= 1
        };
        prop_assume!(single(|o| matches!(o, Sack(_))) && single(|o| matches!(o, Timestamps(..))));
        let Translation { seq, ts } = translation;
        match way {
            Way::FromGuest => wanted.seq = wanted.seq.wrapping_add(seq),
            Way::ToGuest if shape.flags & flag::ACK != 0 => {
                wanted.ack = wanted.ack.wrapping_sub(seq);
            }
            Way::ToGuest => {}
        }
        for option in &mut wanted.options {
            match (way, option) {
                (Way::FromGuest, Timestamps(value, _)) => *value = value.wrapping_add(ts),
                (Way::ToGuest, Timestamps(_, echo)) if shape.flags & flag::ACK != 0 => {
                    *echo = echo.wrapping_sub(ts);
                }
                (Way::ToGuest, Sack(blocks)) if shape.flags & flag::ACK != 0 => {
                    for (left, right) in blocks {
                        *left = left.wrapping_sub(seq);
                        *right = right.wrapping_sub(seq);
                    }
                }
                _ => {}
            }
        }
        let mut translated = shape.build(kind);
        translate(&mut translated, way, translation, kind);
        prop_assert_eq!(translated, wanted.build(kind));
    }

    /// RFC 1624: an incremental update carries an error along, it does not repair it.
    #[test]
    fn a_wrong_checksum_stays_wrong(
        shape in any_shape(),
        translation in any_translation(),
        way in any_way(),
        wrong in any::<u16>(),
    ) {
        let mut bytes = shape.build(Checksum::Full);
        set_checksum(&mut bytes, wrong);
        let before = error_of(&bytes);
        translate(&mut bytes, way, translation, Checksum::Full);
        prop_assert!(same_checksum(error_of(&bytes), before));
        translate(&mut bytes, way, translation.inverse(), Checksum::Full);
        prop_assert!(same_checksum(checksum_of(&bytes), wrong));
    }

    /// A partial checksum that is completed after the translation is a right one.
    #[test]
    fn a_partial_checksum_can_be_completed(
        shape in any_shape(),
        translation in any_translation(),
        way in any_way(),
    ) {
        let mut bytes = shape.build(Checksum::Partial);
        translate(&mut bytes, way, translation, Checksum::Partial);
        let (ip, tcp, _) = parse(&bytes);
        let sum = checksum::sum(&bytes[tcp.at as usize..ip.end as usize], 0);
        set_checksum(&mut bytes, checksum::finish(sum));
        prop_assert_eq!(error_of(&bytes), 0);
    }

    /// Whatever the frame is, and however it was cut after it was parsed: no panic.
    #[test]
    fn cut_after_parsing(
        shape in any_shape(),
        translation in any_translation(),
        way in any_way(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut bytes = shape.build(Checksum::Full);
        let (_, tcp, options) = parse(&bytes);
        let len = at.index(bytes.len());
        let cut = &mut bytes[..len];
        let _ = match way {
            Way::ToGuest => to_guest(cut, &tcp, &options, translation),
            Way::FromGuest => from_guest(cut, &tcp, &options, translation),
        };
    }

    #[test]
    fn the_full_checksum_is_that_of_the_frame(shape in any_shape()) {
        let bytes = shape.build(Checksum::Full);
        let (ip, tcp, _) = parse(&bytes);
        let len = if ip.version == 4 { 4 } else { 16 };
        let mut segment = bytes[tcp.at as usize..ip.end as usize].to_vec();
        segment[16..18].fill(0);
        let pseudo =
            checksum::pseudo_header([&ip.src[..len], &ip.dst[..len]], 6, segment.len() as u32);
        prop_assert_eq!(checksum::finish(checksum::sum(&segment, pseudo)), checksum_of(&bytes));
        let partial = shape.build(Checksum::Partial);
        prop_assert_eq!(checksum::partial(pseudo), checksum_of(&partial));
    }
}
