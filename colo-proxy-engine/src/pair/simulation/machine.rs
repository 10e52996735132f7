//! A machine with a network stack: the client or a guest. Its whole state is `Clone`, because a
//! checkpoint copies it.

use std::collections::BTreeMap;

use super::app::{App, Script};
use super::endpoint::{Nature, TcpEnd};
use super::wire::{Body, PlainSegment, PortPair};

/// Pause after which a question without an answer is asked again.
const ASK_AGAIN_US: u64 = 700_000;

#[derive(Clone, Debug)]
pub(super) struct StationConnection {
    pub(super) endpoint: TcpEnd,
    pub(super) app: App,
}

/// A connection that the machine opens by itself.
#[derive(Clone, Debug)]
pub(super) struct PlannedCall {
    pub(super) at: u64,
    pub(super) tuple: PortPair,
    pub(super) app: App,
}

/// A datagram that is sent until it is answered.
#[derive(Clone, Debug)]
pub(super) struct PlannedQuestion {
    pub(super) at: u64,
    pub(super) tuple: PortPair,
    pub(super) payload: Vec<u8>,
    pub(super) answered: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Station {
    pub(super) connections: BTreeMap<PortPair, StationConnection>,
    /// Connections that are over, with their last state.
    pub(super) past: Vec<StationConnection>,
    pub(super) calls: Vec<PlannedCall>,
    pub(super) questions: Vec<PlannedQuestion>,
    /// Every answer to a datagram that was sent.
    pub(super) answers: Vec<(PortPair, Vec<u8>)>,
    /// Every reset that was sent.
    pub(super) resets: Vec<PlainSegment>,
    /// The served ports, each with its application.
    pub(super) served: BTreeMap<u16, App>,
    /// It sends data with its SYN.
    pub(super) opens_fast: bool,
    /// It takes the data of a SYN, and answers before its SYN/ACK is acknowledged.
    pub(super) accepts_fast: bool,
}

impl Station {
    pub(super) fn on_body(
        &mut self,
        now: u64,
        body: Body,
        nature: &mut Nature,
        out: &mut Vec<Body>,
    ) {
        match body {
            Body::Tcp(segment) => self.on_segment(now, &segment, nature, out),
            Body::Udp(tuple, payload) => self.on_datagram(tuple.reversed(), &payload, out),
        }
    }

    fn on_segment(
        &mut self,
        now: u64,
        segment: &PlainSegment,
        nature: &mut Nature,
        out: &mut Vec<Body>,
    ) {
        let tuple = segment.tuple.reversed();
        // A connection that lingers gives way to a new one (RFC 9293, section 3.6.1).
        let is_past = |c: &StationConnection| {
            c.endpoint.is_gone(now) || (c.endpoint.is_over() && opens_another(segment, c))
        };
        if self.connections.get(&tuple).is_some_and(is_past) {
            self.retire(tuple);
        }
        let mut segments = Vec::new();
        if let Some(connection) = self.connections.get_mut(&tuple) {
            connection.endpoint.on_segment(now, segment, nature, &mut segments);
            connection.run(now, nature, &mut segments);
        } else if let Some(app) = self.served.get(&tuple.own_port).filter(|_| opens(segment)) {
            let endpoint = TcpEnd::accept(segment, self.accepts_fast, nature);
            let mut connection = StationConnection { endpoint, app: app.clone() };
            connection.run(now, nature, &mut segments);
            self.connections.insert(tuple, connection);
        } else if !segment.rst {
            let reset = refuse(segment);
            self.resets.push(reset.clone());
            segments.push(reset);
        }
        out.extend(segments.into_iter().map(Body::Tcp));
    }

    fn retire(&mut self, tuple: PortPair) {
        self.past.extend(self.connections.remove(&tuple));
    }

    /// Answers a question of the peer, or takes an answer.
    fn on_datagram(&mut self, tuple: PortPair, payload: &[u8], out: &mut Vec<Body>) {
        if let Some(question) = self.questions.iter_mut().find(|q| q.tuple == tuple) {
            question.answered |= payload == [&question.payload[..], b"!"].concat();
            return;
        }
        let answer = [payload, b"!"].concat();
        self.answers.push((tuple, answer.clone()));
        out.push(Body::Udp(tuple, answer));
    }

    pub(super) fn next_timer(&self) -> Option<u64> {
        let connections = self.connections.values().filter_map(|c| c.endpoint.next_timer());
        let calls = self.calls.iter().map(|call| call.at);
        let questions = self.questions.iter().filter(|q| !q.answered).map(|q| q.at);
        connections.chain(calls).chain(questions).min()
    }

    pub(super) fn on_timer(&mut self, now: u64, nature: &mut Nature, out: &mut Vec<Body>) {
        let gone: Vec<PortPair> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.endpoint.is_gone(now))
            .map(|(tuple, _)| *tuple)
            .collect();
        for tuple in gone {
            self.retire(tuple);
        }
        let mut segments = Vec::new();
        for connection in self.connections.values_mut() {
            connection.endpoint.on_timer(now, nature, &mut segments);
            connection.run(now, nature, &mut segments);
        }
        let connections = &self.connections;
        for call in self.calls.iter_mut().filter(|call| call.at <= now) {
            if connections.get(&call.tuple).is_some_and(|c| !c.endpoint.is_over()) {
                call.at = now + ASK_AGAIN_US;
            }
        }
        let due: Vec<PlannedCall> = self.calls.extract_if(.., |call| call.at <= now).collect();
        for call in due {
            self.retire(call.tuple);
            let endpoint = TcpEnd::connect(call.tuple, self.opens_fast, nature);
            let mut connection = StationConnection { endpoint, app: call.app };
            connection.run(now, nature, &mut segments);
            self.connections.insert(call.tuple, connection);
        }
        out.extend(segments.into_iter().map(Body::Tcp));
        for question in self.questions.iter_mut().filter(|q| !q.answered && q.at <= now) {
            question.at = now + ASK_AGAIN_US;
            out.push(Body::Udp(question.tuple, question.payload.clone()));
        }
    }

    /// Open and past connections. Of those on the same ports the last one is first.
    pub(super) fn all(&self) -> impl Iterator<Item = &StationConnection> {
        self.connections.values().chain(self.past.iter().rev())
    }

    /// All scripts on this machine, also those whose connection is not open yet.
    pub(super) fn scripts(&self) -> impl Iterator<Item = (PortPair, &Script)> {
        let open = self.all().map(|c| (c.endpoint.tuple, &c.app));
        let calls = self.calls.iter().map(|call| (call.tuple, &call.app));
        open.chain(calls).filter_map(|(tuple, app)| match app {
            App::Script(script) => Some((tuple, script)),
            _ => None,
        })
    }
}

impl StationConnection {
    fn run(&mut self, now: u64, nature: &mut Nature, out: &mut Vec<PlainSegment>) {
        self.app.run(&mut self.endpoint, nature);
        self.endpoint.send(now, nature, out);
    }
}

fn opens(segment: &PlainSegment) -> bool {
    segment.syn && segment.ack.is_none() && !segment.rst
}

fn opens_another(segment: &PlainSegment, connection: &StationConnection) -> bool {
    opens(segment) && connection.endpoint.irs != Some(segment.seq)
}

/// RFC 9293, section 3.10.7.1: there is no such connection.
fn refuse(segment: &PlainSegment) -> PlainSegment {
    let len = segment.payload.len() as u32 + u32::from(segment.syn) + u32::from(segment.fin);
    PlainSegment {
        tuple: segment.tuple.reversed(),
        seq: segment.ack.unwrap_or_default(),
        ack: segment.ack.is_none().then_some(segment.seq.wrapping_add(len)),
        syn: false,
        fin: false,
        rst: true,
        window: 0,
        timestamps: None,
        sack: Vec::new(),
        payload: Vec::new(),
    }
}
