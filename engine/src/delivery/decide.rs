//! The decision table of the delivery protocol: from the known facts to the one safe action.
//!
//! Pure. [`Delivery`](super::Delivery) collects facts, asks [`decide`], and executes the plan; a plan that asks for
//! one more fact ([`Action::Rebuild`], [`Action::Ask`]) leads to the next call. The rows, first match wins:
//!
//! ```text
//! stored position   facts                                    plan
//! nothing           log begins after 0                       stop: records were deleted
//! nothing           target repeats harmlessly, and rows      read from 0
//!                   are not ordered by their positions
//! nothing           table not asked yet                      ask for the whole partition
//! nothing           table cannot tell, and its rows are      stop: older rows could win
//!                   ordered by their positions
//! nothing           table empty, or cannot tell              read from 0
//! nothing           table has rows                           stop: the position was lost
//! foreign           -                                        stop
//! any               position outside the log                 stop: records were deleted, or another topic
//! clean             -                                        read from there
//! intent            position is not the block's first        stop: the position was moved
//! intent            block not read yet                       rebuild first..last
//! intent            other rows or other bytes                stop: the input has changed
//! intent            target repeats harmlessly                insert
//! intent            no attempt can have happened             insert
//! intent            young and same settings                  insert again, same token
//! intent            table not asked yet                      ask for the rows
//! intent            table has some, keeps the last of a      stop: those behind it may lack them
//!                   key, and others take rows from it
//! intent            table has exactly the rows, and others   stop: the others may lack them
//!                   take rows from it
//! intent            table has exactly the rows               skip
//! intent            table has none                           insert
//! intent            table has some, more, or cannot tell     stop
//! ```

use operator_core::Millis;

use super::intent::{Intent, Stored};
use super::target::Answer;

/// What is known when a decision is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// First and next offset of the partition.
    pub low: i64,
    pub high: i64,
    /// The block as read again: rows and CRC. `None`: not read yet.
    pub rebuilt: Option<(u64, u32)>,
    /// Rows of the part of the block that is meant.
    pub part_rows: u64,
    /// An earlier attempt to insert this part may have happened.
    pub doubt: bool,
    /// Wall clock now minus the intent's; negative if clocks differ.
    pub age: Millis,
    /// Within this age the target's memory of tokens is relied on.
    pub safe_window: Millis,
    /// The intent was made under the target's current settings.
    pub same_settings: bool,
    /// Inserting rows twice does no harm (the table collapses them by key).
    pub repeatable: bool,
    /// Rows replace others by their positions, so that those of another outbox would win.
    pub ordered: bool,
    /// Other tables take rows from this one.
    pub dependents: bool,
    /// What the table has of the rows. `None`: not asked.
    pub table: Option<Answer>,
}

/// The next act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read on from this offset.
    Read { from: i64 },
    /// Read exactly these offsets, then decide again.
    Rebuild { first: i64, last: i64 },
    /// Count the rows in the table, then decide again.
    Ask,
    /// Insert under the block's token.
    Insert,
    /// The rows are there: commit the position after them.
    Skip,
    /// Write nothing: the cause must be fixed by hand.
    Stop(Stop),
}

/// Why a delivery stops until someone fixes the cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    #[error("the topic begins at offset {low}, but delivery is at {at}: records were deleted before they were delivered")]
    Deleted { at: i64, low: i64 },
    #[error("the topic ends at offset {high}, but delivery is at {at}: the topic was recreated or has lost records")]
    Beyond { at: i64, high: i64 },
    #[error("the group has no position, but the table already has {rows} rows of this partition: the position was lost")]
    PositionLost { rows: u64 },
    #[error(
        "the group has no position, and it is unknown whether the table has rows of another outbox, which would win over newer ones: {why}. \
         Deliver to another table"
    )]
    UnknownVersions { why: String },
    #[error(
        "the store has no position of this sink, but the group has delivered up to offset {shown}. If the sink wrote to another store before, \
         give it another name. Otherwise the position was lost: restore `headwater_positions`, or empty the table and delete the group to \
         deliver again what is still in the outbox"
    )]
    StoreLostPosition { shown: i64 },
    #[error("the committed position {offset} was not written by a delivery: {why}")]
    Foreign { offset: i64, why: String },
    #[error("the committed position {offset} was moved: the unsettled block begins at {first}")]
    Moved { offset: i64, first: i64 },
    #[error(
        "offsets {first} to {last} have changed: {rows} rows with checksum {crc:08x} before, {rows_now} with \
         {crc_now:08x} now (compaction, retention, or another topic of the same name)"
    )]
    Changed { first: i64, last: i64, rows: u64, crc: u32, rows_now: u64, crc_now: u32 },
    #[error("the table has {found} of the {expected} rows of offsets {first} to {last} ({distinct} different ones)")]
    Partial { first: i64, last: i64, expected: u64, found: u64, distinct: u64 },
    #[error(
        "the table has all rows of offsets {first} to {last}, but the tables behind its materialized views may lack some: \
         compare them, then commit the position {last} + 1 for this group with the metadata `hw1 clean`"
    )]
    Dependents { first: i64, last: i64 },
    #[error(
        "the table has {found} rows of offsets {first} to {last}, of which it keeps the last of each key, but the tables behind its \
         materialized views may lack some: compare them all, mend what is missing, then commit the position {last} + 1 for this group with \
         the metadata `hw1 clean`"
    )]
    DependentVersions { first: i64, last: i64, found: u64 },
    #[error("offsets {first} to {last} may be in the table already, and its rows can't be counted: {why}")]
    Uncountable { first: i64, last: i64, why: String },
}

/// Decides what to do about a partition.
pub fn decide(stored: &Stored, facts: &Facts) -> Action {
    match stored {
        Stored::Nothing => begin(facts),
        Stored::Foreign { offset, why } => Action::Stop(Stop::Foreign { offset: *offset, why: why.clone() }),
        Stored::Clean { offset } => outside(*offset, *offset, facts).unwrap_or(Action::Read { from: *offset }),
        Stored::Intent { offset, intent } => {
            if *offset != intent.first {
                return Action::Stop(Stop::Moved { offset: *offset, first: intent.first });
            }
            outside(intent.first, intent.last + 1, facts).unwrap_or_else(|| unsettled(intent, facts))
        }
    }
}

fn begin(facts: &Facts) -> Action {
    if facts.low > 0 {
        return Action::Stop(Stop::Deleted { at: 0, low: facts.low });
    }
    match &facts.table {
        _ if facts.repeatable && !facts.ordered => Action::Read { from: 0 },
        None => Action::Ask,
        Some(Answer::Uncountable(why)) if facts.ordered => Action::Stop(Stop::UnknownVersions { why: why.clone() }),
        Some(Answer::Uncountable(_) | Answer::Counted { rows: 0, .. }) => Action::Read { from: 0 },
        Some(Answer::Counted { rows, .. }) => Action::Stop(Stop::PositionLost { rows: *rows }),
    }
}

/// Stops where `from` is before the log or `to` (the next offset) behind it.
fn outside(from: i64, to: i64, facts: &Facts) -> Option<Action> {
    if from < facts.low {
        return Some(Action::Stop(Stop::Deleted { at: from, low: facts.low }));
    }
    (to > facts.high).then_some(Action::Stop(Stop::Beyond { at: to, high: facts.high }))
}

fn unsettled(intent: &Intent, facts: &Facts) -> Action {
    let Intent { first, last, rows, crc, .. } = *intent;
    let Some((rows_now, crc_now)) = facts.rebuilt else { return Action::Rebuild { first, last } };
    if (rows_now, crc_now) != (rows, crc) || facts.part_rows == 0 {
        return Action::Stop(Stop::Changed { first, last, rows, crc, rows_now, crc_now });
    }
    let young = (0..facts.safe_window).contains(&facts.age);
    if facts.repeatable || !facts.doubt || (young && facts.same_settings) {
        return Action::Insert;
    }
    let expected = facts.part_rows;
    match &facts.table {
        None => Action::Ask,
        Some(Answer::Counted { rows: 0, .. }) => Action::Insert,
        // How many are left of a block depends on its keys, and a target that is ordered but not repeatable has others behind it.
        Some(Answer::Counted { rows: found, .. }) if facts.ordered => Action::Stop(Stop::DependentVersions { first, last, found: *found }),
        Some(Answer::Counted { rows: found, distinct }) if *found == expected && *distinct == expected => match facts.dependents {
            true => Action::Stop(Stop::Dependents { first, last }),
            false => Action::Skip,
        },
        Some(Answer::Counted { rows: found, distinct }) => {
            Action::Stop(Stop::Partial { first, last, expected, found: *found, distinct: *distinct })
        }
        Some(Answer::Uncountable(why)) => Action::Stop(Stop::Uncountable { first, last, why: why.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::Path;
    use super::*;

    fn intent() -> Intent {
        Intent { epoch: 1, first: 10, last: 19, rows: 5, crc: 77, settings: 3, created: 0, path: Path::default() }
    }

    fn stored() -> Stored {
        Stored::Intent { offset: 10, intent: intent() }
    }

    /// Everything known, unsettled, too old to rely on the token.
    fn old() -> Facts {
        Facts {
            low: 0,
            high: 100,
            rebuilt: Some((5, 77)),
            part_rows: 5,
            doubt: true,
            age: 5_000,
            safe_window: 1_000,
            same_settings: true,
            repeatable: false,
            ordered: false,
            dependents: false,
            table: None,
        }
    }

    fn young() -> Facts {
        Facts { age: 999, ..old() }
    }

    fn counted(rows: u64, distinct: u64) -> Option<Answer> {
        Some(Answer::Counted { rows, distinct })
    }

    fn uncountable() -> Option<Answer> {
        Some(Answer::Uncountable("shared".into()))
    }

    fn stop_of(stored: &Stored, facts: &Facts) -> Stop {
        match decide(stored, facts) {
            Action::Stop(stop) => stop,
            other => panic!("expected a stop, got {other:?}"),
        }
    }

    #[test]
    fn without_a_position() {
        let fresh = Facts { low: 0, high: 100, ..Facts::default() };
        let nothing = Stored::Nothing;
        assert_eq!(stop_of(&nothing, &Facts { low: 3, ..fresh.clone() }), Stop::Deleted { at: 0, low: 3 });
        let harmless = Facts { low: 3, repeatable: true, ..fresh.clone() };
        assert_eq!(stop_of(&nothing, &harmless), Stop::Deleted { at: 0, low: 3 });
        assert_eq!(decide(&nothing, &fresh), Action::Ask);
        assert_eq!(decide(&nothing, &Facts { repeatable: true, ..fresh.clone() }), Action::Read { from: 0 });
        let ordered = Facts { repeatable: true, ordered: true, ..fresh.clone() };
        assert_eq!(decide(&nothing, &ordered), Action::Ask, "rows of another outbox would win over its own");
        let unknown = Stop::UnknownVersions { why: "shared".into() };
        assert_eq!(stop_of(&nothing, &Facts { table: uncountable(), ..ordered.clone() }), unknown);
        assert_eq!(stop_of(&nothing, &Facts { table: counted(2, 2), ..ordered }), Stop::PositionLost { rows: 2 });
        assert_eq!(decide(&nothing, &Facts { table: counted(0, 0), ..fresh.clone() }), Action::Read { from: 0 });
        assert_eq!(decide(&nothing, &Facts { table: uncountable(), ..fresh.clone() }), Action::Read { from: 0 });
        assert_eq!(stop_of(&nothing, &Facts { table: counted(2, 2), ..fresh }), Stop::PositionLost { rows: 2 });
    }

    #[test]
    fn with_a_clean_position() {
        let facts = Facts { low: 5, high: 10, ..Facts::default() };
        for at in [5, 7, 10] {
            assert_eq!(decide(&Stored::Clean { offset: at }, &facts), Action::Read { from: at });
        }
        assert_eq!(stop_of(&Stored::Clean { offset: 4 }, &facts), Stop::Deleted { at: 4, low: 5 });
        assert_eq!(stop_of(&Stored::Clean { offset: 11 }, &facts), Stop::Beyond { at: 11, high: 10 });
    }

    #[test]
    fn with_a_position_of_somebody_else() {
        let foreign = Stored::Foreign { offset: 6, why: "no metadata".into() };
        let expected = Stop::Foreign { offset: 6, why: "no metadata".into() };
        assert_eq!(stop_of(&foreign, &young()), expected);
        let moved = Stored::Intent { offset: 12, intent: intent() };
        assert_eq!(stop_of(&moved, &young()), Stop::Moved { offset: 12, first: 10 });
    }

    #[test]
    fn an_intent_whose_records_are_gone() {
        assert_eq!(stop_of(&stored(), &Facts { low: 11, ..young() }), Stop::Deleted { at: 10, low: 11 });
        assert_eq!(stop_of(&stored(), &Facts { high: 19, ..young() }), Stop::Beyond { at: 20, high: 19 });
        assert_eq!(decide(&stored(), &Facts { low: 10, high: 20, ..young() }), Action::Insert);
    }

    #[test]
    fn an_intent_is_rebuilt_first_and_must_be_the_same() {
        assert_eq!(decide(&stored(), &Facts { rebuilt: None, ..young() }), Action::Rebuild { first: 10, last: 19 });
        for rebuilt in [(4, 77), (5, 78), (0, 0)] {
            // Even a table that collapses rows must not get other rows than intended.
            let facts = Facts { rebuilt: Some(rebuilt), repeatable: true, ..young() };
            let Stop::Changed { rows: 5, crc: 77, rows_now, crc_now, .. } = stop_of(&stored(), &facts) else { panic!("{rebuilt:?}") };
            assert_eq!((rows_now, crc_now), rebuilt);
        }
    }

    #[test]
    fn a_token_is_relied_on_only_while_it_is_remembered() {
        assert_eq!(decide(&stored(), &young()), Action::Insert);
        assert_eq!(decide(&stored(), &Facts { age: 1_000, ..young() }), Action::Ask);
        assert_eq!(decide(&stored(), &Facts { age: -1, ..young() }), Action::Ask, "the clock of the writer was ahead");
        assert_eq!(decide(&stored(), &Facts { same_settings: false, ..young() }), Action::Ask);
        assert_eq!(decide(&stored(), &Facts { doubt: false, ..old() }), Action::Insert, "never tried");
        assert_eq!(decide(&stored(), &Facts { repeatable: true, ..old() }), Action::Insert);
    }

    #[test]
    fn the_table_decides_about_old_intents() {
        let asked = |table| Facts { table, ..old() };
        assert_eq!(decide(&stored(), &asked(counted(5, 5))), Action::Skip);
        assert_eq!(decide(&stored(), &asked(counted(0, 0))), Action::Insert);
        for (found, distinct) in [(4, 4), (5, 4), (6, 5), (10, 5)] {
            let expected = Stop::Partial { first: 10, last: 19, expected: 5, found, distinct };
            assert_eq!(stop_of(&stored(), &asked(counted(found, distinct))), expected);
        }
        // Of a pair one row is inserted, and of the rows of a key one is left.
        let versions = |table| Facts { ordered: true, dependents: true, ..asked(table) };
        assert_eq!(stop_of(&stored(), &versions(counted(3, 3))), Stop::DependentVersions { first: 10, last: 19, found: 3 });
        assert_eq!(decide(&stored(), &versions(counted(0, 0))), Action::Insert);
        let expected = Stop::Uncountable { first: 10, last: 19, why: "shared".into() };
        assert_eq!(stop_of(&stored(), &asked(uncountable())), expected);
        // A part of a block counts its own rows.
        assert_eq!(decide(&stored(), &Facts { part_rows: 2, ..asked(counted(2, 2)) }), Action::Skip);
    }

    #[test]
    fn whatever_the_facts_a_changed_block_is_never_inserted_and_a_full_one_never_twice() {
        let flags = [false, true];
        let tables = [None, counted(0, 0), counted(5, 5), counted(3, 3), uncountable()];
        for (doubt, same_settings, repeatable) in
            flags.into_iter().flat_map(|a| flags.into_iter().flat_map(move |b| flags.map(|c| (a, b, c))))
        {
            for (age, table) in [-1, 0, 999, 1_000].into_iter().flat_map(|age| tables.clone().map(|t| (age, t))) {
                let facts = Facts { doubt, same_settings, repeatable, age, table, ..old() };
                let changed = Facts { rebuilt: Some((5, 1)), ..facts.clone() };
                assert!(matches!(decide(&stored(), &changed), Action::Stop(Stop::Changed { .. })), "{changed:?}");
                let relied_on = repeatable || !doubt || ((0..1_000).contains(&age) && same_settings);
                let plan = decide(&stored(), &facts);
                assert_eq!(plan == Action::Insert, relied_on || facts.table == counted(0, 0), "{facts:?}");
                assert_eq!(plan == Action::Skip, !relied_on && facts.table == counted(5, 5), "{facts:?}");
            }
        }
    }
}
