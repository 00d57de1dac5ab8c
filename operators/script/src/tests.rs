//! The runner itself, on an operator made for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::*;
use operator_core::{
    Batch, Context, Diagnostic, Input, KeyEffect, Operator, OutputPort, PlanCx, Planned, Port, Progress, StateError, StateLayout, Time,
    Timer, TimerKind,
};

/// Passes rows on and counts them in state; misbehaves on request.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Count {
    #[serde(default)]
    forget: bool,
    #[serde(default)]
    by_batch: bool,
}

struct Counting {
    forget: bool,
    by_batch: bool,
}

impl Operator for Counting {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        if self.forget {
            return Ok(());
        }
        let mut seen = Vec::new();
        cx.state().get(b"n", &mut seen)?;
        seen.resize(seen.len() + batch.num_rows(), 1);
        cx.state().put(b"n", &seen)?;
        if self.by_batch && batch.num_rows() > 1 {
            cx.filtered(batch.num_rows());
            return Ok(());
        }
        cx.pass(Port::OUT, batch.rows.clone(), batch.num_rows());
        Ok(())
    }

    fn on_time(&mut self, time: Time, cx: &mut Context<'_>) -> Result<Progress, StateError> {
        let mut seen = Vec::new();
        cx.state().get(b"n", &mut seen)?;
        cx.state().put(b"n", &seen[..seen.len().min(time.wall as usize)])?;
        Ok(Progress::Done)
    }
}

impl Spec for Count {
    const KIND: &'static str = "count";
    const SUMMARY: &'static str = "Counts.";
    const EXAMPLE: &'static str = "steps:\n  counted: { from: a, count: { forget: false } }";
    const EXAMPLE_INPUT: &'static str = "a: string\nb: list<struct<c: int not null, d: decimal(12,2)>>";

    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        if cx.input.schema.field_with_name("a").is_err() {
            return Err(vec![Diagnostic::error("unknown-column", "there is no `a`").at(["x"]).within(0..1)]);
        }
        let (forget, by_batch) = (self.forget, self.by_batch);
        let output = OutputPort::main(cx.input.schema.clone(), KeyEffect::Unchanged);
        Ok(Planned::stateless(output, move || Box::new(Counting { forget, by_batch })))
    }
}

fn block(script: &str) -> String {
    let text = run::<Count>(script);
    let at = text.find("----\n").map_or(0, |i| i + 5);
    text[at..].to_string()
}

#[test]
fn prints_rows_with_all_their_types() {
    let script = r#"
input: a: string, n: long, f: double, d: decimal(6,2), b: bool, t: timestamp, l: list<int>, s: struct<x: int, y: list<string>, t: timestamp>
spec: {}
batch
 a       | n | f   | d    | b    | t                    | l         | s
 x       | 1 | 0.5 | 1.50 | true | 12:00:00.250         | [1, null] | {"x": 1, "y": ["p|q"], "t": "01:00:00"}
 "a b\n" |   |     |      |      | 2026-01-31T00:00:00Z | []        | null
----
"#;
    assert_eq!(
        block(script),
        "emit out: a=x n=1 f=0.5 d=1.50 b=true t=12:00:00.250 l=[1, null] s={x: 1, y: [\"p|q\"], t: 01:00:00} | time=00:00:00 offset=0\n\
         emit out: a=\"a b\\n\" n=null f=null d=null b=null t=2026-01-31T00:00:00Z l=[] s=null | time=00:00:01 offset=1\n\
         ledger: in=2 passed=2\n"
    );
}

#[test]
fn stamps_time_and_watermark_per_row() {
    let script = "input: a: string, t: timestamp\nspec: {}\ntime: t\nout_of_order: 5s\nshow: watermark\nbatch\n a|t\n x|12:00:10\n y|12:00:00\n z|12:00:20\nbatch\n a|t|_watermark|_offset\n w|12:00:00|11:00:00|9\n----\n";
    assert_eq!(
        block(script),
        "emit out: a=x t=12:00:10 | time=12:00:10 watermark=none offset=0\n\
         emit out: a=y t=12:00:00 | time=12:00:00 watermark=12:00:05 offset=1\n\
         emit out: a=z t=12:00:20 | time=12:00:20 watermark=12:00:05 offset=2\n\
         emit out: a=w t=12:00:00 | time=12:00:00 watermark=11:00:00 offset=9\n\
         ledger: in=4 passed=4\n"
    );
}

#[test]
fn reports_what_breaks_the_contract() {
    let lost = block("input: a: string\nspec: { forget: true }\nbatch\n a\n x\n----\n");
    assert!(lost.starts_with("broken: 1 rows in, 0 accounted for"), "{lost}");
    let unchecked = run::<Count>("input: a: string\nspec: {}\nbatch\n a\n----\nnothing\n\nrestart\n");
    assert!(unchecked.contains("broken: the commands after the last ---- are not checked"), "{unchecked}");
    for script in [
        "nonsense\n----\n",
        "spec: {}\nbatch\n a\n----\n",
        "input: a: what\nspec: {}\n----\n",
        "input: a: string\nspec: {}\nbatch\n a|b\n x\n----\n",
        "input: a: int\nspec: {}\nbatch\n a\n x\n----\n",
    ] {
        assert!(block(script).contains("broken:"), "{script}");
    }
    assert_eq!(
        block("input: a: string\nspec: { forgot: true }\nbatch\n a\n----\n"),
        "error[spec]: unknown field `forgot`, expected `forget` or `by_batch` at line 1 column 9\n"
    );
    assert_eq!(block("input: b: string\nspec: {}\nplan\n----\n"), "error[unknown-column] x 0..1: there is no `a`\n");
    assert_eq!(block("input: a: string\nspec: {}\nbatch\n a\n----\n"), "nothing\n");
}

#[test]
fn plans_are_printed_and_examples_plan() {
    let expected = "output out: a: string, b: list<struct<c: int not null, d: decimal(12,2)>> [key unchanged]";
    assert_eq!(plan_example::<Count>(&BTreeMap::new()).unwrap(), expected);
}

#[test]
fn a_table_has_versions() {
    let mut session = Session::<Count>::new(false);
    session.command("table t key=id history=1h", &[" id:string | v:int", " a | 1"]);
    session.command("table t at=00:00:10", &[" id:string | v:int", " a | 2", " - b | "]);
    assert_eq!(session.report(), ["nothing"]);
    let table = session.table_named("t").unwrap();
    let key = |name: &str| {
        let mut bytes = Vec::new();
        let array: arrow::array::ArrayRef = Arc::new(arrow::array::StringArray::from(vec![name]));
        operator_core::table::put_record_key(&array, 0, &mut bytes);
        bytes
    };
    assert!(table.lookup(&key("a"), Some(5_000)).is_some_and(|p| Some(p) != table.lookup(&key("a"), None)));
    assert_eq!(table.lookup(&key("b"), None), None);
}

#[test]
fn directories_are_checked() {
    let dir = std::env::temp_dir().join(format!("headwater-script-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let write = |text: &str| std::fs::write(dir.join("case.txt"), text).unwrap();
    let fails = || std::panic::catch_unwind(|| check_dir::<Count>(&dir)).is_err();
    let script = |spec: &str| format!("input: a: string\nspec: {spec}\nbatch\n a\n x\n y\n----\n");
    write(&run::<Count>(&script("{}")));
    assert!(!fails());
    write(&script("{}"));
    assert!(fails(), "an expectation that is missing");
    write(&run::<Count>(&script("{ by_batch: true }")));
    assert!(fails(), "another answer row by row");
    write(&run::<Count>(&format!("split: no\n{}", script("{ by_batch: true }"))));
    assert!(!fails());
    write(&run::<Count>(&script("{ forget: true }")));
    assert!(fails(), "a broken contract that is also expected");
    std::fs::remove_file(dir.join("case.txt")).unwrap();
    assert!(fails(), "no script at all");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Emits what comes, with the name of its input.
#[derive(Deserialize, JsonSchema)]
struct Meet {}

struct Meeting;

impl Operator for Meeting {
    fn on_batch(&mut self, input: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        cx.pass(Port(input.0), batch.rows.clone(), batch.num_rows());
        Ok(())
    }

    /// Counts down from ten, one at a time where the budget is that.
    fn on_time(&mut self, time: Time, cx: &mut Context<'_>) -> Result<Progress, StateError> {
        let mut left = Vec::new();
        cx.state().get(b"left", &mut left)?;
        let done = left.first().copied().unwrap_or_default().saturating_add(time.budget.min(10) as u8);
        cx.state().put(b"left", &[done])?;
        Ok(if done < 10 { Progress::More } else { Progress::Done })
    }
}

impl Spec for Meet {
    const KIND: &'static str = "meet";
    const SUMMARY: &'static str = "Reads two inputs.";
    const EXAMPLE: &'static str = "steps:\n  both: { from: { here: a, there: b }, meet: {} }";
    const EXAMPLE_INPUT: &'static str = "[here]\na: string\n[there]\nb: long\n";
    const INPUTS: &'static [&'static str] = &["here", "there"];

    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        let there = cx.others[0].clone();
        let other = OutputPort { name: "there".to_string(), key_of: Input(1), ..OutputPort::main(there.schema, KeyEffect::Unchanged) };
        let planned = Planned::stateless(OutputPort::main(cx.input.schema.clone(), KeyEffect::Unchanged), || Box::new(Meeting));
        Ok(Planned { outputs: [planned.outputs.clone(), vec![other]].concat(), ..planned })
    }
}

#[test]
fn inputs_have_names_and_time_comes_in_portions() {
    let script =
        "input here: a: string\ninput there: b: long\nspec: {}\nbatch there partition=1\n b\n 7\nbatch here\n a\n x\ntime auto\n----\n";
    let text = run::<Meet>(script);
    let expected = "emit there: b=7 | time=00:00:00 offset=0\nemit out: a=x | time=00:00:00 offset=0\nledger: in=2 passed=2\n";
    assert!(text.ends_with(expected), "{text}");
    assert_eq!(play::<Meet>(script, true).blocks, play::<Meet>(script, false).blocks);
    for (script, problem) in [
        ("input: a: string\nspec: {}\n----\n", "name the input: here or there"),
        ("input here: a: string\nspec: {}\nbatch here\n a\n x\n----\n", "write `input there:` before the first command"),
    ] {
        assert!(run::<Meet>(script).contains(problem), "{}", run::<Meet>(script));
    }
    let plan = plan_example::<Meet>(&BTreeMap::new()).unwrap();
    assert_eq!(plan, "output out: a: string [key unchanged]\noutput there: b: long [key unchanged of input 2]");
}

/// For every row, emits one `after` its event time and one `after` it came by the wall clock, and a last one a second later.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Remind {
    after: operator_core::Interval,
}

struct Reminding {
    after: i64,
    schema: arrow::datatypes::SchemaRef,
}

impl Operator for Reminding {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        let mut timers = cx.timers();
        let now = timers.now();
        for time in batch.times().unwrap().values() {
            timers.set(time + self.after, TimerKind::Event, b"row")?;
            timers.set(now + self.after, TimerKind::Wall, &time.to_be_bytes())?;
        }
        cx.filtered(batch.num_rows());
        Ok(())
    }

    fn on_timer(&mut self, timer: &Timer, time: Time, cx: &mut Context<'_>) -> Result<(), StateError> {
        let what: arrow::array::ArrayRef = Arc::new(arrow::array::StringArray::from(vec![format!("{:?}", timer.kind)]));
        let system = operator_core::batch::derived_system_columns(vec![timer.time], time.emitted);
        let columns = [what].into_iter().chain(system).collect();
        cx.emit(Port::OUT, arrow::array::RecordBatch::try_new(self.schema.clone(), columns).unwrap());
        if timer.key != b"again" {
            cx.timers().set(timer.time + 1_000, timer.kind, b"again")?;
        }
        Ok(())
    }
}

impl Spec for Remind {
    const KIND: &'static str = "remind";
    const SUMMARY: &'static str = "Reminds.";
    const EXAMPLE: &'static str = "steps:\n  reminded: { from: a, remind: { after: 1s } }";
    const EXAMPLE_INPUT: &'static str = "a: string";

    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        let (after, schema) = (self.after.millis(), cx.input.schema.clone());
        let output = OutputPort::main(schema.clone(), KeyEffect::Unchanged);
        let planned = Planned::stateless(output, move || Box::new(Reminding { after, schema: schema.clone() }));
        // A layout without timers, for `after: 0s`: the step may set none.
        let layout = StateLayout::default();
        Ok(Planned { state: Some(if after > 0 { layout.timers() } else { layout }), ..planned })
    }
}

#[test]
fn timers_fire_once_and_in_order() {
    let script = "\
input: a: string
spec: { after: 10s }
time 11:59:00 wall=11:00:00
batch
 a | _time
 x | 12:00:05
 y | 12:00:05.500
 z | 12:00:00
time 12:00:15 wall=11:00:00
----

time 12:00:16 wall=11:00:09
restart
time 12:00:16 wall=11:00:09
----

# What is rewound fires again.
checkpoint
time 12:00:30 wall=11:00:10
rewind
time 12:00:30 wall=11:00:12
----
";
    for one_by_one in [false, true] {
        let text = play::<Remind>(script, one_by_one).text;
        let blocks: Vec<Vec<&str>> =
            text.split("----").skip(1).map(|block| block.lines().filter_map(|line| line.strip_prefix("emit out: a=")).collect()).collect();
        let event = |times: &[&str]| times.iter().map(|time| format!("Event | time={time}")).collect::<Vec<_>>();
        assert_eq!(blocks[0], event(&["12:00:10", "12:00:11", "12:00:15"]), "{text}");
        assert_eq!(blocks[1], event(&["12:00:15.500", "12:00:16"]), "{text}");
        let wall = |time: &str, times: usize| vec![format!("Wall | time={time}"); times];
        let last = event(&["12:00:16.500"]);
        assert_eq!(blocks[2], [last.clone(), wall("11:00:10", 3), last, wall("11:00:10", 3), wall("11:00:11", 1)].concat(), "{text}");
        assert!(!text.contains(BROKEN), "{text}");
    }
}

#[test]
fn a_step_can_set_no_timers_that_its_layout_does_not_name() {
    let text = run::<Remind>("input: a: string\nspec: { after: 0s }\nbatch\n a\n x\n----\n");
    assert!(text.contains("broken: state: the layout of the step has no timers"), "{text}");
}
