//! Columns about the record itself (`_topic`, `_headers`, ..): they cost time and space, so a row has those that something reads.
//!
//! What reads them is known only when all steps are planned against their inputs. So a pipeline is planned twice: with all of
//! them, and then with those that the first plan reads. (Looking for their names in the text of the file is no substitute: a
//! comment would change what a row has.)

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field};
use operator_core::Path;
use operator_core::batch::{HEADERS, METADATA, time_type};

use super::{Metadata, PlanNode};
use crate::pipeline::Sink;

/// The columns about the record that rows have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RecordColumns(BTreeSet<&'static str>);

impl RecordColumns {
    /// All there are.
    pub fn all() -> RecordColumns {
        RecordColumns(METADATA.into_iter().chain([HEADERS]).collect())
    }

    /// Those that steps and sinks read.
    pub fn read_by<'a>(nodes: impl Iterator<Item = &'a PlanNode>, sinks: impl Iterator<Item = &'a Sink>) -> RecordColumns {
        let mut read: BTreeSet<String> = nodes.flat_map(|node| node.planned.reads.iter().cloned()).collect();
        sinks.for_each(|sink| read.extend(read_by_sink(sink)));
        RecordColumns(RecordColumns::all().0.into_iter().filter(|name| read.contains(*name)).collect())
    }

    /// Headers are among them.
    pub fn headers(&self) -> bool {
        self.0.contains(HEADERS)
    }

    /// Those besides headers, in their order.
    pub fn metadata(&self) -> Vec<Metadata> {
        Metadata::ALL.into_iter().filter(|metadata| self.0.contains(metadata.field().name().as_str())).collect()
    }
}

/// The columns that a sink reads besides those it writes.
fn read_by_sink(sink: &Sink) -> Vec<String> {
    let Some(to) = sink.topic() else { return Vec::new() };
    let keys = to.key.iter().flat_map(|key| key.columns()).cloned();
    let named = [&to.timestamp, &to.partition].into_iter().flatten().cloned().chain(keys);
    let in_name = to.topic.split_once('{').and_then(|(_, rest)| Some(rest.split_once('}')?.0.to_string()));
    let raw = to.format.is_raw().then(|| "_value".to_string());
    let headers = to.headers.then(|| HEADERS.to_string());
    // A name may be quoted, as in SQL.
    let column = |text: String| Path::parse(&text).map_or(text, |path| path.first().to_owned());
    named.chain(in_name).chain(raw).chain(headers).chain(to.set_headers.values().cloned()).map(column).collect()
}

impl Metadata {
    const ALL: [Metadata; 5] = [Metadata::Topic, Metadata::Partition, Metadata::Key, Metadata::Timestamp, Metadata::Value];

    /// The column it is in.
    pub fn field(self) -> Field {
        let [topic, partition, key, timestamp, value] = METADATA;
        match self {
            Metadata::Topic => Field::new(topic, DataType::Utf8, false),
            Metadata::Partition => Field::new(partition, DataType::Int32, false),
            Metadata::Key => Field::new(key, DataType::Binary, true),
            Metadata::Timestamp => Field::new(timestamp, time_type(), true),
            Metadata::Value => Field::new(value, DataType::Binary, true),
        }
    }
}
