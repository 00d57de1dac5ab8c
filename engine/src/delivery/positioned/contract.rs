//! What every [`Positioned`] store must do, checked against the real one and against the one in memory alike.
//!
//! The table under test has the columns `id Int64` and `amount Int64`, refuses rows with a negative `amount`, and is empty. Every
//! check uses its own partition number, and ids of its own.

use std::ops::Range;
use std::time::Duration;

use super::store::{Position, Positioned, Reply};
use crate::broker::TopicId;
use crate::delivery::Block;
use crate::delivery::contract::block;

/// Connects to the store again, as another delivery.
pub type Connect<'a> = dyn FnMut() -> Result<Box<dyn Positioned>, String> + 'a;

/// Reads the ids of the whole table.
pub type Ids<'a> = dyn FnMut() -> Result<Vec<i64>, String> + 'a;

/// The longest that a check waits for one outcome.
const PATIENCE: Duration = Duration::from_secs(60);

/// The ids of a check: its partition's.
const PER_CHECK: i64 = 1_000_000;

struct Harness<'a, 'b> {
    connect: &'a mut Connect<'b>,
    ids: &'a mut Ids<'b>,
    partition: i32,
}

/// Runs all checks.
///
/// # Errors
/// The first check that failed, and how.
pub fn all(connect: &mut Connect<'_>, ids: &mut Ids<'_>) -> Result<(), String> {
    type Check = fn(&mut Harness<'_, '_>) -> Result<(), String>;
    let checks: [(&str, Check); 9] = [
        ("nothing is in progress at first", idle),
        ("a partition that nobody wrote has no position", fresh),
        ("rows and position are written together", written),
        ("the position moves without rows", position_only),
        ("a refused block leaves neither rows nor position", refused),
        ("a claim fences the owner before it", fenced),
        ("a position belongs to its topic", of_topic),
        ("what was abandoned is over once it is claimed again", abandoned),
        ("a large block is one transaction", large),
    ];
    for (partition, (name, check)) in checks.into_iter().enumerate() {
        let mut harness = Harness { connect: &mut *connect, ids: &mut *ids, partition: partition as i32 };
        check(&mut harness).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

fn outcome(store: &mut dyn Positioned) -> Reply {
    for _ in 0..PATIENCE.as_millis() / 100 {
        match store.progress(Duration::from_millis(100)) {
            Reply::Working => {}
            reply => return reply,
        }
    }
    Reply::Working
}

fn expect<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("expected {expected:?}, got {found:?}")) }
}

fn at(offset: i64) -> Position {
    Position { offset, row: 0 }
}

impl Harness<'_, '_> {
    fn block(&self, first: i64, ids: Range<i64>, bad: Option<i64>) -> Result<Block, String> {
        let base = i64::from(self.partition) * PER_CHECK;
        block(self.partition, first, base + ids.start..base + ids.end, bad.map(|id| base + id))
    }

    fn claim(&self, store: &mut dyn Positioned, expected: Option<Position>) -> Result<(), String> {
        store.claim(self.partition, None);
        expect(&outcome(store), &Reply::Claimed(expected))
    }

    fn write(&self, store: &mut dyn Positioned, block: &Block, next: Position) -> Result<(), String> {
        store.write(block, next);
        expect(&outcome(store), &Reply::Written)
    }

    /// The ids of this check in the table.
    fn found(&mut self) -> Result<Vec<i64>, String> {
        let base = i64::from(self.partition) * PER_CHECK;
        let mut ids: Vec<i64> = (self.ids)()?.into_iter().filter(|id| (base..base + PER_CHECK).contains(id)).map(|id| id - base).collect();
        ids.sort_unstable();
        Ok(ids)
    }
}

fn idle(harness: &mut Harness<'_, '_>) -> Result<(), String> {
    expect(&(harness.connect)()?.progress(Duration::ZERO), &Reply::Idle)
}

fn fresh(harness: &mut Harness<'_, '_>) -> Result<(), String> {
    let mut store = (harness.connect)()?;
    harness.claim(store.as_mut(), None)?;
    harness.claim(store.as_mut(), None)?;
    expect(&store.progress(Duration::ZERO), &Reply::Idle)
}

fn written(harness: &mut Harness<'_, '_>) -> Result<(), String> {
    let mut store = (harness.connect)()?;
    harness.claim(store.as_mut(), None)?;
    let first = harness.block(0, 0..20, None)?;
    harness.write(store.as_mut(), &first, at(2))?;
    let second = harness.block(2, 20..25, None)?;
    harness.write(store.as_mut(), &second, Position { offset: 2, row: 5 })?;
    expect(&harness.found()?, &(0..25).collect())?;
    let mut other = (harness.connect)()?;
    harness.claim(other.as_mut(), Some(Position { offset: 2, row: 5 }))
}

fn position_only(harness: &mut Harness<'_, '_>) -> Result<(), String> {
    let mut store = (harness.connect)()?;
    harness.claim(store.as_mut(), None)?;
    let block = harness.block(7, 0..1, None)?;
    let nothing = Block { rows: block.rows.slice(0, 0), ..block };
    harness.write(store.as_mut(), &nothing, at(8))?;
    expect(&harness.found()?, &Vec::new())?;
    harness.claim(store.as_mut(), Some(at(8)))
}

fn refused(harness: &mut Harness<'_, '_>) -> Result<(), String> {
    let mut store = (harness.connect)()?;
    harness.claim(store.as_mut(), None)?;
    let bad = harness.block(0, 0..20, Some(13))?;
    for _ in 0..2 {
        store.write(&bad, at(2));
        match outcome(store.as_mut()) {
            Reply::Refused { message, .. } if !message.is_empty() => {}
            other => return Err(format!("expected a refusal, got {other:?}")),
        }
        expect(&harness.found()?, &Vec::new())?;
    }
    harness.claim(store.as_mut(), None)?;
    // The others are written, the position moves past the bad row.
    let part = |start: usize, length: usize| Block { rows: bad.rows.slice(start, length), ..bad.clone() };
    harness.write(store.as_mut(), &part(0, 13), Position { offset: 1, row: 3 })?;
    harness.write(store.as_mut(), &part(14, 6), at(2))?;
    expect(&harness.found()?, &(0..20).filter(|&id| id != 13).collect())?;
    harness.claim(store.as_mut(), Some(at(2)))
}

fn fenced(harness: &mut Harness<'_, '_>) -> Result<(), String> {
    let (mut before, mut after) = ((harness.connect)()?, (harness.connect)()?);
    harness.claim(before.as_mut(), None)?;
    let first = harness.block(0, 0..10, None)?;
    harness.write(before.as_mut(), &first, at(1))?;
    harness.claim(after.as_mut(), Some(at(1)))?;
    let second = harness.block(1, 10..20, None)?;
    for _ in 0..2 {
        before.write(&second, at(2));
        expect(&outcome(before.as_mut()), &Reply::Fenced)?;
    }
    harness.write(after.as_mut(), &second, at(2))?;
    expect(&harness.found()?, &(0..20).collect())?;
    harness.claim(before.as_mut(), Some(at(2)))
}

fn of_topic(harness: &mut Harness<'_, '_>) -> Result<(), String> {
    let (mut store, mut other) = ((harness.connect)()?, (harness.connect)()?);
    let [first, second] = ["first", "second"].map(|id| TopicId(id.to_owned()));
    let claim = |store: &mut dyn Positioned, partition: i32, topic: Option<&TopicId>| {
        store.claim(partition, topic);
        outcome(store)
    };
    // What was written before ids were known belongs to the first topic that comes.
    harness.claim(store.as_mut(), None)?;
    let block = harness.block(0, 0..10, None)?;
    harness.write(store.as_mut(), &block, at(1))?;
    expect(&claim(store.as_mut(), harness.partition, Some(&first)), &Reply::Claimed(Some(at(1))))?;
    for _ in 0..2 {
        match claim(other.as_mut(), harness.partition, Some(&second)) {
            Reply::Wrong(_) => {}
            reply => return Err(format!("expected a refusal, got {reply:?}")),
        }
    }
    // It has changed nothing, the owner included.
    let block = harness.block(1, 10..20, None)?;
    harness.write(store.as_mut(), &block, at(2))?;
    expect(&claim(other.as_mut(), harness.partition, Some(&first)), &Reply::Claimed(Some(at(2))))?;
    expect(&claim(other.as_mut(), harness.partition, None), &Reply::Claimed(Some(at(2))))?;
    expect(&harness.found()?, &(0..20).collect())
}

fn abandoned(harness: &mut Harness<'_, '_>) -> Result<(), String> {
    let mut store = (harness.connect)()?;
    harness.claim(store.as_mut(), None)?;
    let block = harness.block(0, 0..10, None)?;
    store.write(&block, at(1));
    store.abandon();
    expect(&store.progress(Duration::ZERO), &Reply::Idle)?;
    store.claim(harness.partition, None);
    match outcome(store.as_mut()) {
        Reply::Claimed(Some(position)) => expect(&position, &at(1))?,
        Reply::Claimed(None) => {
            expect(&harness.found()?, &Vec::new())?;
            harness.write(store.as_mut(), &block, at(1))?;
        }
        other => return Err(format!("expected a claim, got {other:?}")),
    }
    expect(&harness.found()?, &(0..10).collect())
}

fn large(harness: &mut Harness<'_, '_>) -> Result<(), String> {
    let mut store = (harness.connect)()?;
    harness.claim(store.as_mut(), None)?;
    let block = harness.block(0, 0..200_000, None)?;
    harness.write(store.as_mut(), &block, at(20_000))?;
    expect(&harness.found()?.len(), &200_000)
}
