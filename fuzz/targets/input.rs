//! Choices made of a fuzzer's bytes. When they are used up, every further choice is 0.

/// What is left of the bytes.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: u8) -> u8 {
        self.byte() % n.max(1)
    }

    pub fn number(&mut self) -> u64 {
        let mut all = [0; 8];
        let taken = self.bytes(8);
        all[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(all)
    }

    /// Mostly small numbers, sometimes any: what an identifier or a length looks like.
    pub fn small(&mut self) -> u64 {
        match self.byte() {
            255 => self.number(),
            254 => u64::MAX,
            253 => u64::from(self.byte()) << 8 | u64::from(self.byte()),
            n => u64::from(n),
        }
    }

    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A run after its length.
    pub fn run(&mut self) -> &'a [u8] {
        let n = usize::from(self.byte());
        self.bytes(n)
    }
}
