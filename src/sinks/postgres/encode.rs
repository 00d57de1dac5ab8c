//! Rows in the binary format of COPY, and whether their values fit into the columns.
//!
//! No value is changed on the way: a number out of range, a fraction that would be rounded, a text that is too long makes its row a
//! dead letter. What only the server can judge (constraints, zero bytes in texts, members of enumerations) it refuses by itself. Cases
//! use the same code.

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::nullif;
use headwater_engine::delivery::position_fields;
use operator_core::{CHANGE, changes};

use super::cells::{Cells, put};
use super::native::{Column, Native};

/// The header of a binary COPY: signature, flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What goes with the columns of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Staging {
    /// Nothing: it goes into the table itself.
    None,
    /// The place of the row.
    Rows,
    /// The place of the row, and whether it is there or gone.
    Changes,
}

/// Writes rows for a table's columns.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    columns: Vec<Target>,
    staging: Staging,
}

/// A column of the table.
#[derive(Clone, Debug)]
struct Target {
    name: String,
    native: Native,
    /// It takes no NULL.
    required: bool,
    /// It says which row is meant.
    key: bool,
    /// The number of the type of an array's items.
    item: u32,
}

impl Staging {
    /// How many columns that is.
    fn columns(self) -> usize {
        match self {
            Staging::None => 0,
            Staging::Rows => 1,
            Staging::Changes => 2,
        }
    }
}

impl Encoder {
    /// For these columns, in this order. `key`: those that say which row is meant, which are never NULL.
    ///
    /// # Errors
    /// A column that can't be written.
    pub fn new(columns: &[Column], key: &[String], staging: Staging) -> Result<Encoder, String> {
        let column = |column: &Column| {
            let key = key.contains(&column.name);
            let (name, native, item) = (column.name.clone(), column.native()?, column.item);
            Ok(Target { name, native, required: column.required || key, key, item })
        };
        Ok(Encoder { columns: columns.iter().map(column).collect::<Result<_, String>>()?, staging })
    }

    /// The names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// Why these rows can't be written whatever their values: they are from before the pipeline was changed.
    pub fn strange(&self, rows: &RecordBatch) -> Option<String> {
        let positions = position_fields();
        let schema = rows.schema_ref();
        let fields = schema.fields().iter().filter(|field| positions.iter().all(|position| position.name() != field.name()));
        let found: Vec<&str> = fields.map(|field| field.name().as_str()).collect();
        let change = (self.staging == Staging::Changes).then_some(CHANGE);
        let wanted: Vec<&str> = self.names().chain(change).collect();
        let same = found.len() == wanted.len() && wanted.iter().all(|name| found.contains(name));
        (rows.num_rows() > 0 && !same).then(|| {
            let (found, wanted) = (found.join(", "), wanted.join(", "));
            format!("rows in the outbox have the columns {found}, the sink writes {wanted}: deliver them with the pipeline that wrote them")
        })
    }

    /// The rows.
    ///
    /// # Errors
    /// The first column with a value that does not fit, and why. The value itself is not shown.
    pub fn encode(&self, rows: &RecordBatch) -> Result<Vec<u8>, String> {
        let mut cells = Vec::new();
        let signs = changes::of(rows).filter(|_| self.staging == Staging::Changes);
        let gone = signs.map(|signs| signs.iter().map(|sign| Some(sign == Some(changes::GONE))).collect::<BooleanArray>());
        for Target { name, native, required, key, item } in &self.columns {
            let array = rows.column_by_name(name).ok_or_else(|| format!("the rows have no column `{name}`"))?;
            let said = |why: String| format!("column `{name}`: {why}");
            // Of a row that is gone only the key is used: its other values may be from before the table was altered.
            let (array, nulls) = match gone.as_ref().filter(|_| !key) {
                Some(gone) => (&nullif(array, gone).map_err(|e| said(e.to_string()))?, gone.true_count()),
                None => (array, 0),
            };
            if *required && array.logical_null_count() > nulls {
                return Err(said("NULL, which it does not accept".to_owned()));
            }
            cells.push(Cells::of(array, native, *item).map_err(said)?);
        }
        let mut out = Vec::with_capacity(HEADER.len() + rows.get_array_memory_size());
        out.extend_from_slice(HEADER);
        let count = i16::try_from(cells.len() + self.staging.columns()).map_err(|_| "too many columns".to_owned())?;
        for row in 0..rows.num_rows() {
            out.extend_from_slice(&count.to_be_bytes());
            for (cells, Target { name, .. }) in cells.iter().zip(&self.columns) {
                cells.field(row, &mut out).map_err(|why| format!("column `{name}`: {why}"))?;
            }
            if self.staging != Staging::None {
                put(&mut out, &(row as i64).to_be_bytes());
            }
            if self.staging == Staging::Changes {
                let sign = signs.map_or(changes::ADDED, |signs| signs.value(row));
                put(&mut out, &i16::from(sign).to_be_bytes());
            }
        }
        out.extend_from_slice(&(-1i16).to_be_bytes());
        Ok(out)
    }
}
