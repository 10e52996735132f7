#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod compare;
pub mod digest;
pub mod frame;
pub mod log_limit;
pub mod pair;
pub mod record;
