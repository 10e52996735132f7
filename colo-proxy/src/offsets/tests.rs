use proptest::prelude::*;

use super::*;

const HEADER: &str = r#"{"format":"colo-proxy-offsets","version":1,"instance":"tap0","flows":1}"#;
const LINE: &str = r#"{"protocol":"tcp","guest":"10.0.0.2:80","peer":"10.0.0.1:40000","vlan":[5],"state":"established","seq_offset":7,"ts_offset":9}"#;

fn one() -> Offset {
    let mut key = FlowKey {
        guest_port: 80,
        peer_port: 40_000,
        vlan: [5, 0],
        ip_version: 4,
        protocol: 6,
        ..FlowKey::default()
    };
    key.guest_addr[..4].copy_from_slice(&[10, 0, 0, 2]);
    key.peer_addr[..4].copy_from_slice(&[10, 0, 0, 1]);
    Offset { key, state: FlowState::Established, seq: 7, ts: 9 }
}

#[test]
fn the_format_is_as_documented() {
    let text = format!("{HEADER}\n{LINE}\n");
    assert_eq!(format("tap0", &[one()]), text);
    assert_eq!(parse(&text, 10), Ok(vec![one()]));
    let documented: Vec<&str> =
        include_str!("../offsets.rs").lines().filter_map(|l| l.strip_prefix("//! {")).collect();
    assert_eq!(documented, [&HEADER[1..], &LINE[1..]]);
}

#[test]
fn what_is_not_translated_is_not_exported() {
    let flow = one().flow(3, 0);
    assert_eq!(Offset::of(&one().key, &flow, 3), Some(one()));
    assert_eq!(Offset::of(&one().key, &flow, 4), Some(one()), "the base counts in every epoch");
    let learnt = FlowRecord { base_seq_offset: 0, base_ts_offset: 0, ..flow };
    assert_eq!(Offset::of(&one().key, &learnt, 3), Some(one()));
    assert_eq!(Offset::of(&one().key, &learnt, 4), None, "void since a checkpoint");
    let opening = FlowRecord { state: state::OPENING_ACTIVE, ..flow };
    assert_eq!(Offset::of(&one().key, &opening, 3), None);
    let unknown = FlowRecord { known: known::GUEST, ..flow };
    assert_eq!(Offset::of(&one().key, &unknown, 3), None);
}

/// The message of a text whose second line is `line`.
fn refused(line: &str) -> String {
    let error = parse(&format!("{HEADER}\n{line}\n"), 10).expect_err(line);
    let OffsetsError::Lines { lines } = &error else { panic!("{line}: {error}") };
    assert_eq!((lines.len(), lines[0].line), (1, 2));
    error.to_string()
}

#[test]
fn every_wrong_line_is_refused_with_its_reason() {
    for (from, to, reason) in [
        ("tcp", "udp", "only tcp"),
        ("10.0.0.2:80", "10.0.0.2", "socket address"),
        ("10.0.0.2:80", "0.0.0.0:80", "no end of a connection"),
        ("10.0.0.2:80", "224.0.0.1:80", "no end of a connection"),
        ("10.0.0.2:80", "255.255.255.255:80", "no end of a connection"),
        ("10.0.0.2:80", "10.0.0.2:0", "port 0"),
        ("10.0.0.2:80", "10.0.0.2:65536", "socket address"),
        ("10.0.0.2:80", "[fd00::1]:80", "different IP versions"),
        ("10.0.0.2:80", "[ff02::1]:80", "no end of a connection"),
        ("10.0.0.2:80", "[fe80::1%3]:80", "scope"),
        ("[5]", "[5,6,7]", "2 at the most"),
        ("[5]", "[4096]", "no VLAN ids"),
        ("[5]", "[0]", "no VLAN ids"),
        ("[5]", "[5,0]", "no VLAN ids"),
        ("[5]", "[-1]", "-1"),
        ("established", "opening", "opening"),
        (":7,", ":4294967296,", "4294967296"),
        (":7,", ":-7,", "-7"),
        (",\"ts_offset\":9", "", "ts_offset"),
        ("\"vlan\"", "\"vlans\"", "vlans"),
        ("}", "", "EOF"),
    ] {
        let line = LINE.replace(from, to);
        assert_ne!(line, LINE, "{from}");
        let message = refused(&line);
        assert!(message.contains(reason) && message.contains("line 2"), "{line}: {message}");
    }
    assert!(refused("").contains("line 2"));
    assert!(refused(&format!("{LINE}{}", " ".repeat(600))).contains("longer than 512"));
}

#[test]
fn a_connection_twice_is_refused_and_names_both_lines() {
    let header = HEADER.replace(":1}", ":2}");
    let other = LINE.replace(":7,", ":8,");
    let error = parse(&format!("{header}\n{LINE}\n{other}\n"), 10).expect_err("twice");
    assert_eq!(error.to_string(), "line 3: the connection of line 2 again");
}

#[test]
fn many_wrong_lines_are_counted_and_the_first_are_named() {
    let header = HEADER.replace(":1}", ":25}");
    let error = parse(&format!("{header}\n{}", "x\n".repeat(25)), 100).expect_err("all wrong");
    let message = error.to_string();
    assert!(message.contains("line 11:") && !message.contains("line 12:"), "{message}");
    assert!(message.ends_with("and 15 more lines"), "{message}");
}

#[test]
fn a_wrong_header_is_refused_with_its_reason() {
    for (header, reason) in [
        (String::new(), "is empty"),
        ("hello".into(), "cannot be read"),
        (LINE.into(), "cannot be read"),
        (HEADER.replace("colo-proxy-offsets", "offsets"), "names the format `offsets`"),
        (HEADER.replace("\"version\":1", "\"version\":2"), "version 2"),
        (HEADER.replace(":1}", ":2}"), "promises 2"),
        (HEADER.replace("tap0", &"x".repeat(600)), "longer than"),
    ] {
        let error = parse(&format!("{header}\n{LINE}\n"), 10).expect_err(&header).to_string();
        assert!(error.contains(reason), "{header}: {error}");
    }
}

#[test]
fn a_truncated_file_is_noticed() {
    let text =
        format("tap0", &[one(), Offset { key: FlowKey { peer_port: 1, ..one().key }, ..one() }]);
    let line = text.rfind('{').expect("a line");
    assert_eq!(parse(&text[..line], 10), Err(OffsetsError::Count { promised: 2, found: 1 }));
    assert!(matches!(parse(&text[..text.len() - 5], 10), Err(OffsetsError::Lines { .. })));
}

#[test]
fn more_than_fit_are_refused() {
    let text = format("tap0", &[one()]);
    assert_eq!(parse(&text, 0), Err(OffsetsError::TooMany { found: 1, max: 0 }));
    let long = " ".repeat(TEXT_MAX + 1);
    assert_eq!(parse(&long, 10), Err(OffsetsError::TooLong { len: TEXT_MAX + 1 }));
}

fn any_offset() -> impl Strategy<Value = Offset> {
    let port = 1u16..;
    let vlan = prop_oneof![
        Just([0, 0]),
        (1u16..4096).prop_map(|outer| [outer, 0]),
        (0u16..4096, 1u16..4096).prop_map(|(outer, inner)| [outer, inner]),
    ];
    let state = prop_oneof![
        Just(FlowState::Established),
        Just(FlowState::FinGuest),
        Just(FlowState::FinPeer),
        Just(FlowState::Closed),
        Just(FlowState::Reset),
    ];
    (any::<bool>(), any::<[[u8; 16]; 2]>(), (port.clone(), port), vlan, state, any::<(u32, u32)>())
        .prop_map(|(v4, [mut guest, mut peer], ports, vlan, state, (seq, ts))| {
            for address in [&mut guest, &mut peer] {
                // The address is neither multicast nor unspecified.
                address[0] = address[0] % 126 + 1;
                if v4 {
                    address[4..].fill(0);
                }
            }
            let key = FlowKey {
                guest_addr: guest,
                peer_addr: peer,
                guest_port: ports.0,
                peer_port: ports.1,
                vlan,
                ip_version: if v4 { 4 } else { 6 },
                protocol: 6,
                reserved: [0; 2],
            };
            Offset { key, state, seq: seq | 1, ts }
        })
}

proptest! {
    /// Export and import give back the same connections, as text and as entries, in every epoch of the
    /// next pair.
    #[test]
    fn what_is_exported_is_imported(
        offsets in proptest::collection::vec(any_offset(), 0..20),
        (epoch, later) in any::<(u32, u32)>(),
    ) {
        let offsets: Vec<_> = offsets
            .into_iter()
            .enumerate()
            .map(|(i, o)| Offset { key: FlowKey { peer_port: i as u16 + 1, ..o.key }, ..o })
            .collect();
        let read = parse(&format("tap0", &offsets), 20).expect("our own");
        prop_assert_eq!(&read, &offsets);
        let again: Vec<_> = read
            .iter()
            .filter_map(|offset| Offset::of(&offset.key, &offset.flow(epoch, 5), later))
            .collect();
        prop_assert_eq!(again, offsets);
    }

    /// No text makes it panic, or gives more connections than allowed.
    #[test]
    fn any_text(text in "\\PC{0,200}", lines in proptest::collection::vec("[ -~]{0,80}", 0..5)) {
        let _ = parse(&text, 3);
        let header = HEADER.replace(":1}", &format!(":{}}}", lines.len()));
        let whole = format!("{header}\n{}", lines.join("\n"));
        prop_assert!(parse(&whole, 3).is_ok_and(|offsets| offsets.is_empty()) || parse(&whole, 3).is_err());
    }
}
