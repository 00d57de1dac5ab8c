//! A server that is not ClickHouse, or not always: which answers count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use headwater_engine::broker::{SystemClock, TopicPartition};
use headwater_engine::delivery::{Answer, Block, CLEAN, Deliver, Delivery, Limits, Progress, Range, Settings, Target, contract};
use headwater_engine::sim::MemoryBroker;
use headwater_formats::{decode_batch, encode_batch};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::changes::Applied;
use super::guarantee::{Guarantee, Inspection};
use super::{ClickHouse, ClickHouseError, Column, Config, Connection, Fit, Table};

/// A request as the server sees it.
struct Received {
    /// Parameters of the URL.
    parameters: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Received {
    fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    /// A statement is in the URL if it has data, and is the body otherwise.
    fn statement(&self) -> String {
        self.parameters.get("query").cloned().unwrap_or_else(|| String::from_utf8_lossy(&self.body).into_owned())
    }
}

type Answering = dyn FnMut(&Received) -> String + Send;

/// Serves HTTP on `runtime` with the answers of `answer`, and returns its URL.
fn serve(runtime: &Runtime, answer: impl FnMut(&Received) -> String + Send + 'static) -> String {
    let answer: Arc<Mutex<Box<Answering>>> = Arc::new(Mutex::new(Box::new(answer)));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let _ = one(stream, &answer).await;
            });
        }
    });
    format!("http://{address}")
}

/// Reads one request, answers, and closes the connection.
async fn one(mut stream: TcpStream, answer: &Mutex<Box<Answering>>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|w| w == what);
    let head = loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
    let whole = |bytes: &[u8]| length.map_or(bytes.ends_with(b"0\r\n\r\n"), |length| bytes.len() >= head + length);
    while !whole(&bytes) {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    let line = String::from_utf8_lossy(&bytes[..head]).split(' ').nth(1).unwrap_or_default().to_owned();
    let url = reqwest::Url::parse(&format!("http://x{line}")).unwrap();
    let parameters = url.query_pairs().into_owned().collect();
    let body = if length.is_some() { bytes[head..].to_vec() } else { unchunked(&bytes[head..]) };
    let text = (answer.lock())(&Received { parameters, body });
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 4 + size..];
    }
    body
}

fn response(headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

/// What ClickHouse would answer.
fn genuine(received: &Received, written: usize, body: &str) -> String {
    let summary = format!(r#"{{"read_rows":"0","written_rows":"{written}"}}"#);
    response(&[("X-ClickHouse-Query-Id", received.parameter("query_id")), ("X-ClickHouse-Summary", &summary)], body)
}

const PAGE: &str = "<html>maintenance</html>";

/// What a start finds at a table that promises everything.
pub(super) fn inspection() -> Inspection {
    Inspection {
        table: Table::new("d", "t"),
        version: "26.7".into(),
        guarantee: Guarantee::ExactlyOnce,
        reasons: Vec::new(),
        fixes: Vec::new(),
        problems: Vec::new(),
        fit: Default::default(),
        settings: Default::default(),
        replicas: false,
        uncountable: None,
        unknown_start: None,
        repeatable: false,
        applied: None,
        views: 0,
        window: 10_000,
        window_seconds: u64::MAX,
    }
}

fn outcome(target: &mut dyn Target) -> Progress {
    loop {
        match target.progress(Duration::from_millis(100)) {
            Progress::Working => {}
            progress => return progress,
        }
    }
}

#[test]
fn an_answer_that_is_not_clickhouses_proves_nothing() {
    let exception = "Code: 241. DB::Exception: Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED) (version 26.7.1.1))\n";
    let short = r#"{"meta":[],"data":[["0","0"]],"rows":1"#;
    type Hostile = Box<dyn Fn(&Received) -> String + Send>;
    let answers: Vec<(&str, Hostile)> = vec![
        ("a page", Box::new(|_| response(&[("content-type", "text/html")], PAGE))),
        ("nothing", Box::new(|_| response(&[], ""))),
        ("a JSON document", Box::new(|_| response(&[], r#"{"status":"ok"}"#))),
        ("lines of JSON", Box::new(|_| response(&[], "[\"10\",\"10\"]\n"))),
        ("a page with the id", Box::new(|r| genuine(r, 10, PAGE))),
        ("another query's answer", Box::new(|_| response(&[("X-ClickHouse-Query-Id", "other"), ("X-ClickHouse-Summary", "{}")], ""))),
        ("an exception in the body", Box::new(move |r| genuine(r, 10, exception))),
        ("a cut body", Box::new(move |r| genuine(r, 10, short).replace("content-length: ", "content-length: 9"))),
        ("a body that ends early", Box::new(move |r| genuine(r, 10, short))),
        ("an error page", Box::new(|_| response(&[], "Error code: 27").replace("200 OK", "502 Bad Gateway"))),
    ];
    let runtime = Runtime::new().unwrap();
    let mut believed = Vec::new();
    for (what, hostile) in answers {
        let connection = Connection::new(Config::new(serve(&runtime, hostile))).unwrap();
        let mut target = ClickHouse::new(connection.clone(), &inspection(), runtime.handle().clone());
        target.start(&contract::block(0, 0, 0..10, None).unwrap());
        match outcome(&mut target) {
            Progress::Unknown(why) => println!("{what}: {why}"),
            other => believed.push(format!("{what}: the insert is {other:?}")),
        }
        let rows = runtime.block_on(connection.rows("SELECT 1"));
        if !matches!(rows, Err(ClickHouseError::Lost(_) | ClickHouseError::Unexpected(_))) {
            believed.push(format!("{what}: the query gives {rows:?}"));
        }
        // The body of a statement without a result proves nothing: the table is checked afterwards.
        if !what.contains("body") && !what.contains("with the id") && runtime.block_on(connection.execute("CREATE DATABASE d")).is_ok() {
            believed.push(format!("{what}: the statement is done"));
        }
    }
    assert!(believed.is_empty(), "{}", believed.join("\n"));
    // Fewer rows than were sent: the proxy has lost the body.
    let connection = Connection::new(Config::new(serve(&runtime, |r| genuine(r, 9, "")))).unwrap();
    let mut target = ClickHouse::new(connection, &inspection(), runtime.handle().clone());
    target.start(&contract::block(0, 0, 0..10, None).unwrap());
    assert!(matches!(outcome(&mut target), Progress::Unknown(_)));
}

#[test]
fn no_row_is_lost_behind_a_proxy_that_answers_for_the_server() {
    let runtime = Runtime::new().unwrap();
    let stored: Arc<Mutex<BTreeMap<String, Vec<i64>>>> = Arc::default();
    let (taken, mut inserts) = (stored.clone(), 0);
    let url = serve(&runtime, move |received| {
        let statement = received.statement();
        if !statement.starts_with("INSERT") {
            let data = r#"{"meta":[],"data":[["0","0"]],"rows":1}"#;
            let lines = "[\"0\",\"0\"]\n";
            return genuine(received, 0, if received.parameter("default_format") == "JSONCompactStrings" { data } else { lines });
        }
        inserts += 1;
        if inserts % 3 != 0 {
            return response(&[("content-type", "text/html")], PAGE);
        }
        let rows = decode_batch(&received.body).unwrap();
        let ids = rows.column_by_name("id").unwrap().as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec();
        taken.lock().insert(received.parameter("insert_deduplication_token").to_owned(), ids);
        genuine(received, rows.num_rows(), "")
    });
    let broker = MemoryBroker::realtime();
    broker.create_topic("outbox", 1);
    for n in 0..20i64 {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(n * 10..n * 10 + 10));
        let value = encode_batch(&RecordBatch::try_from_iter([("id", ids)]).unwrap()).unwrap();
        broker.append("outbox", 0, None, Some(&value), None, &[]).unwrap();
    }
    let mut settings = Settings::new("p", "s", "outbox", "g", "lane");
    settings.limits = Limits { rows: 20, flush: 1, ..settings.limits };
    settings.backoff = (1, 10);
    let connection = Connection::new(Config::new(url)).unwrap();
    let target = ClickHouse::new(connection, &inspection(), runtime.handle().clone());
    let mut delivery = Delivery::new(Arc::new(broker.clone()), Arc::new(SystemClock::default()), Box::new(target), settings).unwrap();
    let settled =
        || broker.group_offsets("g").get(&TopicPartition::new("outbox", 0)).is_some_and(|c| c.offset == 20 && c.metadata == CLEAN);
    while !settled() {
        delivery.step(Duration::from_millis(5)).unwrap();
    }
    let ids: Vec<i64> = stored.lock().values().flatten().copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    assert_eq!(ids.len(), 200, "rows in the table; {} counted as delivered", delivery.counters().rows());
}

#[test]
fn a_lagging_replica_does_not_count() {
    let runtime = Runtime::new().unwrap();
    // What the replicas answer: which one and whether it has all, which one counts.
    let script: Arc<Mutex<Vec<(&str, &str, &str)>>> = Arc::new(Mutex::new(vec![("a", "1", "a"), ("a", "1", "b"), ("a", "0", "a")]));
    let answers = script.clone();
    let url = serve(&runtime, move |received| {
        let mut script = answers.lock();
        let (first, whole, second) = *script.last().unwrap();
        let row = if received.statement().contains("system.replicas") {
            format!(r#"["{first}","{whole}"]"#)
        } else {
            script.pop();
            format!(r#"["0","0","{second}"]"#)
        };
        if whole == "0" && script.len() == 3 {
            script.pop();
        }
        genuine(received, 0, &format!(r#"{{"meta":[],"data":[{row}],"rows":1}}"#))
    });
    let connection = Connection::new(Config::new(url)).unwrap();
    let mut target = ClickHouse::new(connection, &Inspection { replicas: true, ..inspection() }, runtime.handle().clone());
    let mut ask = || {
        target.ask(&Range::all("t".into(), 0));
        outcome(&mut target)
    };
    assert!(matches!(ask(), Progress::Unavailable(why) if why.contains("lags behind")));
    assert!(matches!(ask(), Progress::Unavailable(why) if why.contains("another replica counted")));
    assert_eq!(ask(), Progress::Answered(Answer::Counted { rows: 0, distinct: 0 }));
}

/// An enumeration got a member while the worker ran: rows are judged by the columns of the present.
#[test]
fn a_column_that_was_altered_blames_no_row() {
    let runtime = Runtime::new().unwrap();
    let column = |native: &str| Column { name: "state".into(), native: native.into(), kind: String::new() };
    let now = Arc::new(Mutex::new("Enum8('new' = 1)"));
    let served = now.clone();
    let url = serve(&runtime, move |received| match received.statement() {
        insert if insert.starts_with("INSERT") => genuine(received, 1, ""),
        columns if columns.contains("system.columns") => {
            genuine(received, 0, &format!(r#"{{"meta":[],"data":[["state","{}","",""]],"rows":1}}"#, served.lock()))
        }
        other => panic!("{other}"),
    });
    let connection = Connection::new(Config::new(url)).unwrap();
    let fit = Fit::new(&[column(*now.lock())]);
    let mut target = ClickHouse::new(connection, &Inspection { fit, ..inspection() }, runtime.handle().clone());
    let block = contract::block(0, 0, 0..1, None).unwrap();
    let states: ArrayRef = Arc::new(StringArray::from(vec!["paid"]));
    let block = Block { rows: RecordBatch::try_from_iter([("state", states)]).unwrap(), ..block };
    let mut attempt = || {
        target.start(&block);
        outcome(&mut target)
    };
    assert!(matches!(attempt(), Progress::Unfit(why) if why.contains("`state`")));
    *now.lock() = "Enum8('new' = 1, 'paid' = 2)";
    assert!(matches!(attempt(), Progress::Unavailable(why) if why.contains("columns")));
    assert_eq!(attempt(), Progress::Inserted);
}

/// A block was sent in two parts, of which the second was lost. Then the table was altered, and it goes in one.
#[test]
fn a_block_is_not_taken_for_its_part_from_before_the_table_was_altered() {
    let runtime = Runtime::new().unwrap();
    let stored: Arc<Mutex<BTreeMap<String, Vec<i64>>>> = Arc::default();
    let (taken, mut inserts) = (stored.clone(), 0);
    let url = serve(&runtime, move |received| {
        inserts += 1;
        if inserts == 2 {
            return response(&[("content-type", "text/html")], PAGE);
        }
        let rows = decode_batch(&received.body).unwrap();
        let ids = rows.column_by_name("id").unwrap().as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec();
        taken.lock().entry(received.parameter("insert_deduplication_token").to_owned()).or_insert(ids);
        genuine(received, rows.num_rows(), "")
    });
    let applied = Applied::Versions { key: vec!["id".into()], version: "_version".into(), deleted: "_deleted".into() };
    // The old amount of 2 does not fit at first.
    let block = contract::changes_block(0, 0, &[(1, 10, 1), (2, 1_000, -1)]).unwrap();
    let attempt = |native: &str| {
        let fit = Fit::new(&[Column { name: "amount".into(), native: native.into(), kind: String::new() }]);
        let inspection = Inspection { fit, applied: Some(applied.clone()), ..inspection() };
        let mut target = ClickHouse::new(Connection::new(Config::new(url.clone())).unwrap(), &inspection, runtime.handle().clone());
        target.start(&block);
        outcome(&mut target)
    };
    assert!(matches!(attempt("UInt8"), Progress::Unknown(_)));
    assert_eq!(attempt("Int64"), Progress::Inserted);
    assert!(stored.lock().values().flatten().any(|id| *id == 2), "the row that goes: {stored:?}");
}

/// The server takes an insert and never answers: a worker that is told to stop does not wait for it. What may be in the table is
/// in the stored intent.
#[test]
fn a_stop_does_not_wait_for_a_server_that_hangs() {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let broker = MemoryBroker::realtime();
    broker.create_topic("outbox", 1);
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
    let value = encode_batch(&RecordBatch::try_from_iter([("id", ids)]).unwrap()).unwrap();
    broker.append("outbox", 0, None, Some(&value), None, &[]).unwrap();
    let mut settings = Settings::new("p", "s", "outbox", "g", "lane");
    settings.limits = Limits { flush: 1, ..settings.limits };
    // Nothing is asked of such a table before the first insert.
    let inspection = Inspection { repeatable: true, ..inspection() };
    let target = ClickHouse::new(Connection::new(Config::new(url)).unwrap(), &inspection, runtime.handle().clone());
    let mut delivery = Delivery::new(Arc::new(broker.clone()), Arc::new(SystemClock::default()), Box::new(target), settings).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (done, ended) = std::sync::mpsc::channel();
    let stopping = stop.clone();
    std::thread::spawn(move || done.send(delivery.run(&stopping).map_err(|e| e.to_string())));
    // The insert is under way.
    let _held = runtime.block_on(listener.accept()).unwrap();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    ended.recv_timeout(Duration::from_secs(20)).expect("the delivery ends while the server still has the insert").unwrap();
    let stored = broker.group_offsets("g").remove(&TopicPartition::new("outbox", 0)).unwrap();
    assert!(stored.offset == 0 && stored.metadata != CLEAN, "{stored:?}");
}
