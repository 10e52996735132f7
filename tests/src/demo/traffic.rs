//! The traffic of steps 1 and 2: the same in both, to be compared.

use std::time::Duration;

use anyhow::Result;

use crate::client::{Conversation, Latency, echo};
use crate::network::{Family, Lab};

const REQUESTS: u32 = 5000;
const REQUEST_LEN: u64 = 200;
const BULK_LEN: u64 = 128 << 20;
const DATAGRAMS: u32 = 4000;
const DATAGRAM_LEN: usize = 512;

/// What was measured; every octet was checked.
#[derive(Debug)]
pub(super) struct Measured {
    request: [Latency; 2],
    down: Duration,
    up: Duration,
    datagram: Latency,
    datagrams_lost: u64,
}

/// Request and response over both IP versions, bulk in both directions, UDP echo.
pub(super) fn run(lab: &Lab) -> Result<Measured> {
    let mut measured = Measured {
        request: [Latency::default(), Latency::default()],
        down: Duration::ZERO,
        up: Duration::ZERO,
        datagram: Latency::default(),
        datagrams_lost: 0,
    };
    for (family, request) in Family::BOTH.into_iter().zip(&mut measured.request) {
        let mut conversation = Conversation::open(&lab.client, family)?;
        for _ in 0..REQUESTS {
            request.add(conversation.ask(REQUEST_LEN)?);
        }
        measured.down += conversation.down(BULK_LEN / 2)?;
        measured.up += conversation.up(BULK_LEN / 2)?;
        conversation.close()?;
        let echoed = echo(&lab.client, family, DATAGRAMS / 2, DATAGRAM_LEN)?;
        measured.datagram.merge(echoed.latency);
        measured.datagrams_lost += echoed.lost;
    }
    Ok(measured)
}

impl Measured {
    /// Names and values, in the order of the table.
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let [v4, v6] = &self.request;
        vec![
            (format!("TCP request/response {REQUEST_LEN} B, IPv4"), ranks(v4)),
            (format!("TCP request/response {REQUEST_LEN} B, IPv6"), ranks(v6)),
            ("bulk from the guest".into(), rate(self.down)),
            ("bulk to the guest".into(), rate(self.up)),
            (
                format!("UDP echo {DATAGRAM_LEN} B"),
                format!("{}, {} lost", ranks(&self.datagram), self.datagrams_lost),
            ),
        ]
    }
}

pub(super) fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

fn ranks(latency: &Latency) -> String {
    format!("p50 {}, p99 {}", ms(latency.percentile(50.0)), ms(latency.percentile(99.0)))
}

fn rate(took: Duration) -> String {
    format!("{:.2} Gbit/s", BULK_LEN as f64 * 8.0 / took.as_secs_f64() / 1e9)
}
