//! Choices from the bytes of an input. When they run out, every choice is the first one.

use arbitrary::Unstructured;

/// The bytes that are left.
pub struct Choice<'a>(Unstructured<'a>);

impl<'a> Choice<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(Unstructured::new(bytes))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn u8(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub fn u16(&mut self) -> u16 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub fn u64(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// Below a bound that is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound <= 256 { usize::from(self.u8()) % bound } else { usize::from(self.u16()) % bound }
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 1 % count
    }

    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// None, or one of the list.
    pub fn maybe<T: Copy>(&mut self, list: &[T]) -> Option<T> {
        let index = self.below(list.len() + 1);
        index.checked_sub(1).map(|index| list[index])
    }

    /// So many bytes, or those that are left.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        self.0.bytes(len.min(self.0.len())).unwrap_or_default()
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }
}
