//! The rewriter: the arithmetic on any frame, and the life of a connection with any segments.

mod arithmetic;
mod life;

use crate::choices::Choices;

/// One bit chooses between the two.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let kind = choices.octet();
    if kind & 1 == 0 {
        arithmetic::run(&mut choices, kind);
    } else {
        life::run(&mut choices);
    }
}
