//! When the faults of a table in memory happen: by a script, or drawn from a seed.

use std::collections::VecDeque;

/// Faults of kind `F` that are to happen.
#[derive(Debug)]
pub(super) struct Strikes<F> {
    script: VecDeque<(u32, F)>,
    odds: Vec<(F, u32)>,
    random: u64,
}

impl<F: Copy + PartialEq> Strikes<F> {
    pub fn none() -> Strikes<F> {
        Strikes { script: VecDeque::new(), odds: Vec::new(), random: 0 }
    }

    /// Draws faults from `seed`, each in so many of ten thousand occasions.
    pub fn seed(&mut self, seed: u64, odds: &[(F, u32)]) {
        (self.random, self.odds) = (seed, odds.to_vec());
    }

    /// Lets `fault` happen once, after `skip` occasions at which it could have.
    pub fn inject(&mut self, skip: u32, fault: F) {
        self.script.push_back((skip, fault));
    }

    /// Every fault that was injected has happened.
    pub fn is_struck(&self) -> bool {
        self.script.is_empty()
    }

    /// Faults are drawn.
    pub fn is_drawing(&self) -> bool {
        !self.odds.is_empty()
    }

    /// Numbers are drawn from a seed.
    pub fn is_seeded(&self) -> bool {
        self.random != 0
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        self.odds.clear();
        self.script.clear();
    }

    /// The next random number below `limit` (SplitMix64).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)).checked_rem(limit).unwrap_or(0)
    }

    /// The fault that happens now, of those that are possible here.
    pub fn strike(&mut self, possible: &[F]) -> Option<F> {
        let due = self.script.iter().position(|(skip, fault)| *skip == 0 && possible.contains(fault));
        for (at, (skip, fault)) in self.script.iter_mut().enumerate() {
            if Some(at) != due && possible.contains(fault) {
                *skip = skip.saturating_sub(1);
            }
        }
        if let Some((_, fault)) = due.and_then(|at| self.script.remove(at)) {
            return Some(fault);
        }
        let odds = self.odds.clone();
        let mut odds = odds.into_iter().filter(|(fault, _)| possible.contains(fault));
        odds.find(|(_, odds)| self.below(10_000) < u64::from(*odds)).map(|(fault, _)| fault)
    }
}
