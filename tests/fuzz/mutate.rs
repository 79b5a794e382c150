//! A seeded stream of inputs: one of the seeds, changed in a few places.

/// The longest input. Longer ones find nothing new in these parsers, whose bounds have tests of their own.
const MAX_INPUT_BYTES: usize = 4096;
const MAX_CHANGES: u64 = 6;
/// Numbers at which arithmetic goes wrong.
const NUMBERS: [&str; 10] =
    ["0", "1", "-1", "255", "256", "4294967296", "9223372036854775807", "18446744073709551615", "18446744073709551616", "1e400"];

pub struct Mutator {
    state: u64,
    seeds: &'static [&'static str],
    dictionary: &'static [&'static str],
    input: Vec<u8>,
}

impl Mutator {
    pub fn new(seed: u64, seeds: &'static [&'static str], dictionary: &'static [&'static str]) -> Mutator {
        // A generator of this kind must not start at zero.
        Mutator { state: seed.max(1), seeds, dictionary, input: Vec::with_capacity(MAX_INPUT_BYTES) }
    }

    /// The next input of the stream.
    pub fn next(&mut self) -> &[u8] {
        let seed = self.pick(self.seeds);
        self.input.clear();
        self.input.extend_from_slice(seed.as_bytes());
        for _ in 0..=self.below(MAX_CHANGES) {
            self.change();
        }
        self.input.truncate(MAX_INPUT_BYTES);
        &self.input
    }

    fn change(&mut self) {
        let at = self.position();
        match self.below(9) {
            0 => self.replace(at, &[]),
            1 => {
                let byte = self.random() as u8;
                self.replace(at, &[byte]);
            }
            2 => self.flip_a_bit(at),
            3 => self.repeat_a_piece(at),
            4 => self.cut(at),
            5 => {
                let number = self.pick(&NUMBERS);
                self.replace(at, number.as_bytes());
            }
            6 => {
                let other = self.pick(self.seeds);
                let from = self.below(other.len() as u64 + 1) as usize;
                self.input.truncate(at);
                self.input.extend_from_slice(&other.as_bytes()[from..]);
            }
            _ => {
                let word = self.pick(self.dictionary);
                self.insert(at, word.as_bytes());
            }
        }
    }

    fn replace(&mut self, at: usize, by: &[u8]) {
        let end = (at + 1).min(self.input.len());
        self.input.splice(at..end, by.iter().copied());
    }

    fn insert(&mut self, at: usize, piece: &[u8]) {
        self.input.splice(at..at, piece.iter().copied());
    }

    fn flip_a_bit(&mut self, at: usize) {
        let bit = 1 << self.below(8);
        if let Some(byte) = self.input.get_mut(at) {
            *byte ^= bit;
        }
    }

    fn repeat_a_piece(&mut self, at: usize) {
        let length = (1 + self.below(16) as usize).min(self.input.len() - at);
        let piece = self.input[at..at + length].to_vec();
        for _ in 0..=self.below(20) {
            self.insert(at, &piece);
        }
    }

    fn cut(&mut self, at: usize) {
        let end = (at + self.below(24) as usize).min(self.input.len());
        self.input.drain(at..end);
    }

    fn position(&mut self) -> usize {
        self.below(self.input.len() as u64 + 1) as usize
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.below(from.len() as u64) as usize]
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random() % bound
    }

    /// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled").
    fn random(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}
