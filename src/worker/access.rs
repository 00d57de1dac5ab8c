//! What a worker must be allowed to do in Kafka, and whether it is: the start and the dry run ask the same, and say the same.

use std::collections::{BTreeMap, BTreeSet};

use headwater_engine::broker::{Broker, BrokerError, Failure, TopicSpec};
use headwater_engine::pipeline::{Guarantee, Pipeline};
use headwater_engine::plan::{InputKind, Plan, Target, TopicName, topics_to_create};

use crate::check::{Check, Found};
use crate::diagnose::Problem;
use crate::observe::logs;
use headwater_kafka::{Creation, Kafka, Operation, Rights};

/// What rules are about, as `kafka-acls` names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Resource {
    Topic,
    Group,
    TransactionalId,
}

/// Rights that are needed, and whether they are there.
pub struct Access {
    pub checks: Vec<Check>,
    who: String,
    bootstrap: String,
    /// By resource, name and whether it is a prefix.
    missing: BTreeMap<(Resource, String, bool), BTreeSet<Operation>>,
}

/// Topics with what is done to them.
type Needs = BTreeMap<String, BTreeSet<Operation>>;

/// Asks for all rights that a worker needs.
///
/// # Errors
/// The brokers can't be asked.
pub fn check(plan: &Plan, kafka: &Kafka) -> Result<Access, BrokerError> {
    let mut access = Access::of(kafka);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open_transactions(plan, kafka));
        access.topics(plan, kafka)?;
        access.groups(plan, kafka)?;
        access.transactions(plan, opened.join().unwrap_or_else(|_| Err(BrokerError::fatal("a thread panicked"))))
    })?;
    Ok(access)
}

/// Opens transactions under the pipeline's prefix with an id that no worker has, since those of running workers must not be fenced:
/// rights on transactional ids can't be asked for. `false`: the pipeline has no transactions.
fn open_transactions(plan: &Plan, kafka: &Kafka) -> Result<bool, BrokerError> {
    if plan.guarantee != Guarantee::ExactlyOnce && plan.outboxes().next().is_none() {
        return Ok(false);
    }
    // Always the same one: brokers remember each for a week. Workers' ids end with numbers.
    kafka.producer(Some(&format!("{}.rights", plan.names.group()))).map(|_| true)
}

/// Commands that grant what is missing on the topics that the file names, where nothing can be planned because some can't be
/// described; empty if that is not why, or the brokers can't be asked.
pub fn grants_for_named(pipeline: &Pipeline, kafka: &Kafka) -> String {
    let mut needs = Needs::new();
    let sources = pipeline.sources.values().flat_map(|source| source.topic.iter().chain(source.topics.iter().flatten()));
    let read = sources.chain(pipeline.tables.values().map(|table| &table.topic)).map(|topic| (topic, Operation::Read));
    let written = pipeline.sinks.values().filter_map(|sink| Some((&sink.topic()?.topic, Operation::Write)));
    for (topic, operation) in read.chain(written) {
        needs.entry(topic.clone()).or_default().insert(operation);
    }
    // Names with columns in braces are no topics.
    needs.retain(|topic, _| !topic.contains('{'));
    let names: Vec<String> = needs.keys().cloned().collect();
    let mut access = Access::of(kafka);
    for (topic, _) in kafka.rights_on_topics(&names).unwrap_or_default().iter().filter(|(_, rights)| **rights == Rights::Refused) {
        access.missing.insert((Resource::Topic, topic.clone(), false), needs.get(topic).cloned().unwrap_or_default());
    }
    access.grants()
}

/// Shows commands that grant what is missing, if there are any. Not in a help text: those are wrapped, and this is to be copied.
pub fn show_grants(grants: &str) {
    logs::grants(grants);
    if !grants.is_empty() && logs::for_people() {
        anstream::eprintln!("what is missing is granted by\n{}\n", grants.trim_end());
    }
}

impl Access {
    fn of(kafka: &Kafka) -> Access {
        Access { checks: Vec::new(), who: kafka.principal(), bootstrap: kafka.bootstrap().to_string(), missing: BTreeMap::new() }
    }

    fn topics(&mut self, plan: &Plan, kafka: &Kafka) -> Result<(), BrokerError> {
        let create = topics_to_create(plan);
        let needs = needs(plan, &create);
        let names: Vec<String> = needs.keys().cloned().collect();
        let rights = kafka.rights_on_topics(&names)?;
        let is_missing = |topic: &str| rights.get(topic).is_none_or(|rights| *rights == Rights::Missing);
        for (topic, needed) in needs.iter().filter(|(topic, _)| !is_missing(topic)) {
            let found = self.may(plan, topic, needed, rights.get(topic).unwrap_or(&Rights::Untold));
            self.checks.push(Check { what: format!("topic {topic}"), found });
        }
        let to_create: Vec<TopicSpec> = create.into_iter().filter(|spec| is_missing(&spec.name)).collect();
        for (topic, creation) in kafka.could_create(&to_create)? {
            let result = match creation {
                Creation::Possible => Ok("will be created".to_string()),
                Creation::NoRight => {
                    let needed = needs.get(&topic).into_iter().flatten().copied();
                    self.lacks(plan, &topic, needed.chain([Operation::Create]));
                    Err("it is missing, and this client is not permitted to CREATE it".to_string())
                }
                Creation::Refused(why) => Err(format!("can't be created: {why}")),
            };
            self.checks.push(Check::new(format!("topic {topic}"), result));
        }
        for output in plan.stages.iter().flat_map(|s| &s.outputs) {
            if let Target::Topic(sink) = &output.target
                && let TopicName::Column(before, column, after) = &sink.topic
            {
                self.checks.push(Check::unknown(format!("topics {before}{{{column}}}{after}"), "not checked: their names are in the rows"));
            }
        }
        let writes = rights.values().any(|rights| rights.allow(Operation::Write) == Some(true));
        if writes && !rights.values().any(|rights| rights.allow(Operation::IdempotentWrite) == Some(true)) {
            let note = "may write; brokers before Kafka 3.0 want IDEMPOTENT_WRITE on the cluster, too";
            self.checks.push(Check::new("idempotent writes", Ok(note.to_string())));
        }
        Ok(())
    }

    fn may(&mut self, plan: &Plan, topic: &str, needed: &BTreeSet<Operation>, rights: &Rights) -> Found {
        let refused: Vec<Operation> = needed.iter().filter(|needed| rights.allow(**needed) == Some(false)).copied().collect();
        let names = |operations: &[Operation]| operations.iter().map(|o| name(*o)).collect::<Vec<_>>().join(", ");
        let all: Vec<Operation> = needed.iter().copied().collect();
        if !refused.is_empty() {
            let found = Found::Wrong(format!("not permitted to {} it", names(&refused)));
            self.lacks(plan, topic, refused.into_iter());
            return found;
        }
        match rights {
            Rights::Untold => Found::Unknown(format!("the brokers don't say whether this client may {} it", names(&all))),
            _ if topic.ends_with(".changelog") && rights.allow(Operation::DescribeConfigs) == Some(false) => {
                Found::Fine(format!("may {}; its settings can't be checked without DESCRIBE_CONFIGS", names(&all)))
            }
            _ => Found::Fine(format!("may {}", names(&all))),
        }
    }

    fn groups(&mut self, plan: &Plan, kafka: &Kafka) -> Result<(), BrokerError> {
        let sinks = plan.outboxes().map(|(output, _)| plan.names.sink_group(&output.name));
        let names: Vec<String> = std::iter::once(plan.names.group()).chain(sinks).collect();
        let rights = kafka.rights_on_groups(&names)?;
        for group in &names {
            let what = format!("group {group}");
            let check = match rights.get(group).unwrap_or(&Rights::Untold).allow(Operation::Read) {
                Some(true) => Check::new(what, Ok("may join".to_string())),
                Some(false) => {
                    let (name, prefix) = own(plan, group);
                    self.missing.entry((Resource::Group, name, prefix)).or_default().insert(Operation::Read);
                    Check::new(what, Err("not permitted to READ it: the worker could not join".to_string()))
                }
                None => Check::unknown(what, "the brokers don't say whether this client may READ it"),
            };
            self.checks.push(check);
        }
        Ok(())
    }

    /// # Errors
    /// The brokers can't be asked now.
    fn transactions(&mut self, plan: &Plan, opened: Result<bool, BrokerError>) -> Result<(), BrokerError> {
        let result = match opened {
            Ok(false) => return Ok(()),
            Ok(true) => Ok("may write".to_string()),
            Err(e) if e.failure == Failure::Transient => return Err(e),
            Err(e) => Err(format!("transactions can't be opened: {e}")),
        };
        if result.is_err() {
            let prefix = format!("{}.", plan.names.group());
            self.missing.entry((Resource::TransactionalId, prefix, true)).or_default().insert(Operation::Write);
        }
        self.checks.push(Check::new(format!("transactional ids {}.*", plan.names.group()), result));
        Ok(())
    }

    fn lacks(&mut self, plan: &Plan, topic: &str, operations: impl Iterator<Item = Operation>) {
        let (name, prefix) = own(plan, topic);
        self.missing.entry((Resource::Topic, name, prefix)).or_default().extend(operations);
    }

    /// Commands that grant what is missing, one a line; empty if nothing is.
    pub fn grants(&self) -> String {
        let mut lines = String::new();
        for ((resource, name, prefix), operations) in &self.missing {
            let operations: String = operations.iter().map(|operation| format!(" --operation {operation:?}")).collect();
            let option = match resource {
                Resource::Topic => "topic",
                Resource::Group => "group",
                Resource::TransactionalId => "transactional-id",
            };
            let pattern = if *prefix { " --resource-pattern-type prefixed" } else { "" };
            let (bootstrap, who) = (&self.bootstrap, &self.who);
            lines += &format!(
                "kafka-acls --bootstrap-server {bootstrap} --add --allow-principal {who}{operations} --{option} {name}{pattern}\n"
            );
        }
        lines
    }

    /// What is missing, as the start says it.
    pub fn problems(&self) -> Vec<Problem> {
        self.checks.iter().filter_map(|check| Some(Problem::plain(format!("{}: {}", check.what, check.wrong()?)))).collect()
    }
}

/// Where a rule for a topic or group belongs: the pipeline's own have a prefix in common.
fn own(plan: &Plan, name: &str) -> (String, bool) {
    let prefix = format!("{}.", plan.names.group());
    if name.starts_with(&prefix) { (prefix, true) } else { (name.to_string(), false) }
}

/// In the spelling of Kafka's errors and documentation.
fn name(operation: Operation) -> &'static str {
    match operation {
        Operation::Read => "READ",
        Operation::Write => "WRITE",
        Operation::Create => "CREATE",
        Operation::Describe => "DESCRIBE",
        Operation::DescribeConfigs => "DESCRIBE_CONFIGS",
        Operation::IdempotentWrite => "IDEMPOTENT_WRITE",
    }
}

/// What a worker does to which topics. READ and WRITE each imply DESCRIBE.
fn needs(plan: &Plan, create: &[TopicSpec]) -> Needs {
    let mut needs = Needs::new();
    let mut need = |topic: &str, operation| needs.entry(topic.to_string()).or_default().insert(operation);
    for input in plan.stages.iter().flat_map(|s| &s.inputs).filter(|i| matches!(i.kind, InputKind::Source(_))) {
        for topic in &input.topics {
            need(&topic.name, Operation::Read);
        }
    }
    for table in &plan.tables {
        need(&table.topic.name, Operation::Read);
    }
    for output in plan.stages.iter().flat_map(|s| &s.outputs) {
        if let Target::Topic(sink) = &output.target
            && let TopicName::Fixed(topic) = &sink.topic
        {
            need(topic, Operation::Write);
        }
    }
    for spec in create {
        need(&spec.name, Operation::Write);
        if spec.name.starts_with("hw.") && !spec.name.ends_with(".dlq") {
            need(&spec.name, Operation::Read);
        }
    }
    needs
}
