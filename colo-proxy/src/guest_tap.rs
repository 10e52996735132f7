//! The guest's TAP: whether it is there, and whether our programs are on it.
//!
//! QEMU makes it and removes it with the guest, and a new one comes without our programs. So each task
//! that serves a guest watches its TAP, and attaches the programs again when it is back.

use crate::error_chain::chain;
use crate::link::{Link, LinkError, LinkEvent, LinkWatch};

/// Whether the guest's TAP is there and in our hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TapState {
    /// There is no TAP of this name.
    Gone,
    /// There is one, and our programs are not on it.
    Unguarded,
    /// Our programs are on it.
    Guarded,
}

/// How the TAP stands, and its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GuestTapState {
    Absent,
    /// Our programs are not on it: its frames pass unseen, or are lost.
    Unguarded(Link),
    /// Our programs are on it.
    Guarded(Link),
}

/// The TAP of one guest.
#[derive(Debug)]
pub(crate) struct GuestTap {
    /// The instance or filter that serves the guest, for the log.
    instance: String,
    netdev: String,
    /// Frames that at least have to find room in its queue.
    queue_frames: u32,
    watch: LinkWatch,
    state: GuestTapState,
    unguarded_frames: u64,
}

impl GuestTap {
    /// Finds the TAP, which has to be there, and watches it from then on. Returns its index, too. It
    /// is to have room for `queue_frames`; for 0 its queue stays as it is.
    pub(crate) async fn find(netdev: &str, queue_frames: u32) -> Result<(Self, u32), LinkError> {
        let (watch, link) = LinkWatch::start(netdev).await?;
        let tap = Self {
            instance: netdev.to_owned(),
            netdev: netdev.to_owned(),
            queue_frames,
            watch,
            state: GuestTapState::Unguarded(link),
            unguarded_frames: 0,
        };
        Ok((tap, link.ifindex))
    }

    /// The programs of `instance` are on the TAP, for the first time.
    pub(crate) async fn on_guarded(&mut self, instance: &str) {
        instance.clone_into(&mut self.instance);
        if let Some(link) = self.link() {
            self.lengthen_queue(link).await;
            self.state = GuestTapState::Guarded(link);
        }
    }

    /// The TAP as it was when it came; `None` while it is gone.
    pub(crate) fn link(&self) -> Option<Link> {
        match self.state {
            GuestTapState::Absent => None,
            GuestTapState::Unguarded(link) | GuestTapState::Guarded(link) => Some(link),
        }
    }

    /// How the TAP stands, for `status`.
    pub(crate) fn state(&self) -> TapState {
        match self.state {
            GuestTapState::Absent => TapState::Gone,
            GuestTapState::Unguarded(_) => TapState::Unguarded,
            GuestTapState::Guarded(_) => TapState::Guarded,
        }
    }

    /// The guest's output is not read, although the programs are on the TAP: it is lost.
    pub(crate) fn on_unread(&mut self) {
        if let GuestTapState::Guarded(link) = self.state {
            self.state = GuestTapState::Unguarded(link);
        }
    }

    /// Frames of a TAP that came back, which passed before our programs were on it.
    pub(crate) fn unguarded_frames(&self) -> u64 {
        self.unguarded_frames
    }

    /// The interfaces of this namespace as they are now.
    pub(crate) fn links(&self) -> &LinkWatch {
        &self.watch
    }

    /// A process has the other end open: QEMU, while the guest lives.
    pub(crate) async fn is_open(&self) -> bool {
        self.watch.get().await.is_some_and(|link| link.is_open)
    }

    /// Waits until the TAP goes or comes. Can be dropped without losing an event.
    pub(crate) async fn next_event(&mut self) -> LinkEvent {
        self.watch.next().await
    }

    /// The TAP went or came. `attach` puts the programs on the interface with an index. Returns
    /// whether they are on a new one.
    pub(crate) async fn on_event<E>(
        &mut self,
        event: LinkEvent,
        attach: impl FnOnce(u32) -> Result<(), E>,
    ) -> bool
    where
        E: std::error::Error + From<LinkError> + 'static,
    {
        let (name, netdev) = (self.instance.clone(), self.netdev.clone());
        let LinkEvent::Arrived(link) = event else {
            self.state = GuestTapState::Absent;
            log::warn!(
                "{name}: {netdev} is gone, and the guest with it. The programs are attached again \
                 as soon as it is back"
            );
            return false;
        };
        self.state = GuestTapState::Unguarded(link);
        match self.guard_again(link, attach).await {
            Ok(passed) => {
                self.unguarded_frames += passed;
                self.state = GuestTapState::Guarded(link);
                log::info!("{name}: {netdev} is back, and the programs are attached again");
                true
            }
            // Mostly it went again at once: the next one is tried like this one.
            Err(error) => {
                log::error!(
                    "{name}: the programs are not attached to the new {netdev}: {}. The guest is not \
                     guarded until its TAP is made again: restart the guest",
                    chain(&error)
                );
                false
            }
        }
    }

    /// Says how many frames of the new TAP passed before the programs were on it. The TAP is down
    /// meanwhile: a frame can pass only between its making and our taking it down.
    async fn guard_again<E: From<LinkError>>(
        &self,
        link: Link,
        attach: impl FnOnce(u32) -> Result<(), E>,
    ) -> Result<u64, E> {
        if link.up {
            self.watch.set_up(link.ifindex, false).await?;
        }
        attach(link.ifindex)?;
        self.lengthen_queue(link).await;
        let passed = self.watch.get().await.map_or(0, |link| link.rx_frames);
        if link.up {
            self.watch.set_up(link.ifindex, true).await?;
        }
        Ok(passed)
    }

    async fn lengthen_queue(&self, link: Link) {
        if let Err(error) = self.watch.raise_queue(link, self.queue_frames).await {
            log::warn!(
                "{}: {}. A guest that is slow for a moment may lose input",
                self.instance,
                chain(&error)
            );
        }
    }

    /// Brings the TAP up, if it is there: an earlier daemon may have taken it down.
    pub(crate) async fn bring_up(&self) -> Result<(), LinkError> {
        match self.link() {
            Some(link) => self.watch.set_up(link.ifindex, true).await,
            None => Ok(()),
        }
    }

    /// Takes the TAP down, if it is there: nothing of this guest is to reach the network.
    pub(crate) async fn take_down(&self) -> Result<(), LinkError> {
        let Some(link) = self.link() else { return Ok(()) };
        self.watch.set_up(link.ifindex, false).await?;
        log::warn!(
            "{}: {} is down, to keep this guest off the network",
            self.instance,
            self.netdev
        );
        Ok(())
    }
}
