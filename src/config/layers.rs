//! Layers of configuration: read, checked one by one, merged.

use std::path::PathBuf;

use headwater_engine::yaml::{self, Node, Value};
use operator_core::Diagnostic;

use super::{Config, Sections, blanked, blanked_lines, check, hidden, substitute};
use crate::diagnose::{Problem, Source};

impl Config {
    /// Reads layers of configuration, and the local environment that one of them names. `sections`: those of the stores.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(paths: &[PathBuf], sections: &Sections) -> Result<Config, Problem> {
        let (mut merged, mut layers): (Option<Node>, Vec<(Node, Source)>) = (None, Vec::new());
        for path in paths {
            let source = Source::read(path)?;
            let mut node = yaml::parse(&source.text).map_err(|e| Problem::yaml(&source, e).shown_in(&blanked_lines(&source.text)))?;
            if let Some(e) = node.substitute(&mut |text| substitute(text)).into_iter().next() {
                return Err(Problem::yaml(&source, e));
            }
            wrong_by_itself(&source, &node, sections)?;
            merged = Some(merged.map_or(node.clone(), |below| merge(below, node.clone())));
            layers.push((node, source));
        }
        let mut config = match (&merged, layers.last()) {
            (Some(node), Some((_, source))) => merged_config(node, source, &layers, sections)?,
            _ => Config::default(),
        };
        config.fill(sections)?;
        Ok(config)
    }

    /// Takes what is not set here from the configuration of the local environment, section by section.
    pub(super) fn fill(&mut self, sections: &Sections) -> Result<(), Problem> {
        let Some(file) = self.local.as_ref().map(|dir| dir.join(OF_ENVIRONMENT)).filter(|file| file.exists()) else { return Ok(()) };
        let source = Source::read(&file)?;
        let node = yaml::parse(&source.text).map_err(|e| Problem::yaml(&source, e))?;
        let (local, errors) = Config::read(&node, sections);
        if let Some(e) = errors.into_iter().next() {
            return Err(Problem::yaml(&source, e));
        }
        let local = local.unwrap_or_default();
        if self.kafka.bootstrap.is_empty() {
            self.kafka.bootstrap = local.kafka.bootstrap;
        }
        self.schema_registry = self.schema_registry.take().or(local.schema_registry);
        for (name, section) in local.stores {
            self.stores.entry(name).or_insert(section);
        }
        Ok(())
    }
}

/// The file in which `hw local up` says where its services are.
const OF_ENVIRONMENT: &str = "config.yaml";

/// What all layers together say.
fn merged_config(node: &Node, last: &Source, layers: &[(Node, Source)], sections: &Sections) -> Result<Config, Problem> {
    let (config, errors) = Config::read(node, sections);
    if let Some(e) = errors.into_iter().next() {
        return Err(without_secrets(last, Problem::yaml(last, e).without(&hidden(node, sections)), sections));
    }
    let config = config.unwrap_or_default();
    match check(&config).into_iter().chain(config.unreadable()).next() {
        Some(wrong) => Err(in_its_layer(layers, wrong, sections)),
        None => Ok(config),
    }
}

/// What is wrong with a layer whatever the others say, so that it is shown in its own file. A key that is missing may
/// stand in another.
fn wrong_by_itself(source: &Source, node: &Node, sections: &Sections) -> Result<(), Problem> {
    let (config, errors) = Config::read(node, sections);
    let problem = match errors.into_iter().find(|e| e.code != "missing-key") {
        Some(e) => Some(Problem::yaml(source, e).without(&hidden(node, sections))),
        None => config.iter().flat_map(check).next().map(|d| Problem::found(source, node, d)),
    };
    problem.map_or(Ok(()), |problem| Err(without_secrets(source, problem, sections)))
}

/// Shown where it is written: in the last layer that has the key.
fn in_its_layer(layers: &[(Node, Source)], wrong: Diagnostic, sections: &Sections) -> Problem {
    let has = |path: &[String]| layers.iter().rev().find(|(node, _)| node.find(path).is_some());
    match has(&wrong.path).or(layers.last()) {
        Some((node, source)) => without_secrets(source, Problem::found(source, node, wrong), sections),
        None => Problem::plain(wrong.message),
    }
}

/// The line of a mistake may be that of a secret.
fn without_secrets(source: &Source, problem: Problem, sections: &Sections) -> Problem {
    match yaml::parse(&source.text) {
        Ok(raw) => problem.shown_in(&blanked(source, &raw, Some(sections))),
        Err(_) => problem,
    }
}

/// `over` on `below`: mappings key by key, everything else as a whole.
fn merge(below: Node, over: Node) -> Node {
    let place = over.place;
    match (below.value, over.value) {
        (Value::Map(mut entries), Value::Map(new)) => {
            for (key, node) in new {
                match entries.iter().position(|(k, _)| k.text == key.text) {
                    Some(at) => {
                        let (k, old) = entries.remove(at);
                        entries.insert(at, (k, merge(old, node)));
                    }
                    None => entries.push((key, node)),
                }
            }
            Node { place, value: Value::Map(entries) }
        }
        (_, value) => Node { place, value },
    }
}
