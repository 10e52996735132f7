//! A filter on the guest's TAP: a mirror or a redirector, alone or one of several.
//!
//! The TAP's list of programs is the list of filters. Towards the guest (egress) it is in their order,
//! from the guest (ingress) in reverse order.

use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::bpf_clone_redirect;
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use colo_proxy_common::filter::{FilterCounters, FilterRecord, is_token, kind, queue};
use colo_proxy_common::record::LAYOUT_VERSION;

use crate::access::SkBuff;
use crate::verdict::{DROP, NEXT, let_arrive, send_out};

#[btf_map(name = "filter")]
static FILTER: Array<FilterRecord, 1> = Array::new();
#[btf_map(name = "filter_counters")]
static COUNTERS: PerCpuArray<FilterCounters, 1> = PerCpuArray::new();

/// Egress of the guest's TAP: frames towards the guest.
#[classifier]
pub fn colo_filter_tx(ctx: TcContext) -> i32 {
    handle(&ctx, |c| &mut c.injected_tx)
}

/// Ingress of the guest's TAP: frames from the guest.
#[classifier]
pub fn colo_filter_rx(ctx: TcContext) -> i32 {
    handle(&ctx, |c| &mut c.injected_rx)
}

#[inline(always)]
fn handle(ctx: &TcContext, injected: impl FnOnce(&mut FilterCounters) -> &mut u64) -> i32 {
    let Some(filter) = filter() else { return DROP };
    let frame = SkBuff::new(ctx);
    let mark = frame.mark();
    if mark == filter.token {
        frame.set_mark(0);
        count(injected);
        return NEXT;
    }
    if is_token(mark) {
        count(|c| &mut c.passed_over);
        return NEXT;
    }
    if filter.kind == kind::MIRROR {
        mirror(ctx, &frame, mark, filter);
        return NEXT;
    }
    if filter.out_gate_ifindex == 0 {
        count(|c| &mut c.passed);
        return NEXT;
    }
    frame.set_mark(filter.token);
    count(|c| &mut c.redirected);
    send_out(filter.out_gate_ifindex)
}

/// The frame goes on, even if the kernel refuses the copy.
#[inline(always)]
fn mirror(ctx: &TcContext, frame: &SkBuff, mark: u32, filter: &FilterRecord) {
    frame.set_mark(filter.token);
    // SAFETY: a helper on the program's own frame.
    let failed = unsafe { bpf_clone_redirect(ctx.skb.skb, filter.out_gate_ifindex, 0) };
    frame.set_mark(mark);
    if failed == 0 {
        count(|c| &mut c.mirrored);
    } else {
        count(|c| &mut c.mirror_failed);
    }
}

/// Ingress of the in gate: frames from `indev` are injected behind this filter, in each of its
/// directions.
#[classifier]
pub fn colo_filter_in(ctx: TcContext) -> i32 {
    let Some(filter) = filter() else { return DROP };
    SkBuff::new(&ctx).set_mark(filter.token);
    if filter.queue == queue::TX {
        return send_out(filter.netdev_ifindex);
    }
    if filter.queue & queue::TX != 0 {
        // SAFETY: a helper on the program's own frame.
        let failed = unsafe { bpf_clone_redirect(ctx.skb.skb, filter.netdev_ifindex, 0) };
        if failed != 0 {
            count(|c| &mut c.inject_failed);
        }
    }
    let_arrive(filter.netdev_ifindex)
}

/// Egress of each gate of a filter: the same as `colo_gate_guard`.
#[classifier]
pub fn colo_filter_guard(ctx: TcContext) -> i32 {
    let Some(filter) = filter() else { return DROP };
    if SkBuff::new(&ctx).mark() == filter.token {
        return NEXT;
    }
    count(|c| &mut c.dropped_foreign);
    DROP
}

/// The filter's record; `None`, counted, if its process has not written one yet.
#[inline(always)]
fn filter() -> Option<&'static FilterRecord> {
    let filter = FILTER.get(0).filter(|f| f.layout_version == LAYOUT_VERSION && f.token != 0);
    if filter.is_none() {
        count(|c| &mut c.dropped_no_settings);
    }
    filter
}

#[inline(always)]
fn count(counter: impl FnOnce(&mut FilterCounters) -> &mut u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: a per-CPU slot; TC programs are not preempted by another one on their processor
        // (softirq context). A frame that is cloned into a gate runs the guard in the middle of
        // this program, but no reference into the slot is alive at that moment.
        let counter = counter(unsafe { &mut *counters });
        *counter = counter.wrapping_add(1);
    }
}
