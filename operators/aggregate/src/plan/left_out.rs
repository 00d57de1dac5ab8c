//! What a configuration leaves out that it can hardly mean to.

use std::collections::BTreeMap;

use operator_core::Diagnostic;

use super::columns::Column;
use super::{Found, at};
use crate::spec::Aggregate;
use crate::written::{Change, Emit};

/// Events for which nothing says what they change.
pub fn without_apply(aggregate: &Aggregate) -> Vec<Diagnostic> {
    if aggregate.state.is_empty() && aggregate.entries.is_empty() {
        return Vec::new();
    }
    let mut first: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (command, rules) in aggregate.on.iter() {
        for (number, rule) in rules.rules.iter().enumerate() {
            let mut place = at(&["on", command]);
            place.extend(rules.list.then(|| number.to_string()));
            place.push("emit".to_string());
            match &rule.emit {
                None => {}
                Some(Emit::One(name)) => {
                    first.entry(name).or_insert(place);
                }
                Some(Emit::Several(events)) => events.iter().enumerate().for_each(|(number, event)| {
                    let place = || place.iter().cloned().chain([number.to_string(), "type".to_string()]).collect();
                    first.entry(&event.kind).or_insert_with(place);
                }),
            }
        }
    }
    for (name, timer) in aggregate.timers.iter() {
        first.entry(&timer.emit).or_insert_with(|| at(&["timers", name, "emit"]));
    }
    let applied = |name: &str| aggregate.apply.names().any(|known| known == name);
    let warning = |(name, place): (&str, Vec<String>)| {
        let message = format!("`apply` does not say what `{name}` changes: after it the state is what it was");
        let help = format!("add it to `apply`; if it changes nothing, write `{name}: {{}}`");
        Diagnostic::warning("no-apply", message).at(place).help(help)
    };
    first.into_iter().filter(|(name, _)| !applied(name)).map(warning).collect()
}

/// Reports columns of a collection's entries that must be set when one is made, and that no event sets.
pub fn unset(aggregate: &Aggregate, collection: &str, columns: &[Column], found: &mut Found) {
    let changes = aggregate.apply.iter().flat_map(|(_, changes)| changes.iter()).filter(|(target, _)| *target == collection);
    let makers: Vec<_> = changes.filter_map(|(_, change)| if let Change::Entry(columns) = change { Some(columns) } else { None }).collect();
    let required = columns.iter().filter(|column| column.default.is_none()).map(|column| column.field.name().as_str());
    for name in required.filter(|_| !makers.is_empty()) {
        if makers.iter().all(|columns| columns.iter().all(|(set, _)| set != name)) {
            let message = format!("no event sets `{name}`, which an entry of `{collection}` must have: none could be made");
            let wrong = Diagnostic::error("entry-column", message).at(["entries", collection, "columns", name]).key();
            found.problems.push(wrong.help("set it in `apply`, give it a default (`= ..`), or allow null (`?`)"));
        }
    }
}
