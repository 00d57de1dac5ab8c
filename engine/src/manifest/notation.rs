//! How the keys of a topic are written: noted once, by the lane that sees one first.

use super::Manifest;
use super::store::{StoreError, read, write};
use crate::broker::{Broker, BrokerError, Failure};
use crate::notation::Notation;
use crate::plan::Names;

/// Lanes that see the first keys of their topics at once make each other compare again.
const ATTEMPTS: usize = 100;

/// Notes how the keys of a source's topic are written, unless it is known, and returns what the manifest has. Without a manifest
/// nothing is remembered.
///
/// # Errors
/// See [`StoreError`].
pub(crate) fn note_notation(broker: &dyn Broker, names: &Names, topic: &str, seen: Notation) -> Result<Notation, StoreError> {
    let mut deployed = read(broker, names)?;
    for _ in 0..ATTEMPTS {
        let Some(before) = &deployed else { return Ok(seen) };
        let Some(input) = before.manifest.inputs.get(topic) else { return Ok(seen) };
        if let Some(known) = input.notation {
            return Ok(known);
        }
        let mut inputs = before.manifest.inputs.clone();
        inputs.entry(topic.to_string()).and_modify(|input| input.notation = Some(seen));
        let next = Manifest { inputs, ..before.manifest.clone() };
        deployed = Some(write(broker, names, Some(before), &next)?);
    }
    Err(BrokerError::new(Failure::Transient, "other workers keep changing the manifest").into())
}
