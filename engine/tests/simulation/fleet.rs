//! Workers that are started and stopped with one file or another: each start plans the pipeline and compares it with what is deployed, and
//! each worker looks after the manifest, as a process does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::manifest::{DeployError, Keeper, deploy};
use headwater_engine::sim::Faults;

use crate::case::{Case, Random, SILENT_AT};
use crate::harness::{Outcome, Run, faults_of_calls, planned};
use crate::process::Process;

const WORKERS: usize = 3;
/// Turns between two looks of a worker at the manifest.
const LOOK: u64 = 50;

struct Worker {
    lane: Process,
    keeper: Keeper,
    /// Which file it was started with.
    version: usize,
}

/// The files that are deployed, and workers that run one or another of them.
pub struct Fleet<'a> {
    pub run: Run<'a>,
    versions: &'a [String],
    version: usize,
    /// The version with every step that some version has: state of a step that is gone would be refused.
    pub whole: usize,
    /// A version that state of this changelog can't follow. Without entries there it would be accepted, and the others refused.
    pub needs_state: Option<(usize, &'static str)>,
    workers: Vec<Option<Worker>>,
    random: Random,
    /// What happened, by name, and how often.
    pub happened: BTreeMap<String, u64>,
}

impl<'a> Fleet<'a> {
    /// `versions`: texts of one pipeline. The first is deployed first.
    pub fn new(case: &'a Case, seed: u64, versions: &'a [String]) -> Fleet<'a> {
        let mut run = Run::of(case, seed, &versions[0]);
        run.world.topics_grow = false;
        let workers = (0..WORKERS).map(|_| None).collect();
        Fleet {
            run,
            versions,
            version: 0,
            whole: 0,
            needs_state: None,
            workers,
            random: Random::new(seed ^ 4_321),
            happened: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.happened.entry(what.into()).or_default() += 1;
    }

    /// Starts a worker with the file that is there, as the program does.
    ///
    /// # Errors
    /// The codes of what is refused; none if brokers don't answer.
    pub fn start(&mut self, slot: usize) -> Result<(), Vec<&'static str>> {
        let broker = self.run.broker().clone();
        let mut plan = planned(&broker, &self.versions[self.version]);
        let agreed = match deploy(&broker, &mut plan) {
            Ok(agreed) => agreed,
            Err(DeployError::Refused(found)) => return Err(found.iter().map(|d| d.code).collect()),
            Err(DeployError::Store(_)) => return Err(Vec::new()),
        };
        let plan = Arc::new(plan);
        let keeper = Keeper::new(Arc::new(broker), plan.clone(), agreed.deployed);
        let lane = self.run.lane_of(plan, slot, &format!("lane{slot}"));
        self.workers[slot] = Some(Worker { lane, keeper, version: self.version });
        Ok(())
    }

    /// A worker stops for this reason.
    fn stop(&mut self, slot: usize, why: &str) {
        self.workers[slot] = None;
        self.count(why);
    }

    /// One turn of a worker: it starts, looks after the manifest, or its lane takes a step. What it was refused for.
    pub fn turn(&mut self, slot: usize, turn: u64) -> Vec<&'static str> {
        let Some(worker) = &mut self.workers[slot] else {
            let started = if self.random.below(20) == 0 { self.start(slot) } else { Ok(()) };
            let refused = started.err().unwrap_or_default();
            refused.iter().for_each(|code| self.count(*code));
            return refused;
        };
        if turn.is_multiple_of(LOOK)
            && let Ok(Some(why)) = worker.keeper.look()
        {
            let why = if why.contains("version") { "ended by another version" } else { "ended by another topic" };
            self.stop(slot, why);
        } else if let Err(why) = worker.lane.step() {
            self.stop(slot, &format!("stopped: {why}"));
        }
        Vec::new()
    }

    /// Writes orders while faults happen, workers die or leave, and other files are deployed.
    pub fn trouble(&mut self, orders: Range<usize>, allowed: &[&str]) {
        let mut orders = orders.peekable();
        for turn in 0..3_000u64 {
            let takes = self.run.world.turn();
            self.run.pass(1 + self.random.below(8) as i64 + takes);
            if self.random.below(8) == 0 {
                self.run.world.again().or_else(|| orders.next()).into_iter().for_each(|n| self.run.world.write(n));
            }
            let slot = self.random.below(WORKERS as u64) as usize;
            match self.random.below(400) {
                0 => self.workers[slot] = None,
                1 => self.run.broker().expire_dropped(),
                2 if self.random.below(2) == 0 => {
                    self.version = self.random.below(self.versions.len() as u64) as usize;
                    if self.needs_state.is_some_and(|(version, changelog)| version == self.version && !self.has_entries(changelog)) {
                        self.version = 0;
                    }
                    // Whoever deploys stops the worker that is to have the new file first.
                    self.leave(slot);
                }
                3 => self.leave(slot),
                _ => {}
            }
            if self.run.world.is_frozen(slot) {
                continue;
            }
            for code in self.turn(slot, turn) {
                assert!(allowed.contains(&code), "seed {}: refused: {code}", self.run.seed());
            }
            let beside = |n: usize| self.workers.iter().flatten().any(|worker| worker.version == n);
            if (0..self.versions.len()).filter(|n| beside(*n)).count() > 1 {
                self.count("turns of two versions at once");
            }
        }
        for n in orders {
            self.run.world.write(n);
        }
    }

    fn has_entries(&self, changelog: &str) -> bool {
        let records = self.run.broker().read_all_committed(changelog);
        let newest: BTreeMap<_, bool> = records.into_iter().map(|r| ((r.partition, r.key), r.value.is_some())).collect();
        newest.into_values().any(|is_entry| is_entry)
    }

    /// A worker commits what it has and leaves its group, if it can.
    fn leave(&mut self, slot: usize) {
        if let Some(worker) = self.workers[slot].take() {
            let _ = worker.lane.finish(Duration::from_millis(200));
        }
    }

    /// All processes die, and their group notices.
    pub fn kill(&mut self) {
        self.workers.iter_mut().for_each(|worker| *worker = None);
        self.run.pass(120_000);
        self.run.broker().expire_dropped();
        self.run.broker().settle();
    }

    pub fn running(&self) -> usize {
        self.workers.iter().flatten().count()
    }

    /// Both halves of the input. Behind each the whole version runs alone, without faults, and all must be done.
    pub fn play(mut self, allowed: &[&str]) -> (Outcome, BTreeMap<String, u64>) {
        let mut lanes = Vec::new();
        for (half, until) in SILENT_AT.into_iter().enumerate() {
            lanes.clear();
            self.run.broker().set_faults(faults_of_calls(self.run.seed() + half as u64));
            self.trouble(self.run.half(half), allowed);
            self.run.broker().set_faults(Faults::none());
            self.run.world.heal();
            self.version = self.whole;
            self.kill();
            (0..2).for_each(|slot| assert_eq!(self.start(slot), Ok(()), "seed {}: after healing", self.run.seed()));
            lanes = self.workers.iter_mut().filter_map(Option::take).map(|worker| worker.lane).collect();
            self.run.settle(&mut lanes);
            self.run.silence(&mut lanes, until);
        }
        (self.run.finish(lanes), self.happened)
    }
}
