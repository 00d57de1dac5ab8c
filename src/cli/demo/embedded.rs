//! The demo without Java: the same pipelines over the in-memory broker, with counters instead of ClickHouse.
//!
//! Nothing is written anywhere, and topics keep only their latest records, so it can run for a long time.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int32Type, Int64Type, TimestampMillisecondType};
use headwater_engine::broker::Broker;
use headwater_engine::delivery::{Answer, Block, Progress as Delivered, Range, Store, Target};
use headwater_engine::plan::Registered;
use headwater_engine::schemas::{Lookup, MemorySchemas};
use headwater_engine::sim::MemoryBroker;
use headwater_engine::worker::Stop;
use headwater_generate::{AvroEncoder, Event, GenerateError, Limit, Model, Options, Progress, SchemaIds, Topic, Totals};
use parking_lot::Mutex;

use super::{DemoArgs, Generated, Ground, Held, LoadThread, OUT_OF_ORDER_MS};
use crate::config::Config;
use crate::diagnose::Problem;
use crate::observe::outages::Outages;
use crate::pipeline_files::catalog::Subjects;
use crate::worker::run::{self, Prepared, Running, Services};

const PARTITIONS: i32 = 6;
/// Records kept per partition.
const KEPT: usize = 100_000;

pub(super) struct Embedded {
    broker: MemoryBroker,
    ids: SchemaIds,
    services: Services,
    config: Config,
    tally: Arc<Mutex<Tally>>,
}

/// A registry in memory: subjects, and what the lanes ask for.
struct MemorySubjects {
    schemas: Arc<MemorySchemas>,
    known: Mutex<(u32, BTreeMap<String, Registered>)>,
}

impl Subjects for MemorySubjects {
    fn latest(&self, subject: &str) -> Result<Option<Registered>, String> {
        Ok(self.known.lock().1.get(subject).cloned())
    }

    fn register(&self, subject: &str, text: &str) -> Result<u32, String> {
        let mut known = self.known.lock();
        if let Some(found) = known.1.get(subject).filter(|found| found.text == text) {
            return Ok(found.id);
        }
        known.0 += 1;
        let id = known.0;
        known.1.insert(subject.to_string(), Registered { id, text: text.to_string(), json: false });
        self.schemas.set(id, Lookup::Known(text.into()));
        Ok(id)
    }
}

impl Embedded {
    pub(super) fn new(args: &DemoArgs, runtime: &tokio::runtime::Handle) -> Result<Embedded, Problem> {
        let broker = MemoryBroker::realtime();
        let schemas = Arc::new(MemorySchemas::default());
        let subjects = Arc::new(MemorySubjects { schemas: schemas.clone(), known: Mutex::default() });
        let mut ids = SchemaIds::new();
        for topic in Topic::ALL {
            let registered = topic.schemas().iter().map(|text| subjects.register(&topic.subject(), text));
            ids.insert(topic, registered.collect::<Result<_, _>>().map_err(Problem::plain)?);
            match topic.is_table() {
                true => broker.create_topic_with(topic.name(), PARTITIONS, &[("cleanup.policy", "compact")]),
                false => broker.create_topic(topic.name(), PARTITIONS),
            }
            if !topic.is_table() {
                broker.retain(topic.name(), KEPT);
            }
        }
        let mut config = Config::default();
        config.worker.lanes = 1;
        config.worker.state_dir = args.dir.join("state");
        config.worker.http = Some("127.0.0.1:0".into());
        let services = Services {
            broker: Arc::new(broker.clone()),
            kafka: None,
            subjects,
            schemas,
            runtime: runtime.clone(),
            outages: Outages::default(),
        };
        Ok(Embedded { broker, ids, services, config, tally: Arc::default() })
    }
}

impl Ground for Embedded {
    fn services(&self) -> &Services {
        &self.services
    }

    fn load(&self, rate: f64, generated: &Arc<Generated>) -> Result<LoadThread, Problem> {
        let encoder = AvroEncoder::new(&self.ids).map_err(|e| Problem::plain(e.to_string()))?;
        let broker = self.broker.clone();
        let options = Options {
            products: 200,
            customers: 2_000,
            v2_share: 0.3,
            event_rate: rate,
            limit: Limit::Endless,
            out_of_order_ms: OUT_OF_ORDER_MS,
            ..Options::default()
        };
        generated.spawn(move |generated| generate(&broker, &encoder, options, generated))
    }

    fn start(&self, prepared: &Prepared) -> Result<Running, Problem> {
        for output in prepared.plan.stages.iter().flat_map(|s| &s.outputs) {
            if let headwater_engine::plan::Target::Topic(sink) = &output.target
                && let headwater_engine::plan::TopicName::Fixed(topic) = &sink.topic
            {
                self.broker.retain(topic, KEPT);
            }
        }
        let services = &prepared.services;
        let pages = run::open_pages(&self.config, &prepared.plan.pipeline, &services.outages, &services.runtime)?;
        let running = run::start_with(prepared, &self.config, Stop::default(), &pages, &|output, _| {
            let (tally, name) = (self.tally.clone(), output.name.clone());
            Ok(Box::new(move |_: &Stop| Ok(Store::Tokens(Box::new(Counting { tally: tally.clone(), sink: name.clone(), outcome: None })))))
        });
        let _ = std::fs::remove_dir_all(&self.config.worker.state_dir);
        running
    }

    fn held(&self) -> Held {
        let tally = self.tally.lock();
        let latest = tally.windows.keys().next_back().map(|(start, _)| *start);
        let mut windows: Vec<_> = tally.windows.iter().filter(|((start, _), _)| Some(*start) == latest).collect();
        windows.sort_by_key(|(_, (_, _, revenue))| std::cmp::Reverse(*revenue));
        let shown = windows.iter().take(6).map(|((start, category), (orders, items, revenue))| {
            let time = chrono::DateTime::from_timestamp_millis(*start).unwrap_or_default().format("%H:%M:%S");
            format!("{time}  {category:<14} {orders:>6} orders {items:>7} items {:>14.2}", *revenue as f64 / 100.0)
        });
        Held {
            items: tally.items as f64,
            revenue: tally.cents as f64 / 100.0,
            audited: tally.audited as f64,
            positions: tally.positions.len() as f64,
            windows: shown.collect(),
        }
    }

    fn tables(&self) -> &'static str {
        "tally"
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Appends events when their time has come, tables first.
fn generate(broker: &MemoryBroker, encoder: &AvroEncoder, options: Options, generated: &Generated) -> Result<Totals, GenerateError> {
    let mut model = Model::new(Options { start_ms: now(), ..options });
    let (mut sent, mut started, mut live) = (0u64, Instant::now(), false);
    while !generated.stop.load(Ordering::Relaxed) {
        if !live && model.tables_done() {
            live = true;
            generated.tables_written();
            if generated.stop.load(Ordering::Relaxed) {
                break;
            }
            started = Instant::now();
            model.start_at(now());
        }
        let Some(event) = model.next() else { break };
        // The event counts already, so it is sent even if the end comes while it waits for its time.
        while live && event.timestamp_ms > now() && !generated.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
        }
        append(broker, encoder, &event)?;
        sent += 1;
        if sent.is_multiple_of(100) {
            let rate = sent as f64 / started.elapsed().as_secs_f64().max(0.001);
            let progress = Progress {
                records: sent,
                acknowledged: sent,
                rate,
                time_ms: event.timestamp_ms,
                behind: Duration::ZERO,
                so_far: model.totals().so_far(),
            };
            *generated.progress.lock() = Some(progress);
        }
    }
    Ok(model.into_totals())
}

fn append(broker: &MemoryBroker, encoder: &AvroEncoder, event: &Event) -> Result<(), GenerateError> {
    let (key, value) = (event.key(), encoder.encode(event)?);
    let mut headers = Vec::new();
    if let Some(h) = event.headers() {
        headers.push((b"correlation-id".to_vec(), Some(h.correlation_id.to_string().into_bytes())));
        headers.push((b"traceparent".to_vec(), Some(h.traceparent.into_bytes())));
    }
    let topic = event.topic().name();
    let partitions = broker.partitions(topic).ok().flatten().unwrap_or(PARTITIONS);
    let partition = headwater_formats::partition(key.as_bytes(), partitions);
    // The only errors are a missing topic or partition, which were made above.
    let _ = broker.append(topic, partition, Some(key.as_bytes()), Some(&value), Some(event.timestamp_ms), &headers);
    Ok(())
}

/// What a table would hold, added up.
#[derive(Default)]
struct Tally {
    items: i64,
    cents: i128,
    audited: u64,
    positions: HashSet<(i32, i64, i32)>,
    windows: BTreeMap<(i64, String), (i64, i64, i128)>,
}

/// A target that adds rows up.
struct Counting {
    tally: Arc<Mutex<Tally>>,
    sink: String,
    outcome: Option<Delivered>,
}

impl Target for Counting {
    fn start(&mut self, block: &Block) {
        let mut tally = self.tally.lock();
        match self.sink.as_str() {
            "revenue_table" => tally.revenue(&block.rows),
            "audit_table" => tally.audit(&block.rows),
            _ => {}
        }
        self.outcome = Some(Delivered::Inserted);
    }

    fn ask(&mut self, _: &Range) {
        self.outcome = Some(Delivered::Answered(Answer::Uncountable("counters keep no rows".into())));
    }

    fn progress(&mut self, _: Duration) -> Delivered {
        self.outcome.take().unwrap_or(Delivered::Idle)
    }

    fn abandon(&mut self) {
        self.outcome = None;
    }

    fn settings(&self) -> u32 {
        1
    }

    fn max_insert(&self) -> i64 {
        0
    }
}

impl Tally {
    fn revenue(&mut self, rows: &RecordBatch) {
        let column = |name: &str| rows.column_by_name(name);
        let (Some(starts), Some(categories), Some(orders), Some(items), Some(revenue)) =
            (column("window_start"), column("category"), column("orders"), column("quantity"), column("revenue"))
        else {
            return;
        };
        let scale = match revenue.data_type() {
            arrow::datatypes::DataType::Decimal128(_, scale) => i32::from(*scale),
            _ => return,
        };
        let (starts, categories) = (starts.as_primitive::<TimestampMillisecondType>(), categories.as_string::<i32>());
        let (orders, items, revenue) =
            (orders.as_primitive::<Int64Type>(), items.as_primitive::<Int64Type>(), revenue.as_primitive::<Decimal128Type>());
        for row in 0..rows.num_rows() {
            let cents = revenue.value(row) * 100 / 10i128.pow(scale.max(0) as u32);
            self.items += items.value(row);
            self.cents += cents;
            let category = if categories.is_null(row) { "" } else { categories.value(row) };
            let cell = self.windows.entry((starts.value(row), category.to_string())).or_default();
            cell.0 += orders.value(row);
            cell.1 += items.value(row);
            cell.2 += cents;
        }
        while self.windows.len() > 1_000 {
            self.windows.pop_first();
        }
    }

    fn audit(&mut self, rows: &RecordBatch) {
        let column = |name: &str| -> Option<&ArrayRef> { rows.column_by_name(name) };
        let (Some(partitions), Some(offsets), Some(places)) = (column("_partition"), column("_offset"), column("_row")) else { return };
        let (partitions, offsets, places) =
            (partitions.as_primitive::<Int32Type>(), offsets.as_primitive::<Int64Type>(), places.as_primitive::<Int32Type>());
        for row in 0..rows.num_rows() {
            self.audited += 1;
            self.positions.insert((partitions.value(row), offsets.value(row), places.value(row)));
        }
    }
}
