//! A step as written in YAML, and what planning makes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::batch::Millis;
use crate::changes::Mode;
use crate::diagnostic::Diagnostic;
use crate::operator::{Input, Operator};
use crate::path::Path;
use crate::stores::StoreLayout;

/// The configuration of one kind of operator: the YAML below its kind's key. JSON Schema for editors, `hw lint`,
/// `hw explain`, the README's table and the example test all derive from it.
pub trait Spec: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The key that names the operator in a step: `filter` in `{ from: orders, filter: total > 0 }`.
    const KIND: &'static str;
    /// One sentence for lists of operators.
    const SUMMARY: &'static str;
    /// A complete pipeline fragment (`steps:` with this kind) that plans against [`Spec::EXAMPLE_INPUT`].
    const EXAMPLE: &'static str;
    /// The columns the example's inputs have, as `name: type` lines (`items: list<struct<sku: string, quantity: int>>`); those of
    /// each input in [`Spec::INPUTS`] below a line `[name]`.
    const EXAMPLE_INPUT: &'static str;
    /// Names of the inputs of a kind that has several, as in `from: { left: orders, right: payments }`. Empty: it has one
    /// input, without a name.
    const INPUTS: &'static [&'static str] = &[];

    /// What to do instead of giving this kind a stream of changes; `None`: it takes them, and its [`plan`](Spec::plan) says what
    /// the modes of its outputs are. Steps are planned through [`crate::plan`], which refuses the others.
    const REFUSES_CHANGES: Option<&'static str> = Some("give it a stream of rows that are only added");

    /// Checks the configuration against its input schemas. Reports all problems at once, not only the first.
    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>>;

    /// Ports whose rows have the columns of the input whatever is wrong with the rest (`""`: the main output): the steps
    /// behind them can be checked although this one is refused.
    fn pass_through_ports(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a step is planned against.
pub struct PlanCx<'a> {
    /// The step's input: the schema with system columns, and its partitioning. Of several, the first in [`Spec::INPUTS`].
    pub input: &'a InputInfo,
    /// The other inputs, in the order of [`Spec::INPUTS`].
    pub others: &'a [InputInfo],
    pub tables: &'a BTreeMap<String, TableInfo>,
    /// The step's name, behind that of its pipeline: no other step has it.
    pub source: &'a str,
}

impl<'a> PlanCx<'a> {
    /// For a step with one input, in no pipeline.
    pub fn new(input: &'a InputInfo, tables: &'a BTreeMap<String, TableInfo>) -> PlanCx<'a> {
        PlanCx { input, others: &[], tables, source: "pipeline.step" }
    }
}

/// A stream of rows at planning time.
#[derive(Clone, Debug)]
pub struct InputInfo {
    /// User columns, then system columns.
    pub schema: SchemaRef,
    /// The columns whose values decide a row's partition, when known: rows with equal values share a partition.
    pub key: Option<Vec<Path>>,
    /// Whether its rows are events, or changes.
    pub mode: Mode,
}

/// A table at planning time.
#[derive(Clone, Debug)]
pub struct TableInfo {
    pub schema: SchemaRef,
    /// The columns of the record key, in the order in which a lookup gives their values.
    pub key: Fields,
}

/// What a step does to the partitioning of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyEffect {
    /// Rows stay in their partition and the key columns keep their meaning under the given new names
    /// (old path, new path); columns not listed are gone.
    Renamed(Vec<(Path, Path)>),
    /// All columns stay as they are.
    Unchanged,
    /// The output is partitioned by these columns (the group of a window).
    Columns(Vec<String>),
}

impl Mode {
    /// The mode of rows that a step passed on after renaming or leaving out columns. Without all columns of the key there is no key.
    pub fn after(&self, effect: &KeyEffect) -> Mode {
        let Mode::Changes { key, row_time } = self else { return Mode::Append };
        let key = match effect {
            KeyEffect::Unchanged => key.clone(),
            KeyEffect::Columns(columns) => columns.iter().map(Path::column).collect(),
            KeyEffect::Renamed(renames) => renamed(key, renames).unwrap_or_default(),
        };
        Mode::Changes { key, row_time: *row_time }
    }
}

/// The columns of a key under their new names ([`KeyEffect::Renamed`]); `None` if one of them is gone.
pub fn renamed(key: &[Path], renames: &[(Path, Path)]) -> Option<Vec<Path>> {
    let new = |old: &Path| renames.iter().find(|(from, _)| from == old).map(|(_, to)| to.clone());
    key.iter().map(new).collect()
}

/// An output of a planned step.
#[derive(Clone, Debug)]
pub struct OutputPort {
    /// Empty for the main output, else the name after the dot (`per_minute.late`).
    pub name: String,
    /// User columns, then system columns.
    pub schema: SchemaRef,
    pub key: KeyEffect,
    /// The input whose partitioning `key` starts from.
    pub key_of: Input,
    /// A port whose rows are dropped unless something consumes it (late rows, an unmatched route): lint warns.
    pub lossy_if_unread: bool,
    /// Its rows are made by the step, when time moves or rows meet: they have no place among those of another stream.
    pub timed: bool,
    /// Whether its rows are events, or changes: then its schema has [`CHANGE`](crate::CHANGE).
    pub mode: Mode,
}

impl OutputPort {
    /// The main output, of rows that are only added.
    pub fn main(schema: SchemaRef, key: KeyEffect) -> OutputPort {
        OutputPort { name: String::new(), schema, key, key_of: Input::ONLY, lossy_if_unread: false, timed: false, mode: Mode::Append }
    }

    /// The same, for rows of an input of this mode that the step passes on.
    pub fn of_mode(self, input: &Mode) -> OutputPort {
        OutputPort { mode: input.after(&self.key), ..self }
    }
}

/// The name of the fact that a step has timers.
const TIMERS: &str = "timers";

/// What a step's state is made of. State written under one layout means something else, or nothing, to a step with another one; the engine
/// compares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateLayout {
    /// What decides how the state is read: names and values in words of the pipeline file.
    pub facts: Vec<(String, String)>,
    /// The columns of rows in state that may be null, by store: rows that are kept may have nulls there, so none of them may become required.
    pub nullable: Vec<String>,
    /// By fact, other values that the step reads as well: state of a version that had fewer columns.
    earlier: Vec<(String, Vec<String>)>,
}

impl StateLayout {
    /// Adds a fact.
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> StateLayout {
        self.facts.push((name.into(), value.into()));
        self
    }

    /// The step sets timers ([`Context::timers`](crate::Context::timers)).
    pub fn timers(self) -> StateLayout {
        self.with(TIMERS, "by time and key")
    }

    /// Whether the step sets timers.
    pub fn has_timers(&self) -> bool {
        self.facts.iter().any(|(name, _)| name == TIMERS)
    }

    /// Adds the layout of a store. Stores are compared by their names.
    pub fn store(mut self, name: &str, layout: &StoreLayout) -> StateLayout {
        self.facts.extend(layout.facts(name));
        self.nullable.extend(nullable(&layout.row).into_iter().map(|column| format!("{name} {column}")));
        self
    }

    /// Adds the layout of a store whose rows may lack up to `added` of their last columns, which then read as null: a version that had not
    /// these columns has written them.
    pub fn growing_store(mut self, name: &str, layout: &StoreLayout, added: usize) -> StateLayout {
        self.earlier.extend(layout.shorter(name, added));
        self.store(name, layout)
    }

    /// Whether state with these facts can be read.
    pub fn reads(&self, written: &[(String, String)]) -> bool {
        let earlier = |name: &str, value: &String| self.earlier.iter().any(|(fact, values)| fact == name && values.contains(value));
        let same = |((name, is), (of, was)): (&(String, String), &(String, String))| name == of && (is == was || earlier(name, was));
        self.facts.len() == written.len() && self.facts.iter().zip(written).all(same)
    }
}

/// The columns that may be null, and such fields of records, as paths.
pub fn nullable<'a>(fields: impl IntoIterator<Item = &'a Arc<Field>>) -> Vec<String> {
    let mut found = Vec::new();
    for field in fields {
        if field.is_nullable() {
            found.push(field.name().clone());
        }
        if let DataType::Struct(inner) = field.data_type() {
            found.extend(nullable(inner).into_iter().map(|path| format!("{}.{path}", field.name())));
        }
    }
    found
}

/// A table that a step reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableUse {
    pub name: String,
    /// It looks up the version that was valid at a row's time, so the table keeps replaced ones.
    pub as_of_time: bool,
}

/// A step that passed its checks.
#[derive(Clone)]
pub struct Planned {
    pub outputs: Vec<OutputPort>,
    /// For each input, columns: rows with equal values in them, of any input, must be in one partition. Their types agree from
    /// input to input. The planner inserts repartition topics where that is not so. `None`: any partitioning does.
    pub needs_key: Option<Vec<Vec<Path>>>,
    /// What state the step keeps in its partition; `None`: it keeps none.
    pub state: Option<StateLayout>,
    /// The step's outputs trail its input's watermark by this much (a window that waits for late rows).
    pub delay: Millis,
    /// Columns of its input that its expressions read, sorted. Those that only pass through don't count.
    pub reads: Vec<String>,
    pub tables: Vec<TableUse>,
    /// Settings with their defaults, and facts worth knowing, for `hw explain`: (name, value).
    pub details: Vec<(String, String)>,
    pub warnings: Vec<Diagnostic>,
    /// Casts and the like that fail for some rows: errors unless the step says what happens to those (`on_error`).
    pub fallible: Vec<Diagnostic>,
    /// Rows can become far larger than those that came in: the engine gives such a step no more of them at a time than memory
    /// allows ([`crate::memory`]).
    pub grows: bool,
    /// Makes one operator; called once per partition.
    pub build: Arc<dyn Fn() -> Box<dyn Operator> + Send + Sync>,
}

impl Planned {
    /// A stateless step with one output.
    pub fn stateless(output: OutputPort, build: impl Fn() -> Box<dyn Operator> + Send + Sync + 'static) -> Planned {
        Planned {
            outputs: vec![output],
            needs_key: None,
            state: None,
            delay: 0,
            reads: Vec::new(),
            tables: Vec::new(),
            details: Vec::new(),
            warnings: Vec::new(),
            fallible: Vec::new(),
            grows: false,
            build: Arc::new(build),
        }
    }

    /// Says which columns the step's expressions read.
    pub fn reads<'a>(mut self, columns: impl IntoIterator<Item = &'a String>) -> Planned {
        self.reads = columns.into_iter().cloned().collect();
        self.reads.sort_unstable();
        self.reads.dedup();
        self
    }

    pub fn detail(mut self, name: &str, value: impl ToString) -> Planned {
        self.details.push((name.to_string(), value.to_string()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(columns: &[&str]) -> Mode {
        Mode::Changes { key: columns.iter().map(|column| Path::column(*column)).collect(), row_time: true }
    }

    #[test]
    fn streams_that_are_read_as_one_have_the_time_of_rows_if_all_have() {
        let late = Mode::Changes { key: vec![Path::column("id")], row_time: false };
        assert_eq!(by(&["id"]).united(&by(&["id"])), Some(by(&["id"])));
        assert_eq!(by(&["id"]).united(&late), Some(late.clone()));
        assert_eq!((by(&["id"]).united(&by(&["no"])), by(&["id"]).united(&Mode::Append)), (None, None));
        assert_eq!((late.after(&KeyEffect::Unchanged).row_time(), late.repartitioned(&[Path::column("no")]).row_time()), (false, false));
    }

    #[test]
    fn the_key_follows_its_columns() {
        let renamed =
            |pairs: &[(&str, &str)]| KeyEffect::Renamed(pairs.iter().map(|(a, b)| (Path::column(*a), Path::column(*b))).collect());
        let mode = by(&["tenant", "id"]);
        assert_eq!(mode.after(&KeyEffect::Unchanged), mode);
        assert_eq!(mode.after(&renamed(&[("id", "order"), ("tenant", "tenant")])), by(&["tenant", "order"]));
        let gone = mode.after(&renamed(&[("id", "order")]));
        assert_eq!((gone.clone(), gone.key(), gone.is_changes()), (by(&[]), None, true));
        assert_eq!(gone.after(&renamed(&[("order", "id")])), by(&[]));
        assert_eq!(Mode::Append.after(&renamed(&[])), Mode::Append);
        assert_eq!(mode.repartitioned(&[Path::column("id")]), mode);
        assert_eq!(mode.repartitioned(&[Path::column("id"), Path::column("status")]), by(&[]));
        assert_eq!(mode.to_string(), "changes by tenant, id");
        assert_eq!(gone.to_string(), "changes without a key");
    }
}
