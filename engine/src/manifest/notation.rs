//! How the keys of a topic are written: noted once, by the lane that sees one first.

use parking_lot::Mutex;

use super::Manifest;
use super::store::{Deployed, StoreError, read, write};
use crate::broker::{Broker, BrokerError, Failure};
use crate::notation::Notation;
use crate::plan::Names;

/// Workers that see the first keys of their topics at once make each other compare again.
const ATTEMPTS: usize = 100;

/// What the lanes of a worker note in the manifest. They share what is known of it: a lane stands still while it asks, and one question
/// is enough for all of them.
#[derive(Default)]
pub struct Noted {
    /// The manifest as it was seen last; `None`: not yet, or nothing is deployed.
    deployed: Mutex<Option<Deployed>>,
}

impl Noted {
    /// For a worker that has just deployed this.
    pub fn after(deployed: Deployed) -> Noted {
        Noted { deployed: Mutex::new(Some(deployed)) }
    }

    /// Notes how the keys of a source's topic are written, unless it is known, and returns what the manifest has. Without a manifest
    /// nothing is remembered.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) fn note(&self, broker: &dyn Broker, names: &Names, topic: &str, seen: Notation) -> Result<Notation, StoreError> {
        let mut deployed = self.deployed.lock();
        if deployed.is_none() {
            *deployed = read(broker, names)?;
        }
        for _ in 0..ATTEMPTS {
            let Some(before) = deployed.as_ref() else { return Ok(seen) };
            let Some(input) = before.manifest.inputs.get(topic) else { return Ok(seen) };
            if let Some(known) = input.notation {
                return Ok(known);
            }
            let mut inputs = before.manifest.inputs.clone();
            inputs.entry(topic.to_string()).and_modify(|input| input.notation = Some(seen));
            let next = Manifest { inputs, ..before.manifest.clone() };
            let current = write(broker, names, Some(before), &next)?;
            *deployed = Some(current);
        }
        Err(BrokerError::new(Failure::Transient, "other workers keep changing the manifest").into())
    }
}
