//! Whether the peer of `outdev` keeps up. A small state machine without I/O or a clock.

/// Where the connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OutdevState {
    /// There is no peer, or none yet: frames for it are dropped and counted.
    #[default]
    Waiting,
    Connected,
    /// The peer stopped reading, or read too slowly, so that frames were lost in the middle of its
    /// stream. So it does not protect the guest any more.
    Broken,
}

impl OutdevState {
    pub(super) fn on_up(&mut self) {
        *self = Self::Connected;
    }

    /// The connection ended; `broken` if that was because the peer did not keep up.
    pub(super) fn on_down(&mut self, broken: bool) {
        *self = if broken { Self::Broken } else { Self::Waiting };
    }
}

#[cfg(test)]
mod tests {
    use super::OutdevState;

    #[test]
    fn it_is_broken_from_a_break_until_a_peer_connects() {
        let mut outlet = OutdevState::default();
        assert_eq!(outlet, OutdevState::Waiting);
        outlet.on_up();
        outlet.on_down(false);
        assert_eq!(outlet, OutdevState::Waiting, "a peer that closes has broken nothing");
        outlet.on_up();
        outlet.on_down(true);
        assert_eq!(outlet, OutdevState::Broken);
        outlet.on_up();
        assert_eq!(outlet, OutdevState::Connected);
    }
}
