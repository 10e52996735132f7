//! QEMU's own filters at the other end of a socket, and beside ours. They are an oracle that needs
//! no guest.
//!
//! A hub joins two sockets in a QEMU: the network's end and the guest's end. QEMU's filter is on
//! the socket that stands for the TAP.

use std::process::Command;

use anyhow::{Context as _, Result};
use colo_lab::colo_compare::{Listener, Socket};
use colo_lab::lab_test;
use colo_lab::process::{Process, eventually};

use crate::rewriter::{GUEST_ISN, PEER_ISN, Segment, WIRE_ISN, segment};
use crate::stand::{Stand, TIMEOUT, Way, end, named, receive, wait_mode};
use crate::tap::VNET_HDR_LEN;

/// A QEMU with one filter and the test at both of its ends.
struct Qemu {
    process: Process,
    net: Socket,
    guest: Socket,
}

impl Qemu {
    /// `chardev` is the address of the filter's socket. `object` is the filter, on `netdev=net`.
    fn start(chardev: Option<&str>, object: &str) -> Result<Self> {
        let mut command = Command::new("qemu-system-x86_64");
        // It is not stopped (`-S`), because then nothing would pass the hub.
        command.args(["-machine", "none", "-nodefaults", "-display", "none"]);
        // The ports were free a moment ago. The kernel gives them to nobody else soon. (QEMU 7.2
        // with `-netdev stream` sometimes crashes on a frame that comes early.)
        let ports = [free_port()?, free_port()?];
        for (id, port) in ["net", "guest"].into_iter().zip(ports) {
            command.args(["-netdev", &format!("socket,id={id},listen=127.0.0.1:{port}")]);
            command.args(["-netdev", &format!("hubport,id=h{id},hubid=0,netdev={id}")]);
        }
        if let Some(chardev) = chardev {
            command.args(["-chardev", &format!("socket,id=dev,{chardev}")]);
        }
        command.args(["-object", object]);
        let process = Process::spawn("qemu", command, &[])?;
        let connect = |port| {
            eventually("a QEMU that takes connections", TIMEOUT, || {
                Ok(Socket::tcp(port, false).ok())
            })
            .with_context(|| process.stderr())
        };
        let (net, guest) = (connect(ports[0])?, connect(ports[1])?);
        Ok(Self { process, net, guest })
    }

    /// Sends a frame in this direction until it arrives at the other end, because QEMU accepts
    /// connections late.
    fn warm_up(&mut self) -> Result<()> {
        for way in [Way::Tx, Way::Rx] {
            let warm = named("warm");
            eventually("a frame through QEMU", TIMEOUT, || {
                let (from, to) = self.ends(way);
                from.send(&warm)?;
                Ok(to.receive(std::time::Duration::from_millis(200)).ok())
            })
            .with_context(|| {
                format!("{way:?}: {:?} {}", self.process.exited(), self.process.stderr())
            })?;
        }
        Ok(())
    }

    fn ends(&mut self, way: Way) -> (&mut Socket, &mut Socket) {
        match way {
            Way::Tx => (&mut self.net, &mut self.guest),
            Way::Rx => (&mut self.guest, &mut self.net),
        }
    }
}

fn free_port() -> Result<u16> {
    Listener::tcp()?.port()?.context("a TCP listener has a port")
}

fn word(way: Way) -> &'static str {
    if way == Way::Tx { "tx" } else { "rx" }
}

fn support(vnet_hdr: bool) -> &'static str {
    if vnet_hdr { ",vnet_hdr_support=on" } else { "" }
}

/// QEMU's redirector injects the frames that our mirror sends.
#[lab_test(root, qemu)]
fn our_mirror_speaks_to_qemus_redirector() -> Result<()> {
    let stand = Stand::new()?;
    for vnet_hdr in [false, true] {
        let socket = stand.path("m");
        let chardev = format!("path={},server=on,wait=off", socket.display());
        let object =
            format!("filter-redirector,id=f,netdev=net,queue=tx,indev=dev{}", support(vnet_hdr));
        let mut qemu = Qemu::start(Some(&chardev), &object)?;
        qemu.warm_up()?;
        let out = stand.client("m");
        let mut arguments = vec!["--queue", "tx", "--outdev", &out];
        arguments.extend(vnet_hdr.then_some("--vnet-hdr-support"));
        let mirror = stand.filter("mirror", &arguments)?;
        wait_mode(&mirror, "connected")?;
        for i in 0..20 {
            let name = format!("frame {i}");
            stand.passes(Way::Tx, &name);
            // QEMU's socket has no header of its own, and QEMU converts none.
            let header: &[u8] = if vnet_hdr { &[0; VNET_HDR_LEN] } else { &[] };
            receive(&mut qemu.guest, &[header, &named(&name)].concat())
                .with_context(|| qemu.process.stderr())?;
        }
        end(mirror)?;
    }
    Ok(())
}

/// Our redirector injects the frames of QEMU's mirror, and also the frames that QEMU's redirector
/// captures.
#[lab_test(root, qemu)]
fn our_redirector_takes_from_qemus_mirror_and_redirector() -> Result<()> {
    let stand = Stand::new()?;
    for vnet_hdr in [false, true] {
        for (kind, way) in [("mirror", Way::Tx), ("redirector", Way::Rx)] {
            let queue = word(way);
            let input = stand.server("in");
            let mut arguments = vec!["--queue", queue, "--indev", &input];
            arguments.extend(vnet_hdr.then_some("--vnet-hdr-support"));
            let redirector = stand.filter("redirector", &arguments)?;
            let chardev = format!("path={},reconnect=1", stand.path("in").display());
            let object = format!(
                "filter-{kind},id=f,netdev=net,queue={queue},outdev=dev{}",
                support(vnet_hdr)
            );
            let mut qemu = Qemu::start(Some(&chardev), &object)?;
            wait_mode(&redirector, "connected")?;
            let begin = named("begin");
            // The filter captures it after QEMU has accepted the connection at this end.
            eventually("a frame by way of QEMU", TIMEOUT, || {
                qemu.ends(way).0.send(&begin)?;
                let came = stand.arrived(way).contains(&begin);
                Ok(came.then_some(()))
            })?;
            for i in 0..20 {
                let frame = named(&format!("frame {i}"));
                qemu.ends(way).0.send(&frame)?;
                stand.arrives(way, &frame);
            }
            end(redirector)?;
        }
    }
    Ok(())
}

/// Our redirector in the place of QEMU's, with a QEMU that injects the frames that ours has
/// captured.
#[lab_test(root, qemu)]
fn our_redirector_sends_to_qemus() -> Result<()> {
    let stand = Stand::new()?;
    let chardev = format!("path={},server=on,wait=off", stand.path("r").display());
    let object = "filter-redirector,id=f,netdev=net,queue=rx,indev=dev";
    let mut qemu = Qemu::start(Some(&chardev), object)?;
    qemu.warm_up()?;
    let out = stand.client("r");
    let redirector = stand.filter("redirector", &["--queue", "rx", "--outdev", &out])?;
    wait_mode(&redirector, "connected")?;
    for i in 0..20 {
        let frame = named(&format!("frame {i}"));
        stand.send(Way::Rx, &frame);
        receive(&mut qemu.net, &frame)?;
    }
    assert!(stand.arrived(Way::Rx).is_empty());
    end(redirector)?;
    Ok(())
}

/// A connection that the peer opens, as it is at either end, with a part of the conversation that
/// QEMU translates correctly.
fn conversation() -> Vec<Segment> {
    let wire = WIRE_ISN.wrapping_add(1);
    vec![
        segment(Way::Tx, PEER_ISN, 0).syn().without_ack(),
        segment(Way::Rx, GUEST_ISN, PEER_ISN + 1).syn(),
        segment(Way::Tx, PEER_ISN + 1, wire),
        segment(Way::Tx, PEER_ISN + 1, wire).data(b"ask"),
        segment(Way::Rx, GUEST_ISN + 1, PEER_ISN + 4),
        segment(Way::Rx, GUEST_ISN + 1, PEER_ISN + 4).data(b"answer"),
        segment(Way::Tx, PEER_ISN + 4, wire.wrapping_add(6)),
    ]
}

/// Both rewriters translate the same conversation to the same bytes.
#[lab_test(root, qemu)]
fn our_rewriter_translates_as_qemus() -> Result<()> {
    let stand = Stand::new()?;
    let mut qemu = Qemu::start(None, "filter-rewriter,id=f,netdev=net,queue=all")?;
    qemu.warm_up()?;
    let rewriter = stand.filter("rewriter", &[])?;
    let mut changed = 0;
    for (i, segment) in conversation().into_iter().enumerate() {
        let frame = segment.build();
        let (from, to) = qemu.ends(segment.way);
        from.send(&frame)?;
        let mut qemus = to.receive(TIMEOUT)?;
        while qemus == named("warm") {
            qemus = to.receive(TIMEOUT)?;
        }
        stand.send(segment.way, &frame);
        let ours = stand.end(segment.way).read_until(|_| true).split_off(VNET_HDR_LEN);
        assert_eq!(ours, qemus, "segment {i}");
        changed += u32::from(ours != frame);
    }
    assert_eq!(changed, 5, "after the handshake all are translated");
    drop(rewriter);
    Ok(())
}
