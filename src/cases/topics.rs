//! `cases/topics.yaml`: partitions and settings of the topics that cases read and write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use headwater_engine::broker::Broker;
use headwater_engine::plan::{Catalog, InputKind, Plan, Registered, Target, TopicName, topics_to_create};
use headwater_engine::sim::MemoryBroker;
use headwater_engine::yaml::{self, Place, Value, YamlError};
use operator_core::diagnostic::did_you_mean;

use crate::diagnose::{Problem, Source};
use crate::pipeline_files::catalog::Folder;

/// Partitions of topics that the file says nothing about.
pub const PARTITIONS: i32 = 3;
/// More than any case shows something with.
const MOST_PARTITIONS: i32 = 100;
/// Settings of a topic that the Kafka in memory knows; brokers have more, which change nothing that a case could show.
const SETTINGS: [&str; 3] = ["cleanup.policy", "max.message.bytes", "message.timestamp.after.max.ms"];

/// What a file says of topics.
#[derive(Default)]
pub struct TopicSettings(BTreeMap<String, Settings>);

#[derive(Default)]
struct Settings {
    partitions: Option<i32>,
    config: Vec<(String, String)>,
}

impl TopicSettings {
    /// Reads the file; nothing if it does not exist.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(path: &Path) -> Result<TopicSettings, Vec<Problem>> {
        if !path.exists() {
            return Ok(TopicSettings::default());
        }
        let source = Source::read(path).map_err(|p| vec![p])?;
        let root = yaml::parse(&source.text).map_err(|e| vec![Problem::yaml(&source, e)])?;
        let mut problems = Vec::new();
        let mut wrong = |place: Place, message: String, help: Option<String>| {
            problems.push(Problem::yaml(&source, YamlError { code: "invalid-value", message, help, place: Some(place) }));
        };
        let mut topics = BTreeMap::new();
        let Value::Map(entries) = &root.value else {
            let help = Some("business.orders.created: { partitions: 6 }".to_string());
            wrong(root.place, "this file must map topics to their settings".into(), help);
            return Err(problems);
        };
        for (topic, node) in entries {
            let mut settings = Settings::default();
            let Value::Map(members) = &node.value else {
                wrong(node.place, format!("the settings of `{}` must be a mapping", topic.text), Some("{ partitions: 6 }".into()));
                continue;
            };
            for (key, node) in members {
                let text = node.text().unwrap_or_default();
                match key.text.as_str() {
                    "partitions" => match text.parse::<i32>().ok().filter(|n| (1..=MOST_PARTITIONS).contains(n)) {
                        Some(n) => settings.partitions = Some(n),
                        None => wrong(node.place, format!("`partitions` must be a number from 1 to {MOST_PARTITIONS}"), None),
                    },
                    name if SETTINGS.contains(&name) && !text.is_empty() => settings.config.push((name.into(), text.into())),
                    name if SETTINGS.contains(&name) => wrong(node.place, format!("`{name}` must be a text or a number"), None),
                    name => {
                        let known = ["partitions"].into_iter().chain(SETTINGS);
                        let help = did_you_mean(name, known);
                        wrong(key.place, format!("cases don't support the setting `{name}`"), help);
                    }
                }
            }
            topics.insert(topic.text.clone(), settings);
        }
        if problems.is_empty() { Ok(TopicSettings(topics)) } else { Err(problems) }
    }

    /// The topics it names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The number of partitions of a topic.
    pub fn partitions(&self, topic: &str) -> i32 {
        self.0.get(topic).and_then(|settings| settings.partitions).unwrap_or(PARTITIONS)
    }

    /// Settings of a topic: `others`, and before them what the file says.
    pub fn config(&self, topic: &str, others: &[(String, String)]) -> Vec<(String, String)> {
        let own = self.0.get(topic).map(|settings| settings.config.as_slice()).unwrap_or_default();
        let rest = others.iter().filter(|(name, _)| !own.iter().any(|(known, _)| known == name));
        rest.chain(own).cloned().collect()
    }
}

/// Schemas from a folder, and a cluster in which every topic exists; those that cases have records for are known by name.
pub struct Topics<'a> {
    pub folder: &'a Folder,
    pub settings: &'a TopicSettings,
    pub cases: BTreeSet<String>,
}

impl Catalog for Topics<'_> {
    fn subject(&self, subject: &str) -> Result<Option<Registered>, String> {
        self.folder.subject(subject)
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, String> {
        Ok(Some(self.settings.partitions(topic)))
    }

    fn topics(&self) -> Result<Vec<String>, String> {
        Ok(self.folder.topics()?.into_iter().chain(self.cases.iter().cloned()).collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn is_offline(&self) -> bool {
        true
    }
}

/// Creates the topics of a plan, with the settings of its cases.
pub fn create_topics(plan: &Plan, settings: &TopicSettings, broker: &MemoryBroker) -> Result<(), String> {
    let create = |topic: &str, partitions: i32, others: &[(String, String)]| {
        let config = settings.config(topic, others);
        let config: Vec<(&str, &str)> = config.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        broker.create_topic_with(topic, partitions, &config);
    };
    for input in plan.stages.iter().flat_map(|s| &s.inputs).filter(|i| matches!(i.kind, InputKind::Source(_))) {
        input.topics.iter().for_each(|topic| create(&topic.name, topic.partitions, &[]));
    }
    for table in &plan.tables {
        create(&table.topic.name, table.topic.partitions, &[("cleanup.policy".into(), "compact".into())]);
    }
    for output in plan.stages.iter().flat_map(|s| &s.outputs) {
        if let Target::Topic(sink) = &output.target
            && let TopicName::Fixed(topic) = &sink.topic
        {
            create(topic, settings.partitions(topic), sink.create.as_ref().map_or(&[], |spec| spec.config.as_slice()));
        }
    }
    for topic in settings.names().filter(|topic| broker.partitions(topic).ok().flatten().is_none()) {
        create(topic, settings.partitions(topic), &[]);
    }
    broker.create_topics(&topics_to_create(plan)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TopicSettings, Vec<Problem>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("topics.yaml");
        std::fs::write(&path, text).unwrap();
        TopicSettings::read(&path)
    }

    #[test]
    fn topics_have_partitions_and_settings() {
        let topics = read("a.b.c: { partitions: 6, cleanup.policy: compact }\nd.e: { max.message.bytes: 2000 }\n").ok().unwrap();
        assert_eq!((topics.partitions("a.b.c"), topics.partitions("d.e")), (6, PARTITIONS));
        let other = [("cleanup.policy".to_string(), "delete".to_string()), ("retention.ms".to_string(), "1".to_string())];
        let config = topics.config("a.b.c", &other);
        assert_eq!(config, [("retention.ms".to_string(), "1".to_string()), ("cleanup.policy".to_string(), "compact".to_string())]);
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let problems = read("a: { partitions: 0, cleanup.polici: compact }\nb: 3\n").err().unwrap();
        let said: Vec<String> = problems.iter().map(|p| anstream::adapter::strip_str(&p.render()).to_string()).collect();
        assert_eq!(said.len(), 3, "{said:#?}");
        assert!(
            said[0].contains("topics.yaml:1:18") && said[1].contains("cleanup.policy") && said[2].contains("topics.yaml:2:4"),
            "{said:#?}"
        );
    }
}
