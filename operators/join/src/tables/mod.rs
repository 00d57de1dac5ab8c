//! The join of two streams of changes: of what two tables hold, at every moment.
//!
//! ```text
//! state     the current row of each key, of both sides, under the columns of `on`
//! change    the row of this key is replaced in state: for each row of the other side with equal columns, the result with the old row
//!           is gone, and that with the new one is there
//! outer     a row whose first match comes has its result with nulls no longer; one whose last match goes has it again
//! ```
//!
//! What the results add up to is the join of what the inputs add up to, whichever of the two comes first (rule R11). Time has no
//! part in it: nothing is late, and a row leaves the state when it is gone. State is the truth about what was emitted: a row that
//! comes again is an update, and a row is gone as it came, whatever the change says.

pub mod operator;
pub mod plan;
