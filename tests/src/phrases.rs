//! The daemon's words that a test looks for, in one place.
//!
//! A log line or an error may be reworded. Then only this file changes. Each constant is the
//! shortest part of the line that says its fact. Names of counters and of options are not here,
//! unless a test needs one with its number.

/// The daemon, a filter or the engine accepts what comes.
pub const READY: &str = "ready";
/// The beginning of an error that ends the daemon.
pub const ERROR: &str = "colo-proxy: error: ";
/// The hint below an error for which root is missing.
pub const HINT_ROOT: &str = "\nhint: run as root";
/// Output leaves without a comparison: a peer is lost, or a filter has given up its peer.
pub const UNPROTECTED: &str = "UNPROTECTED";
/// The last line of a filter or of the engine, with its counters.
pub const ENDED: &str = "ended:";

/// The words of `mode` in `status`.
pub mod mode {
    pub const PROTECTED: &str = "protected";
    pub const UNPROTECTED: &str = "unprotected";
    /// The secondary's guest serves the clients.
    pub const SERVING: &str = "serving";
    /// The secondary has taken over from this primary.
    pub const TAKEN_OVER: &str = "taken-over";
    /// The primary holds its output until somebody does something.
    pub const HELD: &str = "held";
    /// The secondary has not met a primary.
    pub const STANDBY: &str = "standby";
    /// The primary is not heard, and the secondary can take over.
    pub const PEER_LOST: &str = "peer-lost";
    /// A rewriter that translates only the connections that it knows.
    pub const REWRITER_FAILED_OVER: &str = "failed-over";
    /// A filter has no peer.
    pub const FILTER_WAITING: &str = "waiting";
    /// A filter has given up its peer.
    pub const FILTER_BROKEN: &str = "broken";
    pub const FILTER_TRANSLATING: &str = "translating";
}

/// `colo-proxy colo-compare`.
pub mod compare {
    /// The secondary is there again.
    pub const PROTECTED: &str = "colo-compare: protected";
    /// The process ends and lets all held output leave.
    pub const RELEASES_UNPROTECTED: &str = "protection is off; releasing";
    /// An endpoint has a listener already.
    pub const ALREADY_LISTENED_ON: &str = "already listened on";
    /// Follows an endpoint's name: its peer has not connected.
    pub const NO_CONNECTION_YET: &str = ": no connection yet";
    /// Nobody read the last frame from `outdev` before the process ended.
    pub const ONE_FRAME_NOT_TAKEN: &str = "nobody took the last 1 frames";
    /// The reason of a request: only the secondary has sent something.
    pub const SECONDARY_ONLY: &str = "secondary-only";
    /// `notify_dev` received a message that has no meaning; the message follows in quotes.
    pub const UNKNOWN_MESSAGE: &str = "unknown message";
    /// A checkpoint is needed, and `notify_dev` has no connection.
    pub const NO_PEER_TO_ASK: &str = "no peer to ask yet";
    /// A checkpoint is needed and cannot be requested.
    pub const HOLD_CONTINUES: &str = "held output stays held (payload)";
    /// `outdev` takes released frames more slowly than they come.
    pub const OUTDEV_SLOW: &str = "what is released waits";
    /// The counter of a record that its connection's end truncated.
    pub const TRUNCATED_ONCE: &str = "bad.primary_in.truncated 1";
}

/// `colo-proxy filter-mirror`, `filter-redirector` and `filter-rewriter`.
pub mod filter {
    pub const NO_INTERFACE: &str = "no such interface";
    pub const NOT_A_TAP: &str = "is not a TAP";
    pub const NEEDS_AN_ENDPOINT: &str = "needs --indev, --outdev or both";
    pub const SAME_ENDPOINT: &str = "are the same endpoint";
    pub const BOTH_DIRECTIONS: &str = "both directions";
    pub const ONLY_TX_OR_RX: &str = "expected tx";
    pub const BAD_ID: &str = "is no id";
    pub const BAD_ENDPOINT: &str = "expected unix:PATH";
    /// Another filter of this kind has the default id.
    pub const NEEDS_AN_ID: &str = "(--id)";
    /// Follows an id that a running filter has.
    pub const RUNS_ALREADY: &str = "is running as pid";
    /// The guest's TAP was made again.
    pub const TAP_IS_BACK: &str = "tap0 is back";
    /// The guest's TAP was removed.
    pub const TAP_IS_GONE: &str = "tap0 is gone";
    /// `status` of a filter whose TAP was removed.
    pub const STATUS_TAP_IS_GONE: &str = "which is gone";
    /// A new process uses the kernel programs of one that was killed.
    pub const TOOK_OVER: &str = "took over";
    /// A rewriter ends and leaves its programs.
    pub const CONNECTIONS_DEPEND: &str = "depend on translation";
    /// The answer of `failover` to a rewriter.
    pub const STAY_TRANSLATED: &str = "stay translated";
    /// The answer of `failover` to another filter.
    pub const NO_FAILOVER: &str = "does not fail over";
    /// The answer of `divergences` to a filter.
    pub const NO_COMPARISON: &str = "a filter does not compare";
    /// The peer read too little for too long.
    pub const READS_TOO_SLOWLY: &str = "reads too slowly";
    /// A redirector ended.
    pub const PASSES_AGAIN: &str = "passes again";
    /// A filter ended without having had a frame.
    pub const ENDED_WITHOUT_FRAMES: &str = "ended: nothing came";
    /// `status` without any instance.
    pub const NO_INSTANCE: &str = "no instance is running\n";
    pub const STATUS_QUEUE_TX: &str = "  queue tx";
    /// Follows the endpoint of an `outdev` that nobody has connected to.
    pub const STATUS_NO_PEER: &str = ": no peer, sent 0 frames";
    pub const STATUS_NO_FLOWS: &str = "  epoch 0, 0 flows, held 0 frames (0 bytes)";
    /// A filter or the engine says that a checkpoint is needed.
    pub const CHECKPOINT_NEEDED: &str = "checkpoint is needed";
}

/// A takeover, and QEMU under COLO.
pub mod takeover {
    pub const NO_FENCE_AND_NO_QUORUM: &str = "neither fence nor quorum is configured";
    pub const REFUSED: &str = "not taking over";
    /// The secondary's guest has not the primary's state.
    pub const NOT_EQUAL: &str = "this guest is not its equal";
    /// The primary learned that the other guest serves the clients.
    pub const SECONDARY_HAS_TAKEN_OVER: &str = "the secondary has taken over";
    /// Why `protect` is refused: the other guest takes over.
    pub const PEER_TAKES_OVER: &str = "takes over from this guest";
    /// Why `failover` of a secondary is refused.
    pub const PRIMARY_HEARD: &str = "the primary's daemon is connected";
    /// Why `failover` of a primary is refused.
    pub const OTHER_HOST: &str = "the other host has taken over";
    /// A takeover waits for the disk.
    pub const NO_RECORD: &str = "the record of who serves is not on the disk";
    pub const QEMU_TOO_OLD: &str = "install QEMU 11.1 or newer";
    /// `protect` is refused because of the QEMU.
    pub const CANNOT_PROTECT: &str = "cannot protect: QEMU";
}

/// `colo-proxy offsets import`.
pub mod offsets {
    pub const IMPORTED: &str = "imported";
    pub const ONE_KNOWN_ALREADY: &str = "1 of them were known";
    /// The file's first line promises a connection that does not follow.
    pub const PROMISES_ONE: &str = "promises 1";
    pub const SAME_CONNECTION_AGAIN: &str = "line 3: the connection of line 2 again";
    pub const LINE_TOO_LONG: &str = "line 3: longer than";
    pub const UNREADABLE: &str = "cannot be read";
}

/// `colo-proxy divergences`.
pub mod divergences {
    /// The secondary's answer.
    pub const PRIMARY_COMPARES: &str = "the primary's daemon compares";
    /// The summary of a divergence, with the place of the first byte that differs.
    pub fn payload_differs_at(place: u64) -> String {
        format!("payload: byte {place} differs")
    }
}

/// Reading the guest's output, and the data path.
pub mod capture {
    pub const TOO_MANY_QUEUES: &str = "tap0 has more than 16 receive queues";
    pub const NO_NATIVE_XDP: &str = "native XDP";
    pub const ANOTHER_PROGRAM: &str = "another XDP program";
    /// The system call that failed.
    pub const BIND: &str = "bind";
    /// The hint when the interface is not a TAP.
    pub const HINT_TAP: &str = "TAP";
    /// The hint when an older program has left its maps.
    pub const HINT_REMOVE: &str = "remove";
    /// Why the kernel lane is not used: what its MTU has to be.
    pub const MTU_NEEDED: &str = "needs 1550";
}

/// `quick_ack` in `status`: why the daemon makes no route.
pub mod quick_ack {
    /// A host route to the peer is there and is not the daemon's.
    pub const LEFT_ALONE: &str = "left alone";
    pub const HAS_QUICKACK: &str = "has quickack already";
}
