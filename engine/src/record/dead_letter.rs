//! The one format of dead letters: of the lane, for records and rows that sources, steps and outputs refuse, and of a delivery, for rows
//! that its table refuses.
//!
//! Key, value and headers are those of the record that was refused (its headers `hw-x` as `hw-original-x`). A row that is not one record
//! has no key; its value is the row as JSON, or as an Arrow IPC stream where a value has no JSON form. The headers say the rest:
//!
//! | header | content |
//! |---|---|
//! | `hw-cause` | why it is a dead letter |
//! | `hw-pipeline`, `hw-step` | the pipeline; the source, step or sink that refuses it |
//! | `hw-topic`, `hw-partition`, `hw-offset` | where it was read |
//! | `hw-timestamp` | the record's timestamp in milliseconds; empty if it is not one record, or has none |
//! | `hw-row`, `hw-code` | only of a table's: the place of the row in the record at that offset, and the table's code for the cause (0 if it was not sent) |
//! | `hw-omitted` | present if key, value and headers are left out because a topic does not take so many bytes |

use std::sync::Arc;

use arrow::array::RecordBatch;
use headwater_formats::{JsonEncoder, encode_batch};
use operator_core::Millis;

use crate::broker::{Outgoing, Record};
use crate::record::output::MAX_RECORD;

/// Longest cause, bytes.
const MAX_CAUSE: usize = 4_096;

/// Name and value of a header.
pub(crate) type Header = (Vec<u8>, Option<Vec<u8>>);

/// What the headers of a dead letter say.
pub(crate) struct DeadLetter<'a> {
    pub pipeline: &'a str,
    pub step: &'a str,
    pub cause: &'a str,
    /// Where it was read.
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Of a row in a record: its place there, and the table's code.
    pub row: Option<(i32, &'a str)>,
}

/// What was refused.
#[derive(Default)]
pub(crate) struct Content<'a> {
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub timestamp: Option<Millis>,
    pub headers: Vec<Header>,
}

impl<'a> Content<'a> {
    /// A record, with its headers.
    pub fn record(record: Record<'a>, headers: Vec<Header>) -> Content<'a> {
        Content { key: record.key, value: record.value, timestamp: record.timestamp, headers }
    }

    /// A row, from [`row_value`].
    pub fn row(value: &'a [u8]) -> Content<'a> {
        Content { value: Some(value), ..Content::default() }
    }

    fn bytes(&self) -> usize {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + length(value.as_deref())).sum();
        length(self.key) + length(self.value) + headers
    }
}

impl DeadLetter<'_> {
    /// Gives `send` the letter for a topic with so many partitions. Content that is too large for a record, or that the topic has
    /// refused (`whole` is false then), is left out: the letter says where it is.
    pub fn write<T>(
        &self,
        content: &Content<'_>,
        whole: bool,
        (topic, partitions): (&Arc<str>, i32),
        send: impl FnOnce(Outgoing<'_>) -> T,
    ) -> T {
        let bytes = content.bytes();
        let keep = whole && bytes <= MAX_RECORD;
        let cause = self.cause.get(..self.cause.floor_char_boundary(MAX_CAUSE)).unwrap_or(self.cause);
        let mut ours = vec![
            ("hw-cause", cause.to_string()),
            ("hw-pipeline", self.pipeline.to_string()),
            ("hw-step", self.step.to_string()),
            ("hw-topic", self.topic.to_string()),
            ("hw-partition", self.partition.to_string()),
            ("hw-offset", self.offset.to_string()),
            ("hw-timestamp", content.timestamp.map(|t| t.to_string()).unwrap_or_default()),
        ];
        if let Some((row, code)) = self.row {
            ours.extend([("hw-row", row.to_string()), ("hw-code", code.to_string())]);
        }
        if !keep {
            ours.push(("hw-omitted", format!("key, value and headers, {bytes} bytes: read them at hw-topic, -partition, -offset")));
        }
        let carried = content.headers.iter().filter(|_| keep).map(|(name, value)| (name.as_slice(), value.as_deref()));
        let headers: Vec<_> = carried.chain(ours.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes())))).collect();
        send(Outgoing {
            topic,
            partition: self.partition.rem_euclid(partitions.max(1)),
            // Stamped when written: a backfill's letters must not expire at once.
            timestamp: None,
            key: content.key.filter(|_| keep),
            value: content.value.filter(|_| keep),
            headers: &headers,
            tag: None,
        })
    }
}

/// A row as a value: without the columns that are `hidden`, as JSON, or as an Arrow IPC stream where a value has no JSON form (NaN, a
/// year beyond 9999).
///
/// # Errors
/// It can't be encoded at all: a bug.
pub(crate) fn row_value(row: &RecordBatch, hidden: impl Fn(&str) -> bool) -> Result<Vec<u8>, String> {
    let fields = row.schema_ref().fields().iter().enumerate();
    let shown: Vec<usize> = fields.filter(|(_, field)| !hidden(field.name())).map(|(at, _)| at).collect();
    let row = row.project(&shown).map_err(|e| e.to_string())?;
    let encoder = JsonEncoder::new(&row.schema());
    let mut out = Vec::new();
    match encoder.batch(&row).and_then(|rows| rows.write(0, &mut out)) {
        Ok(()) => Ok(out),
        Err(_) => encode_batch(&row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(cause: &str) -> DeadLetter<'_> {
        DeadLetter { pipeline: "p", step: "s", cause, topic: "orders", partition: 5, offset: 7, row: None }
    }

    /// Partition, value and headers of a letter.
    fn written(letter: &DeadLetter<'_>, content: &Content<'_>, whole: bool) -> (i32, Option<Vec<u8>>, Vec<(String, String)>) {
        letter.write(content, whole, (&"orders.dlq".into(), 3), |record| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let headers = record.headers.iter().map(|(name, value)| (text(name), text(value.unwrap_or(b"null")))).collect();
            (record.partition, record.value.map(<[u8]>::to_vec), headers)
        })
    }

    #[test]
    fn a_record_keeps_its_content_unless_a_topic_does_not_take_it() {
        let record = Record { offset: 7, timestamp: Some(12), key: None, value: Some(b"value") };
        let content = Content::record(record, vec![(b"trace".to_vec(), None)]);
        let (partition, value, headers) = written(&letter("no"), &content, true);
        assert_eq!((partition, value.as_deref()), (2, Some(&b"value"[..])));
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let ours = ["hw-cause", "hw-pipeline", "hw-step", "hw-topic", "hw-partition", "hw-offset", "hw-timestamp"];
        assert_eq!(names, [&["trace"][..], &ours].concat());
        let (_, value, headers) = written(&letter("no"), &content, false);
        assert_eq!((value, headers.len()), (None, 8));
        assert!(headers[7].0 == "hw-omitted" && headers[7].1.contains("10 bytes"), "{headers:?}");
    }

    #[test]
    fn a_row_says_where_in_its_record_it_was_and_what_the_table_answered() {
        let of_table = DeadLetter { row: Some((3, "469")), ..letter("no") };
        let (_, value, headers) = written(&of_table, &Content::row(b"{}"), true);
        assert_eq!(value.as_deref(), Some(&b"{}"[..]));
        assert_eq!(headers[7..], [("hw-row".to_string(), "3".to_string()), ("hw-code".to_string(), "469".to_string())]);
        assert_eq!(headers[6].1, "");
    }

    #[test]
    fn a_long_cause_is_cut_between_characters() {
        let cause = "é".repeat(3_000);
        let (_, _, headers) = written(&letter(&cause), &Content::default(), true);
        assert_eq!(headers[0].1.len(), MAX_CAUSE);
        let cause = format!("a{cause}");
        let (_, _, headers) = written(&letter(&cause), &Content::default(), true);
        assert_eq!(headers[0].1.len(), MAX_CAUSE - 1);
    }
}
