//! Sessions against their definition: rows of several partitions in any interleaving, with time passing and workers changing at
//! any moment, give the sessions of the rows that are not late by their own partition, and nothing else.

mod driver;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, SchemaRef};
use driver::{Driver, batch, schema};
use operator_core::{Batch, NO_WATERMARK, Origin};
use proptest::prelude::*;

const GAP: i64 = 10;
const OUT_OF_ORDER: i64 = 4;

#[derive(Clone, Debug)]
struct Row {
    partition: usize,
    group: u8,
    n: i64,
    time: i64,
    /// What happens behind the row.
    then: u8,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (0usize..3, 0u8..2, 0i64..4, 0i64..14, any::<u8>());
    // Times grow with the rows, more or less.
    prop::collection::vec(row, 0..60).prop_map(|rows| {
        let row = |(nth, (partition, group, n, time, then)): (usize, (usize, u8, i64, i64, u8))| Row {
            partition,
            group,
            n,
            time: nth as i64 * 2 + time,
            then,
        };
        rows.into_iter().enumerate().map(row).collect()
    })
}

fn columns() -> SchemaRef {
    schema(&[("g", DataType::Utf8), ("n", DataType::Int64)])
}

fn batch_of(row: &Row, watermark: i64, offset: i64) -> Batch {
    let group: ArrayRef = Arc::new(StringArray::from(vec![format!("g{}", row.group)]));
    let n: ArrayRef = Arc::new(Int64Array::from(vec![row.n]));
    let origin = Origin { topic: "t".into(), partition: row.partition as i32, from: offset - 1, to: offset };
    Batch { origin, ..batch(&columns(), vec![group, n], &[(row.time, watermark)], offset) }
}

/// Watermark of each row's partition before it, by the row.
fn watermarks(rows: &[Row]) -> Vec<i64> {
    let mut newest = [NO_WATERMARK; 3];
    let before = |row: &Row| {
        let before = newest[row.partition];
        newest[row.partition] = before.max(row.time - OUT_OF_ORDER);
        before
    };
    rows.iter().map(before).collect()
}

/// The sessions by their definition.
fn expected(rows: &[Row], lateness: i64) -> BTreeSet<String> {
    let mut groups: BTreeMap<u8, Vec<&Row>> = BTreeMap::new();
    let mut lines = BTreeSet::new();
    for (offset, (row, watermark)) in rows.iter().zip(watermarks(rows)).enumerate() {
        match watermark != NO_WATERMARK && row.time < watermark - lateness {
            true => drop(lines.insert(format!("late g=g{} n={} @{} #{offset}", row.group, row.n, row.time))),
            false => groups.entry(row.group).or_default().push(row),
        }
    }
    for (group, mut rows) in groups {
        rows.sort_by_key(|row| row.time);
        for session in rows.chunk_by(|a, b| b.time - a.time < GAP) {
            let (start, end) = (session[0].time, session[session.len() - 1].time + GAP);
            let distinct: BTreeSet<i64> = session.iter().map(|row| row.n).collect();
            let sum: i64 = session.iter().map(|row| row.n).sum();
            let (rows, kinds) = (session.len(), distinct.len());
            lines.insert(format!("out g=g{group} window_start={start} window_end={end} rows={rows} kinds={kinds} s={sum} @{}", end - 1));
        }
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sessions_are_those_of_the_rows(
        rows in rows(),
        order in any::<prop::sample::Index>(),
        lateness in 0i64..8,
        budget in prop::sample::select(vec![1, 2, 5, usize::MAX]),
        interrupted in any::<bool>(),
    ) {
        let compute = r#""compute":{"rows":"count(*)","kinds":"count(DISTINCT n)","s":"sum(n)"}"#;
        let spec = format!(r#"{{"session":{{"gap":"{GAP}ms"}},"by":["g"],"lateness":"{lateness}ms",{compute}}}"#);
        let mut driver = Driver::new(&spec, &columns());
        driver.time.budget = budget;
        driver.interrupted = interrupted;
        let before = watermarks(&rows);
        // Another interleaving: some partition first, as far as it goes.
        let mut turns: Vec<usize> = (0..rows.len()).collect();
        let (first, until) = (order.index(3), order.index(rows.len() + 1));
        turns.sort_by_key(|turn| (rows[*turn].partition != first || *turn >= until, *turn));
        let mut reached = [NO_WATERMARK; 3];
        let mut late = Vec::new();
        let mut out = Vec::new();
        for turn in turns {
            let row = &rows[turn];
            driver.batch(&batch_of(row, before[turn], turn as i64));
            late.extend(driver.taken().into_iter().map(|line| format!("{line} #{turn}")));
            reached[row.partition] = reached[row.partition].max(row.time - OUT_OF_ORDER);
            if row.then % 2 == 0 {
                driver.time(*reached.iter().min().unwrap());
                out.extend(driver.taken());
            }
            match row.then % 11 {
                0 => driver.restart(),
                1 => driver.rewind(),
                _ => {}
            }
        }
        driver.time(1_000_000);
        out.extend(driver.taken());
        let ends: Vec<i64> = out.iter().map(|line| line.rsplit_once('@').unwrap().1.parse().unwrap()).collect();
        prop_assert!(ends.is_sorted(), "in order of their end: {out:?}");
        let lines: Vec<String> = late.into_iter().chain(out).collect();
        let count = lines.len();
        let lines: BTreeSet<String> = lines.into_iter().collect();
        prop_assert_eq!(lines.len(), count, "each once");
        prop_assert_eq!(lines, expected(&rows, lateness));
        prop_assert!(driver.state.entries.len() <= 1, "only the watermark of the last closing is left");
        prop_assert_eq!(driver.ledger.held, 0);
    }
}
