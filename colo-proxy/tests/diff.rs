//! `colo-proxy diff` on captures that are made here: what equal guests may do differently is no
//! difference, and what differs is named to the octet. Needs no root.

#[path = "diff/captures.rs"]
mod captures;
#[path = "diff/run.rs"]
mod run;

#[path = "diff/different.rs"]
mod different;
#[path = "diff/equal.rs"]
mod equal;
#[path = "diff/refused.rs"]
mod refused;
