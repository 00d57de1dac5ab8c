//! One run of a script: the operator, its state and tables, and what they did since the last `----`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{Schema, SchemaRef, TimestampMillisecondType};

use super::rows::{Clock, Drawn, drawn, with_system};
use super::{BROKEN, parse_spec, show, types};
use crate::Span;
use crate::batch::{Batch, NO_WATERMARK, Origin, time_type};
use crate::operator::{Cx, Emitted, Ledger, Operator, Rejected, Time};
use crate::path::Path;
use crate::spec::{Input, PlanCx, Planned, Spec, TableInfo};
use crate::state::{MemoryState, StateError};
use crate::table::{Change, Table, put_record_key};

/// The step as far as the script has got.
enum Step {
    Unplanned,
    Refused,
    Running(Planned, Box<dyn Operator>),
}

pub(super) struct Session<S> {
    one_by_one: bool,
    headers: BTreeMap<String, String>,
    spec: Option<S>,
    step: Step,
    schema: Option<Arc<Schema>>,
    clock: Clock,
    time: Time,
    state: MemoryState,
    saved: MemoryState,
    tables: BTreeMap<String, Table>,
    infos: BTreeMap<String, TableInfo>,
    /// Changes of tables so far.
    changes: i64,
    rows_in: u64,
    ledger: Ledger,
    lines: Vec<String>,
}

impl<S: Spec> Session<S> {
    pub fn new(one_by_one: bool) -> Session<S> {
        Session {
            one_by_one,
            headers: BTreeMap::new(),
            spec: None,
            step: Step::Unplanned,
            schema: None,
            clock: Clock::new(),
            time: Time::default(),
            state: MemoryState::default(),
            saved: MemoryState::default(),
            tables: BTreeMap::new(),
            infos: BTreeMap::new(),
            changes: 0,
            rows_in: 0,
            ledger: Ledger::default(),
            lines: Vec::new(),
        }
    }

    #[cfg(test)]
    pub fn table_named(&self, name: &str) -> Option<&Table> {
        self.tables.get(name)
    }

    pub fn whole_only(&self) -> bool {
        self.headers.get("split").is_some_and(|v| v == "no")
    }

    /// What happened since the last report; at least one line.
    pub fn report(&mut self) -> Vec<String> {
        let mut lines = std::mem::take(&mut self.lines);
        lines.extend(show::ledger(self.rows_in, &self.ledger));
        (self.rows_in, self.ledger) = (0, Ledger::default());
        if lines.is_empty() {
            lines.push("nothing".into());
        }
        lines
    }

    /// Runs one command or takes a header; true if it is something an expectation must follow.
    pub fn command(&mut self, line: &str, body: &[&str]) -> bool {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let done = match word {
            "batch" => self.batch(rest, body),
            "time" => self.time(rest),
            "plan" => self.plan(),
            "restart" => self.restart(),
            "checkpoint" => {
                self.saved = self.state.clone();
                Ok(())
            }
            "rewind" => self.rewind(),
            "table" => {
                let done = self.table(rest, body);
                self.complain(done);
                return false;
            }
            _ => {
                let done = self.header(line, body);
                self.complain(done);
                return false;
            }
        };
        self.complain(done);
        true
    }

    fn complain(&mut self, done: Result<(), String>) {
        if let Err(problem) = done {
            self.lines.push(format!("{BROKEN} {problem}"));
        }
    }

    fn header(&mut self, line: &str, body: &[&str]) -> Result<(), String> {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("there is no command `{line}`"))?;
        let text = if body.is_empty() { value.trim().to_string() } else { format!("{}\n{}", value.trim(), body.join("\n")) };
        match name {
            "spec" => match parse_spec(&text) {
                Ok(spec) => self.spec = Some(spec),
                Err(problem) => {
                    self.lines.push(format!("error[spec]: {problem}"));
                    self.step = Step::Refused;
                }
            },
            "input" => self.schema = Some(Arc::new(types::schema(&text)?)),
            "out_of_order" => self.clock.out_of_order = text.parse::<Span>()?.millis(),
            "time" | "key" | "show" | "split" => {
                self.headers.insert(name.to_string(), text);
            }
            _ => return Err(format!("there is no setting `{name}`")),
        }
        Ok(())
    }

    /// Plans the step if that was not done yet; false if it was refused.
    fn planned(&mut self) -> Result<bool, String> {
        if !matches!(self.step, Step::Unplanned) {
            return Ok(matches!(self.step, Step::Running(..)));
        }
        let schema = self.schema.clone().ok_or("write `input:` before the first command")?;
        let spec = self.spec.as_ref().ok_or("write `spec:` before the first command")?;
        let path = |text: &str| Path::resolve(text.trim(), schema.fields()).map_err(|found| found.message);
        let key = self.headers.get("key").map(|key| key.split(',').map(path).collect::<Result<_, _>>()).transpose()?;
        let input = Input { schema: with_system(&schema), key };
        let planned = spec.plan(&PlanCx { input: &input, tables: &self.infos });
        self.step = match planned {
            Ok(planned) => {
                let operator = (planned.build)();
                Step::Running(planned, operator)
            }
            Err(found) => {
                self.lines.extend(found.iter().map(show::diagnostic));
                Step::Refused
            }
        };
        Ok(matches!(self.step, Step::Running(..)))
    }

    fn plan(&mut self) -> Result<(), String> {
        self.planned()?;
        if let Step::Running(planned, _) = &self.step {
            self.lines.extend(show::plan(planned));
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), String> {
        self.planned()?;
        if let Step::Running(planned, operator) = &mut self.step {
            *operator = (planned.build)();
        }
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), String> {
        self.planned()?;
        self.state = self.saved.clone();
        if let Step::Running(_, operator) = &mut self.step {
            operator.on_restore();
        }
        Ok(())
    }

    fn batch(&mut self, setting: &str, body: &[&str]) -> Result<(), String> {
        let partition = match setting.trim().split_once('=') {
            None if setting.trim().is_empty() => 0,
            Some(("partition", number)) => number.parse().map_err(|e| format!("partition {number}: {e}"))?,
            _ => return Err(format!("a batch has no setting `{setting}`")),
        };
        let drawn = drawn(body)?;
        let schema = match &self.schema {
            Some(schema) => schema.clone(),
            None => self.schema.insert(Arc::new(drawn.schema()?)).clone(),
        };
        let user = drawn.batch(&schema)?;
        let times = self.event_times(&user)?;
        let from = self.clock.next_offset - 1;
        let rows = self.clock.stamp(&user, &drawn, times)?;
        if !self.planned()? {
            return Ok(());
        }
        let origin = |from, to| Origin { topic: "script".into(), partition, from, to };
        if self.one_by_one {
            for row in 0..rows.num_rows() {
                let to = from + 1 + row as i64;
                self.push(Batch::new(rows.slice(row, 1), origin(to - 1, to)))?;
            }
            return Ok(());
        }
        self.push(Batch::new(rows, origin(from, self.clock.next_offset - 1)))
    }

    /// The column named by `time:`, in milliseconds.
    fn event_times(&self, user: &RecordBatch) -> Result<Option<Vec<i64>>, String> {
        let Some(name) = self.headers.get("time") else { return Ok(None) };
        let column = user.column_by_name(name).ok_or_else(|| format!("the input has no column `{name}`"))?;
        let times = cast(column, &time_type()).map_err(|e| e.to_string())?;
        if times.null_count() > 0 {
            return Err(format!("`{name}` is null, but it is the event time"));
        }
        Ok(Some(times.as_primitive::<TimestampMillisecondType>().values().to_vec()))
    }

    fn push(&mut self, batch: Batch) -> Result<(), String> {
        let rows = batch.num_rows() as u64;
        self.rows_in += rows;
        let ledger = self.drive(|operator, cx| operator.on_batch(&batch, cx))?;
        if ledger.accounted() != rows as i64 {
            return Err(format!("{rows} rows in, {} accounted for: {ledger:?}", ledger.accounted()));
        }
        Ok(())
    }

    fn time(&mut self, text: &str) -> Result<(), String> {
        if !self.planned()? {
            return Ok(());
        }
        let mut wall = None;
        for word in text.split_whitespace() {
            match word.strip_prefix("wall=") {
                Some(at) => wall = Some(show::read_time(at)?),
                None if word == "auto" => self.time.watermark = self.time.watermark.max(self.clock.watermark()),
                None => self.time.watermark = show::read_time(word)?,
            }
        }
        self.time.wall = wall.unwrap_or(self.time.wall.max(self.time.watermark));
        let time = self.time;
        let ledger = self.drive(|operator, cx| operator.on_time(time, cx))?;
        let delay = match &self.step {
            Step::Running(planned, _) => planned.delay,
            _ => 0,
        };
        if time.watermark != NO_WATERMARK {
            self.time.emitted = time.watermark.saturating_sub(delay);
        }
        if ledger.accounted() != 0 {
            return Err(format!("time took no rows in, {} are accounted for: {ledger:?}", ledger.accounted()));
        }
        Ok(())
    }

    /// Calls the operator, prints what it did and checks it against the plan.
    fn drive(&mut self, call: impl FnOnce(&mut dyn Operator, &mut Cx<'_>) -> Result<(), StateError>) -> Result<Ledger, String> {
        let Step::Running(planned, operator) = &mut self.step else { return Ok(Ledger::default()) };
        let (mut emitted, mut rejected, mut ledger) = (Vec::new(), Vec::new(), Ledger::default());
        let mut cx = Cx::new(&mut emitted, &mut rejected, &mut ledger, &mut self.state, &self.tables);
        let done = call(operator.as_mut(), &mut cx);
        self.ledger.add(&ledger);
        let marks = self.headers.get("show").is_some_and(|v| v == "watermark");
        for Emitted { port, rows } in &emitted {
            let output = planned.outputs.get(usize::from(port.0)).ok_or_else(|| format!("{port:?} was not planned"))?;
            let name = if output.name.is_empty() { "out" } else { &output.name };
            self.lines.extend((0..rows.num_rows()).map(|row| format!("emit {name}: {}", show::row(rows, row, marks))));
            differs(&rows.schema(), &output.schema).map_or(Ok(()), |what| Err(format!("output {name}: {what}")))?;
        }
        for Rejected { row, cause, .. } in &rejected {
            self.lines.push(format!("reject: {} ({cause})", show::row(row, 0, marks)));
        }
        let inputs: u64 = rejected.iter().map(|rejected| rejected.inputs).sum();
        if inputs != ledger.rejected {
            return Err(format!("{inputs} rows rejected, {} in the ledger", ledger.rejected));
        }
        done.map_err(|e| e.to_string())?;
        Ok(ledger)
    }

    fn table(&mut self, line: &str, body: &[&str]) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let name = words.next().ok_or("a table has a name")?.to_string();
        let settings: BTreeMap<&str, &str> = words.filter_map(|w| w.split_once('=')).collect();
        let deleted: Vec<bool> = body.iter().skip(1).map(|l| l.trim_start().starts_with('-')).collect();
        let body: Vec<String> = body.iter().map(|l| l.trim_start().trim_start_matches('-').to_string()).collect();
        let drawn = drawn(&body.iter().map(String::as_str).collect::<Vec<_>>())?;
        if !self.infos.contains_key(&name) {
            let key = settings.get("key").ok_or("a new table needs key=COLUMN")?.to_string();
            let schema: SchemaRef = Arc::new(drawn.schema()?);
            let history = settings.get("history").map(|h| h.parse::<Span>()).transpose()?;
            self.tables.insert(name.clone(), Table::new(schema.clone(), history.map(Span::millis)));
            self.infos.insert(name.clone(), TableInfo { schema, key });
        }
        let (Some(info), Some(table)) = (self.infos.get(&name), self.tables.get_mut(&name)) else {
            return Err(format!("there is no table `{name}`"));
        };
        let at = settings.get("at").map_or(Ok(0), |at| show::read_time(at))?;
        self.changes += deleted.len() as i64;
        change(table, info, &drawn, &deleted, (at, self.changes - deleted.len() as i64))
    }
}

fn change(table: &mut Table, info: &TableInfo, drawn: &Drawn, deleted: &[bool], (at, first): (i64, i64)) -> Result<(), String> {
    let rows = drawn.batch(&info.schema)?;
    let key = rows.column_by_name(&info.key).ok_or_else(|| format!("the table has no column `{}`", info.key))?.clone();
    let times = drawn.times("_time")?;
    let keys: Vec<Vec<u8>> = (0..rows.num_rows())
        .map(|row| {
            let mut bytes = Vec::new();
            put_record_key(&key, row, &mut bytes);
            bytes
        })
        .collect();
    let changes = keys.iter().zip(times).zip(deleted).enumerate().map(|(row, ((key, time), deleted))| {
        let place = if *deleted { None } else { Some(row as u32) };
        Change { key, since: time.unwrap_or(at), partition: 0, offset: first + row as i64, row: place }
    });
    table.apply(rows, changes);
    Ok(())
}

/// The first difference between the columns of emitted rows and the planned ones.
fn differs(emitted: &Schema, planned: &Schema) -> Option<String> {
    if emitted.fields().len() != planned.fields().len() {
        return Some(format!("{} columns emitted, {} planned", emitted.fields().len(), planned.fields().len()));
    }
    let mut pairs = emitted.fields().iter().zip(planned.fields());
    pairs.find(|(a, b)| a != b).map(|(a, b)| format!("column {a:?} emitted where {b:?} was planned"))
}
