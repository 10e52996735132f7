//! QEMU's description of its own commands (`query-qmp-schema`), reduced to the fields that we read.
//!
//! It is by far the longest of its answers: 248 KiB in QEMU 11.1, with 1230 entries.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The most entries: some times those of QEMU 11.1.
const ENTRIES_MAX: usize = 6000;
/// The most members and values of all entries together, which are 4542 in QEMU 11.1.
const PARTS_MAX: usize = 20_000;
/// The most bytes of a name: QEMU's have 50.
const NAME_MAX: usize = 256;

#[derive(Deserialize)]
struct SchemaEntry<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "arg-type")]
    arg_type: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "element-type")]
    element_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    members: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    values: Vec<&'a RawValue>,
}

/// An object's, or an enumeration's, which has no type.
#[derive(Deserialize)]
struct Member<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
}

/// `None` for another text, and for one that is far too large.
pub(super) fn prune(schema: &RawValue) -> Option<Value> {
    let entries: Vec<&RawValue> = serde_json::from_str(schema.get()).ok()?;
    if entries.len() > ENTRIES_MAX {
        return None;
    }
    let mut parts_left = PARTS_MAX;
    entries.into_iter().map(|entry| prune_entry(entry, &mut parts_left)).collect()
}

fn prune_entry(entry: &RawValue, parts_left: &mut usize) -> Option<Value> {
    let entry: SchemaEntry = serde_json::from_str(entry.get()).ok()?;
    *parts_left = parts_left.checked_sub(entry.members.len() + entry.values.len())?;
    let mut pruned = Map::new();
    put(&mut pruned, "name", entry.name)?;
    put(&mut pruned, "arg-type", entry.arg_type)?;
    put(&mut pruned, "element-type", entry.element_type)?;
    if !entry.members.is_empty() {
        let members = entry.members.into_iter().map(prune_member);
        pruned.insert("members".into(), members.collect::<Option<_>>()?);
    }
    if !entry.values.is_empty() {
        let values = entry.values.into_iter().map(|value| {
            let value: String = serde_json::from_str(value.get()).ok()?;
            (value.len() <= NAME_MAX).then_some(Value::String(value))
        });
        pruned.insert("values".into(), values.collect::<Option<_>>()?);
    }
    Some(pruned.into())
}

fn prune_member(member: &RawValue) -> Option<Value> {
    let member: Member = serde_json::from_str(member.get()).ok()?;
    let mut pruned = Map::new();
    put(&mut pruned, "name", member.name)?;
    put(&mut pruned, "type", member.kind)?;
    Some(pruned.into())
}

fn put(object: &mut Map<String, Value>, key: &str, name: Option<Cow<'_, str>>) -> Option<()> {
    let Some(name) = name else { return Some(()) };
    if name.len() > NAME_MAX {
        return None;
    }
    object.insert(key.into(), name.into_owned().into());
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pruned(schema: &Value) -> Option<Value> {
        prune(&RawValue::from_string(schema.to_string()).unwrap())
    }

    #[test]
    fn what_somebody_reads_is_kept_and_nothing_else() {
        let schema = json!([
            {"name": "quit", "ret-type": "0", "meta-type": "command", "arg-type": "1", "new": [[1]]},
            {"name": "1", "meta-type": "object",
             "members": [{"name": "a", "type": "int", "default": null, "features": ["x"]}]},
            {"name": "[1]", "meta-type": "array", "element-type": "1"},
            {"name": "2", "meta-type": "alternate", "members": [{"type": "int"}]},
            {"name": "3", "meta-type": "enum", "members": [{"name": "on"}], "values": ["on"]},
        ]);
        let expected = json!([
            {"name": "quit", "arg-type": "1"},
            {"name": "1", "members": [{"name": "a", "type": "int"}]},
            {"name": "[1]", "element-type": "1"},
            {"name": "2", "members": [{"type": "int"}]},
            {"name": "3", "members": [{"name": "on"}], "values": ["on"]},
        ]);
        assert_eq!(pruned(&schema), Some(expected));
    }

    #[test]
    fn what_is_no_description_or_too_much_is_refused() {
        for other in [json!({}), json!("x"), json!([1]), json!([{"name": 1}]), json!([[]])] {
            assert_eq!(pruned(&other), None, "{other}");
        }
        let entries = |number| Value::from(vec![json!({"name": "a"}); number]);
        assert!(pruned(&entries(ENTRIES_MAX)).is_some());
        assert_eq!(pruned(&entries(ENTRIES_MAX + 1)), None);
        let parts =
            |number| json!([{"members": vec![json!({}); number - 2], "values": ["a", "b"]}]);
        assert!(pruned(&parts(PARTS_MAX)).is_some());
        assert_eq!(pruned(&parts(PARTS_MAX + 1)), None);
        let name = |bytes| json!([{"name": "a".repeat(bytes)}]);
        assert!(pruned(&name(NAME_MAX)).is_some());
        assert_eq!(pruned(&name(NAME_MAX + 1)), None);
    }
}
