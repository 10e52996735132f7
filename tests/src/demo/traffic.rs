//! The traffic without and with protection. It is the same, so that both can be compared.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::client::{Calls, Conversation, Latency, echo};
use crate::network::{Family, Lab};

const REQUEST_LEN: u64 = 200;
const DATAGRAM_LEN: usize = 512;

/// The amount of each kind of traffic. Half of it goes over each IP version, except for the
/// requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    /// Over each IP version.
    pub requests: u32,
    /// In each direction.
    pub bulk_len: u64,
    pub datagrams: u32,
    /// Connections that the guest opens.
    pub calls: u32,
}

/// The measurements. Every byte was checked.
#[derive(Debug)]
pub(super) struct Measured {
    request: [Latency; 2],
    down: Duration,
    up: Duration,
    bulk_len: u64,
    datagram: Latency,
    datagrams_lost: u64,
    called: Latency,
}

/// Request and response over both IP versions, bulk in both directions, UDP echo, and connections
/// that the guest opens.
pub(super) fn run(lab: &Lab, amount: Amount) -> Result<Measured> {
    let mut measured = Measured {
        request: [Latency::default(), Latency::default()],
        down: Duration::ZERO,
        up: Duration::ZERO,
        bulk_len: amount.bulk_len,
        datagram: Latency::default(),
        datagrams_lost: 0,
        called: Latency::default(),
    };
    for (family, request) in Family::BOTH.into_iter().zip(&mut measured.request) {
        let mut conversation = Conversation::open(&lab.client, family)?;
        for _ in 0..amount.requests {
            request.add(conversation.ask(REQUEST_LEN)?);
        }
        measured.down += conversation.down(amount.bulk_len / 2)?;
        measured.up += conversation.up(amount.bulk_len / 2)?;
        conversation.close()?;
        let echoed = echo(&lab.client, family, amount.datagrams / 2, DATAGRAM_LEN)?;
        measured.datagram.merge(echoed.latency);
        measured.datagrams_lost += echoed.lost;
        let calls = Calls::new(&lab.client, family)?;
        for _ in 0..amount.calls / 2 {
            measured.called.add(called(&calls)?);
        }
    }
    Ok(measured)
}

/// Makes the guest open a connection and serve on it. Returns how long all of that takes.
fn called(calls: &Calls) -> Result<Duration> {
    let start = Instant::now();
    let mut conversation = calls.call()?;
    conversation.ask(REQUEST_LEN)?;
    conversation.close()?;
    Ok(start.elapsed())
}

/// A new connection and a few datagrams over each IP version.
pub(super) fn once(lab: &Lab) -> Result<()> {
    for family in Family::BOTH {
        let mut conversation = Conversation::open(&lab.client, family)?;
        conversation.ask(REQUEST_LEN)?;
        conversation.close()?;
        echo(&lab.client, family, 20, 100)?;
    }
    Ok(())
}

impl Measured {
    /// Names and values, in the order of the table.
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let [v4, v6] = &self.request;
        vec![
            (format!("TCP request/response {REQUEST_LEN} B, IPv4"), ranks(v4)),
            (format!("TCP request/response {REQUEST_LEN} B, IPv6"), ranks(v6)),
            ("bulk from the guest".into(), self.rate(self.down)),
            ("bulk to the guest".into(), self.rate(self.up)),
            (
                format!("UDP echo {DATAGRAM_LEN} B"),
                format!("{}, {} lost", ranks(&self.datagram), self.datagrams_lost),
            ),
            (
                format!("{} connections that the guest opens", self.called.count()),
                format!("{} each, request and end included", ranks(&self.called)),
            ),
        ]
    }

    fn rate(&self, took: Duration) -> String {
        format!("{:.2} Gbit/s", self.bulk_len as f64 * 8.0 / took.as_secs_f64() / 1e9)
    }
}

pub(super) fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

fn ranks(latency: &Latency) -> String {
    format!("p50 {}, p99 {}", ms(latency.percentile(50.0)), ms(latency.percentile(99.0)))
}
