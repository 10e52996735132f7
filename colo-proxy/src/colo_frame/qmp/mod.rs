//! Drives the COLO-frame of a stock QEMU from outside, with nothing but QMP.
//!
//! [`machine`] decides, [`pace`] spaces, [`support`] knows which QEMU can do it; here are the
//! connection, the clock, and the way to the secondary's host ([`crate::quick_ack`]).

mod machine;
mod pace;
mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::machine::{Ask, Machine};
use super::{ColoFrame, ColoFrameCommand, ColoFrameEvent, NextEvent, OutputTaken, Terms};
use crate::deadline::sleep_until;
use crate::endpoint::{Address, Endpoint, EndpointError};
use crate::qmp::{Client, Incoming, Refusal};
use crate::quick_ack::QuickAck;

/// How long QEMU may take for an answer: it gives none while its main loop is busy with a device.
const ANSWER_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Qmp {
    instance: String,
    client: Client,
    machine: Machine,
    /// What was asked and not answered, by number.
    asked: HashMap<u64, (Ask, Instant)>,
    terms: Terms,
    quick_ack: QuickAck,
}

impl Qmp {
    pub(super) async fn open(endpoint: Endpoint, terms: Terms) -> Result<Self, EndpointError> {
        Ok(Self {
            instance: terms.instance.clone(),
            client: Client::open(endpoint).await?,
            machine: Machine::new(terms.role, terms.checkpoints),
            asked: HashMap::new(),
            quick_ack: QuickAck::new(terms.quick_ack),
            terms,
        })
    }

    /// Says what the machine wants said.
    fn tell(&mut self, now: Instant) {
        while let Some(command) = self.machine.next_command() {
            let ask = command.ask;
            log::debug!("{}: QMP: {} {}", self.instance, command.command, command.arguments);
            match self.client.execute(command.command, &command.arguments) {
                Some(id) => drop(self.asked.insert(id, (ask, now + ANSWER_MAX))),
                None => self.machine.on_reply(now, ask, Err(unanswered("QEMU takes no commands"))),
            }
        }
    }

    fn on_incoming(&mut self, now: Instant, incoming: Incoming) {
        match incoming {
            Incoming::Up(version) => {
                log::info!("{}: QMP {}: QEMU {version}", self.instance, self.client.endpoint());
                self.asked.clear();
                self.machine.on_up(version);
            }
            Incoming::Down(why) => {
                self.asked.clear();
                self.machine.on_down(now, &why);
            }
            Incoming::Event { name, data, at } => {
                log::debug!("{}: QMP: {name} {data}", self.instance);
                self.machine.on_event(now, &name, &data, at);
            }
            Incoming::Reply { id, result } => {
                if let Some((ask, _)) = self.asked.remove(&id) {
                    self.machine.on_reply(now, ask, result);
                }
            }
        }
    }

    fn on_timeout(&mut self, now: Instant) {
        let late: Vec<u64> =
            self.asked.iter().filter(|(_, (_, by))| *by <= now).map(|(id, _)| *id).collect();
        for id in late {
            if let Some((ask, _)) = self.asked.remove(&id) {
                self.machine.on_reply(now, ask, Err(unanswered("QEMU gives no answer")));
            }
        }
        self.machine.on_timeout(now);
    }

    fn deadline(&self) -> Option<Instant> {
        let answers = self.asked.values().map(|(_, by)| *by);
        answers.chain(self.machine.poll_timeout()).min()
    }

    async fn event(&mut self) -> ColoFrameEvent {
        loop {
            // Together without a wait, so that a future that is dropped loses nothing.
            let event = self.machine.next_event();
            self.tell(Instant::now());
            if let Some(event) = event {
                return event;
            }
            let deadline = self.deadline();
            tokio::select! {
                incoming = self.client.next() => self.on_incoming(Instant::now(), incoming),
                () = sleep_until(deadline) => self.on_timeout(Instant::now()),
            }
        }
    }
}

impl ColoFrame for Qmp {
    fn command(&mut self, command: &ColoFrameCommand) {
        let now = Instant::now();
        match command {
            ColoFrameCommand::RequestCheckpoint { .. } => self.machine.request_checkpoint(now),
            ColoFrameCommand::PeerLost { .. }
                if self.terms.role == crate::config::Role::Primary =>
            {
                self.machine.end(now);
            }
            // A secondary does not take over by that alone.
            ColoFrameCommand::PeerLost { .. } => {}
            ColoFrameCommand::TakeOver { .. } => self.machine.end(now),
        }
        self.tell(now);
    }

    fn protect(&mut self, uri: Option<&str>) -> Result<String, String> {
        let uri = uri.or(self.terms.migrate.as_deref()).ok_or(
            "where does the secondary's QEMU wait? Say so with --migrate URI, or with migrate = \
             \"URI\" in the configuration",
        )?;
        let uri = uri.to_owned();
        let done = self.machine.protect(&uri)?;
        self.quick_ack.start(host_of(&uri));
        self.tell(Instant::now());
        Ok(done)
    }

    fn next_event(&mut self) -> NextEvent<'_> {
        Box::pin(self.event())
    }

    fn output_taken(&mut self, _taken: OutputTaken) {
        self.machine.output_taken();
        self.tell(Instant::now());
    }

    fn report(&self) -> Value {
        let mut report = self.machine.report();
        report["endpoint"] = json!(self.client.endpoint());
        report["quick_ack"] = self.quick_ack.report();
        report
    }
}

fn unanswered(what: &str) -> Refusal {
    Refusal { class: String::new(), desc: what.into() }
}

/// The host in a migration URI: `tcp:HOST:PORT`. Other transports have none.
fn host_of(uri: &str) -> Option<String> {
    match uri.parse::<Endpoint>().ok()?.address {
        Address::Tcp { host, .. } => Some(host),
        Address::Unix(_) => None,
    }
}
