//! What a positioned delivery commits to its consumer group: an offset for tools that show lag, and the place of the last dead letter.
//!
//! The store's position is the truth. A dead letter can't be in the store's transaction, so it is committed to the group with its place and
//! the store's position at that time, in one Kafka transaction: a delivery that still finds that position knows that the row is a letter
//! already. The two may differ: markers of transactions lie between records.
//!
//! Text form: `hwp1`, or `hwp1;s=98.0;l=100.7` for a letter at row 7 of the record at offset 100, written while the store was at 98.

use super::store::Position;

const PLAIN: &str = "hwp1";

/// Metadata of an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing besides the offset.
    Plain,
    /// The row `at` this place is a dead letter, and with it everything from the store's position on.
    DeadLetter { stored: Position, at: Position },
}

impl Mark {
    pub fn encode(self) -> String {
        match self {
            Mark::Plain => PLAIN.to_owned(),
            Mark::DeadLetter { stored, at } => format!("{PLAIN};s={}.{};l={}.{}", stored.offset, stored.row, at.offset, at.row),
        }
    }

    /// Reads metadata; whatever is not a letter's is plain, for offsets that a tool has set mean nothing here.
    pub fn decode(text: &str) -> Mark {
        let place = |text: &str| {
            let (offset, row) = text.split_once('.')?;
            Some(Position { offset: offset.parse().ok()?, row: row.parse().ok()? })
        };
        let letter = || {
            let (stored, at) = text.strip_prefix(PLAIN)?.strip_prefix(";s=")?.split_once(";l=")?;
            Some(Mark::DeadLetter { stored: place(stored)?, at: place(at)? })
        };
        letter().unwrap_or(Mark::Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_were_written() {
        let far = Position { offset: i64::MAX, row: i32::MAX };
        for mark in [Mark::Plain, Mark::DeadLetter { stored: Position::default(), at: far }] {
            assert_eq!(Mark::decode(&mark.encode()), mark);
        }
        for other in ["", "hw1", "hwp1;s=x.0;l=1.0", "hwp1;s=1.0", "NO_METADATA"] {
            assert_eq!(Mark::decode(other), Mark::Plain, "{other}");
        }
    }
}
