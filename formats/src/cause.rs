//! Why a record could not be decoded.
//!
//! Decoding fails rarely, so a failure may allocate; success must not. A failure is one pointer wide and is built
//! from the inside out: the innermost step states what is wrong, each outer level adds its field name or
//! item number, and the result reads like `data.items[2].quantity: missing`.
//!
//! A cause names types, positions and declared fields. It never quotes the payload: dead-letter headers and logs
//! must not become a second place where personal data is stored, and a hostile payload must not be able to write
//! terminal escapes or line breaks into a log.

use std::borrow::Cow;
use std::fmt;

/// What happened to one record that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The record itself is at fault. The text is the cause for the dead letter; it does not quote the payload.
    Bad(String),
    /// The record was written with a schema that has not been registered with the decoder yet. The schema registry
    /// must be asked for this id; the record may be perfectly good.
    UnknownSchema(u32),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Bad(cause) => f.write_str(cause),
            DecodeError::UnknownSchema(id) => write!(f, "schema id {id} is not known yet"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// A failure, passed up through the fields of a record.
#[derive(Debug)]
pub(crate) struct Fail(Box<Cause>);

#[derive(Debug)]
struct Cause {
    path: String,
    message: Cow<'static, str>,
}

impl Fail {
    #[cold]
    #[inline(never)]
    pub(crate) fn new(message: impl Into<Cow<'static, str>>) -> Fail {
        Fail(Box::new(Cause { path: String::new(), message: message.into() }))
    }

    /// A failure at a byte of the payload.
    #[cold]
    #[inline(never)]
    pub(crate) fn at(message: &str, position: usize) -> Fail {
        Fail::new(format!("{message} at byte {position}"))
    }

    /// Puts the name of the field in front of the path.
    #[cold]
    #[inline(never)]
    pub(crate) fn in_field(mut self, name: &str) -> Fail {
        let path = &mut self.0.path;
        if !path.is_empty() && !path.starts_with('[') {
            path.insert(0, '.');
        }
        path.insert_str(0, name);
        self
    }

    /// Puts the number of an item (of a list or map) in front of the path.
    #[cold]
    #[inline(never)]
    pub(crate) fn in_item(mut self, index: usize) -> Fail {
        let path = &mut self.0.path;
        if !path.is_empty() && !path.starts_with('[') {
            path.insert(0, '.');
        }
        path.insert_str(0, &format!("[{index}]"));
        self
    }

    pub(crate) fn into_text(self) -> String {
        if self.0.path.is_empty() { self.0.message.into_owned() } else { format!("{}: {}", self.0.path, self.0.message) }
    }
}

impl From<Fail> for DecodeError {
    fn from(fail: Fail) -> DecodeError {
        DecodeError::Bad(fail.into_text())
    }
}
