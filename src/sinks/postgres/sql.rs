//! Names in SQL.

use std::fmt;

use headwater_engine::sinks::is_identifier;

/// A table by schema and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub schema: String,
    pub name: String,
}

/// PostgreSQL cuts longer names (bytes).
pub(super) const MAX_NAME: usize = 63;

impl Table {
    /// Reads `schema.table`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Table, String> {
        match text.split_once('.') {
            Some((schema, name)) if [schema, name].iter().all(|part| is_identifier(part) && part.len() <= MAX_NAME) => {
                Ok(Table { schema: schema.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("`{text}` is not `schema.table`")),
        }
    }

    /// Quoted for SQL.
    pub fn quoted(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }

    /// The table of positions beside it, quoted.
    pub fn positions(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(POSITIONS))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// The table that holds the positions of all sinks that write into its schema.
pub(super) const POSITIONS: &str = "headwater_positions";

/// An identifier quoted for SQL.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A list of them.
pub(super) fn identifiers<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(identifier).collect::<Vec<_>>().join(", ")
}

/// The column that was added to it later.
const TOPIC_ID: &str = "topic_id text";

/// What adds the columns that older tables of positions lack.
pub(super) fn extend_positions(table: &Table) -> String {
    format!("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {TOPIC_ID}", table.positions())
}

/// What creates the table of positions.
pub(super) fn create_positions(table: &Table) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (\n    pipeline text NOT NULL,\n    sink text NOT NULL,\n    partition integer NOT NULL,\n    \
         epoch bigint NOT NULL,\n    next_offset bigint,\n    next_row integer NOT NULL DEFAULT 0,\n    {TOPIC_ID},\n    PRIMARY KEY (pipeline, sink, partition)\n)",
        table.positions()
    )
}
