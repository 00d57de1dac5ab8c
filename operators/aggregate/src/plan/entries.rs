//! Collections of entries.

use std::sync::Arc;

use arrow::array::{ArrayRef, StructArray, new_null_array};
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use operator_core::keys::is_groupable;
use operator_core::stores::{KeyedRows, RowCodec, RowReader};
use operator_core::{Diagnostic, StateError, batch::reserved_name, type_said};

use super::columns::{Column, columns, filled};
use super::scope::{Part, Scope, Value};
use super::{Found, at};
use crate::spec::Aggregate;
use crate::state::{cause_fields, structure};

/// The first collection's store: its first bytes of keys.
pub const FIRST_TAG: u8 = 16;
/// The most collections.
const MOST: usize = 64;

/// A collection of an aggregate.
#[derive(Clone, Debug)]
pub struct Collection {
    pub name: String,
    /// The SQL of an entry's key.
    pub of: String,
    /// The key of the entry that a command is about, and what that reads.
    pub of_command: (Scope, Value),
    pub key: Arc<Field>,
    pub columns: Vec<Column>,
    /// Rows of entries: the key, what led to the entry if a timer needs that, and the declared columns.
    pub fields: Fields,
    /// The columns of an entry as expressions read them: all may be null, because there may be no entry.
    pub seen: Fields,
    /// Whether what led to an entry is kept.
    pub keeps_cause: bool,
    /// One row: no entry.
    pub none: ArrayRef,
    pub store: KeyedRows,
}

impl Collection {
    /// What is stored of an entry beside its key.
    pub fn codec(&self) -> &RowCodec {
        self.store.codec()
    }

    /// Entries that were read from state: `keys` has the column of their keys.
    ///
    /// # Errors
    /// They are not rows of the collection.
    pub fn read(&self, mut keys: Vec<ArrayRef>, reader: &mut RowReader) -> Result<ArrayRef, StateError> {
        keys.append(&mut filled(&self.columns, reader.take()?)?);
        Ok(Arc::new(structure(&self.fields, keys, None)?))
    }

    /// Where the declared columns begin.
    pub fn begin(&self) -> usize {
        self.fields.len() - self.columns.len()
    }

    /// The column that expressions read.
    pub fn field(&self) -> Field {
        Field::new(&self.name, DataType::Struct(self.seen.clone()), true)
    }
}

/// The collections, in the order in which they are written.
pub fn collections(aggregate: &Aggregate, key: &Fields, input: &SchemaRef, found: &mut Found) -> Vec<Collection> {
    let scope = Scope::new(input.fields().iter().enumerate().map(|(place, field)| (field.as_ref().clone(), Part::Input(place))));
    let mut collections = Vec::new();
    for (place, (name, written)) in aggregate.entries.iter().enumerate() {
        if place >= MOST {
            let wrong = Diagnostic::error("unsupported", format!("an aggregate has at most {MOST} collections of entries"));
            found.problems.push(wrong.at(["entries", name]).key());
            break;
        }
        let declared = columns(&written.columns, false, &["entries", name, "columns"], found);
        if written.key.is_empty() || reserved_name(&written.key).is_some() {
            let wrong = Diagnostic::error("reserved-name", format!("`{}` can't be the name of a column", written.key));
            found.problems.push(wrong.at(["entries", name, "key"]).help("such as `order_id`"));
        }
        if declared.iter().any(|column| *column.field.name() == written.key) {
            let wrong = Diagnostic::error("name-taken", format!("`{}` is the key of the entry, which it has by itself", written.key));
            found.problems.push(wrong.at(["entries", name, "columns", &written.key]).key().help("remove the column"));
        }
        let sql = written.of.as_str();
        let Some(of) = found.value(sql, &scope, None, at(&["entries", name, "of"])) else { continue };
        if !is_groupable(of.data_type()) {
            let message = format!("entries can't be kept by `{sql}`, which is {}", type_said(of.data_type()));
            let wrong = Diagnostic::error("not-groupable", message).at(["entries", name, "of"]);
            found.problems.push(wrong.help("use numbers, texts, bytes, booleans, dates or timestamps"));
            continue;
        }
        found.reads.extend(of.columns().iter().cloned());
        let narrow = scope.narrowed(&of.columns().iter().cloned().collect());
        let Some(of) = found.again(of.within(&narrow)) else { continue };
        let keeps_cause = aggregate.timers.iter().any(|(_, timer)| timer.of.as_deref() == Some(name));
        let entry_key = Arc::new(Field::new(&written.key, of.data_type().clone(), false));
        let rest = declared.iter().map(|column| column.field.clone());
        let fields: Fields = std::iter::once(entry_key.clone()).chain(cause_fields(keeps_cause)).chain(rest).collect();
        let declared_fields = declared.iter().map(|column| &column.field);
        let seen = std::iter::once(&entry_key).chain(declared_fields).map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
        let seen: Fields = seen.collect();
        let none = new_null_array(&DataType::Struct(fields.clone()), 1);
        let types = key.iter().map(|field| field.data_type().clone()).collect();
        let codec = RowCodec::new(fields.iter().skip(1).cloned().collect::<Fields>());
        let store = KeyedRows::new(FIRST_TAG + place as u8, types, vec![of.data_type().clone()], codec);
        let of_command = (narrow, of);
        let (name, of) = (name.to_string(), sql.to_string());
        collections.push(Collection { name, of, of_command, key: entry_key, columns: declared, fields, seen, keeps_cause, none, store });
    }
    collections
}

/// Entries as expressions read them, of rows of a collection.
pub fn seen(collection: &Collection, rows: &StructArray) -> Vec<ArrayRef> {
    let columns = rows.columns();
    columns.first().into_iter().chain(columns.get(collection.begin()..).unwrap_or_default()).cloned().collect()
}
