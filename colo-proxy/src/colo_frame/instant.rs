//! Reports every requested checkpoint as done at once, and copies nothing: for laboratories and
//! benchmarks.

use std::collections::VecDeque;
use std::task::Poll;

use super::{ColoFrame, ColoFrameCommand, ColoFrameEvent, NextEvent};
use crate::status::ColoFrameReport;

#[derive(Debug, Default)]
pub(super) struct InstantDriver {
    due: VecDeque<ColoFrameEvent>,
}

impl ColoFrame for InstantDriver {
    fn command(&mut self, command: &ColoFrameCommand) {
        // One request is outstanding at a time, so at most two events wait.
        if matches!(command, ColoFrameCommand::RequestCheckpoint { .. }) && self.due.is_empty() {
            self.due.push_back(ColoFrameEvent::CheckpointBegan);
            self.due
                .push_back(ColoFrameEvent::CheckpointDone { state_copied: false, covers: true });
        }
    }

    fn next_event(&mut self) -> NextEvent<'_> {
        // The event is taken when the future is polled: one that is dropped before must not lose it.
        Box::pin(std::future::poll_fn(|_| match self.due.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }))
    }

    fn report(&self) -> ColoFrameReport {
        ColoFrameReport::Instant
    }
}
