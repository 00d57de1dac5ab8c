//! The end of the window that closes first, as far as it is known.

use operator_core::{Millis, State, StateError};

/// The end of the first window in state: so that moving time costs nothing while no window ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Earliest {
    Unknown,
    NoWindow,
    End(Millis),
}

impl Earliest {
    /// That of the first key in a range, which is in order of time.
    pub fn find(
        state: &dyn State,
        (from, to): (Vec<u8>, Vec<u8>),
        end: impl Fn(&[u8]) -> Result<Millis, StateError>,
    ) -> Result<Earliest, StateError> {
        let mut earliest = Ok(Earliest::NoWindow);
        state.scan(&from, &to, &mut |key, _| {
            earliest = end(key).map(Earliest::End);
            false
        })?;
        earliest
    }

    /// A window that ends at `end` is in state now.
    #[inline]
    pub fn include(&mut self, end: Millis) {
        match self {
            Earliest::Unknown => {}
            Earliest::NoWindow => *self = Earliest::End(end),
            Earliest::End(earliest) => *earliest = end.min(*earliest),
        }
    }

    pub fn end(self) -> Option<Millis> {
        match self {
            Earliest::End(end) => Some(end),
            Earliest::Unknown | Earliest::NoWindow => None,
        }
    }

    /// True if it ends at `last` or earlier.
    pub fn is_due(self, last: Millis) -> bool {
        matches!(self, Earliest::End(end) if end <= last)
    }
}
