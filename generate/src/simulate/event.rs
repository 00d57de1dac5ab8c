//! Events and commands as records: JSON in the envelope of ADR-005.

use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Number, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::random::Random;

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The topic.
    pub topic: &'static str,
    /// The key, which decides the partition.
    pub key: String,
    /// Event time, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The event as JSON.
    pub value: Vec<u8>,
}

/// What an event says of itself beside its payload.
pub(super) struct Head<'a> {
    pub(super) id: Uuid,
    pub(super) name: &'a str,
    pub(super) source: &'a str,
    pub(super) timestamp_ms: i64,
    pub(super) correlation: &'a str,
    pub(super) causation: Option<&'a str>,
}

/// The bytes of an event. Times beyond the calendar become 1970.
pub(super) fn event(head: &Head<'_>, data: Map<String, Value>) -> Vec<u8> {
    let time = DateTime::from_timestamp_millis(head.timestamp_ms).unwrap_or_default();
    let event = json!({
        "eventId": head.id,
        "eventType": head.name,
        "eventVersion": "1.0",
        "timestamp": time.to_rfc3339_opts(SecondsFormat::Millis, true),
        "source": head.source,
        "data": data,
        "metadata": { "correlationId": head.correlation, "causationId": head.causation },
    });
    event.to_string().into_bytes()
}

/// Members of a payload.
pub(super) fn members<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// An amount of money as a number with two places.
pub(super) fn money(cents: i64) -> Value {
    let text = format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100);
    text.parse::<Number>().map_or(Value::Null, Value::Number)
}

fn digest(parts: &[&str]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let whole: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|at| whole[at])
}

/// A UUID that follows from these texts.
pub(super) fn id_of(parts: &[&str]) -> Uuid {
    uuid::Builder::from_random_bytes(digest(parts)).into_uuid()
}

/// Randomness that follows from a seed and these texts.
pub(super) fn random_of(seed: u64, parts: &[&str]) -> Random {
    let half = u128::from_be_bytes(digest(parts));
    Random::new(seed ^ half as u64, (half >> 64) as u64)
}

/// The id of the command that an event answers: its causation id. `None` if it is no event, or has no cause.
pub fn cause_of(value: &[u8]) -> Option<String> {
    let event: Value = serde_json::from_slice(value).ok()?;
    event.get("metadata")?.get("causationId")?.as_str().map(str::to_owned)
}
