//! Guests that send frames which are too long for any tunnel.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use colo_lab::client::everything;
use colo_lab::lab_test;
use colo_lab::network::Family;
use colo_lab::process::eventually;

use super::{TIMEOUT, by, is_used, start, streamed};

const FROM: u16 = 7008;
const TO: u16 = 7009;
/// The MTU of the guest's TAP, and the length of a datagram that is one byte too long for a
/// tunnel's datagram.
const MTU: u32 = 65_521;
const LEN: usize = 65_480;
/// These frames, each in a slot of its own in which no other frame shows that the tunnel works.
/// They take two seconds. An end that receives nothing closes its tunnel after one second.
const FRAMES: u64 = 40;
/// Longer than a slot.
const PAUSE: Duration = Duration::from_millis(55);

/// These frames go through the stream. None counts as lost, and the tunnel stays open for the
/// others.
#[lab_test(root)]
fn frames_that_no_tunnel_takes_go_by_the_stream() -> Result<()> {
    let pair = start(by("kernel"))?;
    let guests = [&pair.primary_guest, &pair.secondary_guest];
    let mut sockets = Vec::new();
    for guest in guests {
        guest.namespace.ip(&format!("link set eth0 mtu {MTU}\n"))?;
        let from = SocketAddr::new(Family::V4.guest(), FROM);
        let to = SocketAddr::new(Family::V4.client(), TO);
        sockets.push(guest.namespace.run(|| {
            let socket = UdpSocket::bind(from)?;
            socket.connect(to)?;
            Ok(socket)
        })?);
    }
    let before = streamed(&pair.secondary, "secondary_out")?;
    for sent in 1..=FRAMES {
        for socket in &sockets {
            socket.send(&vec![sent as u8; LEN])?;
        }
        eventually("the secondary's on the stream", TIMEOUT, || {
            Ok((streamed(&pair.secondary, "secondary_out")? >= before + sent).then_some(()))
        })?;
        std::thread::sleep(PAUSE);
    }
    for guest in guests {
        guest.namespace.ip("link set eth0 mtu 1500\n")?;
    }
    everything(&pair.lab.client, Family::V4)?;
    pair.expect_no_checkpoints()?;
    for daemon in [&pair.primary, &pair.secondary] {
        let status = daemon.status()?;
        ensure!(is_used(&status), "the tunnel was closed: {status:#?}");
        ensure!(!status.drops().contains_key("lane-lost"), "{status:#?}");
    }
    pair.finish()
}
