//! The generator of llama.cpp's draws: the Mersenne Twister of 32 bits (`std::mt19937`), and how
//! the GNU C++ library makes a number below 1 of it.

const SIZE: usize = 624;
const SHIFT: usize = 397;

/// See the file's head.
#[derive(Debug)]
pub(super) struct Mersenne {
    state: [u32; SIZE],
    at: usize,
}

impl Mersenne {
    pub(super) fn new(seed: u32) -> Mersenne {
        let mut state = [seed; SIZE];
        let mut before = seed;
        for (at, word) in (1_u32..).zip(state.iter_mut().skip(1)) {
            before = (before ^ (before >> 30)).wrapping_mul(1_812_433_253).wrapping_add(at);
            *word = before;
        }
        Mersenne { state, at: SIZE }
    }

    fn next(&mut self) -> u32 {
        if self.at >= SIZE {
            self.turn();
        }
        let mut word = self.state[self.at];
        self.at += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn turn(&mut self) {
        for at in 0..SIZE {
            let low = self.state[(at + 1) % SIZE];
            let joined = (self.state[at] & 0x8000_0000) | (low & 0x7fff_ffff);
            let odd = if low & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[at] = self.state[(at + SHIFT) % SIZE] ^ (joined >> 1) ^ odd;
        }
        self.at = 0;
    }

    /// A number from 0 to below 1.
    pub(super) fn fraction(&mut self) -> f64 {
        const WORD: f64 = 4_294_967_296.0;
        let (low, high) = (f64::from(self.next()), f64::from(self.next()));
        let fraction = (low + high * WORD) / (WORD * WORD);
        // Rounding may make a 1 of it.
        fraction.min(1.0_f64.next_down())
    }
}

#[cfg(test)]
mod tests {
    use super::Mersenne;

    /// The C++ standard's own check of `std::mt19937`.
    #[test]
    fn the_ten_thousandth_number_is_the_standards() {
        let mut generator = Mersenne::new(5_489);
        let last = (0..10_000).map(|_| generator.next()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
