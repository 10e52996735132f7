//! The QEMU Machine Protocol: commands to a running QEMU, its answers, and its events.
//!
//! JSON, one object a line (QEMU's `qmp-spec`). [`message`] reads the lines of QEMU. [`client`] has the
//! connection: it negotiates, numbers the commands, and connects again when QEMU is gone. Unknown
//! messages are ignored: a later QEMU has more of them. [`schema`] shortens QEMU's description of its
//! own commands.
//!
//! A hostile guest may control its QEMU. A [`serde_json::Value`] may take a hundred times the memory of
//! its text. So a text becomes one only after we know that we asked for it and that it is short.

mod client;
mod message;
mod schema;

pub(crate) use client::{QmpClient, QmpIncoming};
pub(crate) use message::{QemuVersion, QmpRefusal};
