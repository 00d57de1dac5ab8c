//! Typed stores: what a step keeps in its partition, with a layout that the engine knows.
//!
//! ```text
//! TimedRows   rows under (key, time, sequence): read by key and range of time, expired by time     a side of a join
//! TimeQueue   rows under (time, key, sequence): taken in this order once their time has come      what waits for the watermark
//! KeyedRows   rows under (group, id): read by group, until they are removed                            a table
//! Number      one number                                                                           a watermark, a count
//! ```
//!
//! All stores of a step share its [`State`](crate::State), and so its changelog: each has a byte of its own that its keys begin
//! with. An operator makes its stores when it is planned and describes them ([`StoreLayout`], [`StateLayout::store`]); the
//! manifest compares that description by the store's name before a worker reads a single entry. Keys are columns in the
//! encoding of [`keys`](crate::keys), times are ordered, rows have the encoding of [`RowCodec`].
//!
//! What is stored is bounded: entries are records of a changelog, and brokers refuse records of a mebibyte. A row that does not
//! fit ([`too_large`]) must be rejected when it comes.
//!
//! Stores remember where they begin, and a number what it is: [`Operator::on_restore`](crate::Operator::on_restore) must make them
//! forget it.
//!
//! Bytes that can't be read are an error of the whole step, which the engine reports as unreadable state; they never panic and
//! are never taken for something else.
//!
//! [`StateLayout::store`]: crate::StateLayout::store

pub mod bytes;
mod column;
mod keyed;
mod number;
mod queue;
mod row;
mod timed;

pub use keyed::{KeyedRow, KeyedRows};
pub use number::Number;
pub use queue::{Due, Portion, TimeQueue};
pub use row::{RowCodec, RowReader, RowWriter, not_storable};
pub use timed::{TimedRow, TimedRows};

use arrow::datatypes::{DataType, FieldRef, Fields};

use crate::batch::Origin;
use crate::keys;
use crate::state::StateError;
use crate::type_names::name;

use bytes::{Reader, put_ordered};

/// Version of entries, their first byte.
const VERSION: u8 = 1;
/// Most bytes of a key's columns.
const MAX_KEY: usize = 1 << 16;
/// Most bytes of a row.
pub const MAX_ROW: usize = 3 << 18;
/// Bytes of entries that are taken at a time, whatever their number.
const MAX_PORTION: usize = 8 << 20;

/// What a store holds, in words for the manifest: state written under one layout can't be read under another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreLayout {
    /// What kind of store it is, with the settings that decide where its entries are.
    pub kind: String,
    pub key: Vec<DataType>,
    pub row: Fields,
}

impl StoreLayout {
    /// Facts with the name of the store before them.
    pub(crate) fn facts(&self, store: &str) -> Vec<(String, String)> {
        let key = list(self.key.iter().map(name));
        [("kind", self.kind.clone()), ("key", key), ("row", columns(&self.row))]
            .map(|(fact, value)| (format!("{store} {fact}"), value))
            .to_vec()
    }

    /// The fact of the rows, and its values for rows without up to `added` of the last columns, as far as a reader of all columns takes
    /// them: a row begins with whole bytes that say which columns are not null ([`RowCodec`]).
    pub(crate) fn shorter(&self, store: &str, added: usize) -> Option<(String, Vec<String>)> {
        let all = self.row.len();
        let counts = all.saturating_sub(added)..all;
        let values =
            counts.filter(|count| count.div_ceil(8) == all.div_ceil(8)).map(|count| columns(&self.row[..count])).collect::<Vec<_>>();
        (!values.is_empty()).then(|| (format!("{store} row"), values))
    }
}

fn list(of: impl Iterator<Item = String>) -> String {
    format!("[{}]", of.collect::<Vec<_>>().join(", "))
}

fn columns(row: &[FieldRef]) -> String {
    list(row.iter().map(|field| format!("{} {}", field.name(), name(field.data_type()))))
}

/// Why a row can't be kept under this key, if so: a cause to reject it with.
pub fn too_large(key: &[u8], row: &[u8]) -> Option<String> {
    key_too_large(key.len())
        .or_else(|| (row.len() > MAX_ROW).then(|| format!("the row has {} bytes to keep in state; the limit is {MAX_ROW}", row.len())))
}

/// The same of a key of this length.
pub fn key_too_large(length: usize) -> Option<String> {
    (length > MAX_KEY).then(|| format!("the key's columns have {length} bytes; the limit is {MAX_KEY}"))
}

/// Appends a sequence that orders rows of one key and time by their place, (topic, partition, offset), and those of the same
/// place (of one record, or made by a step) by `number`, which must grow in their order.
pub fn put_sequence(origin: &Origin, offset: i64, number: u64, out: &mut Vec<u8>) {
    let topic = origin.topic.as_bytes();
    out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    out.extend_from_slice(topic);
    put_ordered(origin.partition.into(), out);
    put_ordered(offset, out);
    out.extend_from_slice(&number.to_be_bytes());
}

fn unreadable() -> StateError {
    StateError::new("an entry can't be decoded: was it written by another version of the step?")
}

/// The row in an entry's value, and its flags.
fn read_value(value: &[u8]) -> Result<(u8, &[u8]), StateError> {
    let mut reader = Reader::new(value);
    match (reader.u8(), reader.u8()) {
        (Some(VERSION), Some(flags)) => Ok((flags, reader.rest())),
        _ => Err(unreadable()),
    }
}

fn put_value(flags: u8, row: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, flags]);
    out.extend_from_slice(row);
}

/// Divides what follows in a key into the columns of the key and the rest.
fn split<'a>(types: &[DataType], bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), StateError> {
    let length = keys::length(types, bytes).ok_or_else(unreadable)?;
    bytes.split_at_checked(length).ok_or_else(unreadable)
}

/// Where the first entry of a store can be, for those that are emptied from the front: what was removed in the epochs that are
/// not committed would be passed over again each time.
#[derive(Clone, Debug, Default)]
struct Front(Vec<u8>);

impl Front {
    /// The key to begin at, in the store with this tag.
    fn from(&self, tag: u8) -> Vec<u8> {
        if self.0.is_empty() { vec![tag] } else { self.0.clone() }
    }

    /// An entry was added.
    fn added(&mut self, key: &[u8]) {
        if key < self.0.as_slice() {
            self.0 = key.to_vec();
        }
    }

    /// Everything before `key` was removed.
    fn removed(&mut self, key: &[u8]) {
        if key > self.0.as_slice() {
            self.0 = key.to_vec();
        }
    }
}

#[cfg(test)]
mod tests;
