//! Aggregates whose commands are rows of one record: these have one `eventId`, so that all but the first of a key would be repeats.

use std::collections::BTreeSet;

use headwater_engine::yaml::Node;
use operator_core::Diagnostic;

/// The column that is a command's id unless the step names another one.
const ID: &str = "eventId";
/// Steps whose rows are no rows of the input any more, or have ids of their own.
const MAKE_ROWS: [&str; 4] = ["aggregate", "join", "saga", "window"];

/// Aggregates that take the id of a record for that of a row.
pub fn check(root: &Node) -> Vec<Diagnostic> {
    let Some(steps) = root.get("steps") else { return Vec::new() };
    let mut found = Vec::new();
    for (name, step) in steps.keys().filter_map(|name| Some((name, steps.get(name)?))) {
        let by_default = step.get("aggregate").is_some_and(|aggregate| aggregate.get("id").is_none());
        let Some(unnesting) = by_default.then(|| unnesting(steps, step, &mut BTreeSet::new())).flatten() else { continue };
        let message = format!(
            "the rows that `{unnesting}` unnests from a record share its `{ID}`: of those with one key all but the first are taken for repeats"
        );
        let help =
            format!("compute an id in `{unnesting}` and name it, such as `id: command_id`, or write `id: {ID}` if no two have one key");
        found.push(Diagnostic::warning("shared-id", message).at(["steps", name, "aggregate"]).key().help(help));
    }
    found
}

/// The step before `step` that makes several rows of one, without another id.
fn unnesting<'a>(steps: &'a Node, step: &'a Node, seen: &mut BTreeSet<&'a str>) -> Option<&'a str> {
    let mut names = Vec::new();
    step.get("from")?.texts(&mut |_, _, from| names.extend(from.split('.').next()));
    for name in names {
        let Some(before) = steps.get(name).filter(|_| seen.insert(name)) else { continue };
        if MAKE_ROWS.iter().any(|kind| before.get(kind).is_some()) || before.get("map").is_some_and(has_other_id) {
            continue;
        }
        if before.get("map").is_some_and(|map| map.get("unnest").is_some()) {
            return Some(name);
        }
        if let Some(found) = unnesting(steps, before, seen) {
            return Some(found);
        }
    }
    None
}

/// The map leaves the column out, or computes it.
fn has_other_id(map: &Node) -> bool {
    let selected = map.get("select").is_some_and(|select| select.get(ID).and_then(Node::text) != Some(ID));
    selected || map.get("add").is_some_and(|add| add.get(ID).is_some())
}
