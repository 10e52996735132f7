use std::path::Path;
use std::time::Duration;

use crate::datapath::capture::CaptureKind;

use super::{ColoFrameKind, Guest, LaneKind, OnDeath, Role, SideConfig, parse};

const PRIMARY: &str = r#"
[[guest]]
name = "web"
role = "primary"
netdev = "tap0"
mirror = "tcp:10.0.9.1:9003,server"
secondary_in = "unix:/run/s.sock,server"
control = "tcp:10.0.0.2:9005"
colo_frame = "script:/etc/frame"
vnet_hdr_support = true
on_death = "pass"
secondary_timeout_ms = 250
compare_timeout_ms = 500
"#;

const SECONDARY: &str = r#"
[[guest]]
role = "secondary"
netdev = "tap1"
mirror = "tcp:10.0.0.1:9003"
secondary_out = "tcp:10.0.0.1:9004,nodelay"
capture = "af-xdp"
"#;

fn read(text: &str) -> Result<Vec<Guest>, String> {
    parse(text, Path::new("colo.toml")).map_err(|error| error.to_string())
}

#[test]
fn both_roles_in_one_file() {
    let guests = read(&format!("{PRIMARY}{SECONDARY}")).expect("it is right");
    let [web, tap1] = guests.as_slice() else { panic!("two guests, not {guests:?}") };
    assert_eq!((web.role(), tap1.role()), (Role::Primary, Role::Secondary));
    assert_eq!(web.on_death, OnDeath::Pass);
    assert_eq!(web.limits.peer.timeout, Duration::from_millis(250));
    assert_eq!(web.colo_frame, Some(ColoFrameKind::Script("/etc/frame".into())));
    assert_eq!(web.limits.compare.compare_timeout, Duration::from_millis(500));
    assert!(matches!(tap1.side, SideConfig::Secondary { capture: CaptureKind::AfXdp, .. }));
    assert_eq!((tap1.name.as_deref(), tap1.on_death), (None, OnDeath::Hold));
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_a_suggestion() {
    let error = read(&PRIMARY.replace("secondary_in =", "secondry_in =")).expect_err("refused");
    assert!(error.starts_with("colo.toml:7:1: unknown field `secondry_in`"), "{error}");
    assert!(error.ends_with("did you mean `secondary_in`?"), "{error}");
    let error = read(&PRIMARY.replace("\"pass\"", "\"pas\"")).expect_err("refused");
    assert!(error.contains("colo.toml:11:") && error.contains("did you mean `pass`?"), "{error}");
}

#[test]
fn what_captures_beside_a_kernel_lane_is_the_gate() {
    let auto = SECONDARY.replace("\"af-xdp\"", "\"auto\"");
    let capture = |text: &str| match read(text).expect("it is right")[0].side {
        SideConfig::Secondary { capture, .. } => capture,
        SideConfig::Primary { .. } => panic!("the other role"),
    };
    assert_eq!(capture(&auto), CaptureKind::Auto);
    let lane = "control = \"tcp:10.0.0.2:9005\"\nlane = \"auto\"\n";
    assert_eq!(capture(&format!("{auto}{lane}")), CaptureKind::Gate);
    let error = read(&format!("{SECONDARY}{lane}")).expect_err("refused");
    assert!(error.contains("before they reach the kernel lane"), "{error}");
}

#[test]
fn digests_go_by_the_stream_and_need_a_control_lane() {
    let text = SECONDARY.to_owned() + "return = \"digest\"\n";
    let error = read(&text).expect_err("refused");
    assert!(error.contains("needs a control lane"), "{error}");
    let text = text + "control = \"tcp:10.0.0.2:9005\"\n";
    assert!(read(&text).expect("it is right")[0].returns_digests());
    let auto = read(&(text.clone() + "lane = \"auto\"\n")).expect("it is right");
    assert_eq!(auto[0].lane, LaneKind::Stream);
    let error = read(&(text + "lane = \"kernel\"\n")).expect_err("refused");
    assert!(error.contains("use lane = \"stream\""), "{error}");
}

#[test]
fn what_is_only_wrong_together_is_refused_by_name() {
    for (text, reason) in [
        (
            PRIMARY.replace("secondary_in", "secondary_out"),
            "secondary_out is for role = \"secondary\"",
        ),
        (
            SECONDARY.replace("capture = \"af-xdp\"", "on_death = \"pass\""),
            "use on_death = \"hold\"",
        ),
        (SECONDARY.replace("tap1", "a-name-longer-than-15"), "not the name of a network interface"),
        (PRIMARY.replace("\"web\"", "\"../web\""), "a name is 1 to 64"),
        (PRIMARY.replace("= 250", "= 0"), "above 0"),
        (format!("{PRIMARY}{PRIMARY}"), "another guest has this name"),
        (String::new(), "has no [[guest]]"),
        (PRIMARY.replace("tcp:10.0.9.1:9003", "tpc:10.0.9.1:9003"), "neither unix: nor tcp:"),
    ] {
        let error = read(&text).expect_err(reason);
        assert!(error.contains(reason), "{error}");
    }
}

/// The second guest would wait for ever for a socket that the first one has.
#[test]
fn a_socket_that_two_keys_name_is_refused_with_both() {
    let first = PRIMARY.replace("script:/etc/frame", "qmp:unix:/run/web.qmp");
    let second = first
        .replace("\"web\"", "\"db\"")
        .replace("tap0", "tap9")
        .replace(":9003", ":9103")
        .replace(":9005", ":9105")
        .replace("s.sock", "t.sock")
        .replace("web.qmp", "db.qmp");
    read(&format!("{first}{second}")).expect("each has its own");
    for (text, both) in [
        (
            format!("{first}{}", second.replace("db.qmp", "web.qmp")),
            "guest `db`: colo_frame has the socket unix:/run/web.qmp, as colo_frame of guest `web`",
        ),
        (
            format!("{first}{}", second.replace("10.0.9.1:9103,server", "10.0.0.2:9005,nodelay")),
            "guest `db`: mirror has the socket tcp:10.0.0.2:9005, as control of guest `web`",
        ),
        (
            first.replace("unix:/run/s.sock", "tcp:10.0.9.1:9003"),
            "guest `web`: secondary_in has the socket tcp:10.0.9.1:9003, as mirror of guest `web`",
        ),
    ] {
        let error = read(&text).expect_err(both);
        assert!(error.contains(both), "{error}");
    }
}

#[test]
fn a_key_of_the_other_role_is_refused_by_name() {
    for key in [
        "held_frames_max = 1",
        "held_bytes_max = 1",
        "flows_max = 1",
        "compare_timeout_ms = 1",
        "on_secondary_lost = \"release\"",
        "secondary_in = \"unix:/run/s\"",
    ] {
        let error = read(&format!("{SECONDARY}{key}\n")).expect_err(key);
        let name = key.split(' ').next().unwrap_or_default();
        assert!(error.ends_with(&format!("{name} is for role = \"primary\"")), "{error}");
    }
    for key in ["capture = \"gate\"", "return = \"frames\"", "secondary_out = \"unix:/run/s\""] {
        let error = read(&format!("{PRIMARY}{key}\n")).expect_err(key);
        let name = key.split(' ').next().unwrap_or_default();
        assert!(error.ends_with(&format!("{name} is for role = \"secondary\"")), "{error}");
    }
}

#[test]
fn a_limit_of_zero_is_refused_by_name() {
    let primary = PRIMARY.replace("secondary_timeout_ms = 250\ncompare_timeout_ms = 500\n", "");
    for key in [
        "held_frames_max",
        "held_bytes_max",
        "compare_timeout_ms",
        "flows_max",
        "secondary_timeout_ms",
    ] {
        let error = read(&format!("{primary}{key} = 0\n")).expect_err(key);
        assert!(error.ends_with(&format!("{key} must be above 0")), "{error}");
        read(&format!("{primary}{key} = 1\n")).expect("one is enough");
    }
    let error = read(&format!("{SECONDARY}secondary_timeout_ms = 0\n")).expect_err("refused");
    assert!(error.ends_with("secondary_timeout_ms must be above 0"), "{error}");
}

#[test]
fn what_is_wrong_with_a_guest_is_told_with_its_file_and_line() {
    let error = read(&format!("{PRIMARY}{SECONDARY}flows_max = 5\n")).expect_err("refused");
    assert_eq!(error, "colo.toml:15: guest `tap1`: flows_max is for role = \"primary\"");
    let error = read(&format!("{PRIMARY}{PRIMARY}")).expect_err("refused");
    assert!(error.starts_with("colo.toml:15: guest `web`: another guest"), "{error}");
    assert!(read("").expect_err("refused").contains("colo.toml"));
}
