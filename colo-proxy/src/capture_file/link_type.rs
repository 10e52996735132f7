//! Link types that may be captured by mistake.

/// The link type of guests.
pub(super) const ETHERNET: u16 = 1;

/// The name of a link type, as operators know it.
pub(super) fn name(link_type: u16) -> &'static str {
    match link_type {
        0 => "BSD loopback",
        ETHERNET => "Ethernet",
        12 | 14 | 101 => "raw IP, without Ethernet headers",
        105 => "802.11",
        113 => "Linux cooked, as of -i any",
        127 => "802.11 with radiotap",
        228 => "raw IPv4, without Ethernet headers",
        229 => "raw IPv6, without Ethernet headers",
        253 => "netlink",
        276 => "Linux cooked v2, as of -i any",
        _ => "an unknown one",
    }
}
