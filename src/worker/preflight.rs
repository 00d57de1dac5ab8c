//! Checks before a worker starts. The dry run makes the same ones.

use headwater_engine::broker::{Broker, BrokerError};
use headwater_engine::manifest::store::StoreError;
use headwater_engine::manifest::{self, DeployError};
use headwater_engine::pipeline::Guarantee;
use headwater_engine::plan::{InputKind, Plan, TOMBSTONE_RETENTION, topics_to_create};
use operator_core::{Diagnostic, Interval, Millis};

use crate::config::Config;
use crate::diagnose::Problem;
use crate::pipeline_files::Loaded;

/// Whether an epoch fits into a transaction of this environment.
///
/// # Errors
/// Brokers would abort every transaction before it is committed.
pub fn check_times(guarantee: Guarantee, interval: Interval, config: &Config) -> Result<(), Problem> {
    let timeout = config.kafka.transaction_timeout;
    if guarantee == Guarantee::ExactlyOnce && interval.millis() * 2 > timeout.millis() {
        let message = format!("`commit_interval: {interval}` is too long: brokers abort transactions after {timeout}");
        let help = "make `commit_interval` shorter, or `kafka.transaction_timeout` more than twice as long";
        return Err(Problem::plain(message).with_help(Some(help.into())));
    }
    Ok(())
}

/// Internal topics must be what the plan takes them for: another partition count silently moves keys, and
/// deletion in a changelog loses state. What differs is refused.
///
/// # Errors
/// The brokers can't be asked.
pub fn check_internal(plan: &Plan, broker: &dyn Broker) -> Result<Vec<Diagnostic>, BrokerError> {
    let (mut found, mut differing, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for spec in topics_to_create(plan).iter().filter(|t| t.name.starts_with("hw.")) {
        let partitions = broker.partitions(&spec.name)?;
        if let Some(n) = partitions.filter(|n| *n != spec.partitions) {
            differing.push(format!("`{}` has {n} partitions, the plan needs {}", spec.name, spec.partitions));
            wanted.push(spec.partitions);
        }
        if partitions.is_some() && spec.name.ends_with(".changelog") {
            let config = broker.topic_config(&spec.name)?;
            if config.iter().any(|(k, v)| k == "cleanup.policy" && v != "compact") {
                let message = format!("the changelog `{}` must have exactly cleanup.policy=compact, or state is lost", spec.name);
                let help = format!(
                    "set it: `kafka-configs --alter --topic {} --add-config cleanup.policy=compact`. If records were deleted already: {}",
                    spec.name,
                    manifest::read_again(&plan.names)
                );
                found.push(Diagnostic::error("internal-topics", message).help(help));
            }
        }
    }
    if !differing.is_empty() {
        let message = format!("{}: the number of input partitions has changed since the pipeline first ran", differing.join("; "));
        let sources = plan.stages.iter().flat_map(|stage| &stage.inputs).filter(|input| matches!(input.kind, InputKind::Source(_)));
        // Where their number comes from.
        let grown = sources.into_iter().find(|source| source.topics.iter().any(|topic| wanted.contains(&topic.partitions)));
        let keyed = grown.is_some_and(|source| source.key.is_some());
        let help = manifest::more_partitions(&plan.names, plan.outboxes().next().is_some(), keyed);
        let refused = Diagnostic::error("internal-topics", message).help(help);
        found.push(match grown {
            Some(source) => refused.at(["sources", &source.name]),
            None => refused,
        });
    }
    Ok(found)
}

/// What brokers keep tombstones for where a topic doesn't say: `log.cleaner.delete.retention.ms`.
const BROKERS_DEFAULT: Millis = 86_400_000;

/// How long the changelogs keep tombstones at least. A checkpoint must not be older than half of that: a deletion that it
/// missed would be gone from the changelog, and windows that were closed would be open again.
pub fn tombstones_kept(plan: &Plan, broker: &dyn Broker) -> Result<Millis, BrokerError> {
    let mut least = TOMBSTONE_RETENTION;
    for changelog in plan.stages.iter().flat_map(|s| &s.nodes).filter_map(|n| n.changelog.as_ref()) {
        if broker.partitions(changelog)?.is_some() {
            let config = broker.topic_config(changelog)?;
            let kept = config.iter().find(|(key, _)| key == "delete.retention.ms").and_then(|(_, value)| value.parse().ok());
            least = least.min(kept.unwrap_or(BROKERS_DEFAULT));
        }
    }
    Ok(least)
}

/// The warning about changelogs that keep tombstones for less than they were created with.
pub fn short_lived(kept: Millis) -> String {
    format!(
        "a changelog keeps tombstones for {} (`delete.retention.ms`): local checkpoints older than {} are not used, and the changelog is read as a whole; {} is what it is created with",
        Interval(kept),
        Interval(kept / 2),
        Interval(TOMBSTONE_RETENTION)
    )
}

/// Problems of a plan that can't run on what is deployed.
pub fn refusals(loaded: &Loaded, e: DeployError) -> Vec<Problem> {
    match e {
        DeployError::Store(StoreError::Broker(e)) => vec![Problem::of_broker(&e)],
        DeployError::Store(e) => vec![Problem::plain(e.to_string())],
        DeployError::Refused(found) => found.into_iter().map(|d| refusal(loaded, d)).collect(),
    }
}

/// A difference that state, positions or unread rows can't follow, where it is in the file.
pub fn refusal(loaded: &Loaded, d: Diagnostic) -> Problem {
    match d.path.is_empty() {
        true => Problem::plain(d.message).with_code(d.code).with_help(d.help),
        false => Problem::found(&loaded.source, &loaded.root, d),
    }
}

#[cfg(test)]
mod tests {
    use headwater_engine::sim::MemoryBroker;

    use super::*;
    use crate::diagnose::Source;
    use crate::pipeline_files::{make_plan, parse};

    const TEXT: &str = "apiVersion: headwater/v1\nname: p\nsources: { s: { topic: t, schema: { id: string } } }\n\
        steps: { w: { from: s, window: { tumbling: 1m, by: [id], compute: { n: count(*) } } } }\n\
        sinks: { out: { from: w, topic: out, create: { partitions: 1 } } }\n";

    /// With the brokers' default of a day, a checkpoint of the day before yesterday brought closed windows back.
    #[test]
    fn checkpoints_are_used_for_half_of_what_the_changelog_keeps() {
        let broker = MemoryBroker::new();
        broker.create_topic("t", 2);
        let catalog = crate::pipeline_files::catalog::Live::new(
            std::sync::Arc::new(broker.clone()),
            std::sync::Arc::new(crate::pipeline_files::catalog::NoSubjects),
        );
        let loaded = parse(Source::new("p.yaml", TEXT)).unwrap_or_else(|_| panic!("it can be read"));
        let (plan, _) = make_plan(&loaded, &catalog).unwrap_or_else(|found| panic!("{found:?}"));
        assert_eq!(tombstones_kept(&plan, &broker).unwrap(), TOMBSTONE_RETENTION, "it will be created");
        broker.create_topic_with("hw.p.w.changelog", 2, &[("cleanup.policy", "compact"), ("delete.retention.ms", "3600000")]);
        assert_eq!(tombstones_kept(&plan, &broker).unwrap(), 3_600_000);
        assert!(short_lived(3_600_000).contains("tombstones for 1h") && short_lived(3_600_000).contains("older than 30m"));
        broker.delete_topic("hw.p.w.changelog");
        broker.create_topic_with("hw.p.w.changelog", 2, &[("cleanup.policy", "compact")]);
        assert_eq!(tombstones_kept(&plan, &broker).unwrap(), BROKERS_DEFAULT);
    }

    /// The refusal is at the source, and with the command that cures it.
    #[test]
    fn partitions_that_were_added_are_refused_where_they_come_from() {
        let broker = MemoryBroker::new();
        broker.create_topic("t", 4);
        let catalog = crate::pipeline_files::catalog::Live::new(
            std::sync::Arc::new(broker.clone()),
            std::sync::Arc::new(crate::pipeline_files::catalog::NoSubjects),
        );
        let loaded = parse(Source::new("p.yaml", TEXT)).unwrap_or_else(|_| panic!("it can be read"));
        let (plan, _) = make_plan(&loaded, &catalog).unwrap_or_else(|found| panic!("{found:?}"));
        assert!(check_internal(&plan, &broker).unwrap().is_empty(), "it will be created");
        broker.create_topic_with("hw.p.w.changelog", 2, &[("cleanup.policy", "compact")]);
        let found: Vec<Problem> = check_internal(&plan, &broker).unwrap().into_iter().map(|d| refusal(&loaded, d)).collect();
        let [problem] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((problem.code.as_str(), problem.place().as_deref()), ("internal-topics", Some("p.yaml:3:12")));
        assert!(problem.help.as_ref().is_some_and(|help| help.contains("`hw reset p --to earliest`")), "{problem:?}");
    }

    #[test]
    fn only_transactions_must_fit_into_their_timeout() {
        let mut config = Config::default();
        config.kafka.transaction_timeout = Interval(20_000);
        let fits = |guarantee, interval| check_times(guarantee, Interval(interval), &config).is_ok();
        assert!(fits(Guarantee::ExactlyOnce, 10_000) && !fits(Guarantee::ExactlyOnce, 10_001));
        assert!(fits(Guarantee::AtLeastOnce, 60_000));
    }
}
