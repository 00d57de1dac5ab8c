//! What every implementation of the [`Broker`] seam must do, as functions that can be run against any of them.
//!
//! The simulation proves something only if the in-memory Kafka behaves like Kafka, so each clause runs against both. A clause creates its own topics, group and producers under names that no one else uses, waits in polls
//! rather than in time, and never assumes that something is already there: it waits for it, up to [`Patience`].
//! It asserts the *absence* of something only after a barrier: once the end of the log was reported.
//!
//! ```
//! use headwater_engine::{contract, sim::MemoryBroker};
//! let mut last = 0;
//! let mut names = |label: &str| { last += 1; format!("{label}-{last}") };
//! for (clause, result) in contract::all(&MemoryBroker::new(), &mut names) {
//!     assert_eq!(result, Ok(()), "{clause}");
//! }
//! ```

mod groups;
mod harness;
mod reading;
mod transactions;
mod writing;

use std::time::Duration;

pub use self::groups::{
    commits_outside_transactions, groups_are_seen_from_outside, membership_that_does_not_fence_is_refused, stale_membership_is_fenced,
    two_members_share,
};
pub use self::harness::Contract;
pub use self::reading::{
    empty_partitions_end, ends_are_high_watermarks, out_of_range_is_reported, paused_partitions_are_silent,
    readers_read_from_an_offset_to_the_end, start_delivers_exactly_from_there, the_last_of_many_starts_counts,
};
pub use self::transactions::{
    aborted_records_never_arrive, new_producer_fences_the_old, offsets_commit_with_the_transaction, open_transactions_hide_what_follows,
    pipelined_transactions_keep_order,
};
pub use self::writing::{
    committed_records_arrive_whole, empty_transactions_commit, plain_producers_write, plain_producers_write_state_last,
    refused_records_are_named, tags_report_offsets, topics_are_created, topics_have_ids,
};

use crate::broker::Broker;

/// What a clause found: nothing, or what is wrong.
pub type Verdict<T = ()> = Result<T, String>;

/// A clause of the contract.
pub type Clause = fn(&mut Contract<'_>) -> Verdict;

/// How long to wait for something that must come: this many polls of at most this long.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub polls: u32,
    pub timeout: Duration,
}

impl Default for Patience {
    /// A minute where polls wait, hardly any time where they don't.
    fn default() -> Patience {
        Patience { polls: 600, timeout: Duration::from_millis(100) }
    }
}

/// All clauses with their names.
pub const CLAUSES: [(&str, Clause); 25] = [
    ("topics_are_created", topics_are_created),
    ("topics_have_ids", topics_have_ids),
    ("groups_are_seen_from_outside", groups_are_seen_from_outside),
    ("committed_records_arrive_whole", committed_records_arrive_whole),
    ("empty_transactions_commit", empty_transactions_commit),
    ("plain_producers_write_state_last", plain_producers_write_state_last),
    ("plain_producers_write", plain_producers_write),
    ("tags_report_offsets", tags_report_offsets),
    ("refused_records_are_named", refused_records_are_named),
    ("aborted_records_never_arrive", aborted_records_never_arrive),
    ("open_transactions_hide_what_follows", open_transactions_hide_what_follows),
    ("offsets_commit_with_the_transaction", offsets_commit_with_the_transaction),
    ("new_producer_fences_the_old", new_producer_fences_the_old),
    ("pipelined_transactions_keep_order", pipelined_transactions_keep_order),
    ("stale_membership_is_fenced", stale_membership_is_fenced),
    ("membership_that_does_not_fence_is_refused", membership_that_does_not_fence_is_refused),
    ("two_members_share", two_members_share),
    ("commits_outside_transactions", commits_outside_transactions),
    ("start_delivers_exactly_from_there", start_delivers_exactly_from_there),
    ("the_last_of_many_starts_counts", the_last_of_many_starts_counts),
    ("paused_partitions_are_silent", paused_partitions_are_silent),
    ("empty_partitions_end", empty_partitions_end),
    ("ends_are_high_watermarks", ends_are_high_watermarks),
    ("readers_read_from_an_offset_to_the_end", readers_read_from_an_offset_to_the_end),
    ("out_of_range_is_reported", out_of_range_is_reported),
];

/// Runs every clause with the default patience. `names` makes a label unique: it is used for topics, groups and
/// transactional ids, so it must give names that the broker accepts and has never seen.
pub fn all(broker: &dyn Broker, names: &mut dyn FnMut(&str) -> String) -> Vec<(&'static str, Result<(), String>)> {
    all_with(broker, names, Patience::default())
}

/// Runs every clause with this patience.
pub fn all_with(broker: &dyn Broker, names: &mut dyn FnMut(&str) -> String, patience: Patience) -> Vec<(&'static str, Result<(), String>)> {
    let mut contract = Contract::new(broker, names, patience);
    CLAUSES.into_iter().map(|(name, clause)| (name, clause(&mut contract))).collect()
}
