//! Headers of records that are written: those of the source record, and those that a sink sets.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch};
use arrow::datatypes::DataType;
use operator_core::batch::HEADERS;
use operator_core::headers::{iter, push};

use crate::plan::TopicSink;

/// Names of headers that Headwater writes begin with this.
const OURS: &[u8] = b"hw-";
/// What a record that is read has under such a name is passed on under this one.
const ORIGINAL: &[u8] = b"hw-original-";

/// The name under which a header of a record that was read is passed on. Readers take the first header of a name: a record's own
/// `hw-topic` must not stand for the one of its dead letter.
pub fn of_record(name: &[u8]) -> Cow<'_, [u8]> {
    match name.strip_prefix(OURS) {
        Some(rest) if !name.starts_with(ORIGINAL) => [ORIGINAL, rest].concat().into(),
        _ => name.into(),
    }
}

/// The bytes of a value of a column of texts or bytes that is not null.
pub fn text_or_bytes(column: &ArrayRef, row: usize) -> &[u8] {
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).as_bytes(),
        _ => column.as_binary::<i32>().value(row),
    }
}

/// The headers of a sink's rows.
pub struct HeaderColumns<'a> {
    carried: Option<&'a BinaryArray>,
    set: Vec<(&'a [u8], &'a ArrayRef)>,
}

impl<'a> HeaderColumns<'a> {
    pub fn new(sink: &'a TopicSink, rows: &'a RecordBatch) -> HeaderColumns<'a> {
        let carried = if sink.headers { rows.column_by_name(HEADERS).and_then(|c| c.as_binary_opt()) } else { None };
        let set = sink.set_headers.iter().filter_map(|(name, column)| Some((name.as_bytes(), rows.column_by_name(column)?)));
        HeaderColumns { carried, set: set.collect() }
    }

    /// Appends the headers of a row. False if it has none.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        let carried = self.carried.filter(|c| c.is_valid(row)).map_or(&[][..], |c| c.value(row));
        if self.set.is_empty() {
            out.extend_from_slice(carried);
            return out.len() > before;
        }
        let is_set = |name: &[u8]| self.set.iter().any(|(set, _)| *set == name);
        iter(carried).filter(|(name, _)| !is_set(name)).for_each(|(name, value)| push(out, name, value));
        for (name, column) in self.set.iter().filter(|(_, column)| column.is_valid(row)) {
            push(out, name, Some(text_or_bytes(column, row)));
        }
        out.len() > before
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_record_can_not_pretend_to_be_a_dead_letter() {
        let passed_on = |name: &str| String::from_utf8(super::of_record(name.as_bytes()).into_owned()).unwrap();
        let names = ["hw-topic", "hw-original-topic", "trace-id", "hw", ""];
        assert_eq!(names.map(passed_on), ["hw-original-topic", "hw-original-topic", "trace-id", "hw", ""]);
    }
}
