//! Users as events: registered, changed, erased.

use uuid::Uuid;

use super::event::{Head, Record, event, id_of, members};
use crate::random::Random;
use crate::shop::COUNTRIES;

/// What determines the events of users, times aside.
#[derive(Debug, Clone, PartialEq)]
pub struct UserOptions {
    /// Everything random follows from it. A second run with it writes the same events, under the same ids.
    pub seed: u64,
    /// Number of events; `None`: without end.
    pub count: Option<u64>,
    /// Percent of the events that change a user, and that erase one; the others register one.
    pub changed: u64,
    /// See `changed`.
    pub erased: u64,
}

impl Default for UserOptions {
    fn default() -> UserOptions {
        UserOptions { seed: 1, count: None, changed: 30, erased: 10 }
    }
}

/// One topic, because the order of a user's events matters: what is erased must not be registered after it.
const TOPIC: &str = "business.users.events";
const NAMES: [&str; 8] = ["Ada", "Ben", "Clara", "Deniz", "Emil", "Fatima", "Greta", "Hugo"];

/// The events of a run. Times are given by whoever writes them.
#[derive(Debug)]
pub struct Users {
    options: UserOptions,
    random: Random,
    registered: Vec<Uuid>,
    number: u64,
}

impl Users {
    /// The events that these options determine.
    pub fn new(options: UserOptions) -> Users {
        Users { random: Random::new(options.seed, 21), registered: Vec::new(), number: 0, options }
    }

    /// The next event, which happens at `timestamp_ms`; `None` after the last one.
    pub fn next(&mut self, timestamp_ms: i64) -> Option<Record> {
        if self.options.count.is_some_and(|count| self.number >= count) {
            return None;
        }
        let (random, known) = (&mut self.random, self.registered.len());
        let drawn = random.below(100);
        let (name, user) = match drawn {
            _ if known == 0 => ("users.registered", random.uuid()),
            drawn if drawn < self.options.erased => ("users.erased", self.registered.swap_remove(random.index(known))),
            drawn if drawn < self.options.erased + self.options.changed => ("users.changed", self.registered[random.index(known)]),
            _ => ("users.registered", random.uuid()),
        };
        if name == "users.registered" {
            self.registered.push(user);
        }
        let key = user.to_string();
        let mut data = members([("customerId", key.clone().into())]);
        if name != "users.erased" {
            let first = NAMES[random.index(NAMES.len())];
            let email = format!("{}.{}@example.org", first.to_lowercase(), random.below(100_000));
            let more = members([
                ("name", first.into()),
                ("email", email.into()),
                ("country", random.pick(&COUNTRIES, "DE").into()),
                ("tier", random.pick(&[(70, "standard"), (20, "silver"), (8, "gold")], "platinum").into()),
            ]);
            data.extend(more);
        }
        let id = id_of(&["user", &self.options.seed.to_string(), &self.number.to_string()]);
        self.number += 1;
        let head = Head { id, name, source: "accounts", timestamp_ms, correlation: &key, causation: None };
        Some(Record { topic: TOPIC, value: event(&head, data), key, timestamp_ms })
    }

    /// Events so far.
    pub fn written(&self) -> u64 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn nothing_follows_after_an_erasure() {
        let mut users = Users::new(UserOptions { count: Some(2_000), ..UserOptions::default() });
        let (mut live, mut erased) = (BTreeSet::new(), BTreeSet::new());
        for record in std::iter::from_fn(|| users.next(0)) {
            let event: Value = serde_json::from_slice(&record.value).unwrap();
            assert!(!erased.contains(&record.key), "{event}");
            match event["eventType"].as_str().unwrap() {
                "users.registered" => assert!(live.insert(record.key)),
                "users.changed" => assert!(live.contains(&record.key)),
                _ => {
                    assert_eq!(event["data"].as_object().unwrap().len(), 1, "an erasure says nothing of the user");
                    assert!(live.remove(&record.key) && erased.insert(record.key));
                }
            }
        }
        assert!(users.written() == 2_000 && erased.len() > 100 && live.len() > 500);
    }
}
