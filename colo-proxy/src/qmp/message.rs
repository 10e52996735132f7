//! What QEMU writes, line by line.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// A release of QEMU, from its greeting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    #[serde(default)]
    pub(crate) micro: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// QEMU did not do what it was told: its class of error, and its words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{desc}")]
pub(crate) struct Refusal {
    #[serde(default)]
    pub(crate) class: String,
    pub(crate) desc: String,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Message {
    Greeting(Version),
    Event {
        name: String,
        data: Value,
        /// QEMU's wall clock when it happened, since 1970.
        at: Duration,
    },
    Reply {
        /// `None` for a line that QEMU could not read.
        id: Option<u64>,
        result: Result<Value, Refusal>,
    },
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    timestamp: Option<Timestamp>,
    id: Option<u64>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Greeting {
    version: Versions,
}

#[derive(Deserialize)]
struct Versions {
    qemu: Version,
}

/// Both are -1 where QEMU could not read its clock.
#[derive(Deserialize)]
struct Timestamp {
    seconds: i64,
    microseconds: i64,
}

impl Timestamp {
    fn since_1970(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let micros = u32::try_from(self.microseconds).ok().filter(|micros| *micros < 1_000_000)?;
        Some(Duration::new(seconds, micros * 1000))
    }
}

/// Reads a line; `None` for what is no message that we know.
pub(super) fn read(line: &str) -> Option<Message> {
    let line: Line = serde_json::from_str(line).ok()?;
    if let Some(greeting) = line.greeting {
        return Some(Message::Greeting(greeting.version.qemu));
    }
    if let Some(name) = line.event {
        let at = line.timestamp.and_then(|at| at.since_1970()).unwrap_or_default();
        return Some(Message::Event { name, data: line.data, at });
    }
    let result = match (line.returned, line.error) {
        (_, Some(refusal)) => Err(refusal),
        (Some(value), None) => Ok(value),
        (None, None) => return None,
    };
    Some(Message::Reply { id: line.id, result })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_greeting_has_the_version() {
        let line = r#"{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11},
            "package": "Debian 1:11.1.3+ds-1"}, "capabilities": ["oob"]}}"#;
        let version = Version { major: 11, minor: 1, micro: 3 };
        assert_eq!(read(line), Some(Message::Greeting(version)));
        assert_eq!(version.to_string(), "11.1.3");
    }

    #[test]
    fn an_event_has_its_time() {
        let line = r#"{"timestamp": {"seconds": 1700000000, "microseconds": 42},
            "event": "COLO_EXIT", "data": {"mode": "secondary", "reason": "error"}}"#;
        let at = Duration::new(1_700_000_000, 42_000);
        let data = json!({"mode": "secondary", "reason": "error"});
        assert_eq!(read(line), Some(Message::Event { name: "COLO_EXIT".into(), data, at }));
    }

    #[test]
    fn an_event_without_a_clock_is_one_all_the_same() {
        for time in ["-1", "99999999999999999999"] {
            let line = format!(
                r#"{{"timestamp": {{"seconds": {time}, "microseconds": -1}}, "event": "STOP"}}"#
            );
            match read(&line) {
                Some(Message::Event { at, .. }) => assert_eq!((time, at), ("-1", Duration::ZERO)),
                None => assert_eq!(time, "99999999999999999999", "that is no number of ours"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn replies_have_their_number() {
        assert_eq!(
            read(r#"{"return": {}, "id": 7}"#),
            Some(Message::Reply { id: Some(7), result: Ok(json!({})) })
        );
        let refusal = Refusal { class: "GenericError".into(), desc: "no".into() };
        assert_eq!(
            read(r#"{"error": {"class": "GenericError", "desc": "no"}, "id": 8}"#),
            Some(Message::Reply { id: Some(8), result: Err(refusal) })
        );
    }

    #[test]
    fn what_is_no_message_is_passed_over() {
        for line in ["", "{", "[]", "{}", r#"{"id": 1}"#, r#"{"QMP": {}}"#, r#"{"event": 7}"#] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
