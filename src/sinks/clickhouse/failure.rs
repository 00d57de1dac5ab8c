//! What an error of ClickHouse means for the block that was to be inserted.
//!
//! Three classes; an unclear failure is *unknown*. *Refused*: the rows can never be inserted as they are. *Unknown*: the
//! insert may have happened; the same token is tried again, and if that takes too long the rows are counted. *Unavailable*:
//! certain that nothing was written, because the request did not get through or was turned away before it ran.
//!
//! Most errors of a running insert are *unknown*, out of memory and a full disk included: the table may have taken the rows
//! before a materialized view behind it failed.

use headwater_engine::delivery::Progress;
use headwater_engine::printable::printable;
use headwater_engine::wording::without_values;

use crate::web::Trouble;

/// A request to ClickHouse that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClickHouseError {
    /// The server answered with an exception.
    #[error("ClickHouse: {message}")]
    Exception { code: i32, message: String },
    /// No connection: the request was not sent.
    #[error("can't connect to ClickHouse: {0}")]
    Connect(String),
    /// Server and client don't agree on TLS: the request was not sent.
    #[error("can't connect to ClickHouse: {0}")]
    Tls(String),
    /// The connection broke or timed out, or the answer is not one.
    #[error("no usable response from ClickHouse: {0}")]
    Lost(String),
    /// Nothing was sent: a value does not fit into its column.
    #[error("{0}")]
    Unfit(String),
    /// Nothing was sent: whether the values fit could not be found out, or is to be judged again.
    #[error("{0}")]
    NotSent(String),
    /// Nothing was sent: the rows are not of the kind that the table takes.
    #[error("{0}")]
    Wrong(String),
    /// The answer or the request makes no sense, or a check failed.
    #[error("{0}")]
    Unexpected(String),
}

/// Codes of ClickHouse (its src/Common/ErrorCodes.cpp) that blame the rows: parsing, types, ranges, nulls, constraints.
const ROWS: [i32; 27] =
    [6, 25, 26, 27, 38, 41, 53, 69, 70, 72, 117, 128, 130, 131, 153, 190, 321, 349, 376, 395, 407, 441, 467, 469, 675, 676, 691];
/// Codes that are raised before an insert runs: syntax, format, settings, users, too many queries, overload.
const BEFORE: [i32; 10] = [62, 73, 115, 192, 193, 194, 195, 202, 516, 745];
const TOO_MANY_PARTS: i32 = 252;

impl ClickHouseError {
    /// What it means for an insert.
    pub fn outcome(&self) -> Progress {
        let message = self.to_string();
        match self {
            ClickHouseError::Wrong(_) => Progress::Wrong(message),
            ClickHouseError::Unfit(_) => Progress::Unfit(message),
            ClickHouseError::Connect(_) | ClickHouseError::Tls(_) | ClickHouseError::NotSent(_) => Progress::Unavailable(message),
            ClickHouseError::Lost(_) | ClickHouseError::Unexpected(_) => Progress::Unknown(message),
            // One code has two meanings: parts to be merged (wait), and partitions in one insert (a smaller one may pass).
            ClickHouseError::Exception { code: TOO_MANY_PARTS, .. } if message.contains("Too many partitions") => {
                Progress::Refused { code: TOO_MANY_PARTS, message }
            }
            ClickHouseError::Exception { code, .. } if ROWS.contains(code) => Progress::Refused { code: *code, message },
            ClickHouseError::Exception { code, message } => {
                // To be logged and shown, by people who may not see the rows.
                let text = message.split_once("DB::Exception: ").map_or(message.as_str(), |(_, text)| text);
                let shown = format!("ClickHouse, code {code}: {}", without_values(text));
                if BEFORE.contains(code) { Progress::Unavailable(shown) } else { Progress::Unknown(shown) }
            }
        }
    }
}

/// Longest message kept, bytes.
const MAX_MESSAGE: usize = 2_000;

impl ClickHouseError {
    /// `Code: 60. DB::Exception: ... (UNKNOWN_TABLE)`
    pub(super) fn exception(code: i32, text: &str) -> ClickHouseError {
        ClickHouseError::Exception { code, message: printable(text, MAX_MESSAGE) }
    }
}

impl From<Trouble> for ClickHouseError {
    fn from(trouble: Trouble) -> ClickHouseError {
        match trouble {
            Trouble::Connect(why) => ClickHouseError::Connect(why),
            Trouble::Tls(why) => ClickHouseError::Tls(why),
            Trouble::Lost(why) => ClickHouseError::Lost(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(code: i32, text: &str) -> Progress {
        ClickHouseError::exception(code, text).outcome()
    }

    #[test]
    fn only_the_dead_letter_has_the_values_that_an_exception_quotes() {
        let text =
            "Code: 6. DB::Exception: Cannot parse string 'ann@example.com' as UInt64: while pushing to view d.v. (CANNOT_PARSE_TEXT)";
        assert!(matches!(outcome(6, text), Progress::Refused { message, .. } if message.contains("ann@example.com")));
        for code in [62, 1001] {
            let (Progress::Unknown(shown) | Progress::Unavailable(shown)) = outcome(code, text) else { panic!("{code}") };
            assert!(shown.starts_with(&format!("ClickHouse, code {code}: ")) && shown.ends_with("(CANNOT_PARSE_TEXT)"), "{shown}");
            assert!(!shown.contains("ann@"), "{shown}");
        }
    }

    #[test]
    fn the_rows_are_blamed_only_by_codes_that_blame_rows() {
        let violated = "Code: 469. DB::Exception: Constraint `c` for table d.t is violated at row 3. (VIOLATED_CONSTRAINT)";
        assert!(matches!(outcome(469, violated), Progress::Refused { code: 469, message } if message.contains("`c`")));
        let partitions = "Code: 252. DB::Exception: Too many partitions for single INSERT block (more than 100). (TOO_MANY_PARTS)";
        assert!(matches!(outcome(252, partitions), Progress::Refused { code: 252, .. }));
        let parts = "Code: 252. DB::Exception: Too many parts (3000). Merges are processing slower. (TOO_MANY_PARTS)";
        assert!(matches!(outcome(252, parts), Progress::Unknown(_)));
        for code in [16, 60, 159, 209, 210, 241, 242, 243, 319, 999, 1001] {
            assert!(matches!(outcome(code, "DB::Exception: x"), Progress::Unknown(_)), "{code}");
        }
        for code in [62, 115, 202, 516] {
            assert!(matches!(outcome(code, "DB::Exception: x"), Progress::Unavailable(_)), "{code}");
        }
    }
}
