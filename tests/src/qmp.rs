//! A monitor of QEMU for the tests: commands with a deadline, and every event with its time.
//!
//! The events carry QEMU's own time, so a slow reader does not change it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::process::eventually;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// An event of QEMU.
#[derive(Clone, Debug)]
pub struct Event {
    pub name: String,
    /// Its `data`, or null.
    pub data: Value,
    /// The time since 1970, by the clock of QEMU's host.
    pub at: Duration,
}

impl Event {
    fn read(message: &Value) -> Option<Self> {
        let name = message.get("event")?.as_str()?.to_owned();
        let stamp = |key: &str| message.pointer(&format!("/timestamp/{key}"))?.as_u64();
        let at =
            Duration::from_secs(stamp("seconds")?) + Duration::from_micros(stamp("microseconds")?);
        Some(Self { name, data: message.get("data").cloned().unwrap_or_default(), at })
    }

    /// A value of its `data`.
    pub fn says(&self, key: &str) -> &str {
        self.data.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

/// A place in the events of one monitor, to wait for later events.
#[derive(Clone, Copy, Debug)]
pub struct EventPlace(usize);

/// A connection to a monitor.
#[derive(Debug)]
pub struct Qmp {
    to: Mutex<UnixStream>,
    heard: Arc<Received>,
    last_id: AtomicU64,
}

#[derive(Debug, Default)]
struct Received {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    answers: HashMap<u64, Value>,
    closed: bool,
}

impl Qmp {
    /// Connects to the socket. QEMU may not have made it yet, so this tries again.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = eventually("a monitor of QEMU", CONNECT_TIMEOUT, || {
            Ok(UnixStream::connect(socket).ok())
        })?;
        let heard = Arc::new(Received::default());
        let (from, listener) = (stream.try_clone()?, Arc::clone(&heard));
        std::thread::spawn(move || listener.listen(from));
        let qmp = Self { to: Mutex::new(stream), heard, last_id: AtomicU64::new(0) };
        qmp.execute("qmp_capabilities", &Value::Null)?;
        Ok(qmp)
    }

    /// Executes a command and returns its result.
    pub fn execute(&self, name: &str, arguments: &Value) -> Result<Value> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let mut command = json!({"execute": name, "id": id});
        if let (Some(object), false) = (command.as_object_mut(), arguments.is_null()) {
            object.insert("arguments".to_owned(), arguments.clone());
        }
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        to.write_all(format!("{command}\n").as_bytes())
            .with_context(|| format!("sending {name} to QEMU"))?;
        drop(to);
        let answer = self
            .heard
            .wait(ANSWER_TIMEOUT, |state| state.answers.remove(&id))
            .with_context(|| format!("QEMU does not answer {name}"))?;
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => bail!("{name}: {}", answer.pointer("/error/desc").unwrap_or(&answer)),
        }
    }

    /// The end of the events that were received so far.
    pub fn place(&self) -> EventPlace {
        EventPlace(self.heard.lock().events.len())
    }

    /// The events after `place`.
    pub fn events(&self, place: EventPlace) -> Vec<Event> {
        self.heard.lock().events.get(place.0..).unwrap_or_default().to_vec()
    }

    /// All events, one per line, for messages.
    pub fn story(&self) -> String {
        let line = |event: &Event| format!("{:?} {} {}", event.at, event.name, event.data);
        self.heard.lock().events.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Waits for the first event after `place` that `wanted` accepts. Returns it with the place
    /// after it.
    pub fn wait(
        &self,
        what: &str,
        place: EventPlace,
        timeout: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<(Event, EventPlace)> {
        let found = self.heard.wait(timeout, |state| {
            let mut after = state.events.iter().enumerate().skip(place.0);
            after
                .find(|(_, event)| wanted(event))
                .map(|(at, event)| (event.clone(), EventPlace(at + 1)))
        });
        found.with_context(|| {
            format!("QEMU sent no event for {what}; it sent {:#?}", self.events(place))
        })
    }

    /// The same for an event with this name.
    pub fn wait_named(
        &self,
        name: &str,
        place: EventPlace,
        timeout: Duration,
    ) -> Result<(Event, EventPlace)> {
        self.wait(name, place, timeout, |event| event.name == name)
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        // Ends the thread that reads.
        let to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = to.shutdown(std::net::Shutdown::Both);
    }
}

impl Received {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, from: UnixStream) {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
            let mut state = self.lock();
            if let Some(event) = Event::read(&message) {
                state.events.push(event);
            } else if let Some(id) = message.get("id").and_then(Value::as_u64) {
                state.answers.insert(id, message);
            }
            drop(state);
            self.changed.notify_all();
        }
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn wait<T>(
        &self,
        timeout: Duration,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(value) = ready(&mut state) {
                return Ok(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed {
                bail!("its monitor is closed");
            }
            if left.is_zero() {
                bail!("not in {timeout:?}");
            }
            (state, _) =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Qmp};
    use serde_json::{Value, json};
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(5);

    /// Answers each command with these lines. `ID` stands for the command's.
    fn monitor(answers: &'static [&'static str]) -> (tempfile::TempDir, Qmp) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut to, _) = listener.accept().unwrap();
            writeln!(to, "{{\"QMP\": {{}}}}").unwrap();
            let mut commands = BufReader::new(to.try_clone().unwrap()).lines();
            let greeting = ["{\"return\": {}, \"id\": ID}"];
            for answers in [&greeting[..], answers] {
                let Some(Ok(line)) = commands.next() else { return };
                let id = serde_json::from_str::<Value>(&line).unwrap()["id"].to_string();
                for answer in answers {
                    writeln!(to, "{}", answer.replace("ID", &id)).unwrap();
                }
            }
        });
        let qmp = Qmp::connect(&path).unwrap();
        (folder, qmp)
    }

    #[test]
    fn events_between_command_and_answer_are_kept_in_order() {
        let (_folder, qmp) = monitor(&[
            r#"{"timestamp": {"seconds": 7, "microseconds": 250}, "event": "STOP"}"#,
            r#"{"return": {"status": "paused"}, "id": ID}"#,
            r#"{"timestamp": {"seconds": 8, "microseconds": 0}, "event": "MIGRATION", "data": {"status": "colo"}}"#,
        ]);
        let place = qmp.place();
        let answer = qmp.execute("stop", &Value::Null).unwrap();
        assert_eq!(answer, json!({"status": "paused"}));
        let (stop, behind) = qmp.wait_named("STOP", place, SOON).unwrap();
        assert_eq!(stop.at, Duration::from_secs(7) + Duration::from_micros(250));
        let colo = |event: &Event| event.says("status") == "colo";
        qmp.wait("colo", behind, SOON, colo).unwrap();
        let again = qmp.wait_named("STOP", behind, Duration::from_millis(50));
        assert!(again.is_err(), "an event before the place: {again:?}");
    }

    #[test]
    fn an_error_says_what_was_refused_and_a_closed_monitor_is_no_wait() {
        let (_folder, qmp) = monitor(&[
            r#"{"error": {"class": "GenericError", "desc": "VM is not in COLO mode"}, "id": ID}"#,
        ]);
        let error = qmp.execute("x-colo-lost-heartbeat", &Value::Null).unwrap_err().to_string();
        assert!(error.contains("not in COLO mode"), "{error}");
        let closed = qmp.wait_named("STOP", qmp.place(), Duration::from_mins(10)).unwrap_err();
        assert!(format!("{closed:#}").contains("closed"), "{closed:#}");
    }
}
