//! The changelog of a saga's step.

use std::collections::BTreeMap;

use headwater_engine::broker::{Broker, TopicPartition};
use headwater_engine::plan::Names;
use operator_core::Millis;
use operator_saga::inspect::{Sagas, Shown};

use super::Step;
use crate::cli::topic;
use crate::diagnose::Problem;

/// All sagas of a step, as the last commit left them.
pub(super) fn sagas(broker: &dyn Broker, step: &Step) -> Result<Vec<Shown>, Problem> {
    let changelog = Names(step.loaded.pipeline.name.clone()).changelog(&step.name);
    let partitions = broker.partitions(&changelog).map_err(|e| Problem::of_broker(&e))?;
    if partitions.is_none() {
        return Err(Problem::plain(format!("there is no topic `{changelog}`: the pipeline has not run here")));
    }
    // The entries of a partition belong together: definitions are stored in each.
    let mut sagas: BTreeMap<TopicPartition, Sagas> = BTreeMap::new();
    let read = topic::read(broker, &changelog, &mut |partition, records| {
        let of = sagas.entry(partition.clone()).or_default();
        let entries = (0..records.len()).map(|index| records.get(index));
        entries.for_each(|record| {
            if let Some(key) = record.key {
                of.entry(key, record.value)
            }
        });
        Ok(())
    });
    read.map_err(Problem::plain)?;
    let all = sagas.values().map(Sagas::all).collect::<Result<Vec<_>, _>>();
    let mut all: Vec<Shown> = all.map_err(|e| Problem::plain(format!("{changelog}: {e}")))?.into_iter().flatten().collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(all)
}

/// A point in time, in UTC.
pub(super) fn time(at: Millis) -> String {
    chrono::DateTime::from_timestamp_millis(at).map_or_else(|| at.to_string(), |at| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}
