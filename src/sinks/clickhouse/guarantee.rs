//! The gate: which guarantee a table can give, determined before the first row.
//!
//! Nothing is taken for granted that ClickHouse has changed before: deduplication windows (100, then 1,000, then 10,000
//! blocks; none without replication), asynchronous inserts by default, deduplication behind materialized views. So the
//! server's current settings are read, and the guarantee is derived from them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use arrow::datatypes::Schema;
use headwater_engine::delivery::position_fields;
use headwater_engine::sinks::Incoming;

use super::changes::Applied;
use super::columns::{Column, misfits, unheld_nulls};
use super::connection::{Connection, Table, literal};
use super::failure::ClickHouseError;
use super::fit::Fit;
use super::layout::Layout;
use super::target::PINNED;
use super::views::{dependents, view_target};

/// What a reader of the table may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guarantee {
    /// A row may be there twice after a failure.
    AtLeastOnce,
    /// A row may be stored twice after a failure, but the table collapses them (`ReplacingMergeTree`): with `FINAL`, or
    /// once merged, it is there once.
    EffectivelyOnce,
    /// Every row is there once.
    ExactlyOnce,
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Guarantee::AtLeastOnce => "at-least-once",
            Guarantee::EffectivelyOnce => "effectively-once",
            Guarantee::ExactlyOnce => "exactly-once",
        })
    }
}

/// What was found at the gate.
#[derive(Clone, Debug)]
pub struct Inspection {
    pub table: Table,
    pub version: String,
    pub guarantee: Guarantee,
    /// Why it is not better, and what else is worth knowing.
    pub reasons: Vec<String>,
    /// Statements that make it better.
    pub fixes: Vec<String>,
    /// Columns that don't fit: nothing can be inserted.
    pub problems: Vec<String>,
    /// What the columns take.
    pub(super) fit: Fit,
    /// The settings to pin that this server knows.
    pub(super) settings: BTreeSet<String>,
    /// Other replicas may have taken rows that this one does not have yet.
    pub(super) replicas: bool,
    /// Why rows cannot be counted by their positions, if they can't.
    pub(super) uncountable: Option<String>,
    /// The same of all rows of a partition, before the first is delivered: any that are there show that the position was lost.
    pub(super) unknown_start: Option<String>,
    /// Rows of equal key collapse and nothing else sees them: a repeated insert does no harm.
    pub(super) repeatable: bool,
    /// How it takes changes, if its rows are changes.
    pub(super) applied: Option<Applied>,
    /// Materialized views that take rows from the table, and those behind them.
    pub views: usize,
    /// Inserts remembered by the table that remembers the fewest, and for how many seconds.
    pub window: u64,
    pub window_seconds: u64,
}

impl Inspection {
    /// Whether at least `wanted` holds and all columns fit.
    ///
    /// # Errors
    /// What is wrong, and the statements that would make it right.
    pub fn require(&self, wanted: Guarantee) -> Result<(), ClickHouseError> {
        let list = |items: &[String]| items.iter().map(|item| format!("\n  - {item}")).collect::<String>();
        if !self.problems.is_empty() {
            return Err(ClickHouseError::Unexpected(format!("the table {} does not fit:{}", self.table, list(&self.problems))));
        }
        if self.guarantee >= wanted {
            return Ok(());
        }
        let fixes = match self.fixes.as_slice() {
            [] => "\nUse another table, or allow the weaker guarantee (`clickhouse.allow_weaker_guarantee`).".to_owned(),
            fixes => format!("\nTo make it {wanted}:{}", list(fixes)),
        };
        Err(ClickHouseError::Unexpected(format!(
            "the table {} is {}, not {wanted}:{}{fixes}",
            self.table,
            self.guarantee,
            list(&self.reasons)
        )))
    }
}

/// Tables behind one table that are looked at.
const MAX_TABLES: usize = 100;
pub(super) const LOCAL_WINDOW: &str = "non_replicated_deduplication_window";
pub(super) const REPLICATED_WINDOW: &str = "replicated_deduplication_window";
const REPLICATED_SECONDS: &str = "replicated_deduplication_window_seconds";
/// A table must remember at least so many inserts to count as one that remembers them.
pub(super) const SMALL_WINDOW: u64 = 100;

/// Looks at everything that the guarantee depends on.
///
/// # Errors
/// The table does not exist; the server's.
pub async fn inspect(connection: &Connection, table: &Table, rows: &Incoming) -> Result<Inspection, ClickHouseError> {
    let version = connection.ping().await?;
    let names: Vec<String> = PINNED.iter().map(|(name, _)| literal(name)).collect();
    let sql = format!("SELECT name FROM system.settings WHERE name IN ({})", names.join(", "));
    let settings: BTreeSet<String> = connection.rows(&sql).await?.into_iter().flatten().collect();
    let windows = default_windows(connection).await?;
    let Some(found) = Found::read(connection, table).await? else {
        return Err(ClickHouseError::Unexpected(format!("the table {table} does not exist")));
    };
    let shared = connection.config().shared_table;
    let mut inspection = Inspection {
        table: table.clone(),
        version,
        guarantee: Guarantee::ExactlyOnce,
        reasons: Vec::new(),
        fixes: Vec::new(),
        problems: Vec::new(),
        fit: Fit::default(),
        settings,
        replicas: found.engine.starts_with("Replicated"),
        uncountable: found.uncountable(shared),
        unknown_start: found.uncountable(shared),
        repeatable: false,
        applied: None,
        views: 0,
        window: u64::MAX,
        window_seconds: u64::MAX,
    };
    let columns = check_columns(connection, &mut inspection, &rows.columns).await?;
    if let Some(key) = &rows.changes {
        match Applied::by(key, &rows.columns, &Layout::read(&found.full), &columns) {
            Ok(applied) => inspection.applied = Some(applied),
            Err(why) => inspection.problems.extend(why),
        }
    }
    inspection.views = check_views(connection, &mut inspection, &windows).await?;
    inspection.repeatable = found.keeps_newest() && inspection.views == 0;
    let versions = matches!(inspection.applied, Some(Applied::Versions { .. }));
    if versions && shared {
        let why = "`clickhouse.shared_table` is set, but its versions are positions in one outbox: of a row that two pipelines write an old \
                   version could win. Deliver changes to a table of their own";
        inspection.problems.push(why.to_owned());
    }
    if inspection.applied.is_some() && !shared {
        // What is left of them shows whether another outbox was delivered here, however many were merged or have expired.
        inspection.unknown_start = None;
    }
    if versions {
        inspection.uncountable = found.shared_or_expiring(shared);
    }
    match versions && inspection.repeatable {
        true => inspection.reasons.push("a repeated row has the same version: read it with FINAL".to_owned()),
        false => check_window(&mut inspection, &found, &windows, None),
    }
    if found.replaces() && inspection.guarantee == Guarantee::AtLeastOnce && inspection.repeatable {
        inspection.guarantee = Guarantee::EffectivelyOnce;
        let reason = "its engine collapses rows of equal sorting key: read it with FINAL".to_owned();
        inspection.reasons.push(reason);
    }
    if !found.partition_key.is_empty() {
        let note = format!("it is partitioned by {}: a block over several partitions is not one atomic part", found.partition_key);
        inspection.reasons.push(note);
    }
    Ok(inspection)
}

async fn default_windows(connection: &Connection) -> Result<BTreeMap<String, u64>, ClickHouseError> {
    let sql = format!(
        "SELECT name, value FROM system.merge_tree_settings WHERE name IN ('{LOCAL_WINDOW}', '{REPLICATED_WINDOW}', '{REPLICATED_SECONDS}')"
    );
    let rows = connection.rows(&sql).await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.first()?.clone(), row.get(1)?.parse().ok()?))).collect())
}

/// Its replicas remember inserts in common, with separate settings.
pub(super) fn is_replicated(engine: &str) -> bool {
    engine.starts_with("Replicated") || engine.starts_with("Shared")
}

/// A table as the server describes it.
struct Found {
    table: Table,
    engine: String,
    /// Engine with keys and settings.
    full: String,
    partition_key: String,
    create: String,
    uuid: String,
}

impl Found {
    async fn read(connection: &Connection, table: &Table) -> Result<Option<Found>, ClickHouseError> {
        let sql = format!(
            "SELECT engine, engine_full, partition_key, create_table_query, toString(uuid) FROM system.tables \
             WHERE database = {} AND name = {}",
            literal(&table.database),
            literal(&table.name)
        );
        let Some(row) = connection.rows(&sql).await?.into_iter().next() else { return Ok(None) };
        let mut values = row.into_iter();
        let mut next = || values.next().unwrap_or_default();
        let (engine, full, partition_key, create, uuid) = (next(), next(), next(), next(), next());
        Ok(Some(Found { table: table.clone(), engine, full, partition_key, create, uuid }))
    }

    fn replaces(&self) -> bool {
        self.engine.ends_with("ReplacingMergeTree")
    }

    /// Rows inserted twice, in whatever order, end as the newest: it has a version column, or the position is part of the
    /// sorting key, so that only copies of one row collapse.
    fn keeps_newest(&self) -> bool {
        let arguments =
            self.full.strip_prefix(&self.engine).and_then(|rest| rest.strip_prefix('(')).and_then(|rest| rest.split(')').next());
        let version = arguments.is_some_and(|a| a.split(',').any(|a| !a.trim().is_empty() && !a.trim().starts_with('\'')));
        let key = self.full.split("ORDER BY ").nth(1).unwrap_or_default();
        let key = key.split(" SETTINGS ").next().unwrap_or_default();
        self.replaces() && (version || (key.contains("_partition") && key.contains("_offset") && key.contains("_row")))
    }

    fn replicated(&self) -> bool {
        is_replicated(&self.engine)
    }

    /// Which setting is its window, and what it is.
    fn window(&self, defaults: &BTreeMap<String, u64>) -> (&'static str, u64) {
        let name = if self.replicated() { REPLICATED_WINDOW } else { LOCAL_WINDOW };
        (name, setting_of(&self.full, name).or(defaults.get(name).copied()).unwrap_or(0))
    }

    fn uncountable(&self, shared: bool) -> Option<String> {
        let merges = !matches!(self.engine.as_str(), "MergeTree" | "ReplicatedMergeTree" | "SharedMergeTree");
        self.shared_or_expiring(shared).or_else(|| merges.then(|| format!("a table of engine {} may merge rows", self.engine)))
    }

    fn shared_or_expiring(&self, shared: bool) -> Option<String> {
        if shared {
            return Some("the table is shared with other pipelines".to_owned());
        }
        let outside_settings = self.full.split(" SETTINGS ").next().unwrap_or_default();
        outside_settings.contains(" TTL ").then(|| "the table deletes rows by TTL".to_owned())
    }
}

/// The value of a numeric setting in `ENGINE ... SETTINGS a = 1, b = 2`.
fn setting_of(full: &str, name: &str) -> Option<u64> {
    let settings = full.rsplit_once(" SETTINGS ")?.1;
    let pair = settings.split(',').filter_map(|pair| pair.split_once('=')).find(|(found, _)| found.trim() == name)?;
    pair.1.trim().trim_matches('\'').parse().ok()
}

fn check_window(inspection: &mut Inspection, found: &Found, windows: &BTreeMap<String, u64>, behind: Option<&Table>) {
    let name = match behind {
        Some(view) => format!("the table {} behind the materialized view {view}", found.table),
        None => "it".to_owned(),
    };
    if !found.engine.ends_with("MergeTree") {
        inspection.guarantee = Guarantee::AtLeastOnce;
        inspection.reasons.push(format!("{name} has engine {}, which does not deduplicate inserts", found.engine));
        return;
    }
    let (setting, window) = found.window(windows);
    inspection.window = inspection.window.min(window);
    if found.replicated() {
        let seconds = setting_of(&found.full, REPLICATED_SECONDS).or(windows.get(REPLICATED_SECONDS).copied());
        inspection.window_seconds = inspection.window_seconds.min(seconds.unwrap_or(3_600));
    }
    if window == 0 {
        inspection.guarantee = Guarantee::AtLeastOnce;
        inspection.reasons.push(format!("{name} does not deduplicate inserts ({setting} is 0): a repeated one is stored again"));
        inspection.fixes.push(format!("ALTER TABLE {} MODIFY SETTING {setting} = 10000", found.table.quoted()));
    } else if window < SMALL_WINDOW {
        inspection.guarantee = Guarantee::AtLeastOnce;
        let reason = "an insert may be forgotten before it is repeated";
        inspection.reasons.push(format!("{name} remembers only {window} inserts of all its writers ({setting}): {reason}"));
        inspection.fixes.push(format!("ALTER TABLE {} MODIFY SETTING {setting} = 10000", found.table.quoted()));
    }
}

/// Looks at the materialized views that read the table, and at those behind them; returns how many there are.
async fn check_views(
    connection: &Connection,
    inspection: &mut Inspection,
    windows: &BTreeMap<String, u64>,
) -> Result<usize, ClickHouseError> {
    let mut seen = BTreeSet::from([inspection.table.clone()]);
    let mut queue = VecDeque::from([inspection.table.clone()]);
    let mut views = 0;
    while let Some(table) = queue.pop_front() {
        for view in dependents(connection, &table).await? {
            let Some(found) = Found::read(connection, &view).await? else {
                inspection.guarantee = Guarantee::AtLeastOnce;
                inspection.reasons.push(format!("{view} reads it and is not visible to this user: grant SHOW TABLES on it"));
                views += 1;
                continue;
            };
            if found.engine != "MaterializedView" || found.create.contains(" REFRESH ") {
                continue;
            }
            views += 1;
            let Some(target) = view_target(&view, &found.create, &found.uuid) else {
                inspection.guarantee = Guarantee::AtLeastOnce;
                inspection.reasons.push(format!("the target table of the materialized view {view} is unknown"));
                continue;
            };
            if !seen.insert(target.clone()) {
                continue;
            }
            if seen.len() > MAX_TABLES {
                return Err(ClickHouseError::Unexpected(format!("more than {MAX_TABLES} tables behind {}", inspection.table)));
            }
            match Found::read(connection, &target).await? {
                Some(behind) => check_window(inspection, &behind, windows, Some(&view)),
                None => inspection.problems.push(format!("the table {target} of the materialized view {view} does not exist")),
            }
            queue.push_back(target);
        }
    }
    if views > 0 && !inspection.settings.contains("deduplicate_blocks_in_dependent_materialized_views") {
        inspection.guarantee = Guarantee::AtLeastOnce;
        inspection.reasons.push("this server does not deduplicate behind materialized views".to_owned());
    }
    Ok(views)
}

/// The columns of a table, each with its default expression.
pub(super) async fn columns_of(connection: &Connection, table: &Table) -> Result<Vec<(Column, String)>, ClickHouseError> {
    let sql = format!(
        "SELECT name, type, default_kind, default_expression FROM system.columns WHERE database = {} AND table = {}",
        literal(&table.database),
        literal(&table.name)
    );
    let column = |row: Vec<String>| {
        let mut values = row.into_iter();
        let mut next = || values.next().unwrap_or_default();
        (Column { name: next(), native: next(), kind: next() }, next())
    };
    Ok(connection.rows(&sql).await?.into_iter().map(column).collect())
}

async fn check_columns(connection: &Connection, inspection: &mut Inspection, schema: &Schema) -> Result<Vec<Column>, ClickHouseError> {
    let table = inspection.table.clone();
    let (columns, defaults): (Vec<Column>, Vec<String>) = columns_of(connection, &table).await?.into_iter().unzip();
    inspection.problems.extend(misfits(&table, schema, &columns));
    inspection.reasons.extend(unheld_nulls(schema, &columns).into_iter().map(|null| format!("{null}: such rows become dead letters")));
    inspection.fit = Fit::new(&columns);
    let positions = position_fields();
    let ours = |name: &str| schema.fields().iter().map(AsRef::as_ref).chain(&positions).any(|field| field.name() == name);
    for (name, default) in columns.iter().map(|column| &column.name).zip(&defaults).filter(|(name, _)| !ours(name)) {
        let lower = default.to_ascii_lowercase();
        if ["now", "today", "rand", "generate", "hostname"].iter().any(|word| lower.contains(word)) {
            inspection
                .reasons
                .push(format!("column `{name}` is computed at insert time ({default}): a repeated row may differ from the first"));
        }
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(engine: &str, full: &str) -> Found {
        Found {
            table: Table::new("d", "t"),
            engine: engine.into(),
            full: full.into(),
            partition_key: String::new(),
            create: String::new(),
            uuid: "92872969-befa-47e4-bba8-7f4fcf6fa261".into(),
        }
    }

    #[test]
    fn windows_are_read_from_the_table_then_from_the_defaults() {
        let defaults = BTreeMap::from([(LOCAL_WINDOW.to_owned(), 0), (REPLICATED_WINDOW.to_owned(), 10_000)]);
        let full = "MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 7, index_granularity = 8192";
        assert_eq!(found("MergeTree", full).window(&defaults), (LOCAL_WINDOW, 7));
        assert_eq!(found("MergeTree", "MergeTree ORDER BY a").window(&defaults), (LOCAL_WINDOW, 0));
        assert_eq!(found("ReplicatedMergeTree", full).window(&defaults), (REPLICATED_WINDOW, 10_000));
        let full = "ReplicatedReplacingMergeTree('/x', 'r') ORDER BY a SETTINGS replicated_deduplication_window = 0";
        assert_eq!(found("ReplicatedReplacingMergeTree", full).window(&defaults), (REPLICATED_WINDOW, 0));
    }

    #[test]
    fn what_merges_or_deletes_rows_cannot_be_counted() {
        assert_eq!(found("MergeTree", "MergeTree ORDER BY a").uncountable(false), None);
        assert!(found("MergeTree", "MergeTree ORDER BY a").uncountable(true).unwrap().contains("shared"));
        assert!(found("MergeTree", "MergeTree ORDER BY a TTL b SETTINGS x = 1").uncountable(false).unwrap().contains("TTL"));
        assert!(found("SummingMergeTree", "").uncountable(false).unwrap().contains("merge"));
    }

    #[test]
    fn a_refusal_names_what_would_help() {
        let inspection = |guarantee, problems: &[&str]| Inspection {
            guarantee,
            reasons: vec!["because".into()],
            fixes: vec!["ALTER TABLE `d`.`t`".into()],
            problems: problems.iter().map(|p| (*p).to_owned()).collect(),
            ..crate::sinks::clickhouse::tests::inspection()
        };
        inspection(Guarantee::ExactlyOnce, &[]).require(Guarantee::ExactlyOnce).unwrap();
        inspection(Guarantee::EffectivelyOnce, &[]).require(Guarantee::AtLeastOnce).unwrap();
        let refused = inspection(Guarantee::AtLeastOnce, &[]).require(Guarantee::ExactlyOnce).unwrap_err().to_string();
        assert!(refused.contains("because") && refused.contains("ALTER TABLE"), "{refused}");
        let unfit = inspection(Guarantee::ExactlyOnce, &["column `x` is missing"]).require(Guarantee::AtLeastOnce);
        assert!(unfit.unwrap_err().to_string().contains("`x` is missing"));
    }
}
