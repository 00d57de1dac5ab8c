//! A table in memory, with faults.
//!
//! It remembers tokens as ClickHouse does: a bounded number of them for the whole table, oldest forgotten first, content not
//! compared. Its faults say both whether an insert happened and what was reported. An insert whose target was dropped
//! stays in flight and takes effect, or not, within [`MAX_INSERT`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use operator_core::Millis;
use parking_lot::Mutex;

use super::block::{Block, Range};
use super::strikes::Strikes;
use super::table_rows::{TableRow, folded, negative_amount, rows_of};
use super::target::{Answer, Progress, Target};
use crate::broker::Clock;

/// [`Target::max_insert`] of the memory target.
const MAX_INSERT: Millis = 20_000;

/// The code with which negative amounts are refused; ClickHouse's for a violated constraint.
const VIOLATED: i32 = 469;

/// A fault at an insert, unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFault {
    /// Did not happen, reported as unavailable.
    Unavailable,
    /// Did not happen, reported as unknown.
    RequestLost,
    /// Happened, reported as unknown.
    ReplyLost,
    /// Reported as unknown, happens later, within [`Target::max_insert`].
    Late,
    /// Happened, reported as refused: what a failing materialized view does.
    RefusedAfterWrite,
    /// A question is not answered.
    AskFails,
}

struct State {
    rows: Vec<TableRow>,
    tokens: VecDeque<String>,
    window: usize,
    /// Inserts in flight whose sender does not know: token, rows, when they happen.
    late: Vec<(String, Vec<TableRow>, Millis)>,
    strikes: Strikes<TableFault>,
    inserts: u64,
    repeats: u64,
    constrained: bool,
}

/// Whether the columns of a table take all rows, and why not.
pub type Check = dyn Fn(&RecordBatch) -> Result<(), String> + Send + Sync;

/// A table that several targets write to; clones are handles to the same one.
#[derive(Clone)]
pub struct MemoryTable {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
    check: Option<Arc<Check>>,
    /// It takes changes by these columns.
    changed_by: Option<Vec<String>>,
}

impl MemoryTable {
    /// An empty table that remembers `window` tokens.
    pub fn new(clock: Arc<dyn Clock>, window: usize) -> MemoryTable {
        let state = State {
            rows: Vec::new(),
            tokens: VecDeque::new(),
            window,
            late: Vec::new(),
            strikes: Strikes::none(),
            inserts: 0,
            repeats: 0,
            constrained: false,
        };
        MemoryTable { state: Arc::new(Mutex::new(state)), clock, check: None, changed_by: None }
    }

    /// Refuses every block with a row whose `amount` (Int64) is negative, as a constraint would.
    #[must_use]
    pub fn constrained(self) -> MemoryTable {
        self.state.lock().constrained = true;
        self
    }

    /// Sends only rows that `check` finds to fit.
    #[must_use]
    pub fn checked(self, check: Arc<Check>) -> MemoryTable {
        MemoryTable { check: Some(check), ..self }
    }

    /// Takes changes: of the rows with the same values in these columns the one with the last position is there, unless it is gone.
    #[must_use]
    pub fn changed_by(self, key: Vec<String>) -> MemoryTable {
        MemoryTable { changed_by: Some(key), ..self }
    }

    /// A new connection to it.
    pub fn target(&self) -> MemoryTarget {
        MemoryTarget {
            table: self.clone(),
            under_way: None,
            settings: 1,
            repeatable: false,
            dependents: false,
            uncountable: false,
            memory: None,
        }
    }

    /// Draws faults from `seed`, each in so many of ten thousand occasions.
    pub fn seed(&self, seed: u64, odds: &[(TableFault, u32)]) {
        self.state.lock().strikes.seed(seed, odds);
    }

    /// Lets `fault` happen once, after `skip` occasions at which it could have.
    pub fn inject(&self, skip: u32, fault: TableFault) {
        self.state.lock().strikes.inject(skip, fault);
    }

    /// Every fault that was injected has happened.
    pub fn is_struck(&self) -> bool {
        self.state.lock().strikes.is_struck()
    }

    /// Ends all faults; what is in flight still happens.
    pub fn heal(&self) {
        self.state.lock().strikes.heal();
    }

    /// All rows, sorted by position.
    pub fn rows(&self) -> Vec<TableRow> {
        let mut state = self.state.lock();
        state.deliver(self.clock.monotonic());
        let mut rows = state.rows.clone();
        rows.sort();
        match &self.changed_by {
            Some(key) => folded(rows, key),
            None => rows,
        }
    }

    /// Inserts that changed the table, and inserts that a remembered token made harmless.
    pub fn inserts(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.inserts, state.repeats)
    }

    /// Removes the rows that do not fit `keep`, as someone might.
    pub fn retain(&self, keep: impl Fn(&TableRow) -> bool) {
        self.state.lock().rows.retain(|row| keep(row));
    }
}

impl State {
    fn insert(&mut self, token: String, rows: Vec<TableRow>) {
        if self.tokens.contains(&token) {
            self.repeats += 1;
            return;
        }
        self.inserts += 1;
        self.rows.extend(rows);
        self.tokens.push_back(token);
        while self.tokens.len() > self.window {
            self.tokens.pop_front();
        }
    }

    /// What is in flight and due happens now; of the rest, some.
    fn deliver(&mut self, now: Millis) {
        let late = std::mem::take(&mut self.late);
        for (token, rows, due) in late {
            if due <= now || (self.strikes.is_seeded() && self.strikes.below(4) == 0) {
                self.insert(token, rows);
            } else {
                self.late.push((token, rows, due));
            }
        }
    }
}

/// Rows in flight, and their token.
type Insert = (String, Vec<TableRow>);

/// A connection to a [`MemoryTable`].
pub struct MemoryTarget {
    table: MemoryTable,
    /// What will be reported, and the insert that comes with it.
    under_way: Option<(Progress, Option<Insert>)>,
    settings: u32,
    repeatable: bool,
    dependents: bool,
    uncountable: bool,
    /// Tokens that are remembered; without it, as if forever.
    memory: Option<u32>,
}

impl MemoryTarget {
    /// Pretends to have materialized views behind it.
    #[must_use]
    pub fn with_dependents(mut self) -> MemoryTarget {
        self.dependents = true;
        self
    }

    /// Pretends that rows of others are in the table, too.
    #[must_use]
    pub fn with_uncountable(mut self) -> MemoryTarget {
        self.uncountable = true;
        self
    }

    /// Tells how many tokens are remembered.
    #[must_use]
    pub fn with_memory(mut self, tokens: u32) -> MemoryTarget {
        self.memory = Some(tokens);
        self
    }

    /// Pretends other split settings.
    #[must_use]
    pub fn with_settings(mut self, settings: u32) -> MemoryTarget {
        self.settings = settings;
        self
    }

    /// Pretends to collapse rows of equal positions (it does not).
    #[must_use]
    pub fn with_repeatable(mut self) -> MemoryTarget {
        self.repeatable = true;
        self
    }

    fn outcome(&self, block: &Block) -> (Progress, Option<Insert>) {
        let unknown = || Progress::Unknown("injected fault".to_owned());
        if let Some(Err(why)) = self.table.check.as_ref().map(|check| check(&block.rows)) {
            return (Progress::Unfit(why), None);
        }
        let rows = match rows_of(&block.rows) {
            Ok(rows) => rows,
            Err(message) => return (Progress::Refused { code: 27, message }, None),
        };
        let insert = (block.identity(), rows);
        let mut state = self.table.state.lock();
        state.deliver(self.table.clock.monotonic());
        if state.constrained && negative_amount(&block.rows) {
            let message = "Constraint `amount` is violated".to_owned();
            return (Progress::Refused { code: VIOLATED, message }, None);
        }
        use TableFault::{Late, RefusedAfterWrite, ReplyLost, RequestLost, Unavailable};
        match state.strikes.strike(&[Unavailable, RequestLost, ReplyLost, Late, RefusedAfterWrite]) {
            Some(Unavailable) => (Progress::Unavailable("injected fault".to_owned()), None),
            Some(RequestLost) => (unknown(), None),
            Some(ReplyLost) => (unknown(), Some(insert)),
            Some(Late) => {
                let due = self.table.clock.monotonic() + state.strikes.below(MAX_INSERT as u64) as Millis;
                state.late.push((insert.0, insert.1, due));
                (unknown(), None)
            }
            Some(RefusedAfterWrite) => {
                let message = "while pushing to view".to_owned();
                (Progress::Refused { code: VIOLATED, message }, Some(insert))
            }
            _ => (Progress::Inserted, Some(insert)),
        }
    }
}

impl Target for MemoryTarget {
    fn start(&mut self, block: &Block) {
        let (progress, insert) = self.outcome(block);
        let mut state = self.table.state.lock();
        let at_once = state.strikes.below(2) == 0;
        self.under_way = Some(match insert {
            Some((token, rows)) if at_once => {
                state.insert(token, rows);
                (progress, None)
            }
            insert => (progress, insert),
        });
    }

    fn ask(&mut self, range: &Range) {
        let mut state = self.table.state.lock();
        state.deliver(self.table.clock.monotonic());
        let progress = match state.strikes.strike(&[TableFault::AskFails]) {
            Some(_) => Progress::Unavailable("injected fault".to_owned()),
            None if self.uncountable => Progress::Answered(Answer::Uncountable("a shared table".to_owned())),
            None => {
                let found = state.rows.iter().filter(|row| range.contains(row.partition, (row.offset, row.row)));
                let mut positions: Vec<(i64, i32)> = found.map(|row| (row.offset, row.row)).collect();
                let rows = positions.len() as u64;
                positions.sort_unstable();
                positions.dedup();
                Progress::Answered(Answer::Counted { rows, distinct: positions.len() as u64 })
            }
        };
        self.under_way = Some((progress, None));
    }

    fn progress(&mut self, _timeout: Duration) -> Progress {
        let Some((progress, insert)) = self.under_way.take() else { return Progress::Idle };
        let mut state = self.table.state.lock();
        if state.strikes.is_drawing() && state.strikes.below(3) == 0 {
            self.under_way = Some((progress, insert));
            return Progress::Working;
        }
        if let Some((token, rows)) = insert {
            state.insert(token, rows);
        }
        progress
    }

    fn abandon(&mut self) {
        if let Some((_, Some((token, rows)))) = self.under_way.take() {
            let mut state = self.table.state.lock();
            if state.strikes.below(3) > 0 {
                let due = self.table.clock.monotonic() + state.strikes.below(MAX_INSERT as u64) as Millis;
                state.late.push((token, rows, due));
            }
        }
    }

    fn settings(&self) -> u32 {
        self.settings
    }

    fn max_insert(&self) -> Millis {
        MAX_INSERT
    }

    fn remembers(&self, blocks_per_second: f64) -> Millis {
        self.memory.map_or(Millis::MAX, |tokens| (f64::from(tokens) / blocks_per_second * 1_000.0) as Millis)
    }

    /// One of its faults is a view that fails.
    fn has_dependents(&self) -> bool {
        self.dependents
    }

    fn repeatable(&self) -> bool {
        self.repeatable
    }
}

impl Drop for MemoryTarget {
    fn drop(&mut self) {
        self.abandon();
    }
}
