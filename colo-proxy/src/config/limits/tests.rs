//! Every key can be set, and every documented key and counter exists.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::config::{Guest, GuestLimits, KEYS, LimitKey, Role, parse};
use colo_proxy_engine::compare::Reason;

const DOCUMENT: &str = include_str!("../../../../docs/reference/limits.md");
const REPORTS: [&str; 2] = [
    include_str!("../../instance/primary/report.rs"),
    include_str!("../../instance/secondary/report.rs"),
];
/// What `status` answers. A test in `status` keeps it as the types are.
const SCHEMA: &str = include_str!("../../../../docs/reference/status.schema.json");

/// Some kind of `status` has the field at `path`.
fn is_shown(path: &[&str]) -> bool {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let kinds = ["PrimaryStatus", "SecondaryStatus", "StreamFilterStatus", "RewriterStatus"];
    kinds.iter().any(|kind| has_field(&schema, &schema["$defs"][kind], path))
}

fn has_field(schema: &Value, object: &Value, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    // What may be null is one of two.
    let alternatives = object["anyOf"].as_array().into_iter().flatten();
    alternatives.chain([object]).any(|one| {
        let reference = one["$ref"].as_str().and_then(|to| to.strip_prefix('#'));
        let object = reference.map_or(Some(one), |to| schema.pointer(to));
        let field = object.and_then(|object| object["properties"].get(*first));
        field.is_some_and(|field| has_field(schema, field, rest))
    })
}

#[test]
fn a_field_that_status_does_not_have_is_not_found_in_it() {
    for path in ["mode", "detail.lanes.digests.saved_bytes", "detail.netdev_tx_dropped"] {
        assert!(is_shown(&path.split('.').collect::<Vec<_>>()), "{path}");
    }
    for path in ["mod", "detail.mode", "detail.lanes.digests.saved", "detail.lanes.mode"] {
        assert!(!is_shown(&path.split('.').collect::<Vec<_>>()), "{path}");
    }
}

fn guest(role: Role, limits: &str) -> Result<Guest, String> {
    let (name, other) = match role {
        Role::Primary => ("primary", "secondary_in"),
        Role::Secondary => ("secondary", "secondary_out"),
    };
    let text = format!(
        "[[guest]]\nrole = \"{name}\"\nnetdev = \"tap0\"\nmirror = \"unix:m\"\n\
         {other} = \"unix:s\"\n[guest.limits]\n{limits}\n"
    );
    let guests = parse(&text, Path::new("colo.toml")).map_err(|error| error.to_string())?;
    guests.into_iter().next().ok_or_else(|| "no guest".to_owned())
}

fn roles(key: &LimitKey) -> Vec<Role> {
    key.role.map_or(vec![Role::Primary, Role::Secondary], |role| vec![role])
}

/// Rows of the tables: key, default and counters.
fn documented() -> Vec<(String, String, Vec<String>)> {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [key, default, _, counters] = cells.as_slice() else { panic!("{row}") };
        let counters = counters.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (key.trim_matches('`').to_owned(), (*default).to_owned(), counters)
    })
    .collect()
}

#[test]
fn the_default_of_every_key_can_be_written() {
    for key in KEYS {
        for role in roles(key) {
            let written = format!("{} = {}", key.name, (key.default)());
            let guest = guest(role, &written).unwrap_or_else(|error| panic!("{written}: {error}"));
            assert_eq!(guest.limits, GuestLimits::default(), "{written}");
        }
    }
}

#[test]
fn every_key_changes_something() {
    for key in KEYS {
        let default = (key.default)();
        let other = match default.parse::<u64>() {
            Ok(number) => (number - 1).to_string(),
            Err(_) => "\"hold\"".to_owned(),
        };
        for role in roles(key) {
            let written = format!("{} = {other}", key.name);
            let guest = guest(role, &written).unwrap_or_else(|error| panic!("{written}: {error}"));
            assert_ne!(guest.limits, GuestLimits::default(), "{written}");
        }
    }
}

#[test]
fn a_key_of_the_other_role_is_refused() {
    for key in KEYS {
        let Some(role) = key.role else { continue };
        let (other, name) = match role {
            Role::Primary => (Role::Secondary, "primary"),
            Role::Secondary => (Role::Primary, "secondary"),
        };
        let error = guest(other, &format!("{} = {}", key.name, (key.default)()));
        let expected = format!("{} is for role = \"{name}\"", key.name);
        assert!(error.as_ref().is_err_and(|error| error.ends_with(&expected)), "{error:?}");
    }
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    for (role, written, reason) in [
        (Role::Primary, "flow_idle_ms = 0", "flow_idle_ms must be above 0"),
        (Role::Primary, "flow_idle_ms = 86400001", "flow_idle_ms must be at most 86400000"),
        (Role::Primary, "held_frames_max = 99999999", "held_frames_max must be at most 16777216"),
        (Role::Primary, "mirror_queue_bytes = 1", "must leave room for two frames (139264)"),
        (Role::Primary, "gate_queue_frames = 63", "gate_queue_frames must be at least 64"),
        (Role::Secondary, "connections_full_percent = 101", "must be at most 100"),
        (
            Role::Primary,
            "compare_timeout_ms = 50\nfragment_timeout_ms = 50",
            "fragment_timeout_ms must be shorter than compare_timeout_ms",
        ),
        (
            Role::Secondary,
            "repeat_pause_max_ms = 59",
            "repeat_pause_max_ms must not be shorter than repeat_after_ms",
        ),
        (Role::Primary, "on_malformed = \"hld\"", "did you mean `hold`?"),
        (
            Role::Primary,
            "flow_idel_ms = 1",
            "colo.toml:7:1: unknown field `flow_idel_ms`; did you mean `flow_idle_ms`?",
        ),
        (
            Role::Primary,
            "gate_queue_frames = \"64k\"",
            "invalid type: string \"64k\", expected a whole number from 0 to 4294967295",
        ),
        (Role::Primary, "flow_idle_ms = -1", "colo.toml:7:16: invalid value: integer `-1`"),
    ] {
        let error = guest(role, written).expect_err(written);
        assert!(error.contains(reason), "{error}");
    }
}

/// The default of a limit adapts to the limit that bounds it.
#[test]
fn limits_that_depend_on_another_follow_it() {
    let limits = guest(Role::Primary, "compare_timeout_ms = 500").expect("it is right").limits;
    assert_eq!(limits.compare.fragment_timeout.as_millis(), 250);
    let limits = guest(Role::Secondary, "repeat_after_ms = 900").expect("it is right").limits;
    assert_eq!(limits.repeat.patience_max.as_millis(), 900);
}

#[test]
fn a_key_is_set_once_and_in_its_place() {
    let text = "[[guest]]\nrole = \"primary\"\nnetdev = \"tap0\"\nmirror = \"unix:m\"\n\
                secondary_in = \"unix:s\"\n";
    let refused = |more: &str| {
        parse(&format!("{text}{more}"), Path::new("colo.toml")).expect_err(more).to_string()
    };
    let error = refused("flows_max = 5\n[guest.limits]\nflows_max = 6\n");
    assert!(error.ends_with("flows_max is set twice"), "{error}");
    let error = refused("flow_idle_ms = 5\n");
    assert!(error.ends_with("put it into [guest.limits]"), "{error}");
}

#[test]
fn docs_limits_md_has_every_key_with_its_default() {
    let documented: Vec<(String, String)> =
        documented().into_iter().map(|(key, default, _)| (key, default)).collect();
    let keys: Vec<(String, String)> =
        KEYS.iter().map(|key| (key.name.to_owned(), (key.default)())).collect();
    let both: [BTreeSet<_>; 2] = [documented.iter().collect(), keys.iter().collect()];
    assert_eq!(both[0], both[1]);
    assert_eq!(documented.len(), keys.len(), "a key is there twice");
}

/// Each counter is a place in the output of `status`.
#[test]
fn docs_limits_md_names_counters_that_exist() {
    for (key, _, counters) in documented() {
        let is_seen_itself = key == "context_bytes";
        assert!(is_seen_itself || !counters.is_empty(), "{key} has no counter");
        for counter in counters {
            let is_there = match counter.split('.').collect::<Vec<_>>().as_slice() {
                ["drops", name] => {
                    REPORTS.iter().any(|text| text.contains(&format!("(\"{name}\"")))
                }
                ["detail", "engine", "reasons", name] => {
                    Reason::ALL.iter().any(|reason| reason.name() == *name)
                }
                path @ ["detail", ..] => is_shown(path),
                _ => counter == "tx_dropped" || counter == "ip -s link",
            };
            assert!(is_there, "{key}: there is no {counter}");
        }
    }
}

/// The limits of the kernel lane have no keys, but their counters exist as well.
#[test]
fn docs_limits_md_names_counters_of_the_kernel_lane_that_exist() {
    let (_, section) = DOCUMENT.split_once("## The kernel lane").expect("a section");
    let (section, _) = section.split_once("\n## ").expect("another one");
    let words: Vec<&str> = section.split('`').skip(1).step_by(2).collect();
    for name in words.iter().filter_map(|word| word.strip_prefix("drops.")) {
        let is_there = REPORTS.iter().any(|text| text.contains(&format!("(\"{name}\"")));
        assert!(is_there, "there is no drops.{name}");
    }
    for path in words.iter().filter(|word| word.starts_with("detail.")) {
        assert!(is_shown(&path.split('.').collect::<Vec<_>>()), "there is no {path}");
    }
    // The other way round: each counter of the lane is documented.
    for report in REPORTS {
        for name in report.split("(\"lane-").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(section.contains(&format!("`drops.lane-{name}`")), "drops.lane-{name}");
        }
    }
}
