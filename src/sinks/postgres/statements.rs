//! What a session executes.

use super::encode::Encoder;
use super::sql::{identifier, identifiers};
use super::table::{Inspection, SHAPE, Wanted};

/// The temporary table of upserts, and its column that has the place of a row in its block.
const STAGE: &str = "headwater_rows";
const ORDINAL: &str = "headwater_row";

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
    /// Of upserts: what makes the temporary table, and what takes the rows from there.
    pub(super) upsert: Option<(String, String)>,
}

impl Statements {
    pub(super) fn new(wanted: &Wanted, inspection: &Inspection) -> Result<Statements, String> {
        let key = wanted.key.as_deref();
        let encoder = Encoder::new(&inspection.columns, key.unwrap_or_default(), key.is_some())?;
        let (table, positions) = (wanted.table.quoted(), wanted.table.positions());
        let names = identifiers(encoder.names());
        let stage = format!("pg_temp.{}", identifier(STAGE));
        let ordinal = identifier(ORDINAL);
        let upsert = key.map(|key| {
            let by = identifiers(key.iter().map(String::as_str));
            let others: Vec<String> = encoder
                .names()
                .filter(|name| !key.iter().any(|key| key == name))
                .map(|name| format!("{0} = EXCLUDED.{0}", identifier(name)))
                .collect();
            let action = if others.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", others.join(", ")) };
            (
                format!(
                    "CREATE TEMP TABLE {} ON COMMIT DELETE ROWS AS SELECT {names}, 0::bigint AS {ordinal} FROM {table} WITH NO DATA",
                    identifier(STAGE)
                ),
                format!(
                    "INSERT INTO {table} ({names}) SELECT {names} FROM \
                     (SELECT DISTINCT ON ({by}) {names} FROM {stage} ORDER BY {by}, {ordinal} DESC) AS last \
                     ON CONFLICT ({by}) DO {action}"
                ),
            )
        });
        let copy = match &upsert {
            Some(_) => format!("COPY {stage} ({names}, {ordinal}) FROM STDIN (FORMAT binary)"),
            None => format!("COPY {table} ({names}) FROM STDIN (FORMAT binary)"),
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
            upsert,
        })
    }
}
