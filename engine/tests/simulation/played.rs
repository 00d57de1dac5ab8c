//! Pipelines of a test's own.

use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::Broker;
use headwater_engine::lane::{Lane, LaneConfig};
use headwater_engine::pipeline::Pipeline;
use headwater_engine::plan::{Plan, plan, topics_to_create};
use headwater_engine::sim::{BrokerCatalog, MemoryBroker};
use headwater_engine::yaml;

use crate::elsewhere::sinks;
use crate::harness::{operators, runtime};

/// A pipeline of its own, run by one lane without trouble.
pub struct Played {
    pub broker: MemoryBroker,
    plan: Arc<Plan>,
}

impl Played {
    /// `topics`: those that are there before, with their partitions.
    pub fn new(text: &str, topics: &[(&str, i32)]) -> Played {
        let broker = MemoryBroker::new();
        topics.iter().for_each(|(topic, partitions)| broker.create_topic(topic, *partitions));
        let root = yaml::parse(text).unwrap();
        let pipeline = Pipeline::read_with(&root, &sinks()).0.unwrap();
        let plan = plan(&pipeline, &root, &operators(), &BrokerCatalog(&broker)).unwrap_or_else(|found| panic!("{found:#?}"));
        broker.create_topics(&topics_to_create(&plan)).unwrap();
        Played { broker, plan: Arc::new(plan) }
    }

    pub fn lane(&self, config: LaneConfig) -> Lane {
        Lane::start(runtime(&self.plan, &self.broker), config).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Until everything that was appended is committed.
    pub fn run(&self) {
        let mut lane = self.lane(LaneConfig::new("w", 0));
        let clock = self.broker.clock().expect("a simulated broker has a virtual clock");
        let mut quiet = 0;
        while quiet < 500 {
            clock.advance(1);
            let busy = lane.step(Duration::ZERO).unwrap_or_else(|e| panic!("{e}")) || !lane.is_settled();
            quiet = if busy { 0 } else { quiet + 1 };
        }
        lane.finish(Duration::from_secs(1)).unwrap_or_else(|e| panic!("{e}"));
    }
}
