//! Differences as people read them.

use std::fmt;

use super::divergence::{Context, Divergence, WaitsFor};
use super::reason::Reason;

impl Divergence {
    /// The difference in a few words, without the flow.
    pub fn summary(&self) -> String {
        let (reason, at) = (self.reason, self.stream_offset);
        match (reason, self.waits_for) {
            (Reason::Payload | Reason::Datagram, _) => format!("{reason}: byte {at} differs"),
            (Reason::Timeout, Some(WaitsFor::Datagram)) => {
                format!("{reason}: the secondary did not send this datagram")
            }
            (Reason::Timeout, Some(WaitsFor::Data)) => {
                format!("{reason}: the secondary did not send the same at byte {at}")
            }
            (Reason::Timeout, Some(WaitsFor::Ack)) => {
                format!("{reason}: the secondary did not acknowledge as much, at byte {at}")
            }
            (Reason::Timeout, Some(WaitsFor::ControlBits)) => format!(
                "{reason}: the secondary did not open or end the connection likewise, at byte {at}"
            ),
            (Reason::SecondaryOnly, _) => {
                format!("{reason}: the primary did not send this, at byte {at}")
            }
            _ => format!("{reason} at byte {at}"),
        }
    }
}

/// The bytes in hexadecimal, the differing one in brackets; then as text, because what differs
/// between equal guests is most often a date or a random token.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.bytes.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            if at == self.before {
                write!(f, "{space}[{byte:02x}]")?;
            } else {
                write!(f, "{space}{byte:02x}")?;
            }
        }
        let text = self.bytes.iter().map(|byte| {
            let is_shown = byte.is_ascii_graphic() || *byte == b' ';
            if is_shown { char::from(*byte) } else { '.' }
        });
        write!(f, " |{}|", text.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_is_shown_in_hexadecimal_and_as_text() {
        let context = Context { before: 2, bytes: b"9:31\r\n".to_vec() };
        assert_eq!(context.to_string(), "39 3a [33] 31 0d 0a |9:31..|");
    }
}
