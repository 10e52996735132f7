//! Drives the COLO-frame of a stock QEMU from outside, with nothing but QMP.
//!
//! [`machine`] decides, [`pace`] spaces checkpoints, [`support`] knows which QEMU can make them. This file
//! has the connection, the clock, and the route to the secondary's host ([`crate::quick_ack`]).

mod machine;
mod pace;
mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use self::machine::{QmpMachine, QmpQuestion};
use super::{ColoFrame, ColoFrameCommand, ColoFrameEvent, ColoFrameTerms, NextEvent, OutputTaken};
use crate::deadline::sleep_until;
use crate::endpoint::{Endpoint, EndpointAddress, EndpointError};
use crate::qmp::{QmpClient, QmpIncoming, QmpRefusal};
use crate::quick_ack::QuickAck;
use crate::status::{ColoFrameReport, QmpReport};

/// How long QEMU may take for an answer: its main loop may be busy with a device.
const ANSWER_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct QmpDriver {
    instance: String,
    client: QmpClient,
    machine: QmpMachine,
    /// Commands without their answers, by number.
    asked: HashMap<u64, (QmpQuestion, Instant)>,
    terms: ColoFrameTerms,
    quick_ack: QuickAck,
}

impl QmpDriver {
    pub(super) async fn open(
        endpoint: Endpoint,
        terms: ColoFrameTerms,
    ) -> Result<Self, EndpointError> {
        Ok(Self {
            instance: terms.instance.clone(),
            client: QmpClient::open(endpoint).await?,
            machine: QmpMachine::new(terms.instance.clone(), terms.role, terms.checkpoints),
            asked: HashMap::new(),
            quick_ack: QuickAck::new(terms.quick_ack),
            terms,
        })
    }

    /// Sends the commands of the machine.
    fn send_commands(&mut self, now: Instant) {
        while let Some(command) = self.machine.next_command() {
            let ask = command.ask;
            log::debug!("{}: QMP: {} {}", self.instance, command.command, command.arguments);
            match self.client.execute(command.command, &command.arguments) {
                Some(id) => drop(self.asked.insert(id, (ask, now + ANSWER_MAX))),
                None => self.machine.on_reply(
                    now,
                    ask,
                    Err(unanswered("QEMU does not read its commands")),
                ),
            }
        }
    }

    fn on_incoming(&mut self, now: Instant, incoming: QmpIncoming) {
        match incoming {
            QmpIncoming::Up(version) => {
                log::info!("{}: QMP {}: QEMU {version}", self.instance, self.client.endpoint());
                self.asked.clear();
                self.machine.on_up(version);
            }
            QmpIncoming::Down(why) => {
                self.asked.clear();
                self.machine.on_down(now, &why);
            }
            QmpIncoming::Event { name, data, at } => {
                log::debug!("{}: QMP: {name} {data}", self.instance);
                self.machine.on_event(now, &name, &data, at);
            }
            QmpIncoming::Reply { id, result } => {
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
                self.machine.on_reply(now, ask, Err(unanswered("QEMU does not answer")));
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
            // No wait between these, so that a future that is dropped loses nothing.
            let event = self.machine.next_event();
            self.send_commands(Instant::now());
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

impl ColoFrame for QmpDriver {
    fn command(&mut self, command: &ColoFrameCommand) {
        let now = Instant::now();
        match command {
            ColoFrameCommand::RequestCheckpoint { .. } => self.machine.request_checkpoint(now),
            ColoFrameCommand::PeerLost { .. }
                if self.terms.role == crate::config::Role::Primary =>
            {
                self.machine.end(now);
            }
            // That alone is no takeover for a secondary.
            ColoFrameCommand::PeerLost { .. } => {}
            ColoFrameCommand::TakeOver { .. } => self.machine.end(now),
        }
        self.send_commands(now);
    }

    fn protect(&mut self, uri: Option<&str>) -> Result<String, String> {
        let uri = uri.or(self.terms.migrate.as_deref()).ok_or(
            "cannot protect: it is not known where the secondary's QEMU waits. Use --migrate URI, or \
             migrate = \"URI\" in the configuration",
        )?;
        let uri = uri.to_owned();
        let done = self.machine.protect(&uri)?;
        self.quick_ack.start(host_of(&uri));
        self.send_commands(Instant::now());
        Ok(done)
    }

    fn next_event(&mut self) -> NextEvent<'_> {
        Box::pin(self.event())
    }

    fn output_taken(&mut self, _taken: OutputTaken) {
        self.machine.output_taken();
        self.send_commands(Instant::now());
    }

    fn report(&self) -> ColoFrameReport {
        ColoFrameReport::Qmp(Box::new(QmpReport {
            endpoint: self.client.endpoint().to_owned(),
            machine: self.machine.report(),
            quick_ack: self.quick_ack.report(),
        }))
    }
}

fn unanswered(what: &str) -> QmpRefusal {
    QmpRefusal { class: String::new(), desc: what.into() }
}

/// The host in a migration URI: `tcp:HOST:PORT`. Other transports have none.
fn host_of(uri: &str) -> Option<String> {
    match uri.parse::<Endpoint>().ok()?.address {
        EndpointAddress::Tcp { host, .. } => Some(host),
        EndpointAddress::Unix(_) => None,
    }
}
