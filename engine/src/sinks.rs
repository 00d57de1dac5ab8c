//! Sinks that write to tables of a store, as the engine sees them: a list of kinds, defined in one place (`src/registry.rs` of the
//! program). The engine names no store itself: it reads a sink's entry by its kind, asks whether the columns can be written, and
//! hands the rows over through an outbox topic.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema as Columns};
use operator_core::{Diagnostic, Millis};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use crate::yaml::{Node, YamlError, read_all};

/// Position columns that every delivered row has, after the user's columns: partition and offset of its record in the
/// outbox topic, and its place within that record.
pub const PARTITION: &str = "_partition";
pub const OFFSET: &str = "_offset";
pub const ROW: &str = "_row";

/// The position columns in order: `_partition Int32`, `_offset Int64`, `_row Int32`, never null.
pub fn position_fields() -> [Field; 3] {
    [Field::new(PARTITION, DataType::Int32, false), Field::new(OFFSET, DataType::Int64, false), Field::new(ROW, DataType::Int32, false)]
}

/// More rows are never put into one block: ClickHouse splits larger inserts, and a token covers one split only.
pub const MAX_BLOCK_ROWS: usize = 1_000_000;

/// The rows that a sink gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    /// The columns, without those that delivery adds.
    pub columns: Columns,
    /// Of a stream of changes: the columns that say which row a change is about. Its rows have [`operator_core::CHANGE`], too, and
    /// all changes of a row are in one partition of the outbox, in order.
    pub changes: Option<Vec<String>>,
}

impl Incoming {
    /// Rows that are only added.
    pub fn added(columns: Columns) -> Incoming {
        Incoming { columns, changes: None }
    }
}

/// A table that a sink writes to, as the sink's entry in the file describes it.
pub trait SinkTable: Any + Debug + Send + Sync {
    /// The kind of sink, which is also the key that names the table: `clickhouse`.
    fn kind(&self) -> &'static str;

    /// The table as the file names it.
    fn name(&self) -> &str;

    /// How rows are cut into blocks.
    fn blocks(&self) -> Blocks;

    /// What is wrong with the entry for these rows, without asking a server. Paths are relative to the sink.
    fn check(&self, rows: &Incoming) -> Vec<Diagnostic>;
}

/// How large a block gets, and how long its first row waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Milliseconds.
    pub flush: Millis,
    pub rows: u32,
}

impl Blocks {
    /// What is wrong with the key `block_rows`.
    pub fn check(&self) -> Option<Diagnostic> {
        let fits = (1..=MAX_BLOCK_ROWS).contains(&(self.rows as usize));
        let message = || format!("`block_rows` must be from 1 to {MAX_BLOCK_ROWS}");
        (!fits).then(|| Diagnostic::error("block-rows", message()).at(["block_rows"]))
    }
}

/// What reading an entry gave: the table, or what is wrong with the entry's shape.
pub type ReadTable = (Option<Arc<dyn SinkTable>>, Vec<YamlError>);

/// One kind of sink.
#[derive(Clone, Copy)]
pub struct SinkKind {
    /// The key that names the table in the file.
    pub name: &'static str,
    /// The store in words: `ClickHouse`.
    pub title: &'static str,
    /// A table's name, for help texts.
    pub example: &'static str,
    /// JSON Schema of the entry, without `from`.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// The keys of the entry, without `from`.
    pub keys: fn() -> Vec<String>,
    /// Reads the entry, without `from`.
    pub read: fn(&Node) -> ReadTable,
}

/// The kinds of sinks that write to tables.
#[derive(Clone, Default)]
pub struct Sinks(pub Vec<SinkKind>);

impl Sinks {
    pub fn get(&self, name: &str) -> Option<&SinkKind> {
        self.0.iter().find(|kind| kind.name == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|kind| kind.name)
    }
}

/// The keys of a mapping that is read as `S`.
pub fn keys_of<S: JsonSchema>() -> Vec<String> {
    let schema = schemars::schema_for!(S);
    let properties = schema.get("properties").and_then(|properties| properties.as_object());
    properties.into_iter().flat_map(|properties| properties.keys().cloned()).collect()
}

/// Reads an entry as `S`, whose table `of` makes of it.
pub fn read_as<S: DeserializeOwned>(entry: &Node, of: impl FnOnce(S) -> Arc<dyn SinkTable>) -> ReadTable {
    match read_all::<S>(entry) {
        (Some(spec), errors) if errors.is_empty() => (Some(of(spec)), errors),
        (_, errors) => (None, errors),
    }
}

/// Whether a part of a table's name needs no quotes in SQL: letters, digits and `_`, no digit first.
pub fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !text.starts_with(|c: char| c.is_ascii_digit())
}
