//! The compare engine alone, in memory: pairs of equal frames a second.
//!
//! `cargo bench -p colo-proxy --bench engine` prints them (an item is a pair). With
//! `-- --json ../docs/bench/engine.json`, a path from the package, it writes the cost of a pair by
//! the number of flows.

mod load;

use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use colo_proxy_engine::compare::Side;
use colo_proxy_engine::frame::{Frame, VNET_HDR_LEN};
use divan::Bencher;
use divan::counter::ItemsCount;

use self::load::{Bench, Chunk, Load, Order, PAIRS, Says};

const SAMPLES: usize = 500;
const FLOWS: [u32; 4] = [1, 100, 10_000, 100_000];
const SHORT: &[Says] = &[Says::Tcp { payload: 64 }];
const LONG: &[Says] = &[Says::Tcp { payload: 1448 }];
const UDP: &[Says] = &[Says::Udp { payload: 64 }];
/// A server at work: answers of several segments, bare acknowledgments, short answers, and a
/// datagram now and then.
const MIXED: &[Says] = &[
    Says::Tcp { payload: 1448 },
    Says::Tcp { payload: 0 },
    Says::Tcp { payload: 1448 },
    Says::Tcp { payload: 64 },
    Says::Tcp { payload: 1448 },
    Says::Tcp { payload: 0 },
    Says::Tcp { payload: 64 },
    Says::Udp { payload: 64 },
];

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip_while(|arg| arg != "--json").skip(1);
    if let Some(path) = args.next() {
        return write_json(Path::new(&path));
    }
    divan::main();
    Ok(())
}

/// The frames are made before, so that the measured part allocates none.
struct Input {
    chunks: Vec<Chunk>,
    _kept: Vec<Chunk>,
}

impl Input {
    fn new(load: &mut Load) -> Self {
        let kept = load.chunks();
        Self { chunks: kept.clone(), _kept: kept }
    }
}

fn run(bencher: Bencher<'_, '_>, mut load: Load, first: Side) {
    let mut bench = Bench::new(&mut load);
    bencher
        .counter(ItemsCount::new(PAIRS))
        .with_inputs(|| Input::new(&mut load))
        .bench_local_values(|mut input| {
            bench.compare(&mut input.chunks, first);
            input
        });
    bench.check();
}

#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 1)]
fn tcp_64_in_turn(bencher: Bencher<'_, '_>, flows: u32) {
    run(bencher, Load::new(flows, Order::RoundRobin, SHORT), Side::Primary);
}

#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 1)]
fn tcp_64_random(bencher: Bencher<'_, '_>, flows: u32) {
    run(bencher, Load::new(flows, Order::Random, SHORT), Side::Primary);
}

#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 1)]
fn tcp_64_secondary_first(bencher: Bencher<'_, '_>, flows: u32) {
    run(bencher, Load::new(flows, Order::Random, SHORT), Side::Secondary);
}

#[divan::bench(args = FLOWS, sample_count = 100, sample_size = 1)]
fn tcp_1448_in_turn(bencher: Bencher<'_, '_>, flows: u32) {
    run(bencher, Load::new(flows, Order::RoundRobin, LONG), Side::Primary);
}

#[divan::bench(args = FLOWS, sample_count = 100, sample_size = 1)]
fn tcp_1448_random(bencher: Bencher<'_, '_>, flows: u32) {
    run(bencher, Load::new(flows, Order::Random, LONG), Side::Primary);
}

#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 1)]
fn udp_64_random(bencher: Bencher<'_, '_>, flows: u32) {
    run(bencher, Load::new(flows, Order::Random, UDP), Side::Primary);
}

#[divan::bench(args = FLOWS, sample_count = 100, sample_size = 1)]
fn mixed_random(bencher: Bencher<'_, '_>, flows: u32) {
    run(bencher, Load::new(flows, Order::Random, MIXED), Side::Primary);
}

/// As above, with the frames made of the bytes that were read, as a reader makes them, and dropped.
#[divan::bench(args = FLOWS, sample_count = 300, sample_size = 1)]
fn tcp_64_random_with_frames(bencher: Bencher<'_, '_>, flows: u32) {
    let mut load = Load::new(flows, Order::Random, SHORT);
    let mut bench = Bench::new(&mut load);
    let copied = |frames: &VecDeque<Frame>| -> VecDeque<Frame> {
        let copy = |frame: &Frame| Frame::new(Bytes::copy_from_slice(frame.bytes()), VNET_HDR_LEN);
        frames.iter().filter_map(copy).collect()
    };
    bencher.counter(ItemsCount::new(PAIRS)).with_inputs(|| load.chunks()).bench_local_values(
        |chunks| {
            for (primary, secondary) in &chunks {
                bench.compare(&mut [(copied(primary), copied(secondary))], Side::Primary);
            }
            chunks
        },
    );
    bench.check();
}

/// Writes the cost of a pair of short segments, in nanoseconds, by the number of flows, which have
/// their turn in random order. The cost is the median of samples. The samples are taken in
/// alternation, so that other work of the machine meets all of them alike.
fn write_json(path: &Path) -> std::io::Result<()> {
    let flows = [1, 10, 100, 1000, 10_000, 30_000, 100_000, 300_000, 1_000_000];
    let new = |flows: u32| {
        let mut load = Load::new(flows, Order::Random, SHORT);
        (Bench::new(&mut load), load, Vec::new())
    };
    let mut all: Vec<(Bench, Load, Vec<f64>)> = flows.into_iter().map(new).collect();
    for _ in 0..SAMPLES {
        for (bench, load, costs) in &mut all {
            // The first sample warms the caches, which the other ones have overwritten.
            sample(bench, load);
            costs.push(sample(bench, load));
        }
    }
    let mut rows = Vec::new();
    for (flows, (bench, _, mut costs)) in flows.into_iter().zip(all) {
        bench.check();
        costs.sort_by(f64::total_cmp);
        let ns_per_pair = (costs[SAMPLES / 2] * 10.0).round() / 10.0;
        println!("{flows} flows: {ns_per_pair} ns per pair");
        rows.push(serde_json::json!({ "flows": flows, "ns_per_pair": ns_per_pair }));
    }
    std::fs::write(path, serde_json::to_string_pretty(&rows)? + "\n")
}

fn sample(bench: &mut Bench, load: &mut Load) -> f64 {
    let mut input = Input::new(load);
    let start = Instant::now();
    bench.compare(&mut input.chunks, Side::Primary);
    start.elapsed().as_nanos() as f64 / PAIRS as f64
}
