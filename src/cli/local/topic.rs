//! `hw local topic`: topics of the local Kafka.

use clap::Args;
use headwater_engine::broker::{Broker, TopicSpec};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::cli::runtime;
use crate::diagnose::Problem;
use crate::say;
use headwater_kafka::{Kafka, KafkaConfig};

/// Partitions of a topic that is created without a number.
const PARTITIONS: i32 = 6;

#[derive(Args)]
pub struct TopicArgs {
    /// Name of the topic
    name: String,
    /// Number of partitions; a topic that exists grows to it [default: 6 for a new topic]
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: Option<i32>,
    /// A setting of the new topic, such as cleanup.policy=compact
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Delete the topic with its records
    #[arg(long, conflicts_with_all = ["partitions", "settings"])]
    delete: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as cleanup.policy=compact")?;
    Ok((name.to_string(), value.to_string()))
}

pub fn run(wanted: &TopicArgs, bootstrap: &str) -> Result<(), Problem> {
    let name = &wanted.name;
    let kafka = Kafka::connect(KafkaConfig::new(bootstrap)).map_err(|e| Problem::plain(e.to_string()))?;
    let partitions = kafka.partitions(name).map_err(|e| Problem::plain(e.to_string()))?;
    match (partitions, wanted.delete) {
        (None, true) => return Err(Problem::plain(format!("there is no topic `{name}`"))),
        (Some(_), true) => {
            change(bootstrap, name, async |admin, options| admin.delete_topics(&[name], options).await)?;
            say!("{name} is deleted");
        }
        (None, false) => {
            let partitions = wanted.partitions.unwrap_or(PARTITIONS);
            let spec = TopicSpec { name: name.clone(), partitions, replication: None, config: wanted.settings.clone() };
            kafka.create_topics(&[spec]).map_err(|e| Problem::plain(e.to_string()))?;
            say!("{name} with {}", count(partitions));
        }
        (Some(found), false) => grow(wanted, bootstrap, found)?,
    }
    Ok(())
}

fn count(partitions: i32) -> String {
    format!("{partitions} partition{}", if partitions == 1 { "" } else { "s" })
}

fn grow(wanted: &TopicArgs, bootstrap: &str, found: i32) -> Result<(), Problem> {
    let name = &wanted.name;
    if !wanted.settings.is_empty() {
        let help = format!("delete it first: hw local topic {name} --delete");
        return Err(Problem::plain(format!("{name} exists already; `--set` is for a new topic")).with_help(Some(help)));
    }
    let partitions = wanted.partitions.unwrap_or(found);
    if partitions < found {
        let help = format!("Kafka can't remove partitions; delete the topic and create it again: hw local topic {name} --delete");
        return Err(Problem::plain(format!("{name} has {}, more than {partitions}", count(found))).with_help(Some(help)));
    }
    if partitions > found {
        let new = NewPartitions::new(name, partitions as usize);
        change(bootstrap, name, async |admin, options| admin.create_partitions(&[new], options).await)?;
        say!("{name} with {}, {found} before", count(partitions));
    } else {
        say!("{name} with {}, as before", count(found));
    }
    Ok(())
}

/// What librdkafka answers for each topic.
type Outcome = Result<Vec<Result<String, (String, RDKafkaErrorCode)>>, KafkaError>;

/// Asks the brokers to change a topic.
fn change(
    bootstrap: &str,
    name: &str,
    ask: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> Outcome,
) -> Result<(), Problem> {
    let failed = |why: &dyn std::fmt::Display| Problem::plain(format!("can't change the topic `{name}`: {why}"));
    let timeout = Some(std::time::Duration::from_secs(30));
    let options = AdminOptions::new().request_timeout(timeout).operation_timeout(timeout);
    let outcome = runtime()?.block_on(async {
        let admin = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
        ask(&admin, &options).await
    });
    for topic in outcome.map_err(|e: KafkaError| failed(&e))? {
        topic.map_err(|(_, code)| failed(&code))?;
    }
    Ok(())
}
