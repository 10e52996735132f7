//! `colo-proxy diff` on captures that are made here. Equal guests may differ in some ways without a
//! difference. A real difference is named to the byte. Needs no root.

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
