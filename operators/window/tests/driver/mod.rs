//! Drives one window operator as the engine does, and writes down what it did.
#![allow(dead_code)] // every test file uses a part of it

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use operator_core::batch::{is_system, system_fields};
use operator_core::{
    Batch, Context, Diagnostic, Emitted, Input, InputInfo, Ledger, MemoryState, Millis, Mode, Operator, Origin, PlanCx, Planned, Progress,
    Rejected, Table, Time, changes,
};
use operator_window::Window;

pub fn schema(user: &[(&str, DataType)]) -> SchemaRef {
    let user = user.iter().map(|(name, t)| Field::new(*name, t.clone(), true));
    Arc::new(Schema::new(user.chain(system_fields()).collect::<Vec<_>>()))
}

/// The same of a stream of changes.
pub fn changing(user: &[(&str, DataType)]) -> SchemaRef {
    let fields = schema(user).fields().iter().cloned().chain([Arc::new(changes::field())]).collect::<Vec<_>>();
    Arc::new(Schema::new(fields))
}

pub fn plan(spec: &str, schema: &SchemaRef) -> Result<Planned, Vec<Diagnostic>> {
    plan_of(spec, schema, Mode::Append)
}

fn plan_of(spec: &str, schema: &SchemaRef, mode: Mode) -> Result<Planned, Vec<Diagnostic>> {
    let window: Window = serde_json::from_str(spec).unwrap();
    operator_core::plan(&window, &PlanCx::new(&InputInfo { schema: schema.clone(), key: None, mode }, &BTreeMap::new()))
}

/// A batch of `user` columns; each row with its event time and the watermark before it.
pub fn batch(schema: &SchemaRef, user: Vec<ArrayRef>, times: &[(Millis, Millis)], first_offset: i64) -> Batch {
    let mut columns = user;
    columns.push(Arc::new(TimestampMillisecondArray::from_iter_values(times.iter().map(|t| t.0)).with_timezone("UTC")));
    columns.push(Arc::new(Int64Array::from_iter_values(times.iter().map(|t| t.1))));
    columns.push(Arc::new(Int64Array::from_iter_values((0..times.len()).map(|n| first_offset + n as i64))));
    columns.push(Arc::new(BooleanArray::from(vec![false; times.len()])));
    let rows = RecordBatch::try_new(schema.clone(), columns).unwrap();
    let to = first_offset + times.len() as i64 - 1;
    Batch::new(rows, Origin { topic: "t".into(), partition: 0, from: first_offset - 1, to })
}

pub struct Driver {
    pub planned: Planned,
    operator: Box<dyn Operator>,
    pub state: MemoryState,
    pub ledger: Ledger,
    pub time: Time,
    /// Another worker takes over between two portions of [`Time::budget`].
    pub interrupted: bool,
    pub rows_in: i64,
    /// Calls that moved time.
    pub portions: usize,
    /// What happened: `out sku=a .. @event time`, `late ..`, `reject .. : cause`.
    pub log: Vec<String>,
    /// Emitted batches of the main port.
    pub out: Vec<RecordBatch>,
}

impl Driver {
    pub fn new(spec: &str, schema: &SchemaRef) -> Driver {
        Driver::of(spec, schema, Mode::Append)
    }

    /// Over a stream of this mode.
    pub fn of(spec: &str, schema: &SchemaRef, mode: Mode) -> Driver {
        let planned = plan_of(spec, schema, mode).unwrap();
        let operator = (planned.build)();
        let time = Time::default();
        let (state, ledger) = (MemoryState::default(), Ledger::default());
        Driver { planned, operator, state, ledger, time, interrupted: false, rows_in: 0, portions: 0, log: Vec::new(), out: Vec::new() }
    }

    pub fn batch(&mut self, batch: &Batch) {
        self.rows_in += batch.num_rows() as i64;
        self.call(|operator, cx| operator.on_batch(Input::ONLY, batch, cx).unwrap());
        assert_eq!(self.ledger.accounted(), self.rows_in, "every row is accounted for");
    }

    pub fn time(&mut self, watermark: Millis) {
        self.time.watermark = watermark;
        let time = self.time;
        loop {
            let before = self.state.entries.len();
            let mut progress = Progress::Done;
            self.portions += 1;
            self.call(|operator, cx| progress = operator.on_time(time, cx).unwrap());
            // A session is three entries.
            let dropped = before.saturating_sub(self.state.entries.len());
            assert!(dropped <= time.budget.saturating_mul(4), "a portion of {} dropped {dropped} entries", time.budget);
            if progress == Progress::Done {
                break;
            }
            // What is left to do is in the state alone.
            if self.interrupted {
                self.restart();
            }
        }
        self.time.emitted = watermark.saturating_sub(self.planned.delay);
        assert_eq!(self.ledger.accounted(), self.rows_in, "time moves rows from held to passed");
    }

    /// Another worker takes over: nothing but the state is left.
    pub fn restart(&mut self) {
        self.operator = (self.planned.build)();
    }

    /// The same operator is rewound.
    pub fn rewind(&mut self) {
        self.operator.on_restore();
    }

    pub fn taken(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    fn call(&mut self, call: impl FnOnce(&mut dyn Operator, &mut Context<'_>)) {
        let (mut emitted, mut rejected): (Vec<Emitted>, Vec<Rejected>) = Default::default();
        let tables: BTreeMap<String, Table> = BTreeMap::new();
        let mut cx = Context::new(&mut emitted, &mut rejected, &mut self.ledger, &mut self.state, &tables);
        call(self.operator.as_mut(), &mut cx);
        for Emitted { port, rows } in emitted {
            let planned = &self.planned.outputs[port.0 as usize];
            assert_eq!(rows.schema(), planned.schema, "emitted rows have the planned schema");
            assert!(rows.num_rows() <= 8192);
            let name = if planned.name.is_empty() { "out" } else { &planned.name };
            self.log.extend((0..rows.num_rows()).map(|row| format!("{name} {}", text(&rows, row))));
            if port.0 == 0 {
                self.out.push(rows);
            }
        }
        self.log.extend(rejected.iter().map(|r| format!("reject {}: {}", text(&r.row, 0), r.cause)));
    }
}

/// `sku=a n=1 @59999`: user columns, and the event time.
pub fn text(rows: &RecordBatch, row: usize) -> String {
    let mut text = String::new();
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let value = match column.as_any().downcast_ref::<TimestampMillisecondArray>() {
            Some(times) if times.is_valid(row) => times.value(row).to_string(),
            _ if column.is_null(row) => "null".to_string(),
            _ => array_value_to_string(column, row).unwrap(),
        };
        match field.name().as_str() {
            "_time" => text.push_str(&format!("@{value}")),
            name if is_system(name) => {}
            name => text.push_str(&format!("{name}={value} ")),
        }
    }
    text
}
