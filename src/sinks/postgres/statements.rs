//! What a session executes.

use super::encode::{Encoder, Staging};
use super::sql::{identifier, identifiers};
use super::table::{Inspection, SHAPE, Wanted};

/// The temporary table of upserts and changes, its column that has the place of a row in its block, and the one that says whether the
/// row is there or gone.
const STAGE: &str = "headwater_rows";
const ORDINAL: &str = "headwater_row";
const CHANGE: &str = "headwater_change";

/// The epoch of a claim, at least: the server's clock, so that a server that has lost its last commits (a failover, a restored copy) gives
/// no epoch a second time.
const NEW_EPOCH: &str = "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint";

/// What a session executes.
pub(super) struct Statements {
    pub(super) encoder: Encoder,
    pub(super) claim: String,
    pub(super) stands: String,
    /// Begins a transaction in which the table's columns stay what they are.
    pub(super) begin: String,
    /// Moves the position, unless the partition has another owner, stands elsewhere, or the table's columns are others.
    pub(super) advance: String,
    pub(super) copy: String,
    /// Of upserts and changes: what makes the temporary table, and what takes the rows from there.
    pub(super) staged: Option<(String, String)>,
}

impl Statements {
    pub(super) fn new(wanted: &Wanted, inspection: &Inspection) -> Result<Statements, String> {
        let key = wanted.key.as_deref();
        let staging = match (key, wanted.changes) {
            (None, _) => Staging::None,
            (Some(_), false) => Staging::Rows,
            (Some(_), true) => Staging::Changes,
        };
        let encoder = Encoder::new(&inspection.columns, key.unwrap_or_default(), staging)?;
        let (table, positions) = (wanted.table.quoted(), wanted.table.positions());
        let names = identifiers(encoder.names());
        let stage = format!("pg_temp.{}", identifier(STAGE));
        let ordinal = identifier(ORDINAL);
        let staged = key.map(|key| (stage_for(wanted, &names), take_staged(wanted, key, &encoder)));
        let copy = match staging {
            Staging::None => format!("COPY {table} ({names}) FROM STDIN (FORMAT binary)"),
            Staging::Rows => format!("COPY {stage} ({names}, {ordinal}) FROM STDIN (FORMAT binary)"),
            Staging::Changes => format!("COPY {stage} ({names}, {ordinal}, {}) FROM STDIN (FORMAT binary)", identifier(CHANGE)),
        };
        Ok(Statements {
            encoder,
            claim: format!(
                "INSERT INTO {positions} AS p (pipeline, sink, partition, epoch, topic_id) VALUES ($1, $2, $3, {NEW_EPOCH}, $4) \
                 ON CONFLICT (pipeline, sink, partition) DO UPDATE SET epoch = GREATEST(p.epoch + 1, EXCLUDED.epoch), \
                 topic_id = COALESCE(EXCLUDED.topic_id, p.topic_id) WHERE (p.topic_id <> EXCLUDED.topic_id) IS NOT TRUE \
                 RETURNING epoch, next_offset, next_row"
            ),
            stands: format!("SELECT epoch, next_offset, next_row FROM {positions} WHERE pipeline = $1 AND sink = $2 AND partition = $3"),
            advance: format!(
                "UPDATE {positions} SET next_offset = $5, next_row = $6 \
                 WHERE pipeline = $1 AND sink = $2 AND partition = $3 AND epoch = $4 \
                 AND next_offset IS NOT DISTINCT FROM $7 AND next_row = $8 AND $10 = ({SHAPE})"
            ),
            // Not of the partitions, whose columns are the table's.
            begin: format!("BEGIN; LOCK TABLE ONLY {table} IN ROW EXCLUSIVE MODE"),
            copy,
            staged,
        })
    }
}

/// Makes the temporary table.
fn stage_for(wanted: &Wanted, names: &str) -> String {
    let change = if wanted.changes { format!(", 0::smallint AS {}", identifier(CHANGE)) } else { String::new() };
    format!(
        "CREATE TEMP TABLE {} ON COMMIT DELETE ROWS AS SELECT {names}, 0::bigint AS {}{change} FROM {} WITH NO DATA",
        identifier(STAGE),
        identifier(ORDINAL),
        wanted.table.quoted()
    )
}

/// Takes the last row of each key from the temporary table: those that are gone leave the table first, for a row that comes may have a
/// value that must be unique and was theirs.
fn take_staged(wanted: &Wanted, key: &[String], encoder: &Encoder) -> String {
    let (table, stage, ordinal) = (wanted.table.quoted(), format!("pg_temp.{}", identifier(STAGE)), identifier(ORDINAL));
    let (names, by) = (identifiers(encoder.names()), identifiers(key.iter().map(String::as_str)));
    let others: Vec<String> = encoder
        .names()
        .filter(|name| !key.iter().any(|key| key == name))
        .map(|name| format!("{0} = EXCLUDED.{0}", identifier(name)))
        .collect();
    let action = if others.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", others.join(", ")) };
    let last = |columns: &str| format!("(SELECT DISTINCT ON ({by}) {columns} FROM {stage} ORDER BY {by}, {ordinal} DESC) AS last");
    let put =
        |from: &str, there: &str| format!("INSERT INTO {table} ({names}) SELECT {names} FROM {from}{there} ON CONFLICT ({by}) DO {action}");
    if !wanted.changes {
        return put(&last(&names), "");
    }
    let change = identifier(CHANGE);
    let same: Vec<String> = key.iter().map(|name| format!("t.{0} = last.{0}", identifier(name))).collect();
    let (keys, rows) = (last(&format!("{by}, {change}")), last(&format!("{names}, {change}")));
    format!(
        "DELETE FROM {table} AS t USING {keys} WHERE last.{change} < 0 AND {}; {}",
        same.join(" AND "),
        put(&rows, &format!(" WHERE last.{change} > 0"))
    )
}
