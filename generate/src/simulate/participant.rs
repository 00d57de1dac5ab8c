//! A service that answers commands: it does something once per idempotency key, says on request what became of it, and takes it back.
//!
//! What is lost is an answer, never the effect: the service remembers what it did, so that the same command again, or a question,
//! gets the outcome of the first. Taking something back that never happened is remembered, too: a command that comes after it is
//! refused.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::event::{Head, Record, event, id_of, random_of};
use crate::random::{Chance, Random};

/// The commands and events of a service.
#[derive(Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name in the events it writes, and on the command line.
    pub name: &'static str,
    /// The topic of its commands.
    pub commands: &'static str,
    /// The topic of its answers.
    pub events: &'static str,
    /// Asks for the effect; the answers are one of the next two.
    does: &'static str,
    done: &'static str,
    refused: &'static str,
    /// Asks what became of it; if it is not known, this is the answer.
    asks: &'static str,
    unknown: &'static str,
    /// Takes it back, and the answer.
    undoes: &'static str,
    undone: &'static str,
    /// The member of the answer that names the effect.
    reference: &'static str,
    reasons: [&'static str; 3],
}

/// Authorises and voids payments.
pub const PAYMENTS: Service = Service {
    name: "payments",
    commands: "commands.payments",
    events: "business.payments.events",
    does: "payments.authorise",
    done: "payments.authorised",
    refused: "payments.declined",
    asks: "payments.status",
    unknown: "payments.unknown",
    undoes: "payments.void",
    undone: "payments.voided",
    reference: "authorisationId",
    reasons: ["insufficient_funds", "card_expired", "suspected_fraud"],
};

/// Dispatches and cancels shipments.
pub const SHIPPING: Service = Service {
    name: "shipping",
    commands: "commands.shipping",
    events: "business.shipping.events",
    does: "shipping.dispatch",
    done: "shipping.dispatched",
    refused: "shipping.failed",
    asks: "shipping.status",
    unknown: "shipping.unknown",
    undoes: "shipping.cancel",
    undone: "shipping.cancelled",
    reference: "shipmentId",
    reasons: ["address_unknown", "carrier_full", "damaged"],
};

/// How a service behaves. Shares are from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Behaviour {
    /// All chance follows from it, from the ids of commands and from idempotency keys.
    pub seed: u64,
    /// Least and greatest time to an answer, milliseconds.
    pub latency_ms: (i64, i64),
    /// Share of idempotency keys whose effect is refused.
    pub decline: f64,
    /// Share of commands whose answer is lost.
    pub lose: f64,
    /// Share of answers that come twice.
    pub double: f64,
    /// Share of answers that take as long as `late_ms` says instead.
    pub late: f64,
    /// Least and greatest time to a late answer, milliseconds.
    pub late_ms: (i64, i64),
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour { seed: 1, latency_ms: (20, 200), decline: 0.0, lose: 0.0, double: 0.0, late: 0.0, late_ms: (10_000, 60_000) }
    }
}

/// An answer, and how long after its command it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Milliseconds after the command has been read.
    pub after_ms: i64,
    /// The event.
    pub record: Record,
}

/// What became of an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Refused(&'static str),
    Undone,
}

/// A service at work; see the module.
#[derive(Debug)]
pub struct Participant {
    service: &'static Service,
    behaviour: Behaviour,
    known: HashMap<String, Outcome>,
}

impl Participant {
    /// A service that has done nothing yet.
    pub fn new(service: &'static Service, behaviour: Behaviour) -> Participant {
        Participant { service, behaviour, known: HashMap::new() }
    }

    /// The service it is.
    pub fn service(&self) -> &'static Service {
        self.service
    }

    /// Does what a command asks for, and says what is answered: nothing if the answer is lost, two events if it comes twice.
    ///
    /// # Errors
    /// The record is no command of this service: why. Nothing is done.
    pub fn on(&mut self, command: &[u8]) -> Result<Vec<Answer>, String> {
        let command: Value = serde_json::from_slice(command).map_err(|e| format!("not JSON: {e}"))?;
        let text = |name: &str| command.get(name).and_then(Value::as_str).ok_or_else(|| format!("a command has a text `{name}`"));
        let (id, name) = (text("eventId")?, text("eventType")?);
        let data = command.get("data").and_then(Value::as_object).ok_or("a command has a record `data`")?;
        let member = |name: &str| data.get(name).and_then(Value::as_str);
        let order = member("orderId").ok_or("a command names its order: `data.orderId`")?;
        let key = member("idempotencyKey").unwrap_or(order);
        let (said, outcome) = self.decide(name, key)?;
        let mut answered = Map::new();
        let carried = ["orderId", "idempotencyKey", "amount", "currency"];
        answered.extend(carried.iter().filter_map(|name| Some(((*name).to_owned(), data.get(*name)?.clone()))));
        match outcome {
            Some(Outcome::Done) => {
                answered.insert(self.service.reference.to_owned(), id_of(&[self.service.name, key]).to_string().into());
            }
            Some(Outcome::Refused(reason)) => {
                answered.insert("reason".to_owned(), reason.into());
            }
            Some(Outcome::Undone) | None => {}
        }
        let correlation = command.get("metadata").and_then(|m| m.get("correlationId")).and_then(Value::as_str).unwrap_or(id);
        let mut random = random_of(self.behaviour.seed, &["answer", id]);
        let chance = |random: &mut Random, share: f64| random.chance(Chance::from(share));
        // Drawn in this order whatever comes of it, so that one share doesn't change what another decides.
        let (lost, doubled, late) = (
            chance(&mut random, self.behaviour.lose),
            chance(&mut random, self.behaviour.double),
            chance(&mut random, self.behaviour.late),
        );
        let (low, high) = if late { self.behaviour.late_ms } else { self.behaviour.latency_ms };
        let (first, second) = (random.between(low, high), random.between(self.behaviour.latency_ms.0, self.behaviour.latency_ms.1));
        let timestamp_ms = time_of(&command).saturating_add(first);
        let head = Head {
            id: id_of(&["answer", id, said]),
            name: said,
            source: self.service.name,
            timestamp_ms,
            correlation,
            causation: Some(id),
        };
        let record = Record { topic: self.service.events, key: order.to_owned(), timestamp_ms, value: event(&head, answered) };
        let times = match (lost, doubled) {
            (true, _) => vec![],
            (false, false) => vec![first],
            (false, true) => vec![first, first.saturating_add(second)],
        };
        Ok(times.into_iter().map(|after_ms| Answer { after_ms, record: record.clone() }).collect())
    }

    /// The name of the answer, and what has become of the key.
    fn decide(&mut self, command: &str, key: &str) -> Result<(&'static str, Option<Outcome>), String> {
        let service = self.service;
        let known = self.known.get(key).copied();
        let outcome = if command == service.does {
            let outcome = match known {
                // What is taken back stays taken back.
                Some(Outcome::Undone) => return Ok((service.refused, Some(Outcome::Refused("taken_back")))),
                Some(outcome) => outcome,
                None => self.first(key),
            };
            self.known.insert(key.to_owned(), outcome);
            Some(outcome)
        } else if command == service.undoes {
            self.known.insert(key.to_owned(), Outcome::Undone);
            Some(Outcome::Undone)
        } else if command == service.asks {
            known
        } else {
            return Err(format!("`{command}` is no command of {}", service.name));
        };
        let said = match outcome {
            Some(Outcome::Done) => service.done,
            Some(Outcome::Refused(_)) => service.refused,
            Some(Outcome::Undone) => service.undone,
            None => service.unknown,
        };
        Ok((said, outcome))
    }

    fn first(&self, key: &str) -> Outcome {
        let mut random = random_of(self.behaviour.seed, &["outcome", key]);
        match random.chance(Chance::from(self.behaviour.decline)) {
            true => Outcome::Refused(self.service.reasons[random.index(self.service.reasons.len())]),
            false => Outcome::Done,
        }
    }
}

/// The event time of a command; 0 where it has none.
fn time_of(command: &Value) -> i64 {
    let text = command.get("timestamp").and_then(Value::as_str).unwrap_or_default();
    chrono::DateTime::parse_from_rfc3339(text).map_or(0, |time| time.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn command(id: &str, name: &str, order: &str) -> Vec<u8> {
        json!({
            "eventId": id, "eventType": name, "timestamp": "2025-08-12T10:00:00.000Z",
            "data": { "orderId": order, "idempotencyKey": format!("{order}-pay"), "amount": 12.5 },
            "metadata": { "correlationId": order },
        })
        .to_string()
        .into_bytes()
    }

    fn said(answers: &[Answer]) -> Vec<String> {
        let name = |answer: &Answer| -> String {
            let event: Value = serde_json::from_slice(&answer.record.value).unwrap();
            event["eventType"].as_str().unwrap().to_owned()
        };
        answers.iter().map(name).collect()
    }

    fn payments(behaviour: Behaviour) -> Participant {
        Participant::new(&PAYMENTS, behaviour)
    }

    #[test]
    fn the_same_key_has_the_same_outcome_and_another_command_another_event() {
        let mut service = payments(Behaviour { decline: 0.5, ..Behaviour::default() });
        for order in 0..100 {
            let order = format!("o{order}");
            let first = service.on(&command(&format!("{order}-1"), "payments.authorise", &order)).unwrap();
            let again = service.on(&command(&format!("{order}-2"), "payments.authorise", &order)).unwrap();
            let asked = service.on(&command(&format!("{order}-3"), "payments.status", &order)).unwrap();
            assert_eq!(said(&first), said(&again));
            assert_eq!(said(&first), said(&asked));
            assert_ne!(first[0].record.value, again[0].record.value, "two commands have two answers");
        }
        let declined = service.known.values().filter(|outcome| **outcome != Outcome::Done).count();
        assert!((30..70).contains(&declined), "{declined}");
    }

    #[test]
    fn a_command_read_again_has_the_same_answer() {
        let behaviour = Behaviour { decline: 0.2, lose: 0.2, double: 0.2, late: 0.2, ..Behaviour::default() };
        let commands: Vec<Vec<u8>> = (0..200).map(|n| command(&format!("c{n}"), "payments.authorise", &format!("o{n}"))).collect();
        let answers = |order: &mut dyn Iterator<Item = usize>| {
            let mut service = payments(behaviour.clone());
            let mut all: Vec<(usize, Vec<Answer>)> = order.map(|n| (n, service.on(&commands[n]).unwrap())).collect();
            all.sort_by_key(|(n, _)| *n);
            all
        };
        let all = answers(&mut (0..200));
        assert_eq!(all, answers(&mut (0..200).rev()));
        let count = |of: usize| all.iter().filter(|(_, answers)| answers.len() == of).count();
        assert!(count(0) > 20 && count(2) > 20, "some are lost, some come twice");
        assert!(all.iter().any(|(_, answers)| answers.iter().any(|answer| answer.after_ms >= 10_000)), "some are late");
    }

    #[test]
    fn a_lost_answer_is_no_lost_effect() {
        let mut service = payments(Behaviour { lose: 1.0, ..Behaviour::default() });
        assert_eq!(service.on(&command("c1", "payments.authorise", "o")).unwrap(), []);
        service.behaviour.lose = 0.0;
        assert_eq!(said(&service.on(&command("c2", "payments.status", "o")).unwrap()), ["payments.authorised"]);
    }

    #[test]
    fn what_is_taken_back_before_it_happens_does_not_happen() {
        let mut service = payments(Behaviour::default());
        assert_eq!(said(&service.on(&command("c0", "payments.status", "o")).unwrap()), ["payments.unknown"]);
        assert_eq!(said(&service.on(&command("c1", "payments.void", "o")).unwrap()), ["payments.voided"]);
        assert_eq!(said(&service.on(&command("c2", "payments.authorise", "o")).unwrap()), ["payments.declined"]);
        assert_eq!(said(&service.on(&command("c3", "payments.void", "o")).unwrap()), ["payments.voided"]);
    }

    #[test]
    fn answers_name_their_cause() {
        let answers = payments(Behaviour::default()).on(&command("c1", "payments.authorise", "o")).unwrap();
        assert_eq!(super::super::cause_of(&answers[0].record.value).as_deref(), Some("c1"));
        let event: Value = serde_json::from_slice(&answers[0].record.value).unwrap();
        assert_eq!((&event["metadata"]["correlationId"], &event["data"]["amount"]), (&json!("o"), &json!(12.5)));
        assert_eq!(answers[0].record.key, "o");
    }

    #[test]
    fn what_is_no_command_changes_nothing() {
        let mut service = payments(Behaviour::default());
        for wrong in
            [&b"{"[..], b"{}", &command("c", "shipping.dispatch", "o"), br#"{"eventId":"e","eventType":"payments.void","data":{}}"#]
        {
            assert!(service.on(wrong).is_err());
        }
        assert!(service.known.is_empty());
    }
}
