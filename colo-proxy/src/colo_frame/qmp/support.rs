//! Which QEMU can do COLO. Its version says which faults are known; its own description of its commands
//! says with which parts it was built.

use serde_json::Value;

use crate::qmp::QemuVersion;

/// Why this release cannot be used, if it has a known fault.
pub(super) fn is_known_not_to_work(version: QemuVersion) -> Option<String> {
    let why = match (version.major, version.minor) {
        (0..=7, _) => "deadlocks at the first checkpoint (seen in 7.2)",
        (8..=10, _) => "never enters COLO (seen in 10.0)",
        _ => return None,
    };
    Some(format!("QEMU {version} {why}; install QEMU 11.1 or newer on both hosts"))
}

/// The oldest release that was seen to work.
const TRIED: (u32, u32) = (11, 1);

/// Nobody has tried this release, as far as we know.
pub(super) fn is_untried(version: QemuVersion) -> bool {
    (version.major, version.minor) < TRIED
}

/// The parts that this QEMU lacks, by its answer to `query-qmp-schema`.
pub(super) fn missing(schema: &Value) -> Vec<&'static str> {
    let schema = Schema(schema);
    let mut missing = Vec::new();
    if schema.named("x-colo-lost-heartbeat").is_none() {
        missing.push("the command x-colo-lost-heartbeat");
    }
    if !schema.takes("migrate-set-parameters", "x-checkpoint-delay") {
        missing.push("the migration parameter x-checkpoint-delay");
    }
    if !schema.has_capability("x-colo") {
        missing.push("the migration capability x-colo");
    }
    missing
}

/// An array of types and commands, which name each other (`qapi/introspect.json`).
struct Schema<'a>(&'a Value);

impl<'a> Schema<'a> {
    fn named(&self, name: &str) -> Option<&'a Value> {
        self.0.as_array()?.iter().find(|entry| entry["name"] == name)
    }

    fn arguments_of(&self, command: &str) -> Option<&'a Value> {
        self.named(self.named(command)?["arg-type"].as_str()?)
    }

    fn takes(&self, command: &str, argument: &str) -> bool {
        self.arguments_of(command).and_then(|object| member(object, argument)).is_some()
    }

    /// `migrate-set-capabilities` takes an array of objects with an enumeration in them.
    fn has_capability(&self, capability: &str) -> bool {
        let find = || {
            let array = self.arguments_of("migrate-set-capabilities")?;
            let array = self.named(member(array, "capabilities")?)?;
            let element = self.named(array["element-type"].as_str()?)?;
            let names = self.named(member(element, "capability")?)?;
            // Older ones have `values`, newer ones `members` with names as well.
            let mut members = names["members"].as_array().into_iter().flatten();
            let mut values = names["values"].as_array().into_iter().flatten();
            Some(
                members.any(|member| member["name"] == capability)
                    || values.any(|value| value == capability),
            )
        };
        find().unwrap_or(false)
    }
}

/// The type of an object's member.
fn member<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    let members = object["members"].as_array()?;
    members.iter().find(|member| member["name"] == name)?["type"].as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn version(major: u32, minor: u32) -> QemuVersion {
        QemuVersion { major, minor, micro: 2 }
    }

    #[test]
    fn releases_that_were_seen_to_fail_are_refused_in_a_sentence() {
        let why = is_known_not_to_work(version(7, 2)).unwrap();
        assert!(why.contains("QEMU 7.2.2 deadlocks"), "{why}");
        let why = is_known_not_to_work(version(10, 0)).unwrap();
        assert!(why.contains("never enters COLO") && why.contains("11.1 or newer"), "{why}");
        assert_eq!(is_known_not_to_work(version(11, 1)), None);
        assert_eq!(is_known_not_to_work(version(12, 0)), None);
        assert!(is_untried(version(11, 0)) && !is_untried(version(11, 1)));
    }

    fn schema() -> Value {
        json!([
            {"name": "x-colo-lost-heartbeat", "meta-type": "command", "arg-type": "0"},
            {"name": "0", "meta-type": "object", "members": []},
            {"name": "migrate-set-parameters", "meta-type": "command", "arg-type": "1"},
            {"name": "1", "meta-type": "object",
             "members": [{"name": "x-checkpoint-delay", "type": "int", "default": null}]},
            {"name": "migrate-set-capabilities", "meta-type": "command", "arg-type": "2"},
            {"name": "2", "meta-type": "object", "members": [{"name": "capabilities", "type": "[3]"}]},
            {"name": "[3]", "meta-type": "array", "element-type": "3"},
            {"name": "3", "meta-type": "object",
             "members": [{"name": "capability", "type": "4"}, {"name": "state", "type": "bool"}]},
            {"name": "4", "meta-type": "enum",
             "members": [{"name": "events"}, {"name": "x-colo"}], "values": ["events", "x-colo"]},
        ])
    }

    #[test]
    fn one_that_has_everything_lacks_nothing() {
        assert!(missing(&schema()).is_empty());
    }

    #[test]
    fn what_was_not_built_in_is_named() {
        let mut schema = schema();
        schema[0]["name"] = json!("something-else");
        schema[3]["members"] = json!([]);
        schema[8] = json!({"name": "4", "meta-type": "enum", "values": ["events"]});
        assert_eq!(missing(&schema).len(), 3);
        for nonsense in [json!(null), json!([]), json!({"a": 1}), json!([1, {"name": 3}])] {
            assert_eq!(missing(&nonsense).len(), 3, "{nonsense}");
        }
    }
}
