//! Reading the target of a sink: a topic, or a table of one of the stores. Which of them it is decides which keys mean something.

use super::{SinkTarget, TopicTarget};
use crate::sinks::{Sinks, keys_of};
use crate::yaml::{Key, Node, YamlError, read_all, unknown_keys};

const TOPIC: &str = "topic";

/// Reads the entry of a sink. The second part are keys that have no effect: those of other targets.
pub(super) fn read(key: &Key, entry: &Node, sinks: &Sinks) -> Result<(SinkTarget, Vec<String>), Vec<YamlError>> {
    let targets: Vec<&str> = std::iter::once(TOPIC).chain(sinks.names()).collect();
    let keys = |target: &str| sinks.get(target).map_or_else(keys_of::<TopicTarget>, |kind| (kind.keys)());
    let known: Vec<String> = targets.iter().flat_map(|target| keys(target)).collect();
    let chosen: Vec<&str> = targets.iter().copied().filter(|target| entry.get(target).is_some()).collect();
    let [target] = chosen.as_slice() else {
        // A misspelt target is not a missing one.
        let unknown = unknown_keys(&entry.retaining(|name| name != "from"), &known);
        return Err(if unknown.is_empty() { vec![no_target(key, sinks)] } else { unknown });
    };
    let own = keys(target);
    let foreign = |name: &str| !own.iter().any(|own| own == name) && known.iter().any(|known| known == name);
    let without_effect: Vec<String> = entry.keys().filter(|name| foreign(name)).map(str::to_string).collect();
    let options = entry.retaining(|name| name != "from" && !foreign(name));
    let (to, errors) = match sinks.get(target) {
        Some(kind) => {
            let (table, errors) = (kind.read)(&options);
            (table.map(SinkTarget::Table), errors)
        }
        None => {
            let (topic, errors) = read_all::<TopicTarget>(&options);
            (topic.map(SinkTarget::Topic), errors)
        }
    };
    match to.filter(|_| errors.is_empty()) {
        Some(to) => Ok((to, without_effect)),
        None => Err(errors),
    }
}

fn no_target(key: &Key, sinks: &Sinks) -> YamlError {
    let (mut names, mut examples) = (vec!["`topic`".to_string()], vec!["`topic: analytics.orders.big`".to_string()]);
    for kind in &sinks.0 {
        names.push(format!("`{}`", kind.name));
        examples.push(format!("`{}: {}`", kind.name, kind.example));
    }
    YamlError {
        code: "sink-target",
        message: format!("a sink writes to exactly one of {}", either(&names)),
        help: Some(format!("write {}; two targets are two sinks", either(&examples))),
        place: Some(key.place),
    }
}

fn either(names: &[String]) -> String {
    match names.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => names.concat(),
    }
}
