//! Reads all entries of a table of connections, many at a time.
//!
//! One by one, each entry costs two system calls, and this thread has frames to move. The kernel locks
//! only the bucket of the hash table that it copies.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use colo_proxy_common::record::{FlowKey, FlowRecord};
use nix::libc;

use super::syscall::{MAP_LOOKUP_BATCH, bpf};

/// The most entries that one system call copies.
const BATCH: usize = 4096;

/// The part of `union bpf_attr` that the commands on batches read and write.
#[derive(Default)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The entries of the hash table `map` of connections, at most about `entries_max`. An entry that comes
/// or goes during the call may be missing, or be there twice.
pub(super) fn entries(
    map: BorrowedFd<'_>,
    entries_max: u32,
) -> io::Result<Vec<(FlowKey, FlowRecord)>> {
    let mut keys = vec![FlowKey::default(); BATCH];
    let mut values = vec![FlowRecord::default(); BATCH];
    let mut found = Vec::new();
    // The kernel's place in the table; at first there is none.
    let (mut place, mut next_place) = (0u32, 0u32);
    let mut begun = false;
    while found.len() <= entries_max as usize {
        let mut attr = BatchAttr {
            in_batch: if begun { (&raw mut place) as u64 } else { 0 },
            out_batch: (&raw mut next_place) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map_fd: map.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        // SAFETY: two pointers are to a place each, two to room for `count` keys and values of this
        // map, whose shape was checked when it was taken. All live across the call.
        let result = unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) };
        let over = match result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let pairs = keys.iter().copied().zip(values.iter().copied());
        found.extend(pairs.take(attr.count as usize));
        if over {
            break;
        }
        (place, begun) = (next_place, true);
    }
    Ok(found)
}
