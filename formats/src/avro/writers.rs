//! What was compiled for the schemas of writers, by their ids.

use std::collections::HashMap;

use crate::cause::DecodeError;

/// What reads the records of each writer schema, or why none can be read.
#[derive(Debug)]
pub struct Writers<T> {
    compiled: Vec<Result<T, String>>,
    by_id: HashMap<u32, usize>,
    /// The id of the last record and its place: most records are written with the same schema.
    last: Option<(u32, usize)>,
}

impl<T> Default for Writers<T> {
    fn default() -> Writers<T> {
        Writers { compiled: Vec::new(), by_id: HashMap::new(), last: None }
    }
}

impl<T> Writers<T> {
    /// Whether [`Writers::add`] was called for the id, successfully or not.
    pub fn knows(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Keeps what was compiled from the schema with this id. Replaces what was known under it.
    ///
    /// # Errors
    /// It could not be compiled. The id is known nevertheless: its records are bad, and the text is their cause.
    pub fn add(&mut self, id: u32, compiled: Result<T, String>) -> Result<(), String> {
        let compiled = compiled.map_err(|cause| format!("schema {id} cannot be read: {cause}"));
        let outcome = compiled.as_ref().map(|_| ()).map_err(String::clone);
        let index = *self.by_id.entry(id).or_insert(self.compiled.len());
        match self.compiled.get_mut(index) {
            Some(slot) => *slot = compiled,
            None => self.compiled.push(compiled),
        }
        outcome
    }

    /// What reads the records of a schema.
    ///
    /// # Errors
    /// [`DecodeError::UnknownSchema`] if the id was not added yet; [`DecodeError::Bad`] if nothing could be compiled.
    #[inline]
    pub fn get(&mut self, id: u32) -> Result<&T, DecodeError> {
        let index = match self.last {
            Some((last, index)) if last == id => index,
            _ => {
                let index = *self.by_id.get(&id).ok_or(DecodeError::UnknownSchema(id))?;
                self.last = Some((id, index));
                index
            }
        };
        match self.compiled.get(index) {
            Some(Ok(compiled)) => Ok(compiled),
            Some(Err(cause)) => Err(DecodeError::Bad(cause.clone())),
            None => Err(DecodeError::UnknownSchema(id)),
        }
    }
}
