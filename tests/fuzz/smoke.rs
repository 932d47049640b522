//! A moment of each target, with bytes that are the same every time: a target neither rots nor waits for a nightly toolchain.

use std::time::{Duration, Instant};

use fuzz::{TARGETS, Target};

const DURATION: Duration = Duration::from_secs(1);
const BYTES_MAX: usize = 2048;

/// Pseudo-random numbers (xorshift64*, Vigna 2016).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 32).expect("32 bits") % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    /// Bytes of no form, or a seed with some of it changed.
    fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let Some(seed) = seeds.get(self.below(seeds.len() + 1)) else {
            let length = self.below(BYTES_MAX);
            return (0..length).map(|_| self.byte()).collect();
        };
        let mut bytes = seed.clone();
        for _ in 0..self.below(8) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at.min(bytes.len()), self.byte()),
                2 => bytes.extend_from_within(at..),
                _ => {
                    let byte = self.byte();
                    bytes.iter_mut().skip(at).take(1).for_each(|old| *old = byte);
                }
            }
        }
        bytes
    }
}

/// Tells the input with which a target panicked.
struct Witness<'a> {
    target: &'a Target,
    input: &'a [u8],
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} fails with {:02x?}", self.target.name, self.input);
        }
    }
}

fn smoke(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("there is such a target");
    let seeds = (target.seeds)();
    let mut numbers = Numbers(1);
    // Each seed as it is first, so that none of them is broken itself.
    let mut untouched = seeds.iter();
    let started = Instant::now();
    while started.elapsed() < DURATION || untouched.len() > 0 {
        let input = untouched.next().cloned().unwrap_or_else(|| numbers.input(&seeds));
        let _witness = Witness { target, input: &input };
        (target.run)(&input);
    }
}

macro_rules! smoke {
    ($($name:ident),+) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name));
        })+

        #[test]
        fn every_target_has_a_program_for_libfuzzer() {
            let programs = include_str!("libfuzzer/Cargo.toml");
            for name in [$(stringify!($name)),+] {
                assert!(programs.contains(&format!("name = \"{name}\"\npath = \"targets/{name}.rs\"")), "{name}");
            }
        }
    };
}

fuzz::for_targets!(smoke);
