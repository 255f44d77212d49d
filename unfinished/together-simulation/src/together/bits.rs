//! A set of pieces that counts its members.

#[derive(Debug, Clone)]
pub struct Bits {
    words: Vec<u64>,
    len: u32,
    count: u32,
}

impl Bits {
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len, count: 0 }
    }

    pub fn has(&self, at: u32) -> bool {
        at < self.len && self.words[(at / 64) as usize] >> (at % 64) & 1 == 1
    }

    /// Returns whether it was not a member. `at` must be below the length.
    pub fn set(&mut self, at: u32) -> bool {
        if at >= self.len || self.has(at) {
            return false;
        }
        self.words[(at / 64) as usize] |= 1 << (at % 64);
        self.count += 1;
        true
    }

    pub fn fill(&mut self) {
        (0..self.len).for_each(|at| {
            self.set(at);
        });
    }

    pub fn is_full(&self) -> bool {
        self.count == self.len
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn each(&self, mut f: impl FnMut(u32)) {
        (0..self.len).filter(|&at| self.has(at)).for_each(&mut f);
    }
}
