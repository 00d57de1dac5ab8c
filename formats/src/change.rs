//! What a format of change records implements: the rows that a record speaks of, each as a row of the table.

use crate::builder::RowBuilder;
use crate::cause::DecodeError;

/// A row in a change record, not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedRow<'a> {
    /// The row in the format of the record.
    pub bytes: &'a [u8],
    /// The registered schema that the record was written with; 0 where records have none.
    pub schema: u32,
}

impl<'a> ChangedRow<'a> {
    /// A row of a record without a registered schema.
    pub fn plain(bytes: &'a [u8]) -> ChangedRow<'a> {
        ChangedRow { bytes, schema: 0 }
    }
}

/// What happened to the row of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It was inserted, or found by a snapshot.
    Create,
    Update,
    Delete,
}

impl Operation {
    /// What `op` of a Debezium record says.
    ///
    /// # Errors
    /// It is not a change of a row.
    pub fn of(op: Option<&str>) -> Result<Operation, String> {
        match op {
            Some("c" | "r") => Ok(Operation::Create),
            Some("u") => Ok(Operation::Update),
            Some("d") => Ok(Operation::Delete),
            Some("t") => Err("`op: t` (truncate) is not supported".into()),
            Some(_) => Err("its `op` is not a change of a row".into()),
            None => Err("not a Debezium change record: it has no `op`".into()),
        }
    }
}

/// What a record says about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    pub operation: Operation,
    /// The row as it was, where the record has it.
    pub before: Option<ChangedRow<'a>>,
    /// The row as it is; `None`: it was deleted.
    pub after: Option<ChangedRow<'a>>,
    /// When the connector saw the change, in milliseconds since 1970.
    pub at: Option<i64>,
}

/// Change records to rows.
pub trait ChangeDecoder: Send {
    /// Takes a record apart; `None` is a deletion that names no row: its key does.
    ///
    /// # Errors
    /// [`DecodeError::UnknownSchema`] if [`ChangeDecoder::add_schema`] was not called yet for the schema that the record names, else
    /// [`DecodeError::Bad`]: it is not a change of a row.
    fn read<'a>(&mut self, value: &'a [u8]) -> Result<Option<Change<'a>>, DecodeError>;

    /// Appends a row of a record.
    ///
    /// # Errors
    /// The row can't be read: why. `rows` is then as it was before.
    fn row(&mut self, row: ChangedRow<'_>, rows: &mut RowBuilder) -> Result<(), DecodeError>;

    /// The text of a schema that [`ChangeDecoder::read`] asked for.
    ///
    /// # Errors
    /// Its records can't be read: why. They are bad from now on.
    fn add_schema(&mut self, id: u32, text: &str) -> Result<(), String> {
        let _ = text;
        Err(format!("records of this format have no schema {id}"))
    }
}
