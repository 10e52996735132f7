//! The QEMU Machine Protocol: how a running QEMU is asked and told, and what it says by itself.
//!
//! JSON, one object a line (QEMU's `qmp-spec`). [`message`] reads what QEMU writes, [`client`] keeps
//! a connection: it negotiates, numbers the commands, and connects again when QEMU is gone.
//! Messages that we do not know are passed over: a later QEMU says more. [`schema`] makes small what
//! it says of its own commands.
//!
//! A guest may have taken its QEMU over, so nothing becomes a [`serde_json::Value`], which may take a
//! hundred times the room of its text, before we know that it was asked for and is short.

mod client;
mod message;
mod schema;

pub(crate) use client::{Client, Incoming};
pub(crate) use message::{Refusal, Version};
