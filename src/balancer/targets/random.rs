//! Random numbers that share requests out: quick, the same for the same seed, and no secret.

/// A generator (xorshift64*, Vigna 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Workers should have different seeds.
    pub fn new(seed: u64) -> Self {
        // Seeds such as 1 and 2 are far apart after this; zero would stay zero for ever.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03)
    }

    /// Another one, for another use.
    pub fn fork(&mut self) -> Self {
        Self::new(self.draw())
    }

    /// All 64 bits of it.
    pub fn draw(&mut self) -> u64 {
        self.0 = if self.0 == 0 { 1 } else { self.0 };
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, all equally likely; 0 if `end` is 0.
    pub fn below(&mut self, end: u32) -> u32 {
        // The high half is the better one.
        let high = self.draw() >> 32;
        u32::try_from((high * u64::from(end)) >> 32).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_even_and_differ_by_seed() {
        for seed in [0, 1, u64::MAX] {
            let mut random = Random::new(seed);
            let mut counts = [0; 10];
            (0..10_000).for_each(|_| counts[random.below(10) as usize] += 1);
            assert!(counts.iter().all(|count| (850..1150).contains(count)), "{seed}: {counts:?}");
        }
        let first = |seed| Random::new(seed).below(u32::MAX);
        assert_ne!(first(1), first(2));
        assert_eq!(first(1), first(1));
        assert_eq!(Random::new(1).below(0), 0);
    }
}
