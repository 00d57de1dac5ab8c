//! Randomness that is the same everywhere: integer arithmetic only, one explicit seed, no ambient source.

use uuid::Uuid;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): 64 bits of state, one multiply-xor
/// chain per number. More than good enough to draw a load; not for secrets.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator for one purpose. Streams of different purposes under one seed do not disturb each other, so that for example
    /// the catalogue stays the same when the mix of events changes.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let mut random = Random(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        random.next();
        Random(random.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`, by multiply-shift; 0 when the bound is 0. The bias is below bound / 2^64.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `low..=high`.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low).max(0) as u64 + 1) as i64
    }

    /// An index into a table of the given length.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True with the given chance.
    pub(crate) fn chance(&mut self, chance: Chance) -> bool {
        self.next() < chance.0
    }

    /// A UUID of version 4's shape whose bits come from this generator.
    pub(crate) fn uuid(&mut self) -> Uuid {
        let bits = (u128::from(self.next()) << 64) | u128::from(self.next());
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    }

    /// One of the choices, each with its chance in percent; what is left of the hundred goes to `otherwise`.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[(u64, T)], otherwise: T) -> T {
        let mut at = self.below(100);
        for (percent, choice) in choices {
            if at < *percent {
                return *choice;
            }
            at -= percent;
        }
        otherwise
    }
}

/// A probability in fixed point, so that a comparison is exact.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chance(u64);

impl From<f64> for Chance {
    fn from(share: f64) -> Self {
        // The cast saturates: 1.0 becomes u64::MAX, and NaN becomes 0.
        Chance((share.clamp(0.0, 1.0) * (u64::MAX as f64)) as u64)
    }
}

/// Popularity in the manner of Zipf and Mandelbrot: rank r is drawn with weight 1 / (r + shift).
#[derive(Debug, Clone)]
pub(crate) struct Zipf {
    /// Running sums of the weights.
    sums: Vec<u64>,
}

impl Zipf {
    /// Flattens the head: with 3, the first of 2,000 products draws about 4 % of all sales.
    const SHIFT: u64 = 3;

    pub(crate) fn new(len: usize) -> Self {
        let mut sum = 0;
        let sums = (0..len as u64)
            .map(|rank| {
                sum += (1 << 40) / (rank + 1 + Self::SHIFT);
                sum
            })
            .collect();
        Zipf { sums }
    }

    pub(crate) fn draw(&self, random: &mut Random) -> usize {
        let at = random.below(self.sums.last().copied().unwrap_or(0));
        self.sums.partition_point(|sum| *sum <= at).min(self.sums.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_splitmix64() {
        // Reference values of Vigna's splitmix64.c for state 0.
        let mut random = Random(0);
        assert_eq!([random.next(), random.next()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn popularity_falls_with_the_rank() {
        let (zipf, mut random, mut hits) = (Zipf::new(2000), Random::new(7, 0), vec![0_u32; 2000]);
        for _ in 0..400_000 {
            hits[zipf.draw(&mut random)] += 1;
        }
        // Weight of rank r over the sum of weights is 1 / ((r + 4) * 6.34): 15,770 hits for the first, about half of that four ranks on.
        assert!((14_500..17_000).contains(&hits[0]), "{}", hits[0]);
        assert!((7_200..8_600).contains(&hits[4]), "{}", hits[4]);
        let head: u32 = hits[..200].iter().sum();
        let tail: u32 = hits[1800..].iter().sum();
        assert!(head > 200_000 && tail < 10_000 && tail > 0, "{head} {tail}");
    }

    #[test]
    fn chances_at_the_ends_are_certain() {
        let mut random = Random::new(1, 1);
        assert!((0..1000).all(|_| random.chance(Chance::from(1.0)) && !random.chance(Chance::from(0.0))));
    }
}
