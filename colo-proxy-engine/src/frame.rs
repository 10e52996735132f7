//! One frame as it was read: an optional virtio-net header, then Ethernet.

use bytes::Bytes;

/// Length of the virtio-net header that our gates use (`struct virtio_net_hdr_mrg_rxbuf`).
pub const VNET_HDR_LEN: usize = 12;
/// QEMU's `NET_BUFSIZE`: the longest record either end of a lane accepts, header included.
pub const FRAME_MAX: usize = 4096 + 65536;

/// A frame held by reference to the buffer that it was read into; cloning copies no byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    vnet_len: u8,
}

impl Frame {
    /// Takes `bytes`, of which the first `vnet_len` are a virtio-net header; `None` where they are
    /// fewer than that.
    #[inline]
    pub fn new(bytes: Bytes, vnet_len: usize) -> Option<Self> {
        let vnet_len = u8::try_from(vnet_len).ok()?;
        (bytes.len() >= usize::from(vnet_len)).then_some(Self { bytes, vnet_len })
    }

    /// The frame from its Ethernet header on.
    #[inline]
    pub fn ethernet(&self) -> &[u8] {
        self.bytes.get(usize::from(self.vnet_len)..).unwrap_or_default()
    }

    /// The virtio-net header; empty where there is none.
    #[inline]
    pub fn vnet(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.vnet_len)).unwrap_or_default()
    }

    /// Bytes of payload in each UDP datagram, where the virtio-net header leaves cutting the frame
    /// to the device (`VIRTIO_NET_HDR_GSO_UDP_L4`). The older `VIRTIO_NET_HDR_GSO_UDP` asks for
    /// fragments of one datagram.
    pub fn udp_segment_size(&self) -> Option<u16> {
        const GSO_UDP_L4: u8 = 5;
        const GSO_ECN: u8 = 0x80;
        // flags, gso_type, hdr_len, gso_size, ...: little-endian, as virtio 1 has it and every
        // host that we run on.
        let [_, gso_type, _, _, s0, s1, ..] = *self.vnet() else { return None };
        (gso_type & !GSO_ECN == GSO_UDP_L4).then(|| u16::from_le_bytes([s0, s1]))
    }

    /// The same frame without its virtio-net header.
    #[must_use]
    pub fn plain(&self) -> Self {
        Self { bytes: self.bytes.slice(self.vnet().len()..), vnet_len: 0 }
    }

    /// The same frame in memory of its own, if it is short: one that is kept for long must not keep
    /// the read buffer of a hundred others.
    #[must_use]
    pub fn compact(&self) -> Self {
        const SHORT: usize = 2048;
        let bytes = if self.bytes.len() <= SHORT {
            Bytes::copy_from_slice(&self.bytes)
        } else {
            self.bytes.clone()
        };
        Self { bytes, vnet_len: self.vnet_len }
    }

    /// Header and frame, as they were read.
    #[inline]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes of this frame in memory.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// There is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The part `range` of the Ethernet frame, sharing the buffer.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Bytes {
        let start = usize::from(self.vnet_len);
        let end = (start + range.end).min(self.bytes.len());
        self.bytes.slice((start + range.start).min(end)..end)
    }
}
