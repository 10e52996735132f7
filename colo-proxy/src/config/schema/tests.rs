//! The documents say what the schema says, and the schema says what the daemon does.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::tables::{Row, configuration_rows, default, in_order_of, meaning, with_table};
use super::{GUEST, GUEST_KEYS, LIMIT_KEYS, schema};
use crate::config::{Guest, KEYS, Role, parse};

/// Set to have the documents written, in the place of comparing them.
const WRITE: &str = "COLO_PROXY_WRITE_SCHEMA";
const REMEDY: &str = "to write the documents anew, run: \
                      COLO_PROXY_WRITE_SCHEMA=1 cargo test -p colo-proxy --lib config::schema";

const CONFIGURATION: &str = "configuration.md";
const LIMITS: &str = "limits.md";
const SCHEMA: &str = "configuration.schema.json";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference").join(name)
}

fn document(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_default()
}

fn keys<'a>(schema: &'a Value, place: &str) -> &'a Map<String, Value> {
    schema.pointer(place).and_then(Value::as_object).expect(place)
}

/// configuration.md with the tables that the schema makes.
fn configuration(document: &str, schema: &Value) -> String {
    let mut document = document.to_owned();
    for (heading, place) in [
        ("## `[[guest]]`", GUEST.to_owned()),
        ("## `[guest.checkpoints]`", format!("{GUEST_KEYS}/checkpoints")),
        ("## `[guest.takeover]`", format!("{GUEST_KEYS}/takeover")),
        ("## `[guest.limits]`", format!("{GUEST_KEYS}/limits")),
    ] {
        let table = schema.pointer(&place).expect("a table");
        let rows = configuration_rows(keys(table, "/properties"), &table["required"]);
        document = with_table(&document, heading, |old| {
            // A row about several keys is for the document alone.
            let (shared, _): (Vec<Row>, _) = old.clone().into_iter().partition(is_shared);
            in_order_of(&old, [rows, shared].concat())
        });
    }
    document
}

fn is_shared(row: &Row) -> bool {
    row.first().is_some_and(|keys| keys.contains("`, `"))
}

/// limits.md with the keys, defaults and meanings of the schema. The counters are its own.
fn limits(document: &str, schema: &Value) -> String {
    let mut document = document.to_owned();
    for (heading, role) in [
        ("## Both roles", None),
        ("## Primary", Some(Role::Primary)),
        ("## Secondary", Some(Role::Secondary)),
    ] {
        document = with_table(&document, heading, |old| {
            let counter = |name: &str| {
                let row = old.iter().find(|row| row.first().is_some_and(|key| key == name));
                row.and_then(|row| row.last()).cloned().unwrap_or_default()
            };
            let rows = KEYS.iter().filter(|key| key.role == role).map(|key| {
                let name = format!("`{}`", key.name);
                let facts = &keys(schema, LIMIT_KEYS)[key.name];
                vec![name.clone(), default(facts, ""), meaning(facts), counter(&name)]
            });
            rows.collect()
        });
    }
    document
}

/// Writes a document, or says how it differs from the schema.
fn settle(name: &str, new: &str) {
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(path(name), new).expect("it can be written");
        return;
    }
    let old = document(name);
    let differing = old.lines().zip(new.lines()).find(|(old, new)| old != new);
    assert_eq!(differing, None, "docs/reference/{name} differs from the schema; {REMEDY}");
    assert_eq!(old.len(), new.len(), "docs/reference/{name} differs from the schema; {REMEDY}");
}

#[test]
fn the_committed_schema_is_the_one_of_the_types() {
    settle(SCHEMA, &format!("{:#}\n", schema()));
}

#[test]
fn configuration_md_has_every_key_with_type_default_role_and_meaning() {
    settle(CONFIGURATION, &configuration(&document(CONFIGURATION), &schema()));
}

#[test]
fn limits_md_has_every_key_with_default_and_meaning() {
    settle(LIMITS, &limits(&document(LIMITS), &schema()));
}

/// The twin of the tests above: a document that lacks a row, or says another default or role, is
/// not the one that the schema makes.
#[test]
fn a_row_that_is_missing_or_wrong_is_found() {
    let schema = schema();
    let right = configuration(&document(CONFIGURATION), &schema);
    for (row, wrong) in [
        ("| `migrate` |", None),
        ("| `on_death` |", Some(("`\"hold\"` |", "`\"pass\"` |"))),
        ("| `quick_ack` |", Some(("| primary |", "| both |"))),
        ("| `timeout_ms` |", Some(("10000", "9999"))),
        ("| `flows_max` |", Some(("16777216", "16777217"))),
        ("| `parked_input_ms` |", Some(("input is parked", "input is held"))),
    ] {
        let line = right.lines().find(|line| line.starts_with(row)).expect(row);
        let bad = wrong.map_or(String::new(), |(from, to)| line.replace(from, to) + "\n");
        let changed = right.replace(&format!("{line}\n"), &bad);
        assert_ne!(changed, right, "{row}");
        let again = configuration(&changed, &schema);
        assert_ne!(again, changed, "{row} is not looked at");
        assert!(again.contains(line), "{row} is not put right");
    }
    let right = limits(&document(LIMITS), &schema);
    let without: String = right
        .lines()
        .filter(|line| !line.starts_with("| `flows_max`"))
        .map(|l| l.to_owned() + "\n")
        .collect();
    assert_ne!(limits(&without, &schema), without);
}

const PRIMARY: &str = "role = \"primary\"\nnetdev = \"tap0\"\nmirror = \"unix:m\"\n\
                       secondary_in = \"unix:s\"\n";
const SECONDARY: &str = "role = \"secondary\"\nnetdev = \"tap0\"\nmirror = \"unix:m\"\n\
                         secondary_out = \"unix:s\"\n";

fn minimal(role: Role) -> &'static str {
    match role {
        Role::Primary => PRIMARY,
        Role::Secondary => SECONDARY,
    }
}

fn guest(text: &str) -> Result<Guest, String> {
    let text = format!("[[guest]]\n{text}");
    let guests = parse(&text, Path::new("colo.toml")).map_err(|error| error.to_string())?;
    guests.into_iter().next().ok_or_else(|| "no guest".to_owned())
}

/// Every key, with the table that it stands in.
fn all_keys(schema: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (name, key) in keys(schema, GUEST_KEYS) {
        if key["type"] == "object" {
            let inner = keys(key, "/properties").iter();
            let table = format!("[guest.{name}]\n");
            all.extend(inner.map(|(name, key)| (table.clone(), name.clone(), key.clone())));
        } else {
            all.push((String::new(), name.clone(), key.clone()));
        }
    }
    all
}

fn roles(key: &Value) -> Vec<Role> {
    let all = [Role::Primary, Role::Secondary];
    let used = |role: &Role| key["x-role"].as_str().is_none_or(|one| one == role.to_string());
    all.into_iter().filter(used).collect()
}

#[test]
fn a_default_of_the_schema_changes_nothing() {
    let mut defaults = 0;
    for (table, name, key) in all_keys(&schema()) {
        let default = &key["default"];
        if default.is_null() {
            continue;
        }
        defaults += 1;
        for role in roles(&key) {
            let plain = minimal(role);
            let written = format!("{plain}{table}{name} = {default}\n");
            let (plain, written) = (guest(plain), guest(&written));
            assert_eq!(format!("{plain:?}"), format!("{written:?}"), "{name}");
        }
    }
    assert!(defaults > KEYS.len(), "{defaults}");
}

#[test]
fn a_key_is_accepted_by_the_roles_of_the_schema_and_refused_by_the_other_one() {
    for (table, name, key) in all_keys(&schema()) {
        let Some(used_by) = key["x-role"].as_str() else { continue };
        let default = &key["default"];
        let value = if default.is_null() { &Value::from("unix:s") } else { default };
        for role in
            [Role::Primary, Role::Secondary].into_iter().filter(|role| role.to_string() != used_by)
        {
            let text = format!("{}{table}{name} = {value}\n", minimal(role));
            let error = guest(&text).expect_err(&name);
            assert!(error.ends_with(&format!("{name} is for role = \"{used_by}\"")), "{error}");
        }
    }
}

#[test]
fn a_required_key_cannot_be_left_out() {
    let schema = schema();
    let required =
        schema.pointer(GUEST).expect("a guest")["required"].as_array().expect("keys").clone();
    assert_eq!(required, ["role", "netdev", "mirror"].map(Value::from).to_vec());
    for role in [Role::Primary, Role::Secondary] {
        for name in ["role", "netdev", "mirror", "secondary_in", "secondary_out"] {
            let text = minimal(role);
            let without: String = text
                .lines()
                .filter(|line| !line.starts_with(&format!("{name} ")))
                .map(|l| l.to_owned() + "\n")
                .collect();
            assert_eq!(guest(&without).is_err(), without != text, "{role}: {name}");
        }
    }
}

#[test]
fn the_bounds_of_the_schema_are_the_daemons() {
    let inner = |name: &str| name.starts_with("interval") || name.starts_with("spacing");
    for (table, name, key) in all_keys(&schema()) {
        let (Some(min), Some(role)) = (key["minimum"].as_u64(), roles(&key).first().copied())
        else {
            continue;
        };
        let read = |value: u64| guest(&format!("{}{table}{name} = {value}\n", minimal(role)));
        if let Some(below) = min.checked_sub(1) {
            read(below).expect_err(&name);
        }
        if let Some(above) = key["maximum"].as_u64().map(|max| max + 1) {
            read(above).expect_err(&name);
        }
        // The smallest value of some is below that of another key, which they must not be.
        let relates = ["repeat_pause_max_ms"].contains(&name.as_str());
        if !inner(&name) && !relates {
            read(min).expect(&name);
        }
    }
}

#[test]
fn every_key_and_every_choice_is_described() {
    let schema = schema();
    for (_, name, key) in all_keys(&schema) {
        let text = key["description"].as_str().unwrap_or_default();
        assert!(text.ends_with('.') && text.len() > 10, "{name}: {text:?}");
        for choice in key["oneOf"].as_array().into_iter().flatten() {
            assert!(choice["const"].is_string() && choice["description"].is_string(), "{choice}");
        }
        assert!(key["enum"].is_null(), "{name} has choices without a description");
    }
}
