//! The cost of a frame in userspace: the decoder and the rewriting that the kernel programs share, on
//! bytes in memory. The benchmark `rewrite` of the tests measures the same code in the kernel.
//!
//! `cargo bench -p colo-proxy --bench rewrite`.

#[path = "../../colo-proxy-common/tests/frame/mod.rs"]
mod frame;

use colo_proxy_common::decode::{decode, decode_tcp, decode_tcp_options};
use colo_proxy_common::rewrite::{self, Translation};
use divan::{Bencher, black_box};
use frame::{Checksum, Shape, TcpOption};

const TRANSLATION: Translation = Translation { seq: 0x89ab_cdef, ts: 0xfedc_ba98 };

fn main() {
    divan::main();
}

#[derive(Clone, Copy, Debug)]
enum Options {
    None,
    Timestamps,
    ThreeSackBlocks,
    /// The same options, in an order that only a walk finds, and at odd places.
    Unusual,
}

const ALL: [Options; 4] =
    [Options::None, Options::Timestamps, Options::ThreeSackBlocks, Options::Unusual];

impl Options {
    fn frame(self, mut shape: Shape) -> Vec<u8> {
        let nops = || vec![TcpOption::Nop; 2];
        let timestamps = || vec![TcpOption::Timestamps(0x1111_2222, 0x3333_4444)];
        let sack = || vec![TcpOption::Sack(vec![(0xffff_fff0, 5), (7, 0x8000_0000), (9, 10)])];
        shape.options = match self {
            Self::None => vec![],
            Self::Timestamps => [nops(), timestamps()].concat(),
            Self::ThreeSackBlocks => [nops(), timestamps(), nops(), sack()].concat(),
            Self::Unusual => [vec![TcpOption::Nop], timestamps(), nops(), sack()].concat(),
        };
        shape.build(Checksum::Full)
    }
}

/// One frame, translated again and again.
fn run(bencher: Bencher<'_, '_>, mut frame: Vec<u8>, to_guest: bool) {
    bencher.bench_local(|| translate(black_box(&mut frame), to_guest));
}

fn translate(frame: &mut [u8], to_guest: bool) -> Option<bool> {
    let ip = decode(frame, None).ok()?.ip?;
    let tcp = decode_tcp(frame, &ip).ok()?;
    let options = decode_tcp_options(frame, &tcp);
    Some(if to_guest {
        rewrite::to_guest(frame, &tcp, &options, TRANSLATION)
    } else {
        rewrite::from_guest(frame, &tcp, &options, TRANSLATION)
    })
}

#[divan::bench(args = ALL)]
fn ipv4_to_guest(bencher: Bencher<'_, '_>, options: Options) {
    run(bencher, options.frame(Shape::default()), true);
}

#[divan::bench(args = ALL)]
fn ipv4_from_guest(bencher: Bencher<'_, '_>, options: Options) {
    run(bencher, options.frame(Shape::default()), false);
}

#[divan::bench(args = ALL)]
fn ipv6_to_guest(bencher: Bencher<'_, '_>, options: Options) {
    run(bencher, options.frame(Shape::v6()), true);
}

#[divan::bench(args = ALL)]
fn ipv6_from_guest(bencher: Bencher<'_, '_>, options: Options) {
    run(bencher, options.frame(Shape::v6()), false);
}
