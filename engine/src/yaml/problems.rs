//! Reports all mistakes of a file at once: a rejected entry is left out, and the rest is parsed again.

use operator_core::diagnostic::closest;
use serde::de::DeserializeOwned;

use super::{Key, Node, Place, Value, YamlError};

/// More mistakes than anyone reads at once.
const MOST: usize = 100;

/// Reads a typed value, and everything that is wrong with it. The value is what can be read of the rest: entries in
/// which something was refused are left out of it, as far up as their section's entries (`sources.orders`).
pub fn read_all<T: DeserializeOwned>(node: &Node) -> (Option<T>, Vec<YamlError>) {
    let mut errors: Vec<YamlError> = Vec::new();
    // Candidates to leave out: as little as possible, so that the first mistake hides no other.
    let mut rest = node.clone();
    let mut removed: Vec<(Place, String)> = Vec::new();
    let mut value = None;
    while errors.len() < MOST {
        let error = match rest.read::<T>() {
            Ok(read) => {
                value = errors.is_empty().then_some(read);
                break;
            }
            Err(error) => error,
        };
        let Some(place) = error.place else {
            errors.push(error);
            break;
        };
        if place == STAND_IN {
            // Nothing can stand in for a missing key: the mapping that lacks it goes.
            match rest.holder(STAND_IN).and_then(|map| rest.remove(map)) {
                Some(_) => continue,
                None => break,
            }
        }
        if let Some(key) = missing_key(&error) {
            // A key that was left out before is not missing, nor one that was misspelt.
            let follows = removed.iter().any(|(map, gone)| *map == place && (*gone == key || closest(gone, [key.as_str()]).is_some()));
            if !follows {
                errors.push(YamlError { place: node.key_of(place).or(Some(place)), ..error });
            }
            // Others may be missing, too.
            rest.stand_in(place, &key);
            continue;
        }
        errors.push(error);
        match rest.remove(place) {
            Some(gone) => removed.push(gone),
            None => break,
        }
    }
    if errors.is_empty() {
        return (value, errors);
    }
    // The planner gets no invalid entry, not even in part: half of a source would be another source.
    let wrong: Vec<Vec<String>> = errors.iter().filter_map(|e| node.entry_around(e.place?)).collect();
    let mut whole = node.clone();
    wrong.iter().for_each(|path| whole.remove_path(path));
    (whole.read::<T>().ok(), errors)
}

/// The keys of a mapping that are none of `known`.
pub fn unknown_keys(map: &Node, known: &[String]) -> Vec<YamlError> {
    let unknown = map.entries().filter(|(key, _)| !known.contains(&key.text));
    let error = |key: &Key| YamlError {
        code: "unknown-key",
        message: format!("unknown key `{}`", key.text),
        help: closest(&key.text, known.iter().map(String::as_str)).map(|name| format!("did you mean `{name}`?")),
        place: Some(key.place),
    };
    unknown.map(|(key, _)| error(key)).collect()
}

/// The message of a missing key.
pub(super) fn missing(key: &str) -> String {
    format!("`{key}` is missing")
}

fn missing_key(error: &YamlError) -> Option<String> {
    let name = error.message.strip_prefix('`')?.strip_suffix("` is missing")?;
    (error.code == "missing-key").then(|| name.to_string())
}

/// The place of what stands in for a missing key: nowhere in the text.
pub(super) const STAND_IN: Place = Place { start: usize::MAX, end: usize::MAX, line: 0, column: 0 };

impl Node {
    /// Leaves out the section's entry (`sources.orders`) that `place` lies in; returns its key.
    pub fn leave_out(&mut self, place: Place) -> Option<String> {
        let path = self.entry_around(place)?;
        self.remove_path(&path);
        path.into_iter().next_back()
    }

    /// Puts nothing under `key` into the mapping at `place`, so that what else is missing there can be seen.
    fn stand_in(&mut self, place: Place, key: &str) {
        match &mut self.value {
            Value::Map(entries) if self.place == place => {
                let value = Value::Scalar { text: String::new(), plain: true, block: false };
                entries.push((Key { text: key.to_string(), place: STAND_IN }, Node { place: STAND_IN, value }));
            }
            Value::Map(entries) => entries.iter_mut().for_each(|(_, node)| node.stand_in(place, key)),
            Value::List(items) => items.iter_mut().for_each(|node| node.stand_in(place, key)),
            // The value of a mapping is missing.
            Value::Scalar { .. } if self.place == place => {
                self.value = Value::Map(Vec::new());
                self.stand_in(place, key);
            }
            Value::Scalar { .. } => {}
        }
    }

    /// The place of the mapping that directly holds something at `place`.
    fn holder(&self, place: Place) -> Option<Place> {
        match &self.value {
            Value::Scalar { .. } => None,
            Value::List(items) => items.iter().find_map(|item| item.holder(place)),
            Value::Map(entries) if entries.iter().any(|(key, node)| key.place == place || node.place == place) => Some(self.place),
            Value::Map(entries) => entries.iter().find_map(|(_, node)| node.holder(place)),
        }
    }

    /// The place of the key whose value stands at `place`.
    fn key_of(&self, place: Place) -> Option<Place> {
        match &self.value {
            Value::Scalar { .. } => None,
            Value::List(items) => items.iter().find_map(|item| item.key_of(place)),
            Value::Map(entries) => {
                let own = entries.iter().find(|(_, node)| node.place == place).map(|(key, _)| key.place);
                own.or_else(|| entries.iter().find_map(|(_, node)| node.key_of(place)))
            }
        }
    }

    /// Takes out the smallest entry of a mapping, or item of a list, whose key or value stands at `place`. Returns the
    /// place of what held it, and its key.
    fn remove(&mut self, place: Place) -> Option<(Place, String)> {
        let at = self.place;
        match &mut self.value {
            Value::Scalar { .. } => None,
            Value::List(items) => match items.iter().position(|item| item.place == place) {
                Some(found) => {
                    items.remove(found);
                    Some((at, found.to_string()))
                }
                None => items.iter_mut().find_map(|item| item.remove(place)),
            },
            Value::Map(entries) => {
                // Deeper first: a mapping that lacks a key is named by its own place.
                if let Some(gone) = entries.iter_mut().find_map(|(_, value)| value.remove(place)) {
                    return Some(gone);
                }
                let found = entries.iter().position(|(key, value)| key.place == place || value.place == place)?;
                let (key, _) = entries.remove(found);
                Some((at, key.text))
            }
        }
    }

    /// The path of the second-level entry (`sources`, `orders`), or else the first-level one, that `place` lies in.
    fn entry_around(&self, place: Place) -> Option<Vec<String>> {
        let around =
            |key: &Key, node: &Node| (key.place.start..=node.place.end.max(key.place.end)).contains(&place.start) || node.has(place);
        let Value::Map(sections) = &self.value else { return None };
        let (section, node) = sections.iter().find(|(key, node)| around(key, node))?;
        let inner = match &node.value {
            Value::Map(entries) if section.place != place => entries.iter().find(|(key, node)| around(key, node)),
            _ => None,
        };
        Some(std::iter::once(section).chain(inner.map(|(key, _)| key)).map(|key| key.text.clone()).collect())
    }

    /// Takes out the entry at a path, if it is still there.
    fn remove_path(&mut self, path: &[String]) {
        let (Some((first, rest)), Value::Map(entries)) = (path.split_first(), &mut self.value) else { return };
        let Some(at) = entries.iter().position(|(key, _)| key.text == *first) else { return };
        match (rest, entries.get_mut(at)) {
            ([], _) => drop(entries.remove(at)),
            (rest, Some((_, node))) => node.remove_path(rest),
            _ => {}
        }
    }

    /// Some node or key in here stands at `place`: an alias stands elsewhere than where it is used.
    fn has(&self, place: Place) -> bool {
        self.place == place
            || match &self.value {
                Value::Scalar { .. } => false,
                Value::List(items) => items.iter().any(|item| item.has(place)),
                Value::Map(entries) => entries.iter().any(|(key, node)| key.place == place || node.has(place)),
            }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::super::parse;
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Item {
        size: u32,
        #[serde(default)]
        names: Vec<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[allow(dead_code)]
        title: String,
        items: BTreeMap<String, Item>,
    }

    fn found(text: &str) -> (Option<File>, Vec<(usize, &'static str)>) {
        let (file, errors) = read_all::<File>(&parse(text).unwrap());
        let mut places: Vec<_> = errors.iter().map(|e| (e.place.unwrap().line, e.code)).collect();
        places.sort_unstable();
        (file, places)
    }

    #[test]
    fn one_mistake_does_not_hide_another() {
        let text = "title: x\ntitel: y\nitems:\n  a: { size: 1 }\n  b: { size: one, naems: [] }\n  c: { names: [x] }\n  d: { size: 2, names: [x, [y], {z: 1}] }\n";
        let (file, places) = found(text);
        let expected =
            [(2, "unknown-key"), (5, "unknown-key"), (5, "wrong-type"), (6, "missing-key"), (7, "wrong-type"), (7, "wrong-type")];
        assert_eq!(places, expected);
        // Only fully valid entries remain.
        assert_eq!(file.unwrap().items.keys().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_key_that_was_refused_is_not_missing_too() {
        let (file, places) = found("title: x\nitems: { a: { size: large } }\n");
        assert_eq!(places, [(2, "wrong-type")]);
        assert!(file.unwrap().items.is_empty());
        let (file, places) = found("items: { a: { size: 1 } }\n");
        assert!(file.is_none() && places == [(1, "missing-key")], "{places:?}");
        let (file, places) = found("titel: x\nitems: { a: { siez: 1 } }\n");
        assert!(file.is_none() && places == [(1, "unknown-key"), (2, "unknown-key")], "{places:?}");
        let (_, places) = found("title: x\nitems:\n  a:\n  b: { siez: 1 }\n");
        assert_eq!(places, [(3, "missing-key"), (4, "unknown-key")]);
        let (_, places) = found("x: 1\n");
        assert_eq!(places, [(1, "missing-key"), (1, "missing-key"), (1, "unknown-key")]);
    }
}
