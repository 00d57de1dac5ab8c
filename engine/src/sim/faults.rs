//! Faults and the order of events: both come from a seed or a script, never from the machine.
//!
//! A failed call has two sides that are independent of each other: whether it happened, and what was reported. Tests
//! that only know "it failed, so it did not happen" miss the cases that lose or double data, so every fault here says both.

use std::collections::BTreeMap;

/// A fault at one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// `Consumer::poll`, `Reader::poll`: nothing is delivered, reported as transient.
    PollFails,
    /// `Consumer::committed`: transient.
    CommittedFails,
    /// `bounds`: transient.
    BoundsFails,
    /// `Broker::producer`: transient; the old transaction and its epoch are left as they were.
    InitFails,
    /// A record is not accepted: the transaction must be aborted.
    ProduceFails,
    /// End of a transaction: did not happen, reported as aborted.
    CommitRefused,
    /// End of a transaction: did not happen, reported as unknown. It stays open until its timeout or a new producer.
    CommitRequestLost,
    /// End of a transaction: happened, reported as unknown.
    CommitReplyLost,
    /// End of a transaction: reported as unknown, and happens later unless a new producer or the timeout comes first.
    /// Later is a matter of the seed; without one, of [`super::MemoryBroker::settle`].
    CommitLate,
    /// `Producer::abort`: did not happen, reported as failed.
    AbortFails,
    /// `Consumer::commit`: did not happen, reported as transient.
    OffsetRequestLost,
    /// `Consumer::commit`: happened, reported as transient.
    OffsetReplyLost,
    /// The group expires the member, at its poll or between two of them (`Consumer::membership`): its partitions are lost,
    /// and it joins again.
    Kicked,
    /// The group starts a rebalance although no one came or went.
    Rebalance,
}

/// Every fault, for presets.
pub const FAULTS: [Fault; 14] = [
    Fault::PollFails,
    Fault::CommittedFails,
    Fault::BoundsFails,
    Fault::InitFails,
    Fault::ProduceFails,
    Fault::CommitRefused,
    Fault::CommitRequestLost,
    Fault::CommitReplyLost,
    Fault::CommitLate,
    Fault::AbortFails,
    Fault::OffsetRequestLost,
    Fault::OffsetReplyLost,
    Fault::Kicked,
    Fault::Rebalance,
];

/// When faults happen: at random by odds, and at chosen occasions by script.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    random: Random,
    odds: BTreeMap<Fault, u32>,
    script: Vec<(u32, Fault)>,
    happened: BTreeMap<Fault, u64>,
}

impl Faults {
    /// No faults at all.
    pub fn none() -> Faults {
        Faults::default()
    }

    /// Faults drawn from `seed`; give them odds with [`Faults::with`].
    pub fn seeded(seed: u64) -> Faults {
        Faults { random: Random::new(seed ^ 0xFA17), ..Faults::default() }
    }

    /// Every kind of fault at `per_10_000` occasions of each.
    pub fn everything(seed: u64, per_10_000: u32) -> Faults {
        FAULTS.into_iter().fold(Faults::seeded(seed), |faults, fault| faults.with(fault, per_10_000))
    }

    /// Sets the odds of `fault` in ten thousand occasions.
    #[must_use]
    pub fn with(mut self, fault: Fault, per_10_000: u32) -> Faults {
        self.odds.insert(fault, per_10_000);
        self
    }

    /// Lets `fault` happen once, after `skip` occasions at which it could have.
    pub fn script(&mut self, skip: u32, fault: Fault) {
        self.script.push((skip, fault));
    }

    /// Ends all faults: the liveness phase of a simulation, in which everything must come to rest.
    pub fn heal(&mut self) {
        self.odds.clear();
        self.script.clear();
    }

    /// How often each fault has happened, so that a simulation can tell whether it tested anything.
    pub fn happened(&self) -> &BTreeMap<Fault, u64> {
        &self.happened
    }

    /// The fault that happens at this occasion, of those that could.
    pub(super) fn strike(&mut self, possible: &[Fault]) -> Option<Fault> {
        let fault = self.scripted(possible).or_else(|| self.drawn(possible))?;
        *self.happened.entry(fault).or_default() += 1;
        Some(fault)
    }

    fn scripted(&mut self, possible: &[Fault]) -> Option<Fault> {
        let mut due = None;
        for (at, (skip, fault)) in self.script.iter_mut().enumerate() {
            if possible.contains(fault) {
                if *skip == 0 && due.is_none() {
                    due = Some(at);
                }
                *skip = skip.saturating_sub(1);
            }
        }
        due.map(|at| self.script.remove(at).1)
    }

    fn drawn(&mut self, possible: &[Fault]) -> Option<Fault> {
        possible
            .iter()
            .copied()
            .find(|fault| self.odds.get(fault).is_some_and(|&odds| odds > 0 && self.random.below(10_000) < u64::from(odds)))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast and the same everywhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 for a limit of 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }
}

/// In which order things happen that may happen in any order.
#[derive(Debug)]
pub(super) enum Schedule {
    /// Everything at the first opportunity and in full.
    Prompt,
    /// Late, in pieces and in odd orders, but always with a chance to continue, so that everything ends.
    Seeded(Random),
}

impl Schedule {
    pub fn new(seed: Option<u64>) -> Schedule {
        seed.map_or(Schedule::Prompt, |seed| Schedule::Seeded(Random::new(seed)))
    }

    pub fn prompt(&self) -> bool {
        matches!(self, Schedule::Prompt)
    }

    /// Whether what could continue now does.
    pub fn goes_on(&mut self) -> bool {
        match self {
            Schedule::Prompt => true,
            Schedule::Seeded(random) => random.next() & 1 == 0,
        }
    }

    /// How many of `available` come now: at least one. One alone, all, or anything between.
    pub fn some_of(&mut self, available: usize) -> usize {
        match self {
            Schedule::Prompt => available,
            Schedule::Seeded(random) => match random.below(4) {
                0 => 1,
                1 => available.max(1),
                _ => 1 + random.below(available.max(1) as u64) as usize,
            },
        }
    }

    /// An index below `length` to begin with.
    pub fn first_of(&mut self, length: usize) -> usize {
        match self {
            Schedule::Prompt => 0,
            Schedule::Seeded(random) => random.below(length as u64) as usize,
        }
    }
}
