//! The compared content of a frame, for a caller that has to know which frames are equal.

use colo_proxy_common::decode::Tcp;
use colo_proxy_common::record::FlowKey;

use super::body::DatagramBytes;
use super::classify::{FrameSubject, classify, fragment_body};
use crate::frame::Frame;

/// The content that the engine compares.
#[derive(Debug)]
pub enum Content<'a> {
    /// A segment of the connection, whose fields are compared by their place in its streams.
    Tcp(FlowKey, Tcp),
    /// A datagram, or one fragment of a packet, which is compared as a whole.
    Datagram(DatagramContent<'a>),
}

/// Datagrams with the same content are the same.
#[derive(Debug, PartialEq, Eq)]
pub struct DatagramContent<'a> {
    /// The flow. Only datagrams of one flow are compared.
    pub name: FlowKey,
    /// The bytes that count.
    pub parts: [&'a [u8]; 2],
    /// A length, or the place of a fragment.
    pub label: u32,
}

/// The content of `frame`; `None` where it is not compared, or is more than one datagram, which no
/// frame without a virtio-net header is.
pub fn content(frame: &Frame) -> Option<Content<'_>> {
    let (name, datagram) = match classify(frame).0 {
        FrameSubject::Uncompared(_) => return None,
        FrameSubject::Tcp(name, tcp) => return Some(Content::Tcp(name, tcp)),
        FrameSubject::Datagram(name, body) => (name, body.single()?),
        FrameSubject::Fragment(name, fragment) => (name, fragment_body(&fragment).single()?),
    };
    let DatagramBytes { label, .. } = datagram;
    let parts = datagram.parts(datagram.octets(frame.ethernet()));
    Some(Content::Datagram(DatagramContent { name, parts, label }))
}
