//! A saga ends under the definition that it began with, whatever the pipeline says by then.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use operator_core::batch::system_fields;
use operator_core::timers::Timers;
use operator_core::{Batch, Context, Emitted, Input, InputInfo, Ledger, MemoryState, Mode, Origin, PlanCx, Planned, Rejected, Table, Time};
use operator_saga::Saga;

const COLUMNS: [&[&str]; 3] = [&["id"], &["id", "eventType"], &["id", "eventType"]];

/// The second step is `charge`, and has a column of the command, in the version of this text.
fn version(second: &str) -> Saga {
    let text = format!(
        r#"{{ "id": {{ "start": "id", "replies": "id", "repairs": "id" }}, "keep": {{ "order": "id" }},
        "steps": {{
            "reserve": {{ "send": {{ "command": "stock.reserve" }}, "done": "stock.reserved", "timeout": "1m",
                "undo": {{ "command": "stock.release", "done": "stock.released" }} }},
            {second}
        }},
        "ends": {{ "completed": "orders.confirmed", "compensated": "orders.cancelled" }} }}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn charge(with: &str, failed: &str) -> String {
    format!(
        r#""charge": {{ "send": {{ "command": "payments.charge", "with": {{ {with} }} }}, "done": "payments.charged", "failed": "{failed}", "timeout": "1m" }}"#
    )
}

/// A partition of the step, whose state stays while its definition changes.
#[derive(Default)]
struct Partition {
    state: MemoryState,
    timers: Timers,
    offset: i64,
}

fn schema(columns: &[&str]) -> SchemaRef {
    let columns = columns.iter().map(|name| Field::new(*name, DataType::Utf8, true));
    Arc::new(Schema::new(columns.chain(system_fields()).collect::<Vec<_>>()))
}

fn planned(saga: &Saga) -> Planned {
    let infos = COLUMNS.map(|columns| InputInfo { schema: schema(columns), key: None, mode: Mode::Append });
    let tables = BTreeMap::new();
    let cx = PlanCx { others: &infos[1..], ..PlanCx::new(&infos[0], &tables) };
    operator_core::plan(saga, &cx).unwrap_or_else(|found| panic!("{found:?}"))
}

impl Partition {
    /// Gives a row to an operator of this version, as after a restart; returns the types of commands and ends, and what was ignored.
    fn row(&mut self, saga: &Saga, input: u16, values: &[&str]) -> Vec<String> {
        let planned = planned(saga);
        let mut operator = (planned.build)();
        let texts = values.iter().map(|value| Arc::new(StringArray::from(vec![*value])) as ArrayRef);
        let system: [ArrayRef; 4] = [
            Arc::new(TimestampMillisecondArray::from(vec![0]).with_timezone("UTC")),
            Arc::new(Int64Array::from(vec![0])),
            Arc::new(Int64Array::from(vec![self.offset])),
            Arc::new(BooleanArray::from(vec![false])),
        ];
        self.offset += 1;
        let rows = RecordBatch::try_new(schema(COLUMNS[usize::from(input)]), texts.chain(system).collect()).unwrap();
        let batch = Batch::new(rows, Origin { topic: "t".into(), partition: 0, from: self.offset - 2, to: self.offset - 1 });
        self.call(&planned, |cx| operator.on_batch(Input(input), &batch, cx).unwrap())
    }

    /// Lets time pass until the first timer fires.
    fn time(&mut self, saga: &Saga) -> Vec<String> {
        let planned = planned(saga);
        let mut operator = (planned.build)();
        let timer = self.timers.take(i64::MIN, i64::MAX, &mut self.state).unwrap().unwrap();
        let time = Time { wall: timer.time, ..Time::default() };
        self.call(&planned, |cx| operator.on_timer(&timer, time, cx).unwrap())
    }

    fn call(&mut self, planned: &Planned, call: impl FnOnce(&mut Context<'_>)) -> Vec<String> {
        let (mut emitted, mut rejected, mut ledger) = (Vec::<Emitted>::new(), Vec::<Rejected>::new(), Ledger::default());
        let tables: BTreeMap<String, Table> = BTreeMap::new();
        let cx = Context::new(&mut emitted, &mut rejected, &mut ledger, &mut self.state, &tables);
        call(&mut cx.with_timers(Some(&mut self.timers), 0));
        assert!(rejected.is_empty(), "{rejected:?}");
        let column = |of: &Emitted, name: &str| {
            let texts = of.rows.column_by_name(name).unwrap().as_string::<i32>().clone();
            texts.iter().map(|text| text.unwrap_or_default().to_string()).collect::<Vec<_>>()
        };
        let of = |of: &Emitted| match planned.outputs[usize::from(of.port.0)].name.as_str() {
            "commands" | "ended" => column(of, "eventType"),
            "stuck" => column(of, "cause"),
            "ignored" => column(of, "reason"),
            _ => Vec::new(),
        };
        emitted.iter().flat_map(of).collect()
    }
}

#[test]
fn a_saga_ends_under_the_definition_that_it_began_with() {
    let (old, new) =
        (version(&charge("\"amount\": \"1\"", "payments.declined")), version(&charge("\"amount\": \"1\"", "payments.refused")));
    let mut partition = Partition::default();
    assert_eq!(partition.row(&old, 0, &["o1"]), ["stock.reserve"]);
    assert_eq!(partition.row(&new, 0, &["o2"]), ["stock.reserve"]);
    for id in ["o1", "o2"] {
        assert_eq!(partition.row(&new, 1, &[id, "stock.reserved"]), ["payments.charge"]);
    }
    // Each knows its own answers.
    assert_eq!(partition.row(&new, 1, &["o1", "payments.refused"]), ["nothing was sent that this answers"]);
    assert_eq!(partition.row(&new, 1, &["o1", "payments.declined"]), ["stock.release"]);
    assert_eq!(partition.row(&new, 1, &["o2", "payments.refused"]), ["stock.release"]);
    assert_eq!(partition.row(&new, 1, &["o1", "stock.released"]), ["orders.cancelled"]);
    // Back at the old version.
    assert_eq!(partition.row(&old, 1, &["o2", "stock.released"]), ["orders.cancelled"]);
}

#[test]
fn steps_of_an_earlier_version_are_carried_out_though_they_are_gone() {
    let old = version(&charge("\"amount\": \"1\"", "payments.declined"));
    // The command has another place among those of the port.
    let moved = version(&format!(
        r#""check": {{ "after": [], "send": {{ "command": "fraud.check" }}, "done": "fraud.checked", "timeout": "1m" }}, {}"#,
        charge("\"amount\": \"1\"", "payments.declined")
    ));
    let mut partition = Partition::default();
    assert_eq!(partition.row(&old, 0, &["o1"]), ["stock.reserve"]);
    assert_eq!(partition.row(&moved, 1, &["o1", "stock.reserved"]), ["payments.charge"]);
    assert_eq!(partition.row(&moved, 1, &["o1", "payments.charged"]), ["orders.confirmed"]);
}

/// A command that lost a column can't be sent any more: the saga is compensated, and says why.
#[test]
fn a_command_that_can_not_be_expressed_fails() {
    let old = version(&charge("\"amount\": \"1\"", "payments.declined"));
    let new = version(&charge("\"total\": \"1\"", "payments.declined"));
    let mut partition = Partition::default();
    assert_eq!(partition.row(&old, 0, &["o1"]), ["stock.reserve"]);
    assert_eq!(partition.row(&new, 1, &["o1", "stock.reserved"]), ["stock.release"]);
    assert_eq!(partition.row(&new, 1, &["o1", "stock.released"]), ["orders.cancelled"]);
}

/// Another version of the program may know more of a definition, and write it as another text: it is found by the version it has in state.
#[test]
fn a_definition_is_found_by_the_version_in_state() {
    let old = version(&charge("\"amount\": \"1\"", "payments.declined"));
    let new = version(&charge("\"amount\": \"2\"", "payments.declined"));
    let mut partition = Partition::default();
    assert_eq!(partition.row(&old, 0, &["o1"]), ["stock.reserve"]);
    let definition = partition.state.entries.values_mut().find(|value| value.windows(8).any(|bytes| bytes == b"\"steps\":")).unwrap();
    let text = String::from_utf8_lossy(definition).replacen("\"steps\":", "\"later\":1,\"steps\":", 1);
    *definition = text.into_bytes();
    assert_eq!(partition.row(&new, 1, &["o1", "stock.reserved"]), ["payments.charge"]);
}

/// Without transactions a crash can cut what a commit writes: a saga, and nothing of its starting row, which comes again.
#[test]
fn a_saga_without_its_starting_row_begins_when_that_comes_again() {
    let saga = version(&charge("\"amount\": \"1\"", "payments.declined"));
    let mut partition = Partition::default();
    assert_eq!(partition.row(&saga, 0, &["o1"]), ["stock.reserve"]);
    partition.state.entries.retain(|key, _| key[0] != 3);
    assert_eq!(partition.row(&saga, 1, &["o1", "stock.reserved"]), ["there is no saga of this id"]);
    assert_eq!(partition.row(&saga, 0, &["o1"]), ["stock.reserve"]);
    assert_eq!(partition.row(&saga, 1, &["o1", "stock.reserved"]), ["payments.charge"]);
}

/// What a saga keeps of answers goes with it.
#[test]
fn nothing_is_left_of_a_saga_that_is_forgotten() {
    let charge = charge("\"amount\": \"1\"", "payments.declined").replace("\"timeout\"", "\"keep\": { \"order\": \"id\" }, \"timeout\"");
    let saga = version(&charge);
    let mut partition = Partition::default();
    assert_eq!(partition.row(&saga, 0, &["o1"]), ["stock.reserve"]);
    assert_eq!(partition.row(&saga, 1, &["o1", "stock.reserved"]), ["payments.charge"]);
    assert_eq!(partition.row(&saga, 1, &["o1", "payments.charged"]), ["orders.confirmed"]);
    let of_sagas = |partition: &Partition| partition.state.entries.keys().filter(|key| (2..=4).contains(&key[0])).count();
    assert_eq!(of_sagas(&partition), 3, "the saga, its starting row and an answer");
    assert_eq!(partition.time(&saga), Vec::<String>::new());
    assert_eq!(of_sagas(&partition), 0);
}

#[test]
fn timers_of_an_earlier_version_fire() {
    let old = version(&charge("\"amount\": \"1\"", "payments.declined"));
    let new = version(&charge("\"amount\": \"2\"", "payments.declined"));
    let mut partition = Partition::default();
    assert_eq!(partition.row(&old, 0, &["o1"]), ["stock.reserve"]);
    assert_eq!(partition.time(&new), Vec::<String>::new());
    assert_eq!(partition.time(&new), ["stock.reserve"]);
    assert_eq!(partition.row(&new, 1, &["o1", "stock.reserved"]), ["payments.charge"]);
    assert_eq!(partition.row(&new, 1, &["o1", "payments.charged"]), ["orders.confirmed"]);
    // It is remembered, and then forgotten.
    assert_eq!(partition.time(&new), Vec::<String>::new());
    assert_eq!(partition.row(&new, 1, &["o1", "payments.charged"]), ["there is no saga of this id"]);
}
