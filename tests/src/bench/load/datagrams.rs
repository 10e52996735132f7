//! UDP echo with a window: a fixed number of datagrams is on its way at any time.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::LoadResult;
use crate::bench::service::UDP_ECHO_PORT;
use crate::namespace::Namespace;
use crate::network::{CLIENT_V4, Family, LabSlot};

const WINDOW: u64 = 32;
/// After this silence, all datagrams on their way count as lost. It is longer than the 40 ms for
/// which two small writes in a row can wait for each other.
const LOST: Duration = Duration::from_millis(100);

/// The state of the datagrams so far.
#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    received: u64,
    on_the_way: u64,
    /// The highest number that came back, and the count of those that came after a higher one.
    highest: Option<u64>,
    reordered: u64,
    lost: u64,
}

pub(in crate::bench) fn datagrams(
    client: &Namespace,
    len: usize,
    time: Duration,
) -> Result<LoadResult> {
    let to = SocketAddr::new(LabSlot(0).address(Family::V4), UDP_ECHO_PORT);
    let socket = client.run(|| {
        let socket = UdpSocket::bind((CLIENT_V4, 0))?;
        socket.connect(to)?;
        Ok(socket)
    })?;
    socket.set_read_timeout(Some(LOST))?;
    let mut datagram = vec![0x5a; len];
    let mut answer = vec![0; len + 1];
    let mut tally = Tally::default();
    let began = Instant::now();
    while began.elapsed() < time {
        while tally.on_the_way < WINDOW {
            send(&socket, &mut datagram, &mut tally)?;
        }
        tally.receive(&socket, &mut answer)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(LoadResult { figures: tally.figures(seconds), latency: None })
}

fn send(socket: &UdpSocket, datagram: &mut [u8], tally: &mut Tally) -> Result<()> {
    let number = datagram.first_chunk_mut().context("a datagram too short for its number")?;
    *number = tally.sent.to_be_bytes();
    socket.send(datagram).context("sending a datagram")?;
    tally.sent += 1;
    tally.on_the_way += 1;
    Ok(())
}

impl Tally {
    fn receive(&mut self, socket: &UdpSocket, answer: &mut [u8]) -> Result<()> {
        match socket.recv(answer) {
            Ok(_) => {
                let number = answer.first_chunk().context("an answer without a number")?;
                self.came(u64::from_be_bytes(*number));
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.lost += std::mem::take(&mut self.on_the_way);
                Ok(())
            }
            Err(error) => bail!("waiting for a datagram: {error}"),
        }
    }

    fn came(&mut self, number: u64) {
        self.received += 1;
        if self.on_the_way > 0 {
            self.on_the_way -= 1;
        } else {
            // A datagram that counted as lost.
            self.lost = self.lost.saturating_sub(1);
        }
        if self.highest.is_some_and(|highest| number < highest) {
            self.reordered += 1;
        } else {
            self.highest = Some(number);
        }
    }

    fn figures(&self, seconds: f64) -> crate::bench::results::Figures {
        let share = |count: u64| 100.0 * count as f64 / (self.received.max(1)) as f64;
        [
            ("rate", self.received as f64 / seconds),
            ("reordered", self.reordered as f64),
            ("reordered_percent", share(self.reordered)),
            ("lost", self.lost as f64),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn what_comes_after_a_later_one_is_reordered() {
        let mut tally = Tally { sent: 5, on_the_way: 5, ..Tally::default() };
        for number in [0, 2, 1, 3, 4] {
            tally.came(number);
        }
        assert_eq!((tally.received, tally.reordered, tally.on_the_way), (5, 1, 0));
        let figures = tally.figures(2.0);
        assert!((figures["rate"] - 2.5).abs() < 1e-9 && (figures["reordered"] - 1.0).abs() < 1e-9);
    }

    #[test]
    fn one_that_comes_late_was_not_lost() {
        let mut tally = Tally { sent: 2, lost: 2, ..Tally::default() };
        tally.came(0);
        assert_eq!((tally.received, tally.lost, tally.reordered), (1, 1, 0));
    }
}
