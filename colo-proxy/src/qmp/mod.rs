//! The QEMU Machine Protocol: how a running QEMU is asked and told, and what it says by itself.
//!
//! JSON, one object a line (QEMU's `qmp-spec`). [`message`] reads what QEMU writes, [`client`] keeps
//! a connection: it negotiates, numbers the commands, and connects again when QEMU is gone.
//! Messages that we do not know are passed over: a later QEMU says more.

mod client;
mod message;

pub(crate) use client::{Client, Incoming};
pub(crate) use message::{Refusal, Version};
