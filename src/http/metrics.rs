//! The numbers of [`headwater_engine::stats`] in the Prometheus text format.

use std::collections::BTreeMap;

use headwater_engine::stats::{Histogram, LATENCY_BUCKETS, Snapshot};
use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::{Pages, Shown};

struct Families {
    pipeline: String,
    families: Vec<MetricFamily>,
}

impl Families {
    fn family(&mut self, name: &str, help: &str, kind: MetricType) -> &mut MetricFamily {
        let at = self.families.iter().position(|f| f.name() == name).unwrap_or_else(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_string());
            family.set_help(help.to_string());
            family.set_field_type(kind);
            self.families.push(family);
            self.families.len() - 1
        });
        &mut self.families[at]
    }

    fn metric(&self, labels: &[(&str, &str)]) -> Metric {
        let mut metric = Metric::default();
        let own = [("pipeline", self.pipeline.as_str())];
        let pairs = own.iter().chain(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_string());
            pair.set_value(value.to_string());
            pair
        });
        metric.set_label(pairs.collect());
        metric
    }

    fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut metric = self.metric(labels);
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
        self.family(name, help, MetricType::COUNTER).mut_metric().push(metric);
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut metric = self.metric(labels);
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
        self.family(name, help, MetricType::GAUGE).mut_metric().push(metric);
    }

    fn histogram(&mut self, name: &str, help: &str, h: &Histogram) {
        let mut metric = self.metric(&[]);
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
        metric.set_histogram(histogram);
        self.family(name, help, MetricType::HISTOGRAM).mut_metric().push(metric);
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
        let labels = [("step", step)];
        f.gauge("headwater_state_entries", "Committed entries in the state of a step, of this worker's tasks.", &labels, entries as f64);
        f.gauge("headwater_state_bytes", "Bytes of their keys and values; memory needs about twice as much.", &labels, bytes as f64);
    }
    let help = "Local checkpoints that can't be written: a restart reads the whole changelog instead.";
    f.gauge("headwater_checkpoints_unwritten", help, &[], s.unwritten.len() as f64);
    let help = "Attempts to write a local checkpoint that failed.";
    f.counter("headwater_checkpoint_failures_total", help, &[], s.checkpoint_failures as f64);
    if let Some(at) = s.checkpointed {
        let help = "When a local checkpoint was last written.";
        f.gauge("headwater_checkpoint_timestamp_seconds", help, &[], at as f64 / 1_000.0);
    }
}

/// All metrics of a worker.
pub fn render(pages: &Pages) -> Result<String, String> {
    let mut f = Families { pipeline: pages.pipeline.clone(), families: Vec::new() };
    for seen in pages.outages.seen() {
        let help = "1: the service answered the last request; 0: it did not. Absent: it was not asked yet.";
        if let Some(up) = seen.up {
            let labels = [("service", seen.service.as_ref()), ("sink", seen.sink.as_ref())];
            f.gauge("headwater_service_up", help, &labels, f64::from(u8::from(up)));
        }
    }
    if let Some(shown) = pages.shown() {
        running(&mut f, shown);
    }
    let mut out = Vec::new();
    TextEncoder::new().encode(&f.families, &mut out).map_err(|e| e.to_string())?;
    String::from_utf8(out).map_err(|e| e.to_string())
}

/// What a running worker counts.
fn running(f: &mut Families, shown: &Shown) {
    let s = shown.stats.snapshot();
    for (tp, c) in &s.sources {
        let partition = tp.partition.to_string();
        for (result, n) in [("row", c.rows), ("skipped", c.skipped), ("dead_lettered", c.dead)] {
            f.counter(
                "headwater_source_records_total",
                "Committed source records by result.",
                &[("topic", &tp.topic), ("partition", &partition), ("result", result)],
                n as f64,
            );
        }
        f.counter(
            "headwater_source_wrong_unit_total",
            "Committed source records whose event time looks like another unit, seconds for milliseconds.",
            &[("topic", &tp.topic), ("partition", &partition)],
            c.wrong_unit as f64,
        );
    }
    for ((step, partition), (rows, ledger)) in &s.steps {
        let partition = partition.to_string();
        let labels = [("step", step.as_ref()), ("partition", partition.as_str())];
        f.counter("headwater_step_rows_in_total", "Committed input rows of a step.", &labels, *rows as f64);
        for (result, n) in [("passed", ledger.passed), ("filtered", ledger.filtered), ("late", ledger.late), ("rejected", ledger.rejected)]
        {
            f.counter(
                "headwater_step_rows_total",
                "Committed rows of a step by result; in = sum of these + held.",
                &[labels[0], labels[1], ("result", result)],
                n as f64,
            );
        }
        f.gauge(
            "headwater_step_rows_held",
            "Change of rows held in a step's state since this worker started.",
            &labels,
            ledger.held as f64,
        );
    }
    for (output, (rows, records, refused)) in &s.outputs {
        f.counter("headwater_output_rows_total", "Committed rows written to an output.", &[("output", output)], *rows as f64);
        f.counter("headwater_output_records_total", "Committed records written to an output.", &[("output", output)], *records as f64);
        f.counter(
            "headwater_output_refused_rows_total",
            "Rows that an output could not encode and that became dead letters.",
            &[("output", output)],
            *refused as f64,
        );
    }
    for (step, n) in &s.dead_letters {
        f.counter("headwater_dead_letters_total", "Committed dead letters by the step that refused the row.", &[("step", step)], *n as f64);
    }
    f.counter("headwater_epochs_total", "Committed epochs.", &[], s.epochs as f64);
    f.counter("headwater_rewinds_total", "Epochs discarded and processed again.", &[], s.rewinds as f64);
    f.counter(
        "headwater_lane_restarts_total",
        "Lane restarts after a commit that was fenced or whose outcome is unknown.",
        &[],
        s.restarts as f64,
    );
    f.histogram("headwater_epoch_seconds", "From an epoch's first record to its commit.", &s.epoch_latency);
    f.histogram("headwater_commit_seconds", "From the end of an epoch to its commit.", &s.commit_latency);
    f.histogram("headwater_end_to_end_seconds", "From the timestamp of an epoch's oldest record to its commit.", &s.end_to_end);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    for (tp, p) in &s.partitions {
        let partition = tp.partition.to_string();
        let labels = [("topic", tp.topic.as_ref()), ("partition", partition.as_str())];
        let lag = (p.end - p.position).max(0);
        f.gauge("headwater_lag_records", "Records of an input partition that are not committed yet.", &labels, lag as f64);
        if let Some(w) = p.watermark.filter(|w| *w > 0) {
            f.gauge("headwater_watermark_timestamp_seconds", "Committed watermark of an input partition.", &labels, w as f64 / 1_000.0);
            let behind = if lag == 0 { 0.0 } else { (now - w as f64 / 1_000.0).max(0.0) };
            f.gauge(
                "headwater_lag_seconds",
                "How far the event time of an input partition is behind the clock; 0 when everything is read.",
                &labels,
                behind,
            );
        }
    }
    let (left, total) = s.restoring.values().fold((0, 0), |(left, total), (l, t)| (left + l, total + t));
    f.gauge("headwater_restore_records_left", "Changelog records still to be read before all tasks run.", &[], left as f64);
    f.gauge("headwater_restore_records", "Total changelog records of the running restores.", &[], total as f64);
    f.gauge(
        "headwater_partitions_waiting",
        "Input partitions that are waiting, for example for the schema registry.",
        &[],
        s.waiting.len() as f64,
    );
    for (topic, (planned, found)) in &s.grown {
        let help = "Partitions added to a source's topic since the start; they are read after a restart.";
        f.gauge("headwater_source_partitions_unread", help, &[("topic", topic)], f64::from(found - planned));
    }
    for (tp, held) in &s.held {
        let partition = tp.partition.to_string();
        let labels = [("topic", tp.topic.as_ref()), ("partition", partition.as_str()), ("reason", held.reason())];
        f.gauge("headwater_watermark_held", "Silent input partitions whose watermark can't follow the wall clock, and why.", &labels, 1.0);
    }
    state(f, &s);
    for (table, rows) in shown.tables.sizes() {
        f.gauge("headwater_table_rows", "Rows of a table.", &[("table", &table)], rows as f64);
    }
    for (table, bad) in shown.tables.bad_records() {
        let help = "Invalid records of a table's topic (no key, or not decodable), which are skipped.";
        f.counter("headwater_table_bad_records_total", help, &[("table", &table)], bad as f64);
    }
    for (sink, counters) in &shown.deliveries {
        let labels = [("sink", sink.as_str())];
        f.counter("headwater_delivery_rows_total", "Rows confirmed to be in the table.", &labels, counters.rows() as f64);
        f.counter("headwater_delivery_blocks_total", "Blocks inserted.", &labels, counters.blocks() as f64);
        f.counter("headwater_delivery_retries_total", "Insert attempts after the first.", &labels, counters.retries() as f64);
        f.counter(
            "headwater_delivery_refused_rows_total",
            "Rows that the table refused and that became dead letters.",
            &labels,
            counters.refused() as f64,
        );
        let stopped = if counters.stopped().is_some() { 1.0 } else { 0.0 };
        f.gauge("headwater_delivery_stopped", "1 if the sink has stopped; its rows are kept in its outbox topic.", &labels, stopped);
        f.gauge("headwater_delivery_lag_records", "Outbox records not yet in the table.", &labels, counters.lag() as f64);
        f.gauge("headwater_delivery_buffered_rows", "Rows read but not yet inserted.", &labels, counters.buffered() as f64);
    }
}
