//! Answers every request as done at once, and copies nothing: for laboratories and benchmarks.

use std::collections::VecDeque;
use std::task::Poll;

use super::{ColoFrame, ColoFrameCommand, ColoFrameEvent, NextEvent};
use crate::status::ColoFrameReport;

#[derive(Debug, Default)]
pub(super) struct Instant {
    due: VecDeque<ColoFrameEvent>,
}

impl ColoFrame for Instant {
    fn command(&mut self, command: &ColoFrameCommand) {
        // One request is outstanding at a time, so two events are the most that wait.
        if matches!(command, ColoFrameCommand::RequestCheckpoint { .. }) && self.due.is_empty() {
            self.due.push_back(ColoFrameEvent::CheckpointBegan);
            self.due
                .push_back(ColoFrameEvent::CheckpointDone { state_copied: false, covers: true });
        }
    }

    fn next_event(&mut self) -> NextEvent<'_> {
        // Taken when it is polled: a future that is dropped before that must not lose an event.
        Box::pin(std::future::poll_fn(|_| match self.due.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }))
    }

    fn report(&self) -> ColoFrameReport {
        ColoFrameReport::Instant
    }
}
