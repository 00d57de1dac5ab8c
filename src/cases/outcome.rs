//! The output of a run: the committed records of every output topic and the rows of every table.

use std::collections::{BTreeMap, BTreeSet};

use headwater_engine::broker::TopicPartition;
use headwater_engine::plan::{Plan, Target, dead_letters};
use headwater_engine::sim::{CommittedRecord, Header, MemoryBroker};
use serde_json::{Value, json};

use super::encode;
use super::line::shown;

/// A row that came out.
#[derive(Clone, Debug)]
pub struct Row {
    pub key: Option<Vec<u8>>,
    pub value: Value,
    pub headers: Vec<Header>,
    /// Its place in its topic.
    pub order: usize,
    /// The source partition whose record made it, where that is known: such rows have an order.
    pub source: Option<String>,
}

/// What came out of a run, by topic or table; only what is not empty.
#[derive(Default)]
pub struct Outcome {
    pub outputs: BTreeMap<String, Vec<Row>>,
    /// Broken ledgers and unreadable outputs.
    pub errors: Vec<String>,
    /// What the schedule has in store did happen: a case of three records may have no third commit.
    pub disturbed: bool,
    /// Rows that steps still hold, by step.
    pub held: Vec<(String, u64)>,
}

/// Which source partition's record made the records of output topics: known where each is settled before the next comes.
#[derive(Default)]
pub struct Causes {
    /// Per output partition: the offset before which records have this cause, in order.
    by_end: BTreeMap<TopicPartition, Vec<(i64, String)>>,
}

impl Causes {
    /// Everything written since the last call was caused by a record of this partition.
    pub fn settled(&mut self, broker: &MemoryBroker, topics: &[String], cause: &str) {
        for topic in topics {
            for partition in 0.. {
                let Some(end) = broker.last_stable_offset(topic, partition) else { break };
                let ends = self.by_end.entry(TopicPartition::new(topic.as_str(), partition)).or_default();
                if ends.last().is_none_or(|(last, _)| end > *last) {
                    ends.push((end, cause.to_string()));
                }
            }
        }
    }

    fn of(&self, topic: &str, record: &CommittedRecord) -> Option<String> {
        let ends = self.by_end.get(&TopicPartition::new(topic, record.partition))?;
        ends.get(ends.partition_point(|(end, _)| *end <= record.offset)).map(|(_, cause)| cause.clone())
    }
}

/// Topics that a pipeline writes for others.
pub fn output_topics(plan: &Plan, broker: &MemoryBroker) -> Vec<String> {
    use headwater_engine::broker::Broker;
    let topics = broker.topics().unwrap_or_default();
    topics.into_iter().filter(|topic| !topic.starts_with("hw.") && !plan.reads(topic)).collect()
}

impl Outcome {
    /// Reads what sinks wrote to topics, and dead letters.
    pub fn read(&mut self, plan: &Plan, broker: &MemoryBroker, causes: &Causes) {
        let topics = output_topics(plan, broker);
        let mut read = BTreeSet::new();
        for output in plan.stages.iter().flat_map(|stage| &stage.outputs) {
            let Target::Topic(sink) = &output.target else { continue };
            for topic in topics.iter().filter(|topic| sink.topic.covers(topic)) {
                // Several sinks may write one topic.
                if read.insert(topic.clone()) {
                    self.topic(broker, topic, causes, |record| {
                        let key = record.key.clone().map(|key| encode::decode_key(sink, key)).transpose()?;
                        let value = record.value.as_ref().map_or(Ok(Value::Null), |value| encode::decode(sink, value))?;
                        Ok((key, value))
                    });
                }
            }
        }
        let letters = plan.stages.iter().flat_map(|stage| &stage.inputs).flat_map(|input| &input.topics);
        let letters = letters.map(|topic| dead_letters(&topic.name)).filter(|topic| topics.contains(topic));
        for topic in letters.collect::<BTreeSet<_>>() {
            if !read.contains(&topic) {
                self.dead_letters(broker, &topic, None);
            }
        }
        for (output, _) in plan.outboxes() {
            self.dead_letters(broker, &plan.names.refused(&output.name), Some(&output.name));
        }
    }

    fn topic(
        &mut self,
        broker: &MemoryBroker,
        topic: &str,
        causes: &Causes,
        read: impl Fn(&CommittedRecord) -> Result<(Option<Vec<u8>>, Value), String>,
    ) {
        for record in broker.read_all_committed(topic) {
            match read(&record) {
                Ok((key, value)) => {
                    let rows = self.outputs.entry(topic.to_string()).or_default();
                    let source = causes.of(topic, &record);
                    rows.push(Row { key, value, headers: record.headers, order: rows.len(), source });
                }
                Err(e) => self.errors.push(format!("    {topic}: can't decode a record: {e}")),
            }
        }
    }

    /// Reads dead letters; those of a sink have no header that names the step, and no order.
    fn dead_letters(&mut self, broker: &MemoryBroker, topic: &str, sink: Option<&str>) {
        for record in broker.read_all_committed(topic) {
            let header = |name: &str| {
                let found = record.headers.iter().rev().find(|(n, _)| n == name.as_bytes()).and_then(|(_, v)| v.as_deref());
                found.map_or(Value::Null, shown)
            };
            // What one step refuses of a source partition is in order; another step may be further.
            let place = ["hw-topic", "hw-partition", "hw-step"].map(|name| header(name).to_string());
            let value = json!({
                "cause": header("hw-cause"),
                "step": sink.map_or_else(|| header("hw-step"), Value::from),
                "value": record.value.as_deref().map_or(Value::Null, shown),
            });
            let headers = record.headers.iter().filter(|(name, _)| !name.starts_with(b"hw-")).cloned().collect();
            let rows = self.outputs.entry(topic.to_string()).or_default();
            rows.push(Row { key: record.key.clone(), value, headers, order: rows.len(), source: sink.is_none().then(|| place.join(" ")) });
        }
    }

    /// Adds the rows of a table, named as cases do.
    pub fn table(&mut self, table: &str, rows: Vec<Result<Value, String>>) {
        for (order, row) in rows.into_iter().enumerate() {
            match row {
                Ok(value) => {
                    let row = Row { key: None, value, headers: Vec::new(), order, source: None };
                    self.outputs.entry(table.to_string()).or_default().push(row);
                }
                Err(e) => self.errors.push(format!("    {table}: can't decode a row: {e}")),
            }
        }
    }
}
