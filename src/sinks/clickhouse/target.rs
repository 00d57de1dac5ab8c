//! Blocks into a table: one insert at a time, on a Tokio runtime, its outcome sent through a channel.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};
use headwater_engine::delivery::{Answer, Block, Progress, Range, Target};
use headwater_formats::encode_batch;
use operator_core::{Millis, changes};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::changes::{Applied, parts};
use super::connection::{Connection, Table, identifier, literal};
use super::failure::ClickHouseError;
use super::fit::Fit;
use super::guarantee::{Inspection, columns_of};
use super::token::{short_hash, token};

/// Settings sent with every insert, as far as the server knows them. Together they make one block of one request, however
/// the server is configured, and refuse rows that would be changed by the insert.
pub(super) const PINNED: [(&str, &str); 18] = [
    // Waits for the table, and takes the token as it is.
    ("async_insert", "0"),
    ("insert_deduplicate", "1"),
    ("deduplicate_insert", "enable"),
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    // One block: larger than any of ours, never by bytes, never by several readers.
    ("max_insert_block_size", "1048576"),
    ("max_insert_block_size_bytes", "0"),
    ("min_insert_block_size_rows", "1048576"),
    ("min_insert_block_size_bytes", "1073741824"),
    ("use_strict_insert_block_limits", "0"),
    ("max_insert_threads", "1"),
    ("input_format_parallel_parsing", "0"),
    ("parallel_view_processing", "0"),
    // A view that fails fails the insert, so that it is tried again.
    ("materialized_views_ignore_errors", "0"),
    // Values that don't fit are refused, not converted.
    ("input_format_null_as_default", "0"),
    ("date_time_overflow_behavior", "throw"),
    ("input_format_arrow_allow_missing_columns", "0"),
    ("throw_on_max_partitions_per_insert_block", "1"),
    ("max_execution_time", ""), // from the configuration
];

enum Work {
    Insert,
    Ask,
}

struct UnderWay {
    work: Work,
    answer: Receiver<Result<Option<Answer>, ClickHouseError>>,
    task: JoinHandle<()>,
}

/// A table of ClickHouse as a target of one delivery lane.
pub struct ClickHouse {
    connection: Connection,
    table: Table,
    handle: Handle,
    /// What the columns take, as last read.
    fit: Arc<Mutex<Arc<Fit>>>,
    pinned: Vec<(&'static str, String)>,
    settings: u32,
    replicas: bool,
    uncountable: Option<String>,
    unknown_start: Option<String>,
    repeatable: bool,
    /// How the table takes changes.
    applied: Option<Applied>,
    views: bool,
    /// Inserts that are remembered, and for how many seconds.
    window: (u64, u64),
    under_way: Option<UnderWay>,
}

impl ClickHouse {
    /// A target for the table that was inspected. Requests run on `handle`.
    pub fn new(connection: Connection, inspection: &Inspection, handle: Handle) -> ClickHouse {
        let seconds = connection.config().max_execution.as_secs().max(1).to_string();
        let value = |value: &str| if value.is_empty() { seconds.clone() } else { value.to_owned() };
        let known = PINNED.iter().filter(|(name, _)| inspection.settings.contains(*name));
        let pinned: Vec<(&str, String)> = known.map(|(name, text)| (*name, value(text))).collect();
        // A server of another minor version may recognise repeated inserts by other means.
        let version: String = inspection.version.split('.').take(2).collect::<Vec<_>>().join(".");
        let split = pinned.iter().filter(|(name, _)| *name != "max_execution_time");
        let split = split.flat_map(|(name, value)| [*name, value.as_str()]);
        let identity = [inspection.table.database.as_str(), &inspection.table.name, "ArrowStream", &version];
        let settings = short_hash(identity.into_iter().chain(split));
        ClickHouse {
            table: inspection.table.clone(),
            replicas: inspection.replicas,
            uncountable: inspection.uncountable.clone(),
            unknown_start: inspection.unknown_start.clone(),
            repeatable: inspection.repeatable,
            applied: inspection.applied.clone(),
            views: inspection.views > 0,
            window: (inspection.window, inspection.window_seconds),
            connection,
            handle,
            fit: Arc::new(Mutex::new(Arc::new(inspection.fit.clone()))),
            pinned,
            settings,
            under_way: None,
        }
    }

    /// How long a request may take, sent and answered: what the server allows itself, and a little for the way.
    fn patience(&self) -> Duration {
        self.connection.config().max_execution + Duration::from_secs(5)
    }

    /// Statement, number of rows and body of an insert of each part.
    fn requests(&self, parts: &[RecordBatch]) -> Result<Vec<(String, usize, Bytes)>, String> {
        let request = |rows: &RecordBatch| {
            let columns: Vec<String> = rows.schema_ref().fields().iter().map(|field| identifier(field.name())).collect();
            let sql = format!("INSERT INTO {} ({}) FORMAT ArrowStream", self.table.quoted(), columns.join(", "));
            Ok((sql, rows.num_rows(), Bytes::from(encode_batch(rows)?)))
        };
        parts.iter().map(request).collect()
    }

    fn spawn(&mut self, work: Work, run: impl Future<Output = Result<Option<Answer>, ClickHouseError>> + Send + 'static) {
        self.abandon();
        let (sender, answer) = bounded(1);
        let task = self.handle.spawn(async move {
            let _ = sender.send(run.await);
        });
        self.under_way = Some(UnderWay { work, answer, task });
    }

    fn outcome(work: &Work, result: Result<Option<Answer>, ClickHouseError>) -> Progress {
        match (work, result) {
            (_, Ok(Some(answer))) => Progress::Answered(answer),
            (Work::Insert, Ok(None)) => Progress::Inserted,
            (Work::Insert, Err(error)) => error.outcome(),
            // A query changes nothing, so every failure of it may be retried.
            (Work::Ask, Ok(None)) => Progress::Unavailable("no answer".to_owned()),
            (Work::Ask, Err(error)) => Progress::Unavailable(error.to_string()),
        }
    }
}

/// The plain comparison of offsets lets indexes help.
fn count_sql(table: &Table, range: &Range) -> String {
    let Range { partition, from, to, .. } = range;
    format!(
        "SELECT count(), uniqExact(_offset, _row), hostName() FROM {} WHERE _partition = {partition} AND _offset >= {} AND _offset <= {} \
         AND (_offset, _row) >= ({}, {}) AND (_offset, _row) <= ({}, {}) SETTINGS select_sequential_consistency = 1",
        table.quoted(),
        from.0,
        to.0,
        from.0,
        from.1,
        to.0,
        to.1
    )
}

/// How many rows of a range are in the table.
struct Question {
    sql: String,
    /// The table, if the server that answers may be a replica that lags.
    replicas: Option<Table>,
}

impl Question {
    /// A replica counts what it has. `select_sequential_consistency` makes up for that only where inserts wait for a quorum,
    /// which is not ours to demand. So a replica's count is taken only if it had fetched all that was inserted anywhere before
    /// it counted.
    async fn ask(&self, connection: &Connection) -> Result<Answer, ClickHouseError> {
        let host = match &self.replicas {
            Some(table) => Some(caught_up(connection, table).await?),
            None => None,
        };
        let rows = connection.rows(&self.sql).await?;
        let text = |at: usize| rows.first().and_then(|row| row.get(at));
        let number = |at: usize| text(at).and_then(|text| text.parse().ok());
        let (Some(rows), Some(distinct)) = (number(0), number(1)) else {
            return Err(ClickHouseError::Unexpected("the response is not two counts".to_owned()));
        };
        match host {
            Some(host) if text(2) != Some(&host) => {
                Err(ClickHouseError::Lost(format!("asked the replica {host} whether it has caught up, but another replica counted")))
            }
            _ => Ok(Answer::Counted { rows, distinct }),
        }
    }
}

/// The replica that answers, if it has everything that the table's log holds.
async fn caught_up(connection: &Connection, table: &Table) -> Result<String, ClickHouseError> {
    let sql = format!(
        "SELECT hostName(), log_pointer > log_max_index AND inserts_in_queue = 0 AND NOT is_readonly AND NOT is_session_expired \
         FROM system.replicas WHERE database = {} AND table = {}",
        literal(&table.database),
        literal(&table.name)
    );
    let rows = connection.rows(&sql).await?;
    match rows.first().map(Vec::as_slice) {
        Some([host, whole]) if whole == "1" || whole == "true" => Ok(host.clone()),
        Some([host, _]) => Err(ClickHouseError::Lost(format!("the replica {host} lags behind the others, so its count proves nothing"))),
        _ => Err(ClickHouseError::Lost(format!("{table} is not in system.replicas, so it is unknown whether this replica lags"))),
    }
}

/// Before a row is blamed (`why`) the columns are read again: the table may have been altered since, an enumeration extended.
async fn blamed(connection: &Connection, table: &Table, last: &Mutex<Arc<Fit>>, why: String) -> ClickHouseError {
    let columns = match columns_of(connection, table).await {
        Ok(columns) if columns.is_empty() => return ClickHouseError::NotSent(format!("the table {table} does not exist")),
        Ok(columns) => columns,
        Err(e) => return ClickHouseError::NotSent(e.to_string()),
    };
    let fit = Fit::new(&columns.into_iter().map(|(column, _)| column).collect::<Vec<_>>());
    let mut last = last.lock();
    if fit == **last {
        return ClickHouseError::Unfit(why);
    }
    *last = Arc::new(fit);
    ClickHouseError::NotSent(format!("the columns of {table} were altered; retrying its rows"))
}

impl Target for ClickHouse {
    fn start(&mut self, block: &Block) {
        if changes::of(&block.rows).is_some() != self.applied.is_some() {
            let why = "rows in the outbox are changes and the sink's are not, or the other way round: deliver them with the pipeline that \
                       wrote them";
            return self.spawn(Work::Insert, async move { Err(ClickHouseError::Wrong(why.to_owned())) });
        }
        let fit = self.fit.lock().clone();
        let requests: Vec<(String, usize, Bytes)> =
            match parts(&block.rows, &fit, self.applied.as_ref()).and_then(|parts| self.requests(&parts)) {
                Ok(requests) => requests,
                Err(why) => {
                    let (connection, table, last) = (self.connection.clone(), self.table.clone(), self.fit.clone());
                    return self.spawn(Work::Insert, async move { Err(blamed(&connection, &table, &last, why).await) });
                }
            };
        let (connection, pinned, patience) = (self.connection.clone(), self.pinned.clone(), self.patience());
        let token = token(block, &self.table);
        self.spawn(Work::Insert, async move {
            let several = requests.len() > 1;
            for (at, (sql, rows, body)) in requests.into_iter().enumerate() {
                // Which rows are in which part depends on the columns of the table, which may be altered before the next attempt: its parts
                // must not be taken for these.
                let token = if several { format!("{token}-{at}-{rows}") } else { token.clone() };
                let settings = pinned.iter().map(|(name, value)| (*name, value.as_str()));
                let settings = settings.chain([("insert_deduplication_token", token.as_str())]).collect();
                connection.insert(&sql, settings, body, rows, patience).await?;
            }
            Ok(None)
        });
    }

    fn ask(&mut self, range: &Range) {
        let unknown = if range.is_all() { &self.unknown_start } else { &self.uncountable };
        if let Some(why) = unknown.clone() {
            return self.spawn(Work::Ask, async { Ok(Some(Answer::Uncountable(why))) });
        }
        let question = Question { sql: count_sql(&self.table, range), replicas: self.replicas.then(|| self.table.clone()) };
        let connection = self.connection.clone();
        self.spawn(Work::Ask, async move { question.ask(&connection).await.map(Some) });
    }

    fn progress(&mut self, timeout: Duration) -> Progress {
        let Some(under_way) = &self.under_way else { return Progress::Idle };
        let answer = match under_way.answer.try_recv() {
            Err(TryRecvError::Empty) if !timeout.is_zero() => under_way.answer.recv_timeout(timeout),
            Err(TryRecvError::Empty) => Err(RecvTimeoutError::Timeout),
            Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
            Ok(answer) => Ok(answer),
        };
        let result = match answer {
            Err(RecvTimeoutError::Timeout) => return Progress::Working,
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(ClickHouseError::Lost("the request was dropped".to_owned())),
        };
        self.under_way.take().map_or(Progress::Idle, |under_way| ClickHouse::outcome(&under_way.work, result))
    }

    fn abandon(&mut self) {
        if let Some(under_way) = self.under_way.take() {
            under_way.task.abort();
        }
    }

    fn settings(&self) -> u32 {
        self.settings
    }

    fn remembers(&self, blocks_per_second: f64) -> Millis {
        let (blocks, seconds) = self.window;
        let by_blocks = blocks as f64 / blocks_per_second.max(0.001);
        (by_blocks.min(seconds as f64).min(1e9) * 1_000.0) as Millis
    }

    fn has_dependents(&self) -> bool {
        self.views
    }

    /// The server may begin when our patience ends, and then has its own time; as much again for what proxies hold back.
    fn max_insert(&self) -> Millis {
        (2 * self.patience() + self.connection.config().max_execution).as_millis() as Millis
    }

    fn repeatable(&self) -> bool {
        self.repeatable
    }

    fn is_ordered(&self) -> bool {
        matches!(self.applied, Some(Applied::Versions { .. }))
    }
}

impl Drop for ClickHouse {
    fn drop(&mut self) {
        self.abandon();
    }
}
