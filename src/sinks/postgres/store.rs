//! PostgreSQL as a store that keeps positions: rows and position in one transaction.
//!
//! Rows come by binary `COPY`: it takes lists and every type of a column without a text in between, one message per mebibyte, and is the
//! fastest way into a table. Inserts copy into the table itself. Upserts copy into a temporary table of the session, from which one
//! `INSERT .. ON CONFLICT` takes the last row of each key: the server compares keys, because it knows when two values are equal. Changes
//! do the same, after a `DELETE` of the keys whose last row is gone.
//! Rejected: arrays and `unnest` (no lists), a statement per row.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};
use futures::SinkExt;
use headwater_engine::broker::TopicId;
use headwater_engine::delivery::{Block, Position, Positioned, Reply};
use headwater_engine::failpoint::failpoint;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::connection::{APPLICATION, Server, Trouble};
use super::statements::Statements;
use super::table::{Inspection, Wanted, inspect, shape};

/// Bytes of one message of a copy.
const PIECE: usize = 1 << 20;
/// How long a transaction may take before its commit, whatever its statements and the network are each allowed: then its block is too
/// large.
const TRANSACTION: Duration = Duration::from_secs(45);
/// Longer than a transaction and its commit may take: then the connection is given up.
const PATIENCE: Duration = Duration::from_secs(90);
/// A request that takes longer than this is accompanied by a question, which tells a slow server from one that hangs.
const SLOW: Duration = Duration::from_secs(5);

/// Who makes a session wait, unless they wait for a lock themselves.
const BLOCKERS: &str = "SELECT pid, coalesce(application_name, ''), coalesce(usename::text, '') FROM pg_stat_activity \
    WHERE pid = ANY(pg_blocking_pids($1)) AND wait_event_type IS DISTINCT FROM 'Lock'";

/// A session and what it executes.
struct Session {
    client: Client,
    /// The process that serves it.
    backend: i32,
    statements: Arc<Statements>,
    inspection: Inspection,
}

/// Whose positions they are.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub pipeline: String,
    pub sink: String,
}

/// A partition as this delivery last saw it in the store.
#[derive(Clone, Copy)]
struct Claim {
    epoch: i64,
    /// What the next transaction has to find there. A server that has lost commits it had confirmed stands before it.
    position: Option<Position>,
}

impl Claim {
    /// From `epoch, next_offset, next_row`.
    fn of(row: &Row) -> Claim {
        let (epoch, offset, row): (i64, Option<i64>, i32) = (row.get(0), row.get(1), row.get(2));
        Claim { epoch, position: offset.map(|offset| Position { offset, row }) }
    }
}

/// What a delivery's tasks share.
struct Shared {
    server: Server,
    wanted: Wanted,
    owner: Owner,
    /// The open session, while nothing uses it: what is aborted or fails takes it along.
    session: Mutex<Option<Session>>,
    claims: Mutex<BTreeMap<i32, Claim>>,
}

/// A table of PostgreSQL as the store of one delivery.
pub(super) struct PostgresStore {
    shared: Arc<Shared>,
    handle: Handle,
    under_way: Option<(Receiver<Reply>, JoinHandle<()>)>,
}

impl PostgresStore {
    /// A store that opens its session with the first request.
    pub fn new(server: Server, wanted: Wanted, owner: Owner, handle: Handle) -> PostgresStore {
        let shared = Shared { server, wanted, owner, session: Mutex::default(), claims: Mutex::default() };
        PostgresStore { shared: Arc::new(shared), handle, under_way: None }
    }

    fn spawn(&mut self, run: impl Future<Output = Reply> + Send + 'static) {
        self.abandon();
        let (sender, reply) = bounded(1);
        let shared = self.shared.clone();
        let task = self.handle.spawn(async move {
            let _ = sender.send(shared.watched(run).await);
        });
        self.under_way = Some((reply, task));
    }
}

impl Shared {
    /// The session, or a new one; the table may have been altered meanwhile.
    async fn open(&self) -> Result<Session, Trouble> {
        if let Some(session) = self.session.lock().take().filter(|session| !session.client.is_closed()) {
            return Ok(session);
        }
        // It could be opened at the start: a login that is refused now may be about to change.
        let passes = |trouble| if let Trouble::Wrong(why) = trouble { Trouble::NotNow(why) } else { trouble };
        let client = self.server.connect().await.map_err(passes)?;
        let inspection = inspect(&client, &self.wanted).await?;
        let statements = Arc::new(Statements::new(&self.wanted, &inspection).map_err(Trouble::Wrong)?);
        if let Some((create, _)) = &statements.staged {
            client.batch_execute(create).await?;
        }
        let backend = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        Ok(Session { client, backend, statements, inspection })
    }

    /// Waits for an answer. After a while the server is asked something else, too, so that an outage is seen.
    async fn watched(&self, run: impl Future<Output = Reply>) -> Reply {
        let mut run = std::pin::pin!(run);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            tokio::select! {
                reply = &mut run => {
                    if !matches!(reply, Reply::Unavailable(_) | Reply::Unknown(_)) {
                        self.server.report(Ok(()));
                    }
                    return reply;
                }
                () = tokio::time::sleep(SLOW) => {
                    if tokio::time::Instant::now() >= deadline {
                        let why = format!("PostgreSQL: no answer within {} s", PATIENCE.as_secs());
                        self.server.report(Err(why.clone()));
                        return Reply::Unknown(why);
                    }
                    // It reports by itself.
                    let _ = self.server.connect().await;
                }
            }
        }
    }

    async fn claim(&self, partition: i32, topic: Option<TopicId>) -> Result<Option<Position>, Trouble> {
        let session = self.open().await?;
        let Owner { pipeline, sink } = &self.owner;
        let topic = topic.map(|topic| topic.0);
        let parameters: [&(dyn ToSql + Sync); 4] = [pipeline, sink, &partition, &topic];
        let row = tokio::select! {
            row = session.client.query_opt(session.statements.claim.as_str(), &parameters) => row?,
            trouble = self.end_blockers(session.backend) => return Err(trouble),
        };
        let Some(row) = row else {
            let positions = self.wanted.table.positions();
            return Err(Trouble::Wrong(format!(
                "the position of partition {partition} in {positions} belongs to another topic than the outbox that is there now \
                 (id {}): the outbox was deleted and created again, or a pipeline of this name runs elsewhere. To write the rows of the \
                 outbox from its beginning: DELETE FROM {positions} WHERE pipeline = '{pipeline}' AND sink = '{sink}'",
                topic.unwrap_or_default()
            )));
        };
        let claim = Claim::of(&row);
        self.claims.lock().insert(partition, claim);
        *self.session.lock() = Some(session);
        Ok(claim.position)
    }

    /// While a claim waits for a transaction of an earlier owner, ends the session that holds it: the group has given the partition to
    /// this delivery. A process that is frozen, or whose machine has vanished, in the middle of a COPY holds the row for ever: no limit of
    /// time applies while the server waits for the rows of a COPY. Returns if it can't.
    async fn end_blockers(&self, backend: i32) -> Trouble {
        loop {
            tokio::time::sleep(SLOW).await;
            let client = match self.server.connect().await {
                Ok(client) => client,
                Err(trouble) => return trouble,
            };
            let blockers = match client.query(BLOCKERS, &[&backend]).await {
                Ok(blockers) => blockers,
                Err(error) => return Trouble::NotNow(Trouble::of(&error).to_string()),
            };
            for blocker in blockers {
                let (pid, application, role): (i32, String, String) = (blocker.get(0), blocker.get(1), blocker.get(2));
                let held = format!("session {pid} of {role} (`{application}`) holds the position in {}", self.wanted.table.positions());
                let remedy = format!("end it with SELECT pg_terminate_backend({pid})");
                if application != APPLICATION {
                    return Trouble::NotNow(format!("{held}: {remedy}"));
                }
                match client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await {
                    Ok(_) => tracing::warn!(sink = %self.owner.sink, "{held} for an earlier owner; it was ended"),
                    Err(error) => return Trouble::NotNow(format!("{held} for an earlier owner, {remedy}: {}", Trouble::of(&error))),
                }
            }
        }
    }

    async fn write(&self, partition: i32, rows: RecordBatch, next: Position) -> Reply {
        let Some(claim) = self.claims.lock().get(&partition).copied() else { return Reply::Fenced };
        let session = match self.open().await {
            Ok(session) => session,
            Err(trouble) => return trouble.reply(),
        };
        if let Some(why) = session.statements.encoder.strange(&rows) {
            return Reply::Wrong(why);
        }
        let data = match rows.num_rows() {
            0 => None,
            _ => match session.statements.encoder.encode(&rows) {
                Ok(data) => Some(Bytes::from(data)),
                Err(why) => return self.unless_altered(session, Reply::Unfit(why)).await,
            },
        };
        let transaction = self.transaction(&session, (partition, claim), data, next);
        let Ok(done) = tokio::time::timeout(TRANSACTION, transaction).await else { return self.too_slow(session, rows.num_rows()).await };
        match done {
            Ok(true) => {}
            // Another owner, a position that went back, or a table that was altered.
            Ok(false) => {
                return match session.client.batch_execute("ROLLBACK").await {
                    Ok(()) => self.unless_altered(session, Reply::Fenced).await,
                    Err(_) => Reply::Fenced,
                };
            }
            Err(trouble) => return self.failed(session, trouble).await,
        }
        match session.client.batch_execute("COMMIT").await {
            Ok(()) => {
                self.claims.lock().insert(partition, Claim { position: Some(next), ..claim });
                *self.session.lock() = Some(session);
                Reply::Written
            }
            Err(error) => {
                let trouble = Trouble::of(&error);
                match self.stands(&session, partition).await {
                    // A deferred constraint, most often.
                    Ok(found) if (found.epoch, found.position) == (claim.epoch, claim.position) => self.failed(session, trouble).await,
                    _ => Reply::Unknown(trouble.to_string()),
                }
            }
        }
    }

    /// A transaction that was given up before its commit: the server ends it with its session, at once if it hears of it. Until then it
    /// keeps the row of the position, and the next one waits for it.
    async fn too_slow(&self, session: Session, rows: usize) -> Reply {
        self.server.cancel(&session.client).await;
        Reply::TooSlow(format!("PostgreSQL: a transaction of {rows} rows was not done within {} s", TRANSACTION.as_secs()))
    }

    /// Where a partition stands after an error in answer to a commit. The code does not tell whether the transaction was committed before:
    /// deferred triggers choose theirs, and what is between here and the server answers for a server that has vanished. The answer is
    /// certain if the session still gives one: its transaction is over.
    async fn stands(&self, session: &Session, partition: i32) -> Result<Claim, Trouble> {
        let Owner { pipeline, sink } = &self.owner;
        let row = session.client.query_one(session.statements.stands.as_str(), &[pipeline, sink, &partition]).await?;
        Ok(Claim::of(&row))
    }

    /// Position and rows, without the commit. `false`: the partition was claimed by another since or stands elsewhere, or the table was
    /// altered. Binary values say nothing of their types: those of a session's encoder must be the table's, until the commit.
    async fn transaction(
        &self,
        session: &Session,
        (partition, Claim { epoch, position }): (i32, Claim),
        data: Option<Bytes>,
        next: Position,
    ) -> Result<bool, Trouble> {
        let (client, statements) = (&session.client, &session.statements);
        let Owner { pipeline, sink } = &self.owner;
        client.batch_execute(&statements.begin).await?;
        let (offset, row) = (position.map(|position| position.offset), position.map_or(0, |position| position.row));
        let (table, shape) = (self.wanted.table.quoted(), &session.inspection.shape);
        let parameters: [&(dyn ToSql + Sync); 10] =
            [pipeline, sink, &partition, &epoch, &next.offset, &next.row, &offset, &row, &table, shape];
        let advanced = client.execute(statements.advance.as_str(), &parameters).await?;
        if advanced != 1 {
            return Ok(false);
        }
        if let Some(mut data) = data {
            let copy = client.copy_in::<str, Bytes>(&statements.copy).await?;
            let mut copy = std::pin::pin!(copy);
            failpoint("postgres-copying");
            while !data.is_empty() {
                // What went wrong is in the answer to the end of the copy.
                if copy.send(data.split_to(PIECE.min(data.len()))).await.is_err() {
                    break;
                }
            }
            copy.finish().await?;
            if let Some((_, take)) = &statements.staged {
                client.batch_execute(take).await?;
            }
        }
        Ok(true)
    }

    /// A transaction that is certain not to be committed.
    async fn failed(&self, session: Session, trouble: Trouble) -> Reply {
        if let Trouble::NotNow(why) | Trouble::TooSlow(why) = &trouble {
            // The session goes with it.
            if session.client.is_closed() {
                self.server.report(Err(why.clone()));
            }
            return trouble.reply();
        }
        match session.client.batch_execute("ROLLBACK").await {
            Ok(()) => self.unless_altered(session, trouble.reply()).await,
            Err(_) => trouble.reply(),
        }
    }

    /// The reply, unless the columns of the table are not those that the session knows: then another session tries again.
    async fn unless_altered(&self, session: Session, reply: Reply) -> Reply {
        match shape(&session.client, &self.wanted.table).await {
            Ok(now) if now == session.inspection.shape => {
                *self.session.lock() = Some(session);
                reply
            }
            Ok(_) => Reply::Unavailable(format!("the columns of {} were altered; retrying its rows", self.wanted.table)),
            Err(trouble) => Reply::Unavailable(trouble.to_string()),
        }
    }
}

impl Positioned for PostgresStore {
    fn claim(&mut self, partition: i32, topic: Option<&TopicId>) {
        let (shared, topic) = (self.shared.clone(), topic.cloned());
        self.spawn(async move {
            match shared.claim(partition, topic).await {
                Ok(position) => Reply::Claimed(position),
                Err(trouble) => trouble.reply(),
            }
        });
    }

    fn write(&mut self, block: &Block, next: Position) {
        let (shared, partition, rows) = (self.shared.clone(), block.partition, block.rows.clone());
        self.spawn(async move { shared.write(partition, rows, next).await });
    }

    fn progress(&mut self, timeout: Duration) -> Reply {
        let Some((reply, _)) = &self.under_way else { return Reply::Idle };
        let found = match reply.try_recv() {
            Err(TryRecvError::Empty) if !timeout.is_zero() => reply.recv_timeout(timeout),
            Err(TryRecvError::Empty) => Err(RecvTimeoutError::Timeout),
            Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
            Ok(reply) => Ok(reply),
        };
        let found = match found {
            Err(RecvTimeoutError::Timeout) => return Reply::Working,
            Ok(reply) => reply,
            Err(RecvTimeoutError::Disconnected) => Reply::Unknown("the request was dropped".to_owned()),
        };
        self.under_way = None;
        found
    }

    fn abandon(&mut self) {
        if let Some((_, task)) = self.under_way.take() {
            task.abort();
        }
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.abandon();
    }
}
