//! A store with positions in memory, with faults.
//!
//! It behaves like a database with row locks: a transaction whose sender does not know its outcome is over before the partition can be
//! claimed again. Its faults say both whether a transaction happened and what was reported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use parking_lot::Mutex;

use super::store::{Position, Positioned, Reply};
use crate::broker::TopicId;
use crate::delivery::block::Block;
use crate::delivery::memory::{Check, TableFault};
use crate::delivery::strikes::Strikes;
use crate::delivery::table_rows::{TableRow, folded, negative_amount, rows_of};

/// The code with which negative amounts are refused; that of a violated check.
const VIOLATED: &str = "23514";

/// How rows are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Writing {
    /// Every row is added.
    #[default]
    Insert,
    /// A row replaces the one with the same values in these columns.
    Upsert(Vec<String>),
    /// A change adds or replaces the row with the same values in these columns, or takes it away.
    Changes(Vec<String>),
}

struct State {
    rows: Vec<TableRow>,
    positions: BTreeMap<i32, (Option<Position>, u64)>,
    /// The topic that a partition was claimed for.
    topics: BTreeMap<i32, TopicId>,
    /// Transactions whose sender does not know: they end before the next claim, one way or the other.
    late: Vec<Transaction>,
    strikes: Strikes<TableFault>,
    transactions: u64,
    constrained: bool,
    /// More rows take too long.
    most: usize,
}

struct Transaction {
    partition: i32,
    epoch: u64,
    next: Position,
    rows: Vec<TableRow>,
}

/// A table with its positions; clones are handles to the same one.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    writing: Writing,
    check: Option<Arc<Check>>,
}

impl MemoryStore {
    pub fn new(writing: Writing) -> MemoryStore {
        let state = State {
            rows: Vec::new(),
            positions: BTreeMap::new(),
            topics: BTreeMap::new(),
            late: Vec::new(),
            strikes: Strikes::none(),
            transactions: 0,
            constrained: false,
            most: usize::MAX,
        };
        MemoryStore { state: Arc::new(Mutex::new(state)), writing, check: None }
    }

    /// Refuses every block with a row whose `amount` (Int64) is negative, as a constraint would.
    #[must_use]
    pub fn constrained(self) -> MemoryStore {
        self.state.lock().constrained = true;
        self
    }

    /// Is not done in time with more rows than these.
    #[must_use]
    pub fn slow(self, most: usize) -> MemoryStore {
        self.state.lock().most = most;
        self
    }

    /// Sends only rows that `check` finds to fit.
    #[must_use]
    pub fn checked(self, check: Arc<Check>) -> MemoryStore {
        MemoryStore { check: Some(check), ..self }
    }

    /// A new connection to it.
    pub fn connection(&self) -> Connection {
        Connection { store: self.clone(), epochs: BTreeMap::new(), under_way: None }
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

    /// Ends all faults.
    pub fn heal(&self) {
        self.state.lock().strikes.heal();
    }

    /// All rows, sorted by position.
    pub fn rows(&self) -> Vec<TableRow> {
        let mut rows = self.state.lock().rows.clone();
        rows.sort();
        rows
    }

    /// The positions, by partition.
    pub fn positions(&self) -> BTreeMap<i32, Position> {
        self.state.lock().positions.iter().filter_map(|(partition, (position, _))| Some((*partition, (*position)?))).collect()
    }

    /// Transactions that were committed.
    pub fn transactions(&self) -> u64 {
        self.state.lock().transactions
    }

    /// Forgets the positions, as someone might.
    pub fn lose_positions(&self) {
        self.state.lock().positions.clear();
    }
}

impl State {
    /// Commits, unless the partition was claimed since.
    fn commit(&mut self, transaction: Transaction, writing: &Writing) -> bool {
        let Transaction { partition, epoch, next, rows } = transaction;
        match self.positions.get_mut(&partition) {
            Some((position, current)) if *current == epoch => *position = Some(next),
            _ => return false,
        }
        self.transactions += 1;
        match writing {
            Writing::Insert => self.rows.extend(rows),
            Writing::Upsert(key) | Writing::Changes(key) => {
                let all = std::mem::take(&mut self.rows).into_iter().chain(rows).collect();
                self.rows = folded(all, key);
            }
        }
        true
    }
}

/// A connection to a [`MemoryStore`].
pub struct Connection {
    store: MemoryStore,
    epochs: BTreeMap<i32, u64>,
    /// What will be reported, and the transaction that comes with it.
    under_way: Option<(Reply, Option<Transaction>)>,
}

impl Connection {
    fn outcome(&self, block: &Block, next: Position) -> (Reply, Option<Transaction>) {
        let unknown = || Reply::Unknown("injected fault".to_owned());
        let rows = match self.rows_of(&block.rows) {
            Ok(rows) => rows,
            Err(why) => return (Reply::Unfit(why), None),
        };
        let epoch = self.epochs.get(&block.partition).copied().unwrap_or(0);
        let mut state = self.store.state.lock();
        if state.positions.get(&block.partition).is_none_or(|(_, current)| *current != epoch) {
            return (Reply::Fenced, None);
        }
        if block.rows.num_rows() > state.most {
            return (Reply::TooSlow("slow".to_owned()), None);
        }
        if state.constrained && negative_amount(&block.rows) {
            return (Reply::Refused { code: VIOLATED.to_owned(), message: "Constraint `amount` is violated".to_owned() }, None);
        }
        let transaction = Transaction { partition: block.partition, epoch, next, rows };
        use TableFault::{Late, ReplyLost, RequestLost, Unavailable};
        match state.strikes.strike(&[Unavailable, RequestLost, ReplyLost, Late]) {
            Some(Unavailable) => (Reply::Unavailable("injected fault".to_owned()), None),
            Some(RequestLost) => (unknown(), None),
            Some(ReplyLost) => (unknown(), Some(transaction)),
            Some(Late) => {
                state.late.push(transaction);
                (unknown(), None)
            }
            _ => (Reply::Written, Some(transaction)),
        }
    }

    fn rows_of(&self, rows: &RecordBatch) -> Result<Vec<TableRow>, String> {
        if rows.num_rows() == 0 {
            return Ok(Vec::new());
        }
        if let Some(check) = &self.store.check {
            check(rows)?;
        }
        rows_of(rows)
    }
}

impl Positioned for Connection {
    fn claim(&mut self, partition: i32, topic: Option<&TopicId>) {
        let mut state = self.store.state.lock();
        if let Some(topic) = topic
            && state.topics.entry(partition).or_insert_with(|| topic.clone()) != topic
        {
            self.under_way = Some((Reply::Wrong("the position belongs to another topic".to_owned()), None));
            return;
        }
        // Whoever holds the row of the position ends first.
        let late = std::mem::take(&mut state.late);
        for transaction in late {
            match transaction.partition == partition {
                true if state.strikes.below(2) == 0 => drop(state.commit(transaction, &self.store.writing)),
                true => {}
                false => state.late.push(transaction),
            }
        }
        let (position, epoch) = state.positions.entry(partition).or_default();
        *epoch += 1;
        self.epochs.insert(partition, *epoch);
        self.under_way = Some((Reply::Claimed(*position), None));
    }

    fn write(&mut self, block: &Block, next: Position) {
        self.under_way = Some(self.outcome(block, next));
    }

    fn progress(&mut self, _timeout: Duration) -> Reply {
        let Some((reply, transaction)) = self.under_way.take() else { return Reply::Idle };
        let mut state = self.store.state.lock();
        if state.strikes.is_drawing() && state.strikes.below(3) == 0 {
            self.under_way = Some((reply, transaction));
            return Reply::Working;
        }
        let fenced = transaction.is_some_and(|transaction| !state.commit(transaction, &self.store.writing));
        if fenced { Reply::Fenced } else { reply }
    }

    fn abandon(&mut self) {
        if let Some((_, Some(transaction))) = self.under_way.take() {
            self.store.state.lock().late.push(transaction);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.abandon();
    }
}
