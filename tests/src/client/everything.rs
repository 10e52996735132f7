//! Every kind of traffic once, with every byte checked.

use anyhow::Result;

use super::{Calls, Conversation, echo, ping};
use crate::namespace::Namespace;
use crate::network::Family;

/// Requests of many lengths, bulk in both directions, a connection that the guest opens, UDP and ICMP
/// echo.
pub fn everything(client: &Namespace, family: Family) -> Result<()> {
    let mut conversation = Conversation::open(client, family)?;
    for len in [1, 100, 1448, 5000, 200_000] {
        conversation.ask(len)?;
        conversation.echo(len)?;
    }
    conversation.down(5_000_000)?;
    conversation.up(5_000_000)?;
    conversation.close()?;
    let mut called = Calls::new(client, family)?.call()?;
    called.ask(3000)?;
    called.down(1_000_000)?;
    called.close()?;
    for len in [64, 1400] {
        echo(client, family, 20, len)?;
        ping(client, family, 5, len)?;
    }
    Ok(())
}
