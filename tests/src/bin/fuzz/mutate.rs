//! Turns inputs into others: bits, bytes, lengths, pieces repeated, cut, and put together. The same
//! numbers give the same inputs.

/// Values that lengths and counts go wrong at.
const EDGES: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX / 2, u64::MAX];

/// Makes inputs.
pub(crate) struct Mutator {
    seeds: Vec<Vec<u8>>,
    state: u64,
}

impl Mutator {
    pub(crate) fn new(mut seeds: Vec<Vec<u8>>, seed: u64) -> Mutator {
        if seeds.is_empty() {
            seeds.push(Vec::new());
        }
        Mutator { seeds, state: seed }
    }

    pub(crate) fn seeds(&self) -> Vec<Vec<u8>> {
        self.seeds.clone()
    }

    fn below(&mut self, limit: usize) -> usize {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let limit = u64::try_from(limit.max(1)).unwrap_or(1);
        usize::try_from((self.state >> 33) % limit).unwrap_or(0)
    }

    /// The next input, at most so long.
    pub(crate) fn next(&mut self, most: usize) -> Vec<u8> {
        let at = self.below(self.seeds.len());
        let mut bytes = self.seeds[at].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut bytes);
        }
        bytes.truncate(most);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        let end = (at + 1 + self.below(32)).min(bytes.len());
        match self.below(9) {
            _ if bytes.is_empty() => {
                let byte = self.byte();
                bytes.push(byte);
            }
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.byte(),
            2 => {
                let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                let width = 1 << self.below(4);
                for (to, from) in bytes[at..].iter_mut().zip(edge.iter().take(width)) {
                    *to = *from;
                }
            }
            3 => bytes.truncate(at),
            4 => {
                bytes.drain(at..end);
            }
            5 => {
                let piece = bytes[at..end].to_vec();
                let times = 1 + self.below(40);
                for _ in 0..times {
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
            6 => {
                let other = self.below(self.seeds.len());
                let from = self.below(self.seeds[other].len());
                let to = (from + 1 + self.below(64)).min(self.seeds[other].len());
                let piece = self.seeds[other][from.min(to)..to].to_vec();
                bytes.splice(at..at, piece);
            }
            7 => {
                let byte = self.byte();
                bytes.insert(at, byte);
            }
            _ => {
                let other = self.below(bytes.len());
                bytes.swap(at, other);
            }
        }
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or(0)
    }
}
