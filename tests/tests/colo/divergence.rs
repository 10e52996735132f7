//! Real guests that do not say the same: a checkpoint makes them equal, and then the primary's
//! answer leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use colo_lab::client::{Calls, Conversation};
use colo_lab::network::Family;

use super::parts::{Pair, Parts, Primary, Secondary};

const TIMEOUT: Duration = Duration::from_secs(20);
/// On each connection.
const DIFFERENCES: usize = 3;

#[test]
fn each_difference_costs_one_checkpoint_and_the_connection_goes_on() -> Result<()> {
    let parts = Parts { primary: Primary::Ours, secondary: Secondary::Ours, vnet_hdr: true };
    let Some(pair) = Pair::start(parts)? else { return Ok(()) };
    differ(&pair).with_context(|| pair.logs())
}

fn differ(pair: &Pair) -> Result<()> {
    let before = pair.primary_daemon()?.status()?.checkpoints();
    let mut answers = Vec::new();
    for family in Family::BOTH {
        let opened = Conversation::open(&pair.lab.client, family)?;
        for mut conversation in [opened, Calls::new(&pair.lab.client, family)?.call()?] {
            for _ in 0..DIFFERENCES {
                conversation.ask(1000)?;
                answers.push(conversation.clock(500)?);
                conversation.ask(1000).context("after a difference")?;
            }
            conversation.close()?;
        }
    }
    answers.sort();
    println!("{} answers in which the guests differ, in order of time: {answers:?}", answers.len());
    let daemon = pair.primary_daemon()?;
    let status = daemon.wait_status("nothing held", TIMEOUT, |status| {
        status.number("held_frames").is_ok_and(|held| held == 0)
    })?;
    let asked: BTreeMap<String, u64> = status
        .checkpoints()
        .into_iter()
        .map(|(reason, count)| {
            let earlier = before.get(&reason).copied().unwrap_or_default();
            (reason, count.saturating_sub(earlier))
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    println!("checkpoints asked for: {asked:?}");
    let expected = BTreeMap::from([("payload".to_owned(), answers.len() as u64)]);
    ensure!(asked == expected, "{asked:?}");
    ensure!(status.mode()? == "protected");
    println!("pauses in us: {}", status.0["detail"]["colo_frame"]["pause_us"]);
    Ok(())
}
