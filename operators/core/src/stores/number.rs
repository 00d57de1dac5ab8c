//! One number.

use super::bytes::Reader;
use super::{VERSION, unreadable};
use crate::state::{State, StateError};

/// A number that outlives the operator: a watermark, or how many rows have come so far.
#[derive(Clone, Debug)]
pub struct Number {
    tag: u8,
    /// As in state, `None` until it was read; inside, `None` if it was never set.
    known: Option<Option<i64>>,
}

impl Number {
    /// `tag`: the byte that is its key, of no other store of the step.
    pub fn new(tag: u8) -> Number {
        Number { tag, known: None }
    }

    /// The number; `None` if it was never set.
    ///
    /// # Errors
    /// State can't be read.
    pub fn get(&mut self, state: &dyn State) -> Result<Option<i64>, StateError> {
        if let Some(known) = self.known {
            return Ok(known);
        }
        let mut value = Vec::new();
        let mut number = None;
        if state.get(&[self.tag], &mut value)? {
            let mut reader = Reader::new(&value);
            number = match (reader.u8(), reader.i64(), reader.is_empty()) {
                (Some(VERSION), Some(number), true) => Some(number),
                _ => return Err(unreadable()),
            };
        }
        self.known = Some(number);
        Ok(number)
    }

    /// Sets the number.
    ///
    /// # Errors
    /// State can't be written.
    pub fn set(&mut self, number: i64, state: &mut dyn State) -> Result<(), StateError> {
        let mut value = vec![VERSION];
        super::bytes::put_i128(number.into(), &mut value);
        state.put(&[self.tag], &value)?;
        self.known = Some(Some(number));
        Ok(())
    }

    /// State was replaced: see [`Operator::on_restore`](crate::Operator::on_restore).
    pub fn forget(&mut self) {
        self.known = None;
    }
}
