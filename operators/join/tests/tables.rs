//! Two streams of changes: what the results add up to is the join of what the inputs add up to, in whatever order the changes of the two
//! sides come, however they are cut into batches, and wherever work is interrupted.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int8Array, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Int8Type, Int64Type, Schema, SchemaRef};
use operator_core::batch::system_fields;
use operator_core::{
    Batch, CHANGE, Context, Input, InputInfo, Ledger, MemoryState, Mode, Operator, Origin, Path, PlanCx, Planned, Table, changes,
};
use operator_join::Join;
use proptest::prelude::*;

/// A row: its key, what it is joined on, a value.
type Row = (i64, Option<i64>, i64);

/// An update of a key, or its end.
type Op = (i64, Option<(Option<i64>, i64)>);

fn columns() -> SchemaRef {
    let user = ["id", "on", "n"].map(|name| Field::new(name, DataType::Int64, true));
    Arc::new(Schema::new(user.into_iter().chain(system_fields()).chain([changes::field()]).collect::<Vec<_>>()))
}

/// Records, of which the first has the offset `first`.
fn batch(records: &[Vec<(i8, Row)>], first: i64) -> Batch {
    let rows = records.concat();
    let offsets = records.iter().zip(first..).flat_map(|(record, offset)| record.iter().map(move |_| offset));
    let user: [Int64Array; 3] = [
        rows.iter().map(|(_, row)| Some(row.0)).collect(),
        rows.iter().map(|(_, row)| row.1).collect(),
        rows.iter().map(|(_, row)| Some(row.2)).collect(),
    ];
    let system: [ArrayRef; 5] = [
        Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|(_, row)| row.2)).with_timezone("UTC")),
        Arc::new(Int64Array::from(vec![0; rows.len()])),
        Arc::new(Int64Array::from_iter_values(offsets)),
        Arc::new(BooleanArray::from(vec![false; rows.len()])),
        Arc::new(Int8Array::from_iter_values(rows.iter().map(|(change, _)| *change))),
    ];
    let columns_of = user.into_iter().map(|column| Arc::new(column) as ArrayRef).chain(system).collect();
    let origin = Origin { topic: "t".into(), partition: 0, from: first - 1, to: first + records.len() as i64 - 1 };
    Batch::new(RecordBatch::try_new(columns(), columns_of).unwrap(), origin)
}

struct Driver {
    planned: Planned,
    operator: Box<dyn Operator>,
    state: MemoryState,
    ledger: Ledger,
    rows_in: i64,
    /// Key, `on` and value of each side.
    results: BTreeMap<Vec<Option<i64>>, i64>,
}

impl Driver {
    fn new(kind: &str) -> Driver {
        let spec = format!(
            r#"{{"kind":"{kind}","on":"on","select":{{"a":"left.id","b":"left.n","l":"left.on","c":"right.id","d":"right.n","r":"right.on"}}}}"#
        );
        let join: Join = serde_json::from_str(&spec).unwrap();
        let mode = Mode::Changes { key: vec![Path::column("id")], row_time: true };
        let input = InputInfo { schema: columns(), key: None, mode };
        let tables = BTreeMap::new();
        let cx = PlanCx { others: std::slice::from_ref(&input), ..PlanCx::new(&input, &tables) };
        let planned = operator_core::plan(&join, &cx).map_err(|found| format!("{found:?}")).unwrap();
        let (operator, state, ledger) = ((planned.build)(), MemoryState::default(), Ledger::default());
        Driver { planned, operator, state, ledger, rows_in: 0, results: BTreeMap::new() }
    }

    fn batch(&mut self, side: u16, batch: &Batch) {
        let (mut emitted, mut rejected) = (Vec::new(), Vec::new());
        let tables: BTreeMap<String, Table> = BTreeMap::new();
        let mut cx = Context::new(&mut emitted, &mut rejected, &mut self.ledger, &mut self.state, &tables);
        self.operator.on_batch(Input(side), batch, &mut cx).unwrap();
        self.rows_in += batch.num_rows() as i64;
        assert_eq!(self.ledger.accounted(), self.rows_in);
        assert!(rejected.is_empty());
        for rows in emitted.iter().map(|emitted| &emitted.rows) {
            assert_eq!(rows.schema(), self.planned.outputs[0].schema);
            let signs = rows.column_by_name(CHANGE).unwrap().as_primitive::<Int8Type>();
            for row in 0..rows.num_rows() {
                let value =
                    |place: usize| Some(rows.column(place).as_primitive::<Int64Type>()).filter(|c| c.is_valid(row)).map(|c| c.value(row));
                let count = self.results.entry((0..6).map(value).collect()).or_default();
                *count += i64::from(signs.value(row));
                assert!((0..=1).contains(count), "a result is there once, and what is gone was there");
            }
        }
    }

    fn restart(&mut self) {
        self.operator = (self.planned.build)();
    }

    fn there(&self) -> Vec<Vec<Option<i64>>> {
        self.results.iter().filter(|(_, count)| **count > 0).map(|(row, _)| row.clone()).collect()
    }
}

/// The changes that the updates are, and the rows that are left.
fn changes_of(ops: &[Op]) -> (Vec<Vec<(i8, Row)>>, Vec<Row>) {
    let mut there: BTreeMap<i64, Row> = BTreeMap::new();
    let mut all = Vec::new();
    for (id, new) in ops {
        let old = there.remove(id);
        let new = new.map(|(on, n)| (*id, on, n));
        new.map(|new| there.insert(*id, new));
        let change: Vec<(i8, Row)> = old.map(|row| (-1, row)).into_iter().chain(new.map(|row| (1, row))).collect();
        all.extend((!change.is_empty()).then_some(change));
    }
    (all, there.into_values().collect())
}

/// The join of two tables, row by row.
fn joined(kind: &str, left: &[Row], right: &[Row]) -> Vec<Vec<Option<i64>>> {
    let row = |l: Option<&Row>, r: Option<&Row>| {
        let of = |row: Option<&Row>| [row.map(|row| row.0), row.map(|row| row.2), row.and_then(|row| row.1)];
        [of(l), of(r)].concat()
    };
    let equal = |l: &Row, r: &Row| l.1.is_some() && l.1 == r.1;
    let mut all: Vec<_> = left.iter().flat_map(|l| right.iter().filter(|r| equal(l, r)).map(|r| row(Some(l), Some(r)))).collect();
    if ["left", "full"].contains(&kind) {
        all.extend(left.iter().filter(|l| !right.iter().any(|r| equal(l, r))).map(|l| row(Some(l), None)));
    }
    if ["right", "full"].contains(&kind) {
        all.extend(right.iter().filter(|r| !left.iter().any(|l| equal(l, r))).map(|r| row(None, Some(r))));
    }
    all.sort();
    all
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let row = (prop::option::weighted(0.9, 0i64..3), 0i64..3);
    prop::collection::vec((0i64..4, prop::option::weighted(0.7, row)), 0..25)
}

proptest! {
    #[test]
    fn results_add_up_to_the_join_of_what_the_inputs_add_up_to(
        left in ops(),
        right in ops(),
        order in prop::collection::vec(any::<bool>(), 1..60),
        cuts in prop::collection::vec(any::<(bool, bool)>(), 1..60),
    ) {
        let ((left, of_left), (right, of_right)) = (changes_of(&left), changes_of(&right));
        for kind in ["inner", "left", "right", "full"] {
            let mut driver = Driver::new(kind);
            let mut sides = [left.clone(), right.clone()].map(|mut changes| { changes.reverse(); changes });
            let mut turn = order.iter().cycle().zip(cuts.iter().cycle());
            let (mut pending, mut of, mut offset) = (Vec::new(), 0, 0);
            while let Some((first, (cut, restart))) = turn.next().filter(|_| sides.iter().any(|changes| !changes.is_empty())) {
                let side = if sides[usize::from(*first)].is_empty() { 1 - usize::from(*first) } else { usize::from(*first) };
                if side != of || *cut {
                    driver.batch(of as u16, &batch(&pending, offset));
                    offset += pending.len() as i64;
                    pending.clear();
                    if *restart {
                        driver.restart();
                    }
                }
                of = side;
                pending.extend(sides[side].pop());
            }
            driver.batch(of as u16, &batch(&pending, offset));
            prop_assert_eq!(driver.there(), joined(kind, &of_left, &of_right), "{}", kind);
            // A row is kept as long as it is there, unless it can be in no result.
            let kept = |rows: &[Row], outer: bool| rows.iter().filter(|row| outer || row.1.is_some()).count();
            let expected = kept(&of_left, ["left", "full"].contains(&kind)) + kept(&of_right, ["right", "full"].contains(&kind));
            prop_assert_eq!((driver.state.entries.len(), driver.ledger.held), (expected, expected as i64));
        }
    }
}
