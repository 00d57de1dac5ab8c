//! One run of a script: the operator, its state and tables, and what they did since the last `----`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Fields, SchemaRef};

use super::rows::{drawn, signed};
use super::stream::Stream;
use super::tables::{change, differs, event_times};
use super::{BROKEN, parse_spec, show, type_syntax};
use operator_core::Interval;
use operator_core::batch::{Batch, Millis, NO_WATERMARK, Origin};
use operator_core::operator::{Context, Emitted, Input, Ledger, Operator, Progress, Rejected, Time};
use operator_core::spec::{PlanCx, Planned, Spec, StateLayout, TableInfo};
use operator_core::state::{MemoryState, StateError};
use operator_core::table::Table;
use operator_core::timers::Timers;

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
    /// By the name of the input.
    inputs: BTreeMap<String, Stream>,
    out_of_order: Millis,
    time: Time,
    state: MemoryState,
    timers: Timers,
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
            inputs: BTreeMap::new(),
            out_of_order: 0,
            time: Time::default(),
            state: MemoryState::default(),
            timers: Timers::default(),
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

    /// The names of the step's inputs.
    fn names() -> &'static [&'static str] {
        if S::INPUTS.is_empty() { &[""] } else { S::INPUTS }
    }

    /// The input called `name`, and its place.
    fn input(&mut self, name: &str) -> Result<(Input, &mut Stream), String> {
        let place = Self::names().iter().position(|known| *known == name).ok_or_else(|| match S::INPUTS {
            [] => format!("the step has one input, without a name: `{name}` can't be one"),
            names => format!("name the input: {}", names.join(" or ")),
        })?;
        Ok((Input(place as u16), self.inputs.entry(name.to_string()).or_default()))
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
        let (setting, of) = name.split_once(' ').unwrap_or((name, ""));
        match setting {
            "input" => {
                let schema = Arc::new(type_syntax::schema(&text)?);
                self.input(of)?.1.schema = Some(schema);
                return Ok(());
            }
            "key" => {
                self.input(of)?.1.key = Some(text);
                return Ok(());
            }
            "changes" => {
                self.input(of)?.1.changes = Some(text);
                return Ok(());
            }
            _ => {}
        }
        match name {
            "spec" => match parse_spec(&text) {
                Ok(spec) => self.spec = Some(spec),
                Err(problem) => {
                    self.lines.push(format!("error[spec]: {problem}"));
                    self.step = Step::Refused;
                }
            },
            "out_of_order" => self.out_of_order = text.parse::<Interval>()?.millis(),
            "time" | "show" | "split" => {
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
        let spec = self.spec.as_ref().ok_or("write `spec:` before the first command")?;
        let row_time = self.headers.contains_key("time");
        let mut inputs = Vec::new();
        for name in Self::names() {
            let info = self.inputs.get(*name).map(|stream| stream.info(row_time)).transpose()?.flatten();
            inputs.push(info.ok_or_else(|| format!("write `{}:` before the first command", format!("input {name}").trim()))?);
        }
        let [input, others @ ..] = inputs.as_slice() else { return Ok(false) };
        let planned = operator_core::plan(spec, &PlanCx { others, ..PlanCx::new(input, &self.infos) });
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
        self.timers.forget();
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), String> {
        self.planned()?;
        self.state = self.saved.clone();
        self.restored();
        Ok(())
    }

    /// Nothing in memory counts any more.
    fn restored(&mut self) {
        self.timers.forget();
        if let Step::Running(_, operator) = &mut self.step {
            operator.on_restore();
        }
    }

    fn batch(&mut self, setting: &str, body: &[&str]) -> Result<(), String> {
        let (mut partition, mut name) = (0, "");
        for word in setting.split_whitespace() {
            match word.split_once('=') {
                None => name = word,
                Some(("partition", number)) => partition = number.parse().map_err(|e| format!("partition {number}: {e}"))?,
                Some(_) => return Err(format!("a batch has no setting `{word}`")),
            }
        }
        let (lines, signs) = if self.input(name)?.1.changes.is_some() { signed(body)? } else { (body.to_vec(), Vec::new()) };
        let drawn = drawn(&lines)?;
        let time = self.headers.get("time").cloned();
        let out_of_order = self.out_of_order;
        let (input, stream) = self.input(name)?;
        let schema = match &stream.schema {
            Some(schema) => schema.clone(),
            None => stream.schema.insert(Arc::new(drawn.schema()?)).clone(),
        };
        let user = drawn.batch(&schema)?;
        let times = time.map(|column| event_times(&column, &user)).transpose()?;
        let from = stream.clock.next_offset - 1;
        let signs = stream.changes.is_some().then_some(signs);
        let rows = stream.clock.stamp(&user, &drawn, times, out_of_order, signs)?;
        let to = stream.clock.next_offset - 1;
        if !self.planned()? {
            return Ok(());
        }
        let topic = if name.is_empty() { "script" } else { name };
        let origin = |from, to| Origin { topic: topic.into(), partition, from, to };
        if self.one_by_one {
            let all = Batch::new(rows, origin(from, to));
            let system = all.system().map_err(|e| e.to_string())?;
            let mut row = 0;
            while row < all.num_rows() {
                // The two rows of an update are in one batch.
                let (length, offset) = (1 + usize::from(system.is_update(row)), system.row(row).offset);
                self.push(input, Batch::new(all.rows.slice(row, length), origin(offset - 1, offset)))?;
                row += length;
            }
            return Ok(());
        }
        self.push(input, Batch::new(rows, origin(from, to)))
    }

    fn push(&mut self, input: Input, batch: Batch) -> Result<(), String> {
        let rows = batch.num_rows() as u64;
        self.rows_in += rows;
        let (ledger, ()) = self.drive(|operator, cx| operator.on_batch(input, &batch, cx))?;
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
                None if word == "auto" => {
                    let clocks = Self::names().iter().map(|name| self.inputs.get(*name));
                    let marks = clocks.map(|stream| stream.map_or(NO_WATERMARK, |s| s.clock.watermark(self.out_of_order)));
                    self.time.watermark = self.time.watermark.max(marks.min().unwrap_or(NO_WATERMARK));
                }
                None => self.time.watermark = show::read_time(word)?,
            }
        }
        self.time.wall = wall.unwrap_or(self.time.wall.max(self.time.watermark));
        // In the smallest portions where rows come one by one, and with nothing in memory from one to the next.
        let time = Time { budget: if self.one_by_one { 1 } else { usize::MAX }, ..self.time };
        let mut ledger = self.fire(time)?;
        loop {
            let (moved, progress) = self.drive(|operator, cx| operator.on_time(time, cx))?;
            ledger.add(&moved);
            if progress == Progress::Done {
                break;
            }
            self.restored();
        }
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

    /// Fires the timers that are due.
    fn fire(&mut self, time: Time) -> Result<Ledger, String> {
        let mut ledger = Ledger::default();
        while let Some(timer) = self.timers.take(time.watermark, time.wall, &mut self.state).map_err(|e| e.to_string())? {
            let (moved, ()) = self.drive(|operator, cx| operator.on_timer(&timer, time, cx))?;
            ledger.add(&moved);
            if self.one_by_one {
                self.restored();
            }
        }
        Ok(ledger)
    }

    /// Calls the operator, prints what it did and checks it against the plan.
    fn drive<T>(&mut self, call: impl FnOnce(&mut dyn Operator, &mut Context<'_>) -> Result<T, StateError>) -> Result<(Ledger, T), String> {
        let Step::Running(planned, operator) = &mut self.step else { return Err("the step was refused".into()) };
        let (mut emitted, mut rejected, mut ledger) = (Vec::new(), Vec::new(), Ledger::default());
        let timers = planned.state.as_ref().is_some_and(StateLayout::has_timers).then_some(&mut self.timers);
        let cx = Context::new(&mut emitted, &mut rejected, &mut ledger, &mut self.state, &self.tables);
        let mut cx = cx.with_timers(timers, self.time.wall);
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
        Ok((ledger, done.map_err(|e| e.to_string())?))
    }

    fn table(&mut self, line: &str, body: &[&str]) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let name = words.next().ok_or("a table has a name")?.to_string();
        let settings: BTreeMap<&str, &str> = words.filter_map(|w| w.split_once('=')).collect();
        let deleted: Vec<bool> = body.iter().skip(1).map(|l| l.trim_start().starts_with('-')).collect();
        let body: Vec<String> = body.iter().map(|l| l.trim_start().trim_start_matches('-').to_string()).collect();
        let drawn = drawn(&body.iter().map(String::as_str).collect::<Vec<_>>())?;
        if !self.infos.contains_key(&name) {
            let key = settings.get("key").ok_or("a new table needs key=COLUMN")?;
            let schema: SchemaRef = Arc::new(drawn.schema()?);
            let field = |name: &str| schema.field_with_name(name).cloned().map_err(|_| format!("the table has no column `{name}`"));
            let key = key.split(',').map(field).collect::<Result<Fields, _>>()?;
            let history = settings.get("history").map(|h| h.parse::<Interval>()).transpose()?;
            self.tables.insert(name.clone(), Table::new(schema.clone(), history.map(Interval::millis)));
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
