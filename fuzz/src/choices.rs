//! Bytes as a row of choices. A target can build its values from any input.

/// The rest of an input. When it is empty, every choice is the first one.
#[derive(Debug)]
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn octet(&mut self) -> u8 {
        self.number::<1>() as u8
    }

    pub(crate) fn number16(&mut self) -> u16 {
        self.number::<2>() as u16
    }

    pub(crate) fn number32(&mut self) -> u32 {
        self.number::<4>() as u32
    }

    /// A number below `bound`, which is 1 to 256.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.octet()) % bound
    }

    /// One of `all`, which is not empty.
    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// The next bytes unchanged: at most `most` of them.
    pub(crate) fn octets(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The rest of the bytes.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn number<const N: usize>(&mut self) -> u64 {
        self.octets(N).iter().fold(0, |number, octet| number << 8 | u64::from(*octet))
    }
}
