//! Blocks: the unit of insertion, and the parts they fall into when rows are refused.

use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use operator_core::changes;

use crate::sinks::{OFFSET, ROW};

/// Halvings of a block never go deeper: 2^20 is more than the rows a block can have.
const MAX_DEPTH: u8 = 24;

/// The rows of a block, as far as it matters where they are cut: how many, and their changes if they are such.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    pub count: usize,
    pub signs: Option<&'a [i8]>,
}

impl From<usize> for Rows<'_> {
    fn from(count: usize) -> Self {
        Rows { count, signs: None }
    }
}

impl<'a> From<&'a RecordBatch> for Rows<'a> {
    fn from(rows: &'a RecordBatch) -> Rows<'a> {
        Rows { count: rows.num_rows(), signs: changes::of(rows).map(|signs| signs.values().as_ref()) }
    }
}

impl<'a> Rows<'a> {
    /// All but the first `count`.
    pub fn after(self, count: usize) -> Rows<'a> {
        Rows { count: self.count.saturating_sub(count), signs: self.signs.and_then(|signs| signs.get(count..)) }
    }

    /// Where the rows `start..end` are halved. The two rows of an update stay together, until they are all that is left.
    fn middle(self, start: usize, end: usize) -> usize {
        let half = start + (end - start) / 2;
        let middle = changes::cut(self.signs, start, half);
        if middle < end { middle } else { half }
    }

    /// The rows are an update, and nothing else.
    fn is_update(self, start: usize, end: usize) -> bool {
        end - start == 2 && changes::cut(self.signs, start, start + 1) == end
    }
}

/// Which part of a block: the halves taken from the whole on, `0` the first, `1` the second. Empty: the whole.
///
/// Refused blocks are halved depth first, so a path says by itself what is settled already (everything before the part)
/// and what is still to come ([`Path::next`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Path {
    bits: u32,
    depth: u8,
}

impl Path {
    /// Reads `0` and `1`.
    ///
    /// # Errors
    /// Other characters, or too many.
    pub fn parse(text: &str) -> Result<Path, String> {
        text.chars().try_fold(Path::default(), |path, c| match c {
            '0' | '1' if path.depth < MAX_DEPTH => Ok(path.down(u32::from(c == '1'))),
            _ => Err(format!("damaged intent: part {text:?}")),
        })
    }

    fn down(self, bit: u32) -> Path {
        Path { bits: self.bits << 1 | bit, depth: self.depth + 1 }
    }

    /// The first half of this part; `None` where there is nothing to halve.
    pub fn halved<'a>(self, block: impl Into<Rows<'a>>) -> Option<Path> {
        let (start, end) = self.part(block);
        (end - start > 1 && self.depth < MAX_DEPTH).then(|| self.down(0))
    }

    /// The first part within this one that has at most `most` rows, or is one row or one update.
    pub fn within<'a>(self, block: impl Into<Rows<'a>>, most: usize) -> Path {
        let (mut path, block) = (self, block.into());
        loop {
            let (start, end) = path.part(block);
            match path.halved(block) {
                Some(half) if end - start > most && !block.is_update(start, end) => path = half,
                _ => return path,
            }
        }
    }

    /// The part that follows, once this one is settled; `None` after the last.
    pub fn next(self) -> Option<Path> {
        let mut path = self;
        while path.depth > 0 {
            if path.bits & 1 == 0 {
                return Some(Path { bits: path.bits | 1, ..path });
            }
            path = Path { bits: path.bits >> 1, depth: path.depth - 1 };
        }
        None
    }

    /// The rows `start..end` of a block.
    pub fn part<'a>(self, block: impl Into<Rows<'a>>) -> (usize, usize) {
        let block = block.into();
        (0..self.depth).rev().fold((0, block.count), |(start, end), level| {
            let middle = block.middle(start, end);
            if self.bits >> level & 1 == 0 { (start, middle) } else { (middle, end) }
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..self.depth).rev().try_for_each(|level| f.write_str(if self.bits >> level & 1 == 0 { "0" } else { "1" }))
    }
}

/// Rows to be inserted in one request, and what they are called. Everything but `rows` is its identity.
#[derive(Clone, Debug)]
pub struct Block {
    pub pipeline: Arc<str>,
    /// Run of the pipeline, see [`super::Intent::epoch`].
    pub epoch: u64,
    /// The outbox topic.
    pub topic: Arc<str>,
    pub partition: i32,
    /// First and last offset (inclusive) and rows of the whole block.
    pub first: i64,
    pub last: i64,
    pub block_rows: u64,
    /// Checksum of the whole block's records: a recreated outbox may have other rows at the same offsets.
    pub crc: u32,
    /// Which part of it this is.
    pub path: Path,
    /// The rows of the part, user columns first, then the position columns.
    pub rows: RecordBatch,
}

impl Block {
    /// Distinguishes this block from every other of any pipeline; hashed into a token (with the table and its schema).
    pub fn identity(&self) -> String {
        let Block { pipeline, epoch, topic, partition, first, last, block_rows, crc, path, .. } = self;
        format!("{pipeline}/{epoch}/{topic}/{partition}/{first}-{last}/{block_rows}/{crc:08x}/{path}")
    }

    /// The positions of its rows; `None` for a block without rows or position columns.
    pub fn range(&self) -> Option<Range> {
        let offsets = self.rows.column_by_name(OFFSET)?.as_primitive_opt::<Int64Type>()?;
        let places = self.rows.column_by_name(ROW)?.as_primitive_opt::<Int32Type>()?;
        let end = self.rows.num_rows().checked_sub(1)?;
        let at = |row: usize| (offsets.value(row), places.value(row));
        (offsets.len() > end && places.len() > end).then(|| Range {
            topic: self.topic.clone(),
            partition: self.partition,
            from: at(0),
            to: at(end),
        })
    }
}

/// Positions `(offset, row)` of one partition, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub topic: Arc<str>,
    pub partition: i32,
    pub from: (i64, i32),
    pub to: (i64, i32),
}

impl Range {
    /// All of a partition.
    pub fn all(topic: Arc<str>, partition: i32) -> Range {
        Range { topic, partition, from: (0, 0), to: (i64::MAX, i32::MAX) }
    }

    /// It is [`Range::all`] of its partition.
    pub fn is_all(&self) -> bool {
        (self.from, self.to) == ((0, 0), (i64::MAX, i32::MAX))
    }

    pub fn contains(&self, partition: i32, position: (i64, i32)) -> bool {
        partition == self.partition && (self.from..=self.to).contains(&position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settles every part, refusing those that hold a bad row, and returns the parts in order.
    fn settle(rows: usize, bad: &[usize]) -> Vec<(String, usize, usize, bool)> {
        let (mut parts, mut path) = (Vec::new(), Some(Path::default()));
        while let Some(part) = path {
            let (start, end) = part.part(rows);
            if !bad.iter().any(|row| (start..end).contains(row)) {
                parts.push((part.to_string(), start, end, true));
                path = part.next();
            } else if let Some(half) = part.halved(rows) {
                path = Some(half);
            } else {
                parts.push((part.to_string(), start, end, false));
                path = part.next();
            }
        }
        parts
    }

    #[test]
    fn halving_finds_each_bad_row_and_covers_every_row_once() {
        for rows in 1..40 {
            for bad in [vec![], vec![0], vec![rows - 1], vec![rows / 2, rows / 3], (0..rows).collect()] {
                let parts = settle(rows, &bad);
                let mut at = 0;
                for (path, start, end, good) in &parts {
                    assert_eq!(*start, at, "{path} of {rows}");
                    assert!(*good || end - start == 1);
                    assert_eq!(Path::parse(path).unwrap().part(rows), (*start, *end));
                    at = *end;
                }
                assert_eq!(at, rows);
                let mut found: Vec<usize> = parts.iter().filter(|part| !part.3).map(|part| part.1).collect();
                found.dedup();
                let mut expected = bad.clone();
                expected.sort_unstable();
                expected.dedup();
                assert_eq!(found, expected, "{rows}");
            }
        }
    }

    #[test]
    fn the_order_is_depth_first() {
        let parts = settle(8, &[2]);
        let order: Vec<&str> = parts.iter().map(|part| part.0.as_str()).collect();
        assert_eq!(order, ["00", "010", "011", "1"]);
    }

    #[test]
    fn only_zeros_and_ones_are_a_path() {
        assert!(Path::parse("0120").is_err());
        assert!(Path::parse(&"0".repeat(25)).is_err());
        assert_eq!(Path::parse("").unwrap(), Path::default());
    }

    #[test]
    fn a_large_block_is_written_in_pieces_of_the_pace() {
        let (mut path, mut pieces) = (Some(Path::default()), Vec::new());
        while let Some(part) = path {
            let piece = part.within(100, 30);
            pieces.push(piece.part(100));
            path = piece.next();
        }
        assert_eq!(pieces, [(0, 25), (25, 50), (50, 75), (75, 100)]);
        assert_eq!(Path::default().within(100, 100), Path::default());
    }

    #[test]
    fn an_update_is_halved_last() {
        // An update and a row that is refused.
        let signs = [-1, 1, 1];
        let rows = Rows { count: 3, signs: Some(&signs) };
        let first = Path::default().halved(rows).unwrap();
        assert_eq!((first.part(rows), first.next().unwrap().part(rows)), ((0, 2), (2, 3)));
        assert_eq!(first.within(rows, 1), first, "a pause is no reason to take it apart");
        assert_eq!(first.halved(rows).unwrap().part(rows), (0, 1), "a row that is refused is");
        // Every mix of updates and others: no part ends within an update, unless it is one of its rows.
        for count in 2..10 {
            for mix in 0..1 << count {
                let signs: Vec<i8> = (0..count).map(|row| if mix >> row & 1 == 0 { 1 } else { -1 }).collect();
                let rows = Rows { count, signs: Some(&signs) };
                let (mut open, mut leaves) = (vec![Path::default()], 0);
                while let Some(path) = open.pop() {
                    let (start, end) = path.part(rows);
                    let cut = end < count && signs[end - 1] == -1 && signs[end] == 1;
                    assert!(!cut || end - start == 1, "{signs:?} {path}");
                    match path.halved(rows) {
                        Some(half) => open.extend([half, half.next().unwrap()]),
                        None => leaves += 1,
                    }
                }
                assert_eq!(leaves, count, "{signs:?}");
            }
        }
    }

    #[test]
    fn a_million_rows_can_be_halved_to_one() {
        let mut path = Path::default();
        while let Some(half) = path.halved(1_000_000) {
            path = half;
        }
        assert_eq!(path.part(1_000_000), (0, 1));
        let signs: Vec<i8> = (0..1_000_000).map(|row| if row % 2 == 0 { 1 } else { -1 }).collect();
        for skipped in [0, 1] {
            let rows = Rows { count: signs.len(), signs: Some(&signs) }.after(skipped);
            let mut path = Path::default();
            while let Some(half) = path.halved(rows) {
                path = half;
            }
            assert_eq!(path.part(rows), (0, 1));
        }
    }
}
