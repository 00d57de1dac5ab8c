//! Starts into an outage that is over before anybody looks at it.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_engine::broker::{Broker, BrokerError, Consumer, Failure, GroupView, Producer, Reader, TopicId, TopicPartition, TopicSpec};
use headwater_engine::schemas::MemorySchemas;
use headwater_engine::sim::MemoryBroker;

use super::{Services, prepare};
use crate::diagnose::{Source, UNREACHABLE};
use crate::observe::outages::Outages;
use crate::pipeline_files::catalog::NoSubjects;
use crate::pipeline_files::parse;

const TEXT: &str = "apiVersion: headwater/v1\nname: p\nsources: { s: { topic: t, schema: { id: string } } }\n\
    steps: { w: { from: s, window: { tumbling: 1m, by: [id], compute: { n: count(*) } } } }\n\
    sinks: { out: { from: w, topic: out, create: { partitions: 1 } } }\n";

/// Brokers that give no answer to one kind of question.
struct Mute {
    broker: MemoryBroker,
    question: &'static str,
    failure: Failure,
}

impl Mute {
    fn asked(&self, question: &str) -> Result<&MemoryBroker, BrokerError> {
        match question == self.question {
            true => Err(BrokerError::new(self.failure, format!("no answer about {question}"))),
            false => Ok(&self.broker),
        }
    }
}

impl Broker for Mute {
    fn consumer(&self, group: &str, instance: &str, topics: &[String]) -> Result<Box<dyn Consumer>, BrokerError> {
        self.asked("consumer")?.consumer(group, instance, topics)
    }

    fn producer(&self, transactional_id: Option<&str>) -> Result<Box<dyn Producer>, BrokerError> {
        self.asked("producer")?.producer(transactional_id)
    }

    fn reader(&self, from: &[(TopicPartition, i64)]) -> Result<Box<dyn Reader>, BrokerError> {
        self.asked("reader")?.reader(from)
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, BrokerError> {
        self.asked("partitions")?.partitions(topic)
    }

    fn topics(&self) -> Result<Vec<String>, BrokerError> {
        self.asked("topics")?.topics()
    }

    fn bounds(&self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError> {
        self.asked("bounds")?.bounds(partition)
    }

    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), BrokerError> {
        self.asked("create_topics")?.create_topics(topics)
    }

    fn topic_ids(&self, topics: &[String]) -> Result<BTreeMap<String, TopicId>, BrokerError> {
        self.asked("topic_ids")?.topic_ids(topics)
    }

    fn group(&self, group: &str) -> Result<GroupView, BrokerError> {
        self.asked("group")?.group(group)
    }

    fn topic_config(&self, topic: &str) -> Result<Vec<(String, String)>, BrokerError> {
        self.asked("topic_config")?.topic_config(topic)
    }
}

/// Why a pipeline that has run before can't start, by code and message.
fn refused(question: &'static str, failure: Failure) -> Vec<(String, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let broker = MemoryBroker::new();
    broker.create_topic("t", 2);
    let start = |broker: Arc<dyn Broker>| {
        let loaded = parse(Source::new("p.yaml", TEXT)).unwrap_or_else(|_| panic!("it can be read"));
        let services = Services {
            broker,
            kafka: None,
            subjects: Arc::new(NoSubjects),
            schemas: Arc::new(MemorySchemas::default()),
            runtime: runtime.handle().clone(),
            outages: Outages::default(),
        };
        prepare(&loaded, services)
    };
    assert!(start(Arc::new(broker.clone())).is_ok());
    let problems = start(Arc::new(Mute { broker, question, failure })).err().unwrap_or_default();
    problems.into_iter().map(|problem| (problem.code, problem.message)).collect()
}

/// A worker that had asked while no coordinator was there ended with exit code 2, if the brokers answered again when it looked whether
/// they were away.
#[test]
fn a_missing_answer_is_waited_for_whoever_misses_it() {
    for question in ["partitions", "bounds", "reader", "topic_ids", "topic_config"] {
        let found = refused(question, Failure::Transient);
        assert!(found.iter().any(|(code, message)| code == UNREACHABLE && message.contains("no answer")), "{question}: {found:?}");
        let found = refused(question, Failure::Fatal);
        assert!(!found.is_empty() && found.iter().all(|(code, _)| code != UNREACHABLE), "{question}: {found:?}");
    }
}
