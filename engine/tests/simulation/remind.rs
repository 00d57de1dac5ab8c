//! A family made for tests of timers: it sets some for every row, and each that fires is a row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use operator_core::batch::{derived_system_columns, system_fields};
use operator_core::stores::bytes::Reader;
use operator_core::{
    Batch, Context, Diagnostic, Input, KeyEffect, Millis, Operator, OutputPort, PlanCx, Planned, Port, Progress, Spec, StateError,
    StateLayout, Time, Timer, TimerKind,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// A row in time sets a timer of event time for the end of the span of this length after its own. That one sets another.
pub const SPAN: Millis = 10_000;
pub const AGAIN: Millis = 5_000;
/// Every row sets a timer of the wall clock, this much later than it came. Rows of an id that begins with `x` take it back.
pub const WAKE: Millis = 3_000;

/// Where it notes the watermark that it has begun to release.
const BEGUN: &[u8] = b"begun";

/// Reminds of every row: its main output has what timers of event time made, the output `woken` those of the wall clock.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Remind {}

struct Reminding {
    schema: SchemaRef,
}

impl Operator for Reminding {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        let ids = batch.rows.column_by_name("id").unwrap().as_string::<i32>();
        let (times, watermarks, offsets) = (batch.times().unwrap(), batch.watermarks().unwrap(), batch.offsets().unwrap());
        let mut timers = cx.timers();
        for row in 0..ids.len() {
            let (time, id) = (times.value(row), ids.value(row).as_bytes());
            if time >= watermarks.value(row) {
                timers.set((time.div_euclid(SPAN) + 2) * SPAN, TimerKind::Event, id)?;
            }
            let (due, key) = (timers.now() + WAKE, [&offsets.value(row).to_be_bytes(), id].concat());
            timers.set(due, TimerKind::Wall, &key)?;
            if id.starts_with(b"x") {
                timers.delete(due, TimerKind::Wall, &key)?;
            }
        }
        cx.filtered(batch.num_rows());
        Ok(())
    }

    fn on_timer(&mut self, timer: &Timer, time: Time, cx: &mut Context<'_>) -> Result<(), StateError> {
        let (port, row, id) = match timer.kind {
            TimerKind::Event => (Port::OUT, -1, timer.key.as_slice()),
            TimerKind::Wall => {
                let (offset, id) = timer.key.split_first_chunk().unwrap();
                (Port(1), i64::from_be_bytes(*offset), id)
            }
        };
        let id: ArrayRef = Arc::new(StringArray::from(vec![String::from_utf8_lossy(id).into_owned()]));
        let number = |n: i64| Arc::new(Int64Array::from(vec![n])) as ArrayRef;
        let system = derived_system_columns(vec![timer.time], time.emitted);
        let columns = [id, number(timer.time), number(row)].into_iter().chain(system).collect();
        cx.emit(port, RecordBatch::try_new(self.schema.clone(), columns).unwrap());
        if timer.kind == TimerKind::Event && timer.time % SPAN == 0 {
            cx.timers().set(timer.time + AGAIN, TimerKind::Event, &timer.key)?;
        }
        Ok(())
    }

    /// Releases nothing, but takes two calls for that.
    fn on_time(&mut self, time: Time, cx: &mut Context<'_>) -> Result<Progress, StateError> {
        let mut first = None;
        cx.state().scan(&[0xf0], &[0xf1], &mut |key, _| {
            first = Reader::new(&key[1..]).ordered();
            false
        })?;
        assert!(first.is_none_or(|first| first > time.watermark), "a timer for {first:?} did not fire before {time:?}");
        let (mut begun, now) = (Vec::new(), time.watermark.to_be_bytes());
        cx.state().get(BEGUN, &mut begun)?;
        if begun == now {
            return Ok(Progress::Done);
        }
        cx.state().put(BEGUN, &now)?;
        Ok(Progress::More)
    }
}

impl Spec for Remind {
    const KIND: &'static str = "remind";
    const SUMMARY: &'static str = "Reminds of every row.";
    const EXAMPLE: &'static str = "steps:\n  reminded: { from: orders, remind: {} }\n";
    const EXAMPLE_INPUT: &'static str = "id: string";

    fn plan(&self, _: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        let fields = [("id", DataType::Utf8), ("due", DataType::Int64), ("row", DataType::Int64)];
        let fields: Vec<Field> = fields.into_iter().map(|(name, of)| Field::new(name, of, false)).chain(system_fields()).collect();
        let schema = Arc::new(Schema::new(fields));
        let port = |name: &str| {
            let key = KeyEffect::Columns(vec!["id".into()]);
            OutputPort { name: name.into(), timed: true, ..OutputPort::main(schema.clone(), key) }
        };
        let outputs = vec![port(""), port("woken")];
        let planned = Planned::stateless(port(""), move || Box::new(Reminding { schema: schema.clone() }));
        Ok(Planned { outputs, state: Some(StateLayout::default().timers()), ..planned })
    }
}
