//! The numbers of [`headwater_engine::stats`] in the Prometheus text format.

use std::collections::BTreeMap;

use headwater_engine::broker::TopicPartition;
use headwater_engine::plan::InputKind;
use headwater_engine::stats::{Cause, Histogram, LATENCY_BUCKETS, Snapshot};
use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::families::{self as of, Family, Kind};
use super::{Pages, Shown, process};

/// The families that are served.
struct Families {
    pipeline: String,
    families: Vec<MetricFamily>,
}

impl Families {
    fn add(&mut self, family: &Family, labels: &[&str], fill: impl FnOnce(&mut Metric)) {
        let mut metric = Metric::default();
        let own = [("pipeline", self.pipeline.as_str())].into_iter();
        let pairs = own.chain(family.labels.iter().copied().zip(labels.iter().copied())).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_string());
            pair.set_value(value.to_string());
            pair
        });
        metric.set_label(pairs.collect());
        fill(&mut metric);
        let at = self.families.iter().position(|f| f.name() == family.name).unwrap_or_else(|| {
            let mut new = MetricFamily::default();
            new.set_name(family.name.to_string());
            new.set_help(family.help.to_string());
            new.set_field_type(match family.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            self.families.push(new);
            self.families.len() - 1
        });
        self.families[at].mut_metric().push(metric);
    }

    /// A series of a counter or gauge; `labels` are the values of the family's labels, in order.
    fn set(&mut self, family: &Family, labels: &[&str], value: f64) {
        self.add(family, labels, |metric| match family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        });
    }

    fn histogram(&mut self, family: &Family, h: &Histogram) {
        let mut histogram = prometheus::proto::Histogram::default();
        let mut below = 0;
        let buckets = LATENCY_BUCKETS.iter().zip(h.buckets).map(|(bound, n)| {
            below += n;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound / 1_000.0);
            bucket.set_cumulative_count(below);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(h.count);
        histogram.set_sample_sum(h.sum / 1_000.0);
        self.add(family, &[], |metric| metric.set_histogram(histogram));
    }
}

/// All metrics of a worker.
pub fn render(pages: &Pages) -> Result<String, String> {
    let mut f = Families { pipeline: pages.pipeline.clone(), families: Vec::new() };
    f.set(&of::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    for (family, value) in process::numbers() {
        f.set(&family, &[], value);
    }
    for seen in pages.outages.seen() {
        if let Some(up) = seen.up {
            f.set(&of::SERVICE_UP, &[&seen.service, &seen.sink], flag(up));
        }
    }
    if let Some(shown) = pages.shown() {
        let s = from_the_start(shown);
        lanes(&mut f, &s, pages.lanes);
        positions(&mut f, &s);
        rows(&mut f, &s);
        state(&mut f, &s);
        tables(&mut f, shown);
        deliveries(&mut f, shown);
    }
    let mut out = Vec::new();
    TextEncoder::new().encode(&f.families, &mut out).map_err(|e| e.to_string())?;
    String::from_utf8(out).map_err(|e| e.to_string())
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// The numbers with 0 for what has not happened yet: an alert on growth misses the first event of a series that begins with it.
fn from_the_start(shown: &Shown) -> Snapshot {
    let mut s = shown.stats.snapshot();
    for (index, partition) in s.tasks.values().flatten().copied().collect::<Vec<_>>() {
        let Some(stage) = shown.plan.stages.get(index) else { continue };
        for input in stage.inputs.iter().filter(|input| matches!(input.kind, InputKind::Source(_))) {
            for topic in input.topics.iter().filter(|topic| partition < topic.partitions) {
                s.sources.entry(TopicPartition::new(topic.name.clone(), partition)).or_default();
            }
        }
        for node in &stage.nodes {
            s.steps.entry((node.step.as_str().into(), partition)).or_default();
            if node.changelog.is_some() {
                s.state.entry((index, partition, node.step.as_str().into())).or_default();
            }
        }
    }
    for stage in &shown.plan.stages {
        for input in stage.inputs.iter().filter(|input| matches!(input.kind, InputKind::Source(_))) {
            s.dead_letters.entry((input.name.clone(), Cause::Undecodable)).or_default();
            for topic in &input.topics {
                s.grown.entry(topic.name.clone()).or_default();
            }
        }
        for node in &stage.nodes {
            s.dead_letters.entry((node.step.clone(), Cause::Rejected)).or_default();
            for port in node.planned.outputs.iter().filter(|port| !port.name.is_empty()) {
                s.ports.entry((node.step.as_str().into(), port.name.clone())).or_default();
            }
        }
        for output in &stage.outputs {
            s.dead_letters.entry((output.name.clone(), Cause::Unwritable)).or_default();
            s.outputs.entry(output.counted_as().to_string()).or_default();
        }
    }
    s
}

/// Assignments, commits, and how long they take.
fn lanes(f: &mut Families, s: &Snapshot, lanes: usize) {
    for lane in 0..lanes {
        f.set(&of::ASSIGNED, &[&lane.to_string()], s.tasks.get(&lane).map_or(0, Vec::len) as f64);
    }
    f.set(&of::REBALANCES, &[], s.rebalances as f64);
    f.set(&of::LANE_RESTARTS, &[], s.restarts as f64);
    f.set(&of::EPOCHS, &[], s.epochs as f64);
    let failed = &s.commit_failures;
    for (outcome, n) in [("aborted", failed.aborted), ("fenced", failed.fenced), ("unknown", failed.unknown)] {
        f.set(&of::COMMIT_FAILURES, &[outcome], n as f64);
    }
    f.set(&of::REWINDS, &[], s.rewinds as f64);
    f.set(&of::LAST_COMMIT, &[], s.last_commit.unwrap_or(0) as f64 / 1_000.0);
    f.histogram(&of::EPOCH, &s.epoch_latency);
    f.histogram(&of::COMMIT, &s.commit_latency);
    f.histogram(&of::END_TO_END, &s.end_to_end);
}

/// Where the inputs are read, and what holds them up.
fn positions(f: &mut Families, s: &Snapshot) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    for (tp, p) in &s.partitions {
        let partition = tp.partition.to_string();
        let labels = [tp.topic.as_ref(), partition.as_str()];
        let lag = (p.end - p.position).max(0);
        f.set(&of::LAG_RECORDS, &labels, lag as f64);
        if let Some(w) = p.watermark.filter(|w| *w > 0) {
            f.set(&of::WATERMARK, &labels, w as f64 / 1_000.0);
            let behind = if lag == 0 { 0.0 } else { (now - w as f64 / 1_000.0).max(0.0) };
            f.set(&of::LAG_SECONDS, &labels, behind);
        }
    }
    for (tp, held) in &s.held {
        f.set(&of::WATERMARK_HELD, &[&tp.topic, &tp.partition.to_string(), held.reason()], 1.0);
    }
    f.set(&of::WAITING, &[], s.waiting.len() as f64);
    for (topic, (planned, found)) in &s.grown {
        f.set(&of::UNREAD, &[topic], f64::from(found - planned));
    }
}

/// What became of records and rows.
fn rows(f: &mut Families, s: &Snapshot) {
    for (tp, c) in &s.sources {
        let partition = tp.partition.to_string();
        // Of a change record there are two rows.
        let whole = c.records.saturating_sub(c.skipped + c.dead);
        for (result, n) in [("row", whole), ("skipped", c.skipped), ("dead_lettered", c.dead)] {
            f.set(&of::SOURCE_RECORDS, &[&tp.topic, &partition, result], n as f64);
        }
        f.set(&of::WRONG_UNIT, &[&tp.topic, &partition], c.wrong_unit as f64);
    }
    for ((step, partition), (rows, ledger)) in &s.steps {
        let partition = partition.to_string();
        f.set(&of::STEP_ROWS_IN, &[step, &partition], *rows as f64);
        for (result, n) in [("passed", ledger.passed), ("filtered", ledger.filtered), ("late", ledger.late), ("rejected", ledger.rejected)]
        {
            f.set(&of::STEP_ROWS, &[step, &partition, result], n as f64);
        }
        f.set(&of::STEP_ROWS_HELD, &[step, &partition], ledger.held as f64);
    }
    for ((step, port), rows) in &s.ports {
        f.set(&of::STEP_PORT_ROWS, &[step, port], *rows as f64);
    }
    for (output, written) in &s.outputs {
        f.set(&of::OUTPUT_ROWS, &[output], written.rows as f64);
        f.set(&of::OUTPUT_RECORDS, &[output], written.records as f64);
        f.set(&of::OUTPUT_BYTES, &[output], written.bytes as f64);
        f.set(&of::OUTPUT_REFUSED, &[output], written.refused as f64);
    }
    for ((step, cause), n) in &s.dead_letters {
        let cause = match cause {
            Cause::Undecodable => "undecodable",
            Cause::Rejected => "rejected",
            Cause::Unwritable => "unwritable",
        };
        f.set(&of::DEAD_LETTERS, &[step, cause], *n as f64);
    }
}

/// What steps keep, and whether it is kept on disk, too.
fn state(f: &mut Families, s: &Snapshot) {
    let mut steps: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for ((_, _, step), (entries, bytes)) in &s.state {
        let total = steps.entry(step).or_default();
        (total.0, total.1) = (total.0 + entries, total.1 + bytes);
    }
    for (step, (entries, bytes)) in steps {
        f.set(&of::STATE_ENTRIES, &[step], entries as f64);
        f.set(&of::STATE_BYTES, &[step], bytes as f64);
    }
    f.set(&of::UNWRITTEN, &[], s.unwritten.len() as f64);
    f.set(&of::CHECKPOINT_FAILURES, &[], s.checkpoint_failures as f64);
    f.set(&of::CHECKPOINTED, &[], s.checkpointed.unwrap_or(0) as f64 / 1_000.0);
    let (left, total) = s.restoring.values().fold((0, 0), |(left, total), (l, t)| (left + l, total + t));
    f.set(&of::RESTORE_LEFT, &[], left as f64);
    f.set(&of::RESTORE, &[], total as f64);
}

fn tables(f: &mut Families, shown: &Shown) {
    let (bad, other_bytes) = (shown.tables.bad_records(), shown.tables.keys_in_other_bytes());
    for (table, rows) in shown.tables.sizes() {
        f.set(&of::TABLE_ROWS, &[&table], rows as f64);
        f.set(&of::TABLE_BAD, &[&table], bad.get(&table).copied().unwrap_or(0) as f64);
        f.set(&of::TABLE_OTHER_BYTES, &[&table], other_bytes.get(&table).copied().unwrap_or(0) as f64);
    }
}

fn deliveries(f: &mut Families, shown: &Shown) {
    for (sink, counters) in &shown.deliveries {
        let sink = [sink.as_str()];
        f.set(&of::DELIVERY_ROWS, &sink, counters.rows() as f64);
        f.set(&of::DELIVERY_BLOCKS, &sink, counters.blocks() as f64);
        f.set(&of::DELIVERY_RETRIES, &sink, counters.retries() as f64);
        f.set(&of::DELIVERY_REFUSED, &sink, counters.refused() as f64);
        f.set(&of::DELIVERY_STOPPED, &sink, flag(counters.stopped().is_some()));
        f.set(&of::DELIVERY_LAG, &sink, counters.lag() as f64);
        f.set(&of::DELIVERY_BUFFERED, &sink, counters.buffered() as f64);
    }
}
