//! The seam to the schema registry: the part of it that a decoder needs.
//!
//! A lane must never wait for HTTP, and a registry that is down must never look like a schema that does not exist: the
//! first is waited out, the second sends records to the dead letters. So a lookup returns at once and says which it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_formats::{Change, ChangeDecoder, ChangedRow, DecodeError, Decoder, RowBuilder};
use parking_lot::Mutex;

/// What is known about a schema id at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The text of the schema. It never changes: registries give an id to one text forever.
    Known(Arc<str>),
    /// Being fetched: ask again soon.
    Pending,
    /// The registry has answered several times that it has no such schema. Records that name it are bad.
    NotFound,
    /// The registry has such a schema, and it can't be used: why. Records that name it are bad.
    Unusable(String),
    /// The registry cannot be asked right now, and why. It is tried again in the background: ask again later.
    Unavailable(String),
}

/// Schemas by their id in the registry (Confluent wire format: magic byte 0, id in four bytes).
pub trait SchemaSource: Send + Sync {
    /// Never waits; starts a fetch in the background where one is needed.
    fn lookup(&self, id: u32) -> Lookup;
}

/// Why a record was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It never will be: the cause.
    Bad(String),
    /// The registry has not said what its schema is: what is waited for.
    Wait(String),
}

/// Appends a record to `rows`; asks for the schema that it names if the decoder does not know it.
///
/// # Errors
/// `rows` is as it was before.
#[inline]
pub fn read(decoder: &mut dyn Decoder, bytes: &[u8], rows: &mut RowBuilder, schemas: &dyn SchemaSource) -> Result<(), Unread> {
    with_schema(decoder, schemas, |decoder| decoder.decode(bytes, rows), |decoder, id, text| decoder.add_schema(id, text))
}

/// Takes a change record apart, likewise.
///
/// # Errors
/// It is bad, or the registry has not answered yet.
pub fn change<'a>(decoder: &mut dyn ChangeDecoder, bytes: &'a [u8], schemas: &dyn SchemaSource) -> Result<Option<Change<'a>>, Unread> {
    with_schema(decoder, schemas, |decoder| decoder.read(bytes), |decoder, id, text| decoder.add_schema(id, text))
}

/// Appends a row of a change record to `rows`, likewise.
///
/// # Errors
/// `rows` is as it was before.
pub fn row(decoder: &mut dyn ChangeDecoder, row: ChangedRow<'_>, rows: &mut RowBuilder, schemas: &dyn SchemaSource) -> Result<(), Unread> {
    with_schema(decoder, schemas, |decoder| decoder.row(row, rows), |decoder, id, text| decoder.add_schema(id, text))
}

#[inline]
fn with_schema<D: ?Sized, T>(
    decoder: &mut D,
    schemas: &dyn SchemaSource,
    mut run: impl FnMut(&mut D) -> Result<T, DecodeError>,
    add: impl FnOnce(&mut D, u32, &str) -> Result<(), String>,
) -> Result<T, Unread> {
    match run(decoder) {
        Ok(done) => Ok(done),
        Err(e) => with_learnt(e, decoder, schemas, run, add),
    }
}

/// Apart from [`with_schema`], which runs for every record.
#[cold]
fn with_learnt<D: ?Sized, T>(
    failed: DecodeError,
    decoder: &mut D,
    schemas: &dyn SchemaSource,
    mut run: impl FnMut(&mut D) -> Result<T, DecodeError>,
    add: impl FnOnce(&mut D, u32, &str) -> Result<(), String>,
) -> Result<T, Unread> {
    let id = match failed {
        DecodeError::Bad(cause) => return Err(Unread::Bad(cause)),
        DecodeError::UnknownSchema(id) => id,
    };
    let text = known(id, schemas)?;
    // An incompatible writer makes every record of that id bad, with the reason: the decoder remembers it.
    add(decoder, id, &text).map_err(Unread::Bad)?;
    run(decoder).map_err(|e| match e {
        DecodeError::Bad(cause) => Unread::Bad(cause),
        DecodeError::UnknownSchema(id) => Unread::Bad(format!("schema {id} can't be used")),
    })
}

/// The text of a schema.
///
/// # Errors
/// No schema has this id, or the registry has not answered yet.
pub fn known(id: u32, schemas: &dyn SchemaSource) -> Result<Arc<str>, Unread> {
    match schemas.lookup(id) {
        Lookup::Known(text) => Ok(text),
        Lookup::NotFound => Err(Unread::Bad(format!("the schema registry has no schema with id {id}"))),
        Lookup::Unusable(why) => Err(Unread::Bad(format!("schema {id} can't be used: {why}"))),
        Lookup::Pending => Err(Unread::Wait(format!("asking the schema registry for schema {id}"))),
        Lookup::Unavailable(why) => Err(Unread::Wait(format!("the schema registry does not answer: {why}"))),
    }
}

/// Schemas in memory, for tests and for pipelines without a registry. Everything else is [`Lookup::NotFound`].
#[derive(Default)]
pub struct MemorySchemas {
    answers: Mutex<BTreeMap<u32, Lookup>>,
}

impl MemorySchemas {
    /// Knows these schemas.
    pub fn new<'a>(known: impl IntoIterator<Item = (u32, &'a str)>) -> MemorySchemas {
        let schemas = MemorySchemas::default();
        for (id, text) in known {
            schemas.set(id, Lookup::Known(text.into()));
        }
        schemas
    }

    /// Answers lookups of `id` with `answer` from now on.
    pub fn set(&self, id: u32, answer: Lookup) {
        self.answers.lock().insert(id, answer);
    }
}

impl SchemaSource for MemorySchemas {
    fn lookup(&self, id: u32) -> Lookup {
        self.answers.lock().get(&id).cloned().unwrap_or(Lookup::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_what_was_set() {
        let schemas = MemorySchemas::new([(1, "\"string\"")]);
        assert_eq!(schemas.lookup(1), Lookup::Known("\"string\"".into()));
        assert_eq!(schemas.lookup(2), Lookup::NotFound);
        schemas.set(2, Lookup::Unavailable("down".into()));
        assert_eq!(schemas.lookup(2), Lookup::Unavailable("down".into()));
    }
}
