//! What every [`Target`] must do, checked against the real thing and against the one in memory alike.
//!
//! The table under test has the columns `id Int64`, `amount Int64` and the position columns, refuses rows with a negative
//! `amount`, remembers at least 100 tokens, and is empty. Every check uses its own partition number.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int8Array, Int32Array, Int64Array, RecordBatch};
use operator_core::CHANGE;

use super::block::{Block, Path, Range};
use super::target::{Answer, Progress, Target};
use crate::sinks::{OFFSET, PARTITION, ROW};

/// A row found in the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    pub partition: i32,
    pub offset: i64,
    pub row: i32,
    pub id: i64,
}

/// Reads the whole table.
pub type Rows<'a> = dyn FnMut() -> Result<Vec<Found>, String> + 'a;

/// The longest that a check waits for one outcome.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs all checks; `rows` reads the table.
///
/// # Errors
/// The first check that failed, and how.
pub fn all(target: &mut dyn Target, rows: &mut Rows<'_>) -> Result<(), String> {
    type Check = fn(&mut dyn Target, &mut Rows<'_>, i32) -> Result<(), String>;
    let checks: [(&str, Check); 9] = [
        ("idle", idle),
        ("a block is inserted with its positions", inserted),
        ("an outcome is told once", told_once),
        ("a repeated token changes nothing", repeated),
        ("another identity is another insert", other_identity),
        ("rows are counted by position", counted),
        ("a refused block leaves nothing", refused),
        ("an abandoned insert happens at most once", abandoned),
        ("a large block is one insert", large),
    ];
    for (partition, (name, check)) in checks.into_iter().enumerate() {
        check(target, rows, partition as i32).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

/// A block with rows `id` (and `amount`, where `amounts` has them), one record per ten rows from offset `first` on.
pub fn block(partition: i32, first: i64, ids: std::ops::Range<i64>, bad: Option<i64>) -> Result<Block, String> {
    let count = ids.end - ids.start;
    let amounts: ArrayRef = Arc::new(ids.clone().map(|id| if Some(id) == bad { -1 } else { id }).collect::<Int64Array>());
    let offsets: ArrayRef = Arc::new((0..count).map(|n| first + n / 10).collect::<Int64Array>());
    let places: ArrayRef = Arc::new((0..count).map(|n| (n % 10) as i32).collect::<Int32Array>());
    let partitions: ArrayRef = Arc::new(Int32Array::from(vec![partition; count as usize]));
    let ids: ArrayRef = Arc::new(ids.collect::<Int64Array>());
    let columns = [("id", ids), ("amount", amounts), (PARTITION, partitions), (OFFSET, offsets), (ROW, places)];
    Ok(Block {
        pipeline: "contract".into(),
        epoch: 1,
        topic: "hw.contract.outbox".into(),
        partition,
        first,
        last: first + (count - 1) / 10,
        block_rows: count as u64,
        crc: 7,
        path: Path::default(),
        rows: RecordBatch::try_from_iter(columns).map_err(|e| e.to_string())?,
    })
}

/// The content of a table of changes: `id` and `amount`, by `id`.
pub type Content<'a> = dyn FnMut() -> Result<Vec<(i64, i64)>, String> + 'a;

/// A block with the changes (`id`, `amount`, +1 or -1), one record per change from offset `first` on.
pub fn changes_block(partition: i32, first: i64, changes: &[(i64, i64, i8)]) -> Result<Block, String> {
    let count = changes.len() as i64;
    let ids: ArrayRef = Arc::new(changes.iter().map(|(id, ..)| *id).collect::<Int64Array>());
    let amounts: ArrayRef = Arc::new(changes.iter().map(|(_, amount, _)| *amount).collect::<Int64Array>());
    let signs: ArrayRef = Arc::new(changes.iter().map(|(.., change)| *change).collect::<Int8Array>());
    let partitions: ArrayRef = Arc::new(Int32Array::from(vec![partition; changes.len()]));
    let offsets: ArrayRef = Arc::new((first..first + count).collect::<Int64Array>());
    let places: ArrayRef = Arc::new(Int32Array::from(vec![0; changes.len()]));
    let columns = [("id", ids), ("amount", amounts), (CHANGE, signs), (PARTITION, partitions), (OFFSET, offsets), (ROW, places)];
    let rows = RecordBatch::try_from_iter(columns).map_err(|e| e.to_string())?;
    Ok(Block { first, last: first + count - 1, block_rows: count as u64, rows, ..block(partition, first, 0..1, None)? })
}

/// Runs the checks of a table that takes changes by `id`, with either protocol: `write` delivers a block, `content` reads the table, which
/// is empty and refuses nothing.
///
/// # Errors
/// The first check that failed, and how.
pub fn changes(write: &mut dyn FnMut(&Block) -> Result<(), String>, content: &mut Content<'_>) -> Result<(), String> {
    /// What it shows, its changes, and the content after them.
    type Check<'a> = (&'a str, &'a [(i64, i64, i8)], &'a [(i64, i64)]);
    let checks: [Check<'_>; 9] = [
        ("rows are added", &[(1, 10, 1), (2, 20, 1)], &[(1, 10), (2, 20)]),
        ("a pair replaces a row", &[(1, 10, -1), (1, 11, 1)], &[(1, 11), (2, 20)]),
        ("a row that is gone leaves the others", &[(2, 20, -1)], &[(1, 11)]),
        ("a row comes back", &[(2, 21, 1)], &[(1, 11), (2, 21)]),
        ("the last change of a block counts", &[(3, 1, 1), (3, 1, -1), (3, 2, 1)], &[(1, 11), (2, 21), (3, 2)]),
        ("a row comes and goes within a block", &[(4, 1, 1), (4, 1, -1)], &[(1, 11), (2, 21), (3, 2)]),
        ("a key changes", &[(3, 2, -1), (5, 2, 1)], &[(1, 11), (2, 21), (5, 2)]),
        ("equal values are no change", &[(5, 2, -1), (5, 2, 1)], &[(1, 11), (2, 21), (5, 2)]),
        ("all rows go", &[(1, 11, -1), (2, 21, -1), (5, 2, -1)], &[]),
    ];
    let mut first = 0;
    for (name, changes, expected) in checks {
        let block = changes_block(7, first, changes)?;
        first = block.last + 1;
        let found = write(&block).and_then(|()| content());
        found.and_then(|found| expect(&found.as_slice(), &expected)).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

fn outcome(target: &mut dyn Target) -> Progress {
    let turns = PATIENCE.as_millis() / 100;
    for _ in 0..turns {
        match target.progress(Duration::from_millis(100)) {
            Progress::Working => {}
            progress => return progress,
        }
    }
    Progress::Working
}

fn insert(target: &mut dyn Target, block: &Block) -> Result<(), String> {
    target.start(block);
    expect(&outcome(target), &Progress::Inserted)
}

fn ask(target: &mut dyn Target, range: &Range) -> Result<(u64, u64), String> {
    target.ask(range);
    match outcome(target) {
        Progress::Answered(Answer::Counted { rows, distinct }) => Ok((rows, distinct)),
        other => Err(format!("expected a count, got {other:?}")),
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("expected {expected:?}, got {found:?}")) }
}

fn ids(rows: &mut Rows<'_>, partition: i32) -> Result<Vec<i64>, String> {
    let mut ids: Vec<i64> = rows()?.into_iter().filter(|row| row.partition == partition).map(|row| row.id).collect();
    ids.sort_unstable();
    Ok(ids)
}

fn idle(target: &mut dyn Target, _: &mut Rows<'_>, _: i32) -> Result<(), String> {
    expect(&target.progress(Duration::ZERO), &Progress::Idle)
}

fn inserted(target: &mut dyn Target, rows: &mut Rows<'_>, partition: i32) -> Result<(), String> {
    insert(target, &block(partition, 100, 0..25, None)?)?;
    let mut found: Vec<Found> = rows()?.into_iter().filter(|row| row.partition == partition).collect();
    found.sort();
    let at = |id: i64| Found { partition, offset: 100 + id / 10, row: (id % 10) as i32, id };
    expect(&found, &(0..25).map(at).collect())
}

fn told_once(target: &mut dyn Target, _: &mut Rows<'_>, partition: i32) -> Result<(), String> {
    insert(target, &block(partition, 0, 0..3, None)?)?;
    expect(&target.progress(Duration::ZERO), &Progress::Idle)
}

fn repeated(target: &mut dyn Target, rows: &mut Rows<'_>, partition: i32) -> Result<(), String> {
    let first = block(partition, 0, 0..20, None)?;
    for _ in 0..3 {
        insert(target, &first)?;
    }
    expect(&ids(rows, partition)?, &(0..20).collect())?;
    // The token decides, not the content: so it is the lane that must prove that the rows are the same.
    insert(target, &Block { rows: block(partition, 0, 100..120, None)?.rows, ..first })?;
    expect(&ids(rows, partition)?, &(0..20).collect())
}

fn other_identity(target: &mut dyn Target, rows: &mut Rows<'_>, partition: i32) -> Result<(), String> {
    let first = block(partition, 0, 0..10, None)?;
    let half = Path::default().halved(10).ok_or("10 rows can be halved")?;
    let others = [
        Block { epoch: 2, ..first.clone() },
        Block { pipeline: "other".into(), ..first.clone() },
        Block { topic: "other".into(), ..first.clone() },
        Block { path: half, ..first.clone() },
        Block { block_rows: 11, ..first.clone() },
        Block { last: 99, ..first.clone() },
        Block { crc: 8, ..first.clone() },
    ];
    insert(target, &first)?;
    for other in &others {
        insert(target, other)?;
    }
    expect(&ids(rows, partition)?.len(), &80)?;
    expect(&ask(target, &Range::all(first.topic.clone(), partition))?, &(80, 10))
}

fn counted(target: &mut dyn Target, _: &mut Rows<'_>, partition: i32) -> Result<(), String> {
    let whole = block(partition, 50, 0..30, None)?;
    let range = whole.range().ok_or("a block has a range")?;
    expect(&ask(target, &range)?, &(0, 0))?;
    insert(target, &whole)?;
    expect(&ask(target, &range)?, &(30, 30))?;
    expect(&ask(target, &Range { from: (50, 9), to: (52, 0), ..range.clone() })?, &(12, 12))?;
    expect(&ask(target, &Range { from: (51, 3), to: (51, 3), ..range.clone() })?, &(1, 1))?;
    expect(&ask(target, &Range { from: (53, 0), to: (i64::MAX, i32::MAX), ..range.clone() })?, &(0, 0))?;
    expect(&ask(target, &Range { partition: partition + 1_000, ..range })?, &(0, 0))
}

fn refused(target: &mut dyn Target, rows: &mut Rows<'_>, partition: i32) -> Result<(), String> {
    let bad = block(partition, 0, 0..20, Some(13))?;
    for _ in 0..2 {
        target.start(&bad);
        match outcome(target) {
            Progress::Refused { message, .. } if !message.is_empty() => {}
            other => return Err(format!("expected a refusal, got {other:?}")),
        }
        expect(&ids(rows, partition)?, &Vec::new())?;
    }
    // The halves are other inserts: the good one goes in, and so does the other once its bad row is out.
    let part = |path: &str, start: usize, length: usize| {
        Ok::<_, String>(Block { path: Path::parse(path)?, rows: bad.rows.slice(start, length), ..bad.clone() })
    };
    insert(target, &part("0", 0, 10)?)?;
    insert(target, &part("10", 10, 3)?)?;
    insert(target, &part("11", 14, 6)?)?;
    expect(&ids(rows, partition)?, &(0..20).filter(|&id| id != 13).collect())
}

fn abandoned(target: &mut dyn Target, rows: &mut Rows<'_>, partition: i32) -> Result<(), String> {
    let first = block(partition, 0, 0..10, None)?;
    target.start(&first);
    target.abandon();
    expect(&target.progress(Duration::ZERO), &Progress::Idle)?;
    insert(target, &first)?;
    expect(&ids(rows, partition)?, &(0..10).collect())
}

fn large(target: &mut dyn Target, rows: &mut Rows<'_>, partition: i32) -> Result<(), String> {
    let large = block(partition, 0, 0..200_000, None)?;
    for _ in 0..2 {
        insert(target, &large)?;
    }
    expect(&ids(rows, partition)?.len(), &200_000)?;
    expect(&ask(target, &Range::all(large.topic.clone(), partition))?, &(200_000, 200_000))
}
