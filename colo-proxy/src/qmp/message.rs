//! The lines of QEMU.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::schema;

/// A release of QEMU, from its greeting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct QemuVersion {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    #[serde(default)]
    pub(crate) micro: u32,
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// QEMU refused a command: its class of error, and its words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{desc}")]
pub(crate) struct QmpRefusal {
    #[serde(default)]
    pub(crate) class: String,
    pub(crate) desc: String,
}

/// The most bytes of an event's data: the known ones have less than 200.
const DATA_MAX: usize = 4 << 10;
/// The most bytes of an answer (except QEMU's description of its commands), and of a refusal.
const ANSWER_MAX: usize = 64 << 10;
const REFUSAL_MAX: usize = 4 << 10;

/// The events that a driver knows. It need not see others, nor those that are too long to be one of
/// these.
const KNOWN: [&str; 6] = ["STOP", "RESUME", "MIGRATION", "COLO_EXIT", "SHUTDOWN", "RESET"];

/// One line. Its parts that may be long are not read yet.
#[derive(Debug)]
pub(super) enum QmpMessage<'a> {
    Greeting(QemuVersion),
    Event(QmpEvent<'a>),
    Reply {
        /// `None` for a line that QEMU could not read.
        id: Option<u64>,
        result: RawResult<'a>,
    },
}

#[derive(Debug)]
pub(super) struct QmpEvent<'a> {
    name: String,
    data: Option<&'a RawValue>,
    at: Duration,
}

impl QmpEvent<'_> {
    /// Name, data and time (QEMU's wall clock, since 1970) of an event that we know.
    pub(super) fn known(self) -> Option<(String, Value, Duration)> {
        if !KNOWN.contains(&self.name.as_str()) {
            return None;
        }
        let Some(data) = self.data else { return Some((self.name, Value::Null, self.at)) };
        let data = short(data, DATA_MAX)?;
        Some((self.name, data, self.at))
    }
}

#[derive(Debug)]
pub(super) enum RawResult<'a> {
    Answer(&'a RawValue),
    Refusal(&'a RawValue),
}

impl RawResult<'_> {
    /// Call this only for an answer that we asked for.
    pub(super) fn read(&self) -> Result<Value, QmpRefusal> {
        let too_long = |what, raw: &RawValue| QmpRefusal {
            class: String::new(),
            desc: format!("{what} of {} bytes is too long", raw.get().len()),
        };
        match self {
            Self::Answer(raw) => {
                let answer = short(raw, ANSWER_MAX).or_else(|| schema::prune(raw));
                answer.ok_or_else(|| too_long("an answer", raw))
            }
            Self::Refusal(raw) => {
                Err(short(raw, REFUSAL_MAX).unwrap_or_else(|| too_long("a refusal", raw)))
            }
        }
    }
}

/// `None` if it is longer than `max`, or has another form.
fn short<T: DeserializeOwned>(raw: &RawValue, max: usize) -> Option<T> {
    let text = raw.get();
    if text.len() > max { None } else { serde_json::from_str(text).ok() }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    event: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    timestamp: Option<Timestamp>,
    id: Option<u64>,
    #[serde(rename = "return")]
    returned: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Greeting {
    version: Versions,
}

#[derive(Deserialize)]
struct Versions {
    qemu: QemuVersion,
}

/// Both are -1 if QEMU could not read its clock.
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

/// Reads a line; `None` if it is no message that we know.
pub(super) fn read(line: &str) -> Option<QmpMessage<'_>> {
    let line: Line = serde_json::from_str(line).ok()?;
    if let Some(greeting) = line.greeting {
        return Some(QmpMessage::Greeting(greeting.version.qemu));
    }
    if let Some(name) = line.event {
        let at = line.timestamp.and_then(|at| at.since_1970()).unwrap_or_default();
        return Some(QmpMessage::Event(QmpEvent { name, data: line.data, at }));
    }
    let result = match (line.returned, line.error) {
        (_, Some(refusal)) => RawResult::Refusal(refusal),
        (Some(answer), None) => RawResult::Answer(answer),
        (None, None) => return None,
    };
    Some(QmpMessage::Reply { id: line.id, result })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(line: &str) -> Option<(String, Value, Duration)> {
        match read(line)? {
            QmpMessage::Event(event) => event.known(),
            other => panic!("{other:?}"),
        }
    }

    fn reply(line: &str) -> (Option<u64>, Result<Value, QmpRefusal>) {
        match read(line) {
            Some(QmpMessage::Reply { id, result }) => (id, result.read()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_greeting_has_the_version() {
        let line = r#"{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11},
            "package": "Debian 1:11.1.3+ds-1"}, "capabilities": ["oob"]}}"#;
        let version = QemuVersion { major: 11, minor: 1, micro: 3 };
        assert!(matches!(read(line), Some(QmpMessage::Greeting(v)) if v == version));
        assert_eq!(version.to_string(), "11.1.3");
    }

    #[test]
    fn an_event_has_its_time() {
        let line = r#"{"timestamp": {"seconds": 1700000000, "microseconds": 42},
            "event": "COLO_EXIT", "data": {"mode": "secondary", "reason": "error"}}"#;
        let at = Duration::new(1_700_000_000, 42_000);
        let data = json!({"mode": "secondary", "reason": "error"});
        assert_eq!(event(line), Some(("COLO_EXIT".into(), data, at)));
    }

    #[test]
    fn an_event_without_a_clock_is_one_all_the_same() {
        for time in ["-1", "99999999999999999999"] {
            let line = format!(
                r#"{{"timestamp": {{"seconds": {time}, "microseconds": -1}}, "event": "STOP"}}"#
            );
            match event(&line) {
                Some((_, _, at)) => assert_eq!((time, at), ("-1", Duration::ZERO)),
                None => assert_eq!(time, "99999999999999999999", "that is no number of ours"),
            }
        }
    }

    #[test]
    fn events_that_nobody_knows_or_that_are_long_are_passed_over() {
        let line = |name: &str, room: usize| {
            let data = json!({"reason": "x".repeat(room)});
            json!({"event": name, "data": data}).to_string()
        };
        assert!(event(&line("SHUTDOWN", DATA_MAX - 100)).is_some());
        assert_eq!(event(&line("SHUTDOWN", DATA_MAX)), None);
        assert_eq!(event(&line("VNC_CONNECTED", 1)), None);
        assert_eq!(event(r#"{"event": "STOP"}"#).unwrap().1, Value::Null);
    }

    #[test]
    fn replies_have_their_number() {
        assert_eq!(reply(r#"{"return": {}, "id": 7}"#), (Some(7), Ok(json!({}))));
        let refusal = QmpRefusal { class: "GenericError".into(), desc: "no".into() };
        assert_eq!(
            reply(r#"{"error": {"class": "GenericError", "desc": "no"}, "id": 8}"#),
            (Some(8), Err(refusal))
        );
    }

    #[test]
    fn an_answer_that_is_long_and_no_description_of_commands_is_refused() {
        let line = |room: usize| json!({"return": "x".repeat(room), "id": 1}).to_string();
        assert!(reply(&line(ANSWER_MAX - 2)).1.is_ok());
        let refusal = reply(&line(ANSWER_MAX)).1.unwrap_err();
        assert_eq!(refusal.to_string(), "an answer of 65538 bytes is too long");
        let line = json!({"error": {"desc": "x".repeat(REFUSAL_MAX)}, "id": 1}).to_string();
        assert_eq!(reply(&line).1.unwrap_err().to_string(), "a refusal of 4107 bytes is too long");
    }

    #[test]
    fn what_is_no_message_is_passed_over() {
        for line in ["", "{", "[]", "{}", r#"{"id": 1}"#, r#"{"QMP": {}}"#, r#"{"event": 7}"#] {
            assert!(read(line).is_none(), "{line}");
        }
    }
}
