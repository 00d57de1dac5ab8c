//! The changelog of a saga's step.

use std::collections::BTreeMap;

use headwater_engine::broker::{Broker, TopicPartition};
use headwater_engine::plan::Names;
use operator_core::StateError;
use operator_saga::inspect::{Definitions, Sagas, Shown};

use super::Step;
use crate::cli::topic;
use crate::diagnose::Problem;

/// The sagas of a step, as the last commit left them. The entries of a partition belong together: definitions are stored in each.
pub(super) struct Changelog {
    topic: String,
    partitions: Vec<(Sagas, Definitions)>,
}

impl Changelog {
    /// Reads the changelog to its end: the bytes of all sagas, or those of one, are in memory then.
    pub(super) fn read(broker: &dyn Broker, step: &Step, only: Option<&str>) -> Result<Changelog, Problem> {
        let changelog = Names(step.loaded.pipeline.name.clone()).changelog(step.loaded.pipeline.topics_named(&step.name));
        let partitions = broker.partitions(&changelog).map_err(|e| Problem::of_broker(&e))?;
        if partitions.is_none() {
            return Err(Problem::plain(format!("there is no topic `{changelog}`: the pipeline has not run here")));
        }
        let mut sagas: BTreeMap<TopicPartition, Sagas> = BTreeMap::new();
        let read = topic::read(broker, &changelog, &mut |partition, records| {
            let new = || only.map_or_else(Sagas::default, Sagas::only);
            let of = sagas.entry(partition.clone()).or_insert_with(new);
            let entries = (0..records.len()).map(|index| records.get(index));
            entries.for_each(|record| {
                if let Some(key) = record.key {
                    of.entry(key, record.value)
                }
            });
            Ok(())
        });
        read.map_err(Problem::plain)?;
        let with = |sagas: Sagas| sagas.definitions().map(|definitions| (sagas, definitions));
        let partitions = sagas.into_values().map(with).collect::<Result<_, _>>();
        let partitions = partitions.map_err(|e| Problem::plain(format!("{changelog}: {e}")))?;
        Ok(Changelog { topic: changelog.to_string(), partitions })
    }

    /// Visits all sagas in the order of their ids, each decoded when it is its turn.
    pub(super) fn each(&self, visit: &mut dyn FnMut(&Shown)) -> Result<(), Problem> {
        let mut all: Vec<(&str, usize)> = Vec::new();
        for (place, (sagas, _)) in self.partitions.iter().enumerate() {
            all.extend(sagas.ids().map(|id| (id, place)));
        }
        all.sort_unstable();
        for (id, place) in all {
            let Some((sagas, definitions)) = self.partitions.get(place) else { continue };
            if let Some(saga) = sagas.saga(id, definitions).map_err(|e| self.unreadable(&e))? {
                visit(&saga);
            }
        }
        Ok(())
    }

    /// The saga of this id, if there is one.
    pub(super) fn saga(&self, id: &str) -> Result<Option<Shown>, Problem> {
        let found = self.partitions.iter().find_map(|(sagas, definitions)| sagas.saga(id, definitions).transpose());
        found.transpose().map_err(|e| self.unreadable(&e))
    }

    /// Why a repair of a saga would change nothing by now, if that is so.
    pub(super) fn refused(&self, id: &str, repair: &str, at: Option<&str>) -> Result<Option<&'static str>, Problem> {
        let holds = |(sagas, _): &&(Sagas, Definitions)| sagas.ids().any(|known| known == id);
        let Some((sagas, definitions)) = self.partitions.iter().find(holds) else { return Ok(None) };
        sagas.refused(id, definitions, repair, at).map_err(|e| self.unreadable(&e))
    }

    fn unreadable(&self, e: &StateError) -> Problem {
        Problem::plain(format!("{}: {e}", self.topic))
    }
}
