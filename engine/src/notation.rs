//! How the bytes of a record key stand for its value.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

/// How producers write the keys of a topic. Equal values have equal bytes, and so one partition, only within one notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notation {
    Text,
    /// Digits with a sign or zeros before them.
    Padded,
    /// Big endian, of so many bytes.
    Integer(usize),
    /// Behind a zero byte and the id of a registered schema.
    Registered(u32),
    Json,
    Bytes,
}

impl Notation {
    /// That of a key with the id of a registered schema in front.
    pub fn registered(key: &[u8]) -> Option<Notation> {
        match key {
            [0, a, b, c, d, _, ..] => Some(Notation::Registered(u32::from_be_bytes([*a, *b, *c, *d]))),
            _ => None,
        }
    }
}

impl fmt::Display for Notation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notation::Text => f.write_str("text"),
            Notation::Padded => f.write_str("text with a sign or zeros before the number"),
            Notation::Integer(bytes) => write!(f, "an integer of {bytes} bytes"),
            Notation::Registered(id) => write!(f, "a value of the registered schema {id}"),
            Notation::Json => f.write_str("JSON"),
            Notation::Bytes => f.write_str("bytes"),
        }
    }
}

/// What stands for a key, or its bytes, where many are remembered.
pub(crate) fn hashed(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
