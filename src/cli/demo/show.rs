//! What the demo shows every second: a page on a terminal, a row of a table in a file or a pipe.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use headwater_engine::stats::{Histogram, LATENCY_BUCKETS};
use headwater_generate::SoFar;

use super::orders::{Shop, Shown};
use super::{FULFILMENT, Generated, Ground, Held};
use crate::worker::run::Running;

/// In a file or a pipe: the heading comes again after so many rows.
const ROWS_PER_HEADING: usize = 30;
/// And the orders after so many.
const ROWS_PER_ORDERS: usize = 5;
/// How often everything is shown.
const EVERY: Duration = Duration::from_secs(1);

/// Shows what is going on, second by second.
pub(super) struct Display {
    started: Instant,
    /// Records of the generator and of each pipeline at the look before, for rates.
    seen: BTreeMap<String, (u64, Instant)>,
    /// Latencies of each pipeline at the look before, and the 95th percentile of those between two looks.
    latencies: BTreeMap<String, (Histogram, f64)>,
    rows: usize,
    /// When everything is shown next.
    next: Instant,
    /// From the first order to the first totals in the tables.
    first: Option<Duration>,
}

/// Everything at one moment.
struct Look {
    seconds: u64,
    first: Option<Duration>,
    /// Events that the generator sent, and how many per second.
    sent: u64,
    rate: f64,
    so_far: SoFar,
    pipelines: Vec<Line>,
    held: Held,
    /// The place where the tables are.
    tables: &'static str,
    shop: Option<Shown>,
}

/// A pipeline at one moment. Latency in milliseconds, lag in records.
struct Line {
    name: String,
    read: u64,
    rate: f64,
    written: u64,
    lag: i64,
    p95: f64,
    address: String,
}

impl Display {
    pub(super) fn new() -> Display {
        Display { started: Instant::now(), seen: BTreeMap::new(), latencies: BTreeMap::new(), rows: 0, next: Instant::now(), first: None }
    }

    /// Shows everything if it is time to, and the first totals as soon as they are there.
    pub(super) fn show(&mut self, ground: &dyn Ground, running: &[Running], generated: &Generated, shop: Option<&Shop>) {
        let due = Instant::now() >= self.next;
        if !due && self.first.is_some() {
            return;
        }
        let held = ground.held();
        let first = self.first.is_none() && held.items > 0.0;
        if first {
            self.first = generated.since_first_order();
        }
        if !due && !first {
            return;
        }
        self.next = Instant::now() + EVERY;
        let look = Look { shop: shop.map(Shop::shown), ..self.look(held, ground.tables(), running, generated) };
        let mut out = std::io::stdout();
        let text = match out.is_terminal() {
            true => format!("\x1b[H\x1b[J{}", page(&look)),
            false => {
                let heading = if self.rows.is_multiple_of(ROWS_PER_HEADING) { heading(look.tables) } else { String::new() };
                let heading = if self.rows == 0 { format!("{LATENCY}\n{heading}") } else { heading };
                self.rows += 1;
                let first = look.first.filter(|_| first).map_or_else(String::new, |first| first_totals(first) + "\n");
                let shop = look.shop.as_ref().filter(|_| self.rows.is_multiple_of(ROWS_PER_ORDERS));
                let shop = shop.map_or_else(String::new, |shown| format!("{}\n{}\n", orders(shown), stock(shown)));
                heading + &row(&look) + &shop + &first
            }
        };
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }

    fn look(&mut self, held: Held, tables: &'static str, running: &[Running], generated: &Generated) -> Look {
        let progress = *generated.progress.lock();
        let (sent, so_far) = progress.map_or((0, SoFar::default()), |p| (p.acknowledged, p.so_far));
        let rate = self.per_second("generator", sent);
        let pipelines = running.iter().map(|r| self.line(r)).collect();
        Look { seconds: self.started.elapsed().as_secs(), first: self.first, sent, rate, so_far, pipelines, held, tables, shop: None }
    }

    /// The 95th percentile of the commits since the look before, or the last one if there were none. That of the whole run would show
    /// for minutes how long the first commit took.
    fn p95(&mut self, name: &str, latencies: &Histogram) -> f64 {
        let (before, p95) = self.latencies.entry(name.to_string()).or_default();
        let recent = latencies.since(before);
        if recent.count > 0 {
            (*before, *p95) = (latencies.clone(), recent.quantile(0.95));
        }
        *p95
    }

    /// How fast a counter has grown since the look before.
    fn per_second(&mut self, name: &str, count: u64) -> f64 {
        let now = Instant::now();
        let (before, then) = self.seen.insert(name.to_string(), (count, now)).unwrap_or((count, now));
        count.saturating_sub(before) as f64 / (now - then).as_secs_f64().max(0.001)
    }

    fn line(&mut self, running: &Running) -> Line {
        let s = running.shown.stats.snapshot();
        let read: u64 = s.sources.values().map(|c| c.records).sum();
        let name = running.pages.pipeline.clone();
        Line {
            rate: self.per_second(&name, read),
            name,
            read,
            written: s.outputs.values().map(|written| written.rows).sum(),
            lag: s.partitions.values().map(|p| (p.end - p.position).max(0)).sum(),
            p95: self.p95(&running.pages.pipeline, &s.end_to_end),
            address: running.pages.address().map(|a| format!("http://{a}/metrics")).unwrap_or_default(),
        }
    }
}

/// What the column of latencies shows.
const LATENCY: &str = "p95: 95% of the last second's commits came within this time of their oldest record";

/// A latency in milliseconds: above the last bucket only that it is.
fn millis(latency: f64) -> String {
    let last = LATENCY_BUCKETS.last().copied().unwrap_or_default();
    if latency.is_finite() { format!("{latency:.0}") } else { format!(">{last:.0}") }
}

/// How soon the tables had something.
fn first_totals(after: Duration) -> String {
    format!("first totals {:.1} s after the first order", after.as_secs_f64())
}

fn page(look: &Look) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "Headwater demo, {} s. Press Ctrl-C to stop.\n", look.seconds);
    let _ = writeln!(out, "generator          {:>10} events sent, {:.0} per second\n", look.sent, look.rate);
    let _ =
        writeln!(out, "{:<18} {:>10} {:>9} {:>10} {:>9} {:>12}  metrics", "pipeline", "records", "per s", "outputs", "lag", "latency p95");
    for Line { name, read, rate, written, lag, p95, address } in &look.pipelines {
        let _ = writeln!(out, "{name:<18} {read:>10} {rate:>9.0} {written:>10} {lag:>9} {:>9} ms  {address}", millis(*p95));
    }
    let _ = writeln!(out, "{LATENCY}");
    if let Some(shown) = &look.shop {
        let _ = writeln!(out, "\n{}\n{}", orders(shown), stock(shown));
    }
    let first = look.first.map_or_else(String::new, |first| format!("; {}", first_totals(first)));
    let _ = writeln!(out, "\nlatest closed windows ({}){first}", look.tables);
    for window in &look.held.windows {
        let _ = writeln!(out, "  {window}");
    }
    let _ = writeln!(out, "\n{:<28} {:>18} {:>18}", "totals", "generator", look.tables);
    let rows = [
        ("items (closed windows)", look.so_far.quantity as f64, look.held.items, 0),
        ("revenue (closed windows)", revenue(look), look.held.revenue, 2),
        ("events (audit table)", look.so_far.events as f64, look.held.audited, 0),
    ];
    for (what, generator, table, digits) in rows {
        let _ = writeln!(out, "{what:<28} {generator:>18.digits$} {table:>18.digits$}");
    }
    out
}

/// How orders stand.
pub(super) fn orders(shown: &Shown) -> String {
    let now = shown.orders;
    let open = now.placed.saturating_sub(now.confirmed + now.cancelled);
    format!(
        "orders: {} placed, {} confirmed, {} cancelled ({} out of stock, {} declined), {open} open; answers: {} lost, {} doubled",
        now.placed, now.confirmed, now.cancelled, now.out_of_stock, now.declined, shown.lost, shown.doubled
    )
}

/// How the stock stands.
pub(super) fn stock(shown: &Shown) -> String {
    let now = shown.stock;
    format!("stock: {} received = {} available + {} reserved + {} shipped", now.received, now.available, now.reserved, now.shipped)
}

fn revenue(look: &Look) -> f64 {
    look.so_far.revenue_cents as f64 / 100.0
}

/// Two lines: what the columns are, and their units or where the figures are from.
fn heading(tables: &str) -> String {
    let line = |cells: [&str; 7]| {
        let [time, sent, rate, lag, p95, generated, held] = cells;
        format!("{time:>5} {sent:>10} {rate:>8} {lag:>8} {p95:>8} {generated:>16} {held:>16}\n")
    };
    line(["time", "sent", "rate", "lag", "p95", "revenue", "revenue"])
        + &line(["s", "events", "events/s", "records", "ms", "generator", tables])
}

fn row(look: &Look) -> String {
    // Those of the generator's load. An order takes as long as its services: the events of its last steps are seconds old by event time.
    let of_load = || look.pipelines.iter().filter(|line| FULFILMENT.iter().all(|(name, _)| *name != line.name));
    let lag: i64 = of_load().map(|line| line.lag).sum();
    let p95 = of_load().map(|line| line.p95).fold(0.0, f64::max);
    let (sent, rate, held) = (look.sent, look.rate, look.held.revenue);
    format!("{:>5} {sent:>10} {rate:>8.0} {lag:>8} {:>8} {:>16.2} {held:>16.2}\n", look.seconds, millis(p95), revenue(look))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_under_their_headings_and_fit_into_80_columns() {
        assert_eq!([41.7, f64::INFINITY].map(millis), ["42", ">60000"]);
        let line = Line { name: "p".into(), read: 1, rate: 1.0, written: 1, lag: 3, p95: 41.7, address: String::new() };
        let held = Held { revenue: 1_234.5, ..Held::default() };
        let look = Look {
            seconds: 7,
            first: None,
            sent: 14_000,
            rate: 2_000.0,
            so_far: SoFar::default(),
            pipelines: vec![line],
            held,
            tables: "ClickHouse",
            shop: None,
        };
        let table = heading(look.tables) + &row(&look);
        let widths: Vec<usize> = table.lines().map(str::len).collect();
        assert!(widths.iter().all(|width| *width == widths[0] && *width <= 80), "{table}");
        assert!(table.lines().nth(1).unwrap().contains("events/s") && table.ends_with("1234.50\n"), "{table}");
    }
}
