//! The lab without a proxy: traffic through the TAPs is right with all offloads of the guests. A
//! fault of the lab must not look like a fault of the proxy.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use colo_lab::client::{Calls, Conversation, Keeper, echo, ping};
use colo_lab::counters::{self, checksum_errors};
use colo_lab::guest::{GuestOptions, StandInGuest};
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide, Lab, LabOptions};
use colo_lab::stand_in::tap::TapOffloads;

fn everything(lab: &Lab, guest: &mut StandInGuest) -> Result<()> {
    for family in Family::BOTH {
        let mut conversation = Conversation::open(&lab.client, family)?;
        for len in [1, 100, 1448, 5000, 200_000] {
            conversation.ask(len)?;
            conversation.echo(len)?;
        }
        conversation.down(3_000_000)?;
        conversation.up(3_000_000)?;
        conversation.close()?;
        let mut called = Calls::new(&lab.client, family)?.call()?;
        called.ask(3000)?;
        called.close()?;
        for len in [64, 1400, 4000] {
            echo(&lab.client, family, 20, len)?;
            ping(&lab.client, family, 5, len)?;
        }
    }
    for (whose, counters) in
        [("client", counters::read(&lab.client)?), ("guest", guest.counters()?)]
    {
        assert_eq!(checksum_errors(&counters), [], "{whose}");
    }
    let counts = guest.stand_in.counts()?;
    assert_eq!((counts.to_guest.bad_sums, counts.from_guest.bad_sums), (0, 0), "{counts:#?}");
    Ok(())
}

fn plain(side: HostSide, offloads: TapOffloads, options: LabOptions) -> Result<()> {
    let lab = Lab::new(options)?;
    let mut guest = StandInGuest::start(&lab, side, GuestOptions::of(side, offloads))?;
    everything(&lab, &mut guest)?;
    let counts = guest.stand_in.counts()?;
    let gso = counts.from_guest.gso > 0;
    assert_eq!(gso, offloads != TapOffloads::Off, "{counts:#?}");
    Ok(())
}

#[lab_test(root)]
fn with_offloads() -> Result<()> {
    plain(HostSide::Primary, TapOffloads::On, LabOptions::default())
}

#[lab_test(root)]
fn without_offloads() -> Result<()> {
    plain(HostSide::Primary, TapOffloads::Off, LabOptions::default())
}

#[lab_test(root)]
fn with_offloads_on_the_wire_too() -> Result<()> {
    let options = LabOptions { real_wire: false, ..LabOptions::default() };
    plain(HostSide::Primary, TapOffloads::Uso, options)
}

#[lab_test(root)]
fn with_shifted_numbers() -> Result<()> {
    plain(HostSide::Secondary, TapOffloads::On, LabOptions::default())
}

#[lab_test(root)]
fn with_shifted_numbers_without_offloads() -> Result<()> {
    plain(HostSide::Secondary, TapOffloads::Off, LabOptions::default())
}

#[lab_test(root)]
fn with_a_tap_of_the_guests_own_and_no_virtio_header() -> Result<()> {
    let options = LabOptions { persistent_tap: false, vnet_hdr: false, ..LabOptions::default() };
    plain(HostSide::Primary, TapOffloads::Off, options)
}

#[lab_test(root)]
fn a_flipped_byte_reaches_the_client_and_is_found() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let mut guest = StandInGuest::start(
        &lab,
        HostSide::Primary,
        GuestOptions::of(HostSide::Primary, TapOffloads::On),
    )?;
    let mut conversation = Conversation::open(&lab.client, Family::V4)?;
    conversation.ask(100)?;
    guest.stand_in.flip(6, 7000, 30)?;
    let error = conversation.ask(100).expect_err("a wrong byte must not pass the client's check");
    assert!(format!("{error:#}").contains("wrong"), "{error:#}");
    let flipped = guest.stand_in.flipped(Duration::from_secs(5))?;
    assert_eq!((flipped.guest_port, flipped.at, flipped.was ^ flipped.is), (7000, 30, 0x20));
    assert_eq!(checksum_errors(&counters::read(&lab.client)?), []);
    Ok(())
}

#[lab_test(root)]
fn connections_survive_loss_and_a_pause() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let mut guest = StandInGuest::start(
        &lab,
        HostSide::Secondary,
        GuestOptions::of(HostSide::Secondary, TapOffloads::On),
    )?;
    lab.lose(20)?;
    let conversation = Conversation::open(&lab.client, Family::V6)?;
    let keeper = Keeper::start(conversation, 3000, Duration::from_millis(1));
    keeper.wait_for_answers(200, Duration::from_secs(30))?;
    guest.stand_in.pause()?;
    std::thread::sleep(Duration::from_millis(300));
    guest.stand_in.resume()?;
    keeper.wait_for_answers(100, Duration::from_secs(30))?;
    let kept = keeper.stop()?;
    assert!(kept.error.is_none(), "{:#?}", kept.error);
    assert!(kept.longest_gap >= Duration::from_millis(300), "{kept:?}");
    let retransmitted = counters::read(&lab.client)?.get("Tcp.RetransSegs").copied();
    assert!(retransmitted > Some(0), "nothing was lost: {retransmitted:?}");
    Ok(())
}

/// The twin of every "no checksum errors": this error is seen.
#[lab_test(root)]
fn a_wrong_checksum_is_seen() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let mut guest = StandInGuest::start(
        &lab,
        HostSide::Primary,
        GuestOptions::of(HostSide::Primary, TapOffloads::Off),
    )?;
    for family in Family::BOTH {
        let before = counters::read(&lab.client)?.get("Tcp.InCsumErrors").copied();
        let mut conversation = Conversation::open(&lab.client, family)?;
        conversation.ask(100)?;
        guest.stand_in.spoil(6, 7000, 30)?;
        // TCP drops the segment and receives it again.
        conversation.ask(100)?;
        let after = counters::read(&lab.client)?.get("Tcp.InCsumErrors").copied();
        assert_eq!(after, before.map(|count| count + 1), "{family:?}");
    }
    Ok(())
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}
