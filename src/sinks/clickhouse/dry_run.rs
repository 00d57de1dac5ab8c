//! What a start would find in ClickHouse, without creating anything.

use std::time::Duration;

use headwater_engine::delivery::{Answer, Progress, Range, Target};
use headwater_engine::sinks::Incoming;

use super::created::Created;
use super::delivering::{connect, passes, settings, wanted};
use super::failure::ClickHouseError;
use super::guarantee::{Guarantee, inspect};
use super::sink::ClickHouseSink;
use super::target::ClickHouse;
use crate::check::Found;
use crate::sinks::{Place, Spec};

/// How long a table may take to count its rows.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What the table promises, and whether a delivery can begin there.
pub(super) fn check(sink: &ClickHouseSink, place: &Place<'_>, fresh: bool) -> Result<String, Found> {
    let config = settings(place)?;
    let connection = connect(config).map_err(|p| p.message)?;
    let verified = connection.verifies().map_or(String::new(), |how| format!("; {how}"));
    let (table, rows, wanted) = (sink.table()?, &place.outbox.rows, wanted(config));
    let found = match place.runtime.block_on(inspect(&connection, &table, rows)) {
        Ok(found) => found,
        Err(e) if config.create_tables && e.to_string().contains("does not exist") => {
            let created = place.created(ClickHouseSink::KIND, |files| Ok(sink.created(files)?.0))?;
            return Ok(to_be_created(created.as_ref(), rows, wanted)? + &verified);
        }
        // A certificate does not become right by waiting.
        Err(e) if passes(&e) && !matches!(e, ClickHouseError::Tls(_)) => {
            return Err(Found::Unknown(format!("{e}. A worker starts, and only this sink waits until ClickHouse responds")));
        }
        Err(e) => return Err(e.to_string().into()),
    };
    found.require(wanted).map_err(|e| e.to_string())?;
    let promised = format!("{}{verified}", found.guarantee);
    if fresh {
        has_none_of_others(place, &mut ClickHouse::new(connection, &found, place.runtime.clone()))?;
    }
    Ok(promised)
}

/// A delivery that has no position stops at a table that has rows with positions: they would be taken for its own.
fn has_none_of_others(place: &Place<'_>, target: &mut ClickHouse) -> Result<(), String> {
    if target.repeatable() && !target.is_ordered() {
        return Ok(());
    }
    for partition in 0..place.outbox.partitions {
        target.ask(&Range::all(place.outbox.topic.clone(), partition));
        match target.progress(ANSWER_WITHIN) {
            Progress::Answered(Answer::Counted { rows: 0, .. } | Answer::Uncountable(_)) => {}
            Progress::Answered(Answer::Counted { rows, .. }) => {
                let (group, table) = (place.plan.names.sink_group(&place.output.name), place.outbox.table.name());
                return Err(format!(
                    "the table has {rows} rows with `_partition` {partition}, written by another pipeline or before the group `{group}` lost its positions, and the delivery would stop there. Write to another table, or empty `{table}` first"
                ));
            }
            Progress::Unavailable(why) => return Err(format!("its rows can't be counted: {why}")),
            other => return Err(format!("its rows can't be counted: {other:?}")),
        }
    }
    Ok(())
}

/// How a missing table would be made.
fn to_be_created(file: Option<&Created>, rows: &Incoming, wanted: Guarantee) -> Result<String, String> {
    let Some(file) = file else {
        let sorted = rows.changes.as_ref().map_or_else(|| "their position".to_owned(), |key| key.join(", "));
        return Ok(format!("will be created for its rows, sorted by {sorted}: no file under schemas/clickhouse creates it"));
    };
    file.only_creates()?;
    if let Some(misfit) = file.misfits(rows).into_iter().chain(file.takes_no_changes(rows)).next() {
        return Err(format!("{} creates it, but rows don't fit: {misfit}", file.file));
    }
    if wanted == Guarantee::ExactlyOnce && !file.remembers {
        return Err(format!("{} creates it without a deduplication window: see `hw explain-error clickhouse-guarantee`", file.file));
    }
    Ok(format!("will be created by {}", file.file))
}
