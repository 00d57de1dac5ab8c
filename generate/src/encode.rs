//! From events to bytes: JSON, and Avro in Confluent's wire format.
//!
//! Avro goes through the `apache-avro` crate, on purpose not through Headwater's own formats: what the product decodes has been
//! written by someone else's encoder.

use std::collections::BTreeMap;

use apache_avro::Schema;

use crate::GenerateError;
use crate::event::Event;
use crate::topics::Topic;
use crate::wire::{Avro, Json, Shaped};

/// The event as JSON: the platform's envelope with ISO-8601 times and decimals as numbers with two places; table rows flat.
///
/// # Errors
/// [`GenerateError::Encode`] when a time lies outside the calendar.
pub fn encode_json(event: &Event) -> Result<Vec<u8>, GenerateError> {
    let mut bytes = Vec::with_capacity(1024);
    serde_json::to_writer(&mut bytes, &Shaped(event, Json)).map_err(|error| GenerateError::Encode(error.to_string()))?;
    Ok(bytes)
}

/// The ids under which a registry holds the versions of each topic's schema, in the order of [`Topic::schemas`].
pub type SchemaIds = BTreeMap<Topic, Vec<u32>>;

/// Writes events as Avro in Confluent's wire format: a zero byte, the schema id in four bytes, the datum.
pub struct AvroEncoder {
    schemas: BTreeMap<Topic, Vec<(u32, Schema)>>,
}

impl AvroEncoder {
    /// An encoder that names its schemas by these ids.
    ///
    /// # Errors
    /// [`GenerateError::Encode`] when an id is missing or a schema cannot be parsed.
    pub fn new(ids: &SchemaIds) -> Result<Self, GenerateError> {
        let mut schemas = BTreeMap::new();
        for topic in Topic::ALL {
            let ids = ids.get(&topic).map(Vec::as_slice).unwrap_or_default();
            let texts = topic.schemas();
            if ids.len() != texts.len() {
                let message = format!("{} has {} schema versions, {} ids were given", topic.subject(), texts.len(), ids.len());
                return Err(GenerateError::Encode(message));
            }
            let mut versions = Vec::new();
            for (id, text) in ids.iter().zip(texts) {
                let schema = Schema::parse_str(text)
                    .map_err(|error| GenerateError::Encode(format!("the schema of {}: {error}", topic.subject())))?;
                versions.push((*id, schema));
            }
            schemas.insert(topic, versions);
        }
        Ok(AvroEncoder { schemas })
    }

    /// The event's bytes.
    ///
    /// # Errors
    /// [`GenerateError::Encode`] when the event does not fit its schema.
    pub fn encode(&self, event: &Event) -> Result<Vec<u8>, GenerateError> {
        let topic = event.topic();
        let version = self.schemas.get(&topic).and_then(|versions| versions.get(event.schema_index()));
        let (id, schema) = version.ok_or_else(|| GenerateError::Encode(format!("no schema for an event of {}", topic.name())))?;
        let mut bytes = Vec::with_capacity(512);
        bytes.push(0);
        bytes.extend_from_slice(&id.to_be_bytes());
        apache_avro::write_avro_datum_ref(schema, &Shaped(event, Avro), &mut bytes)
            .map_err(|error| GenerateError::Encode(format!("an event of {}: {error}", topic.name())))?;
        Ok(bytes)
    }
}
