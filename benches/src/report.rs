//! Medians over rounds, as Markdown tables that also read well in a terminal.

use std::collections::BTreeMap;

use crate::drain::Drained;
use crate::latency::Measurement;

/// Every figure of a contender, one per round, in the order of rounds.
#[derive(Default)]
pub struct Series {
    names: Vec<String>,
    figures: BTreeMap<String, Vec<Drained>>,
}

/// The middle of the figures; of an even number the mean of the two in the middle.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match (sorted.get(n.wrapping_sub(1) / 2), sorted.get(n / 2)) {
        (Some(a), Some(b)) => (a + b) / 2.0,
        _ => f64::NAN,
    }
}

impl Series {
    pub fn add(&mut self, name: &str, figures: Drained) {
        if !self.names.iter().any(|n| n == name) {
            self.names.push(name.to_string());
        }
        self.figures.entry(name.to_string()).or_default().push(figures);
    }

    /// The table of throughput. Ratios are of figures of the same round; `reference` is what they are relative to.
    pub fn table(&self, reference: &str) -> String {
        let mut rows = vec![
            [
                "",
                "records/s",
                "of copy",
                "after the first commit",
                "first commit s",
                "CPU s per million",
                "of copy",
                "second half",
                "peak MiB",
                "records out",
            ]
            .map(String::from)
            .to_vec(),
        ];
        let mut names: Vec<&String> = self.names.iter().collect();
        names.sort_by_key(|name| (!name.starts_with("copy"), name.len(), name.to_string()));
        for name in names {
            let Some(runs) = self.figures.get(name) else { continue };
            let of = |figure: fn(&Drained) -> f64| median(runs.iter().map(figure));
            let ratio = |figure: fn(&Drained) -> f64| match self.figures.get(reference) {
                Some(base) => format!("{:.2}", median(runs.iter().zip(base).map(|(a, b)| figure(a) / figure(b)))),
                None => "-".into(),
            };
            rows.push(vec![
                name.clone(),
                thousands(of(Drained::rate)),
                ratio(Drained::rate),
                thousands(of(Drained::running_rate)),
                format!("{:.2}", of(|d| d.first.0.as_secs_f64())),
                hundredths(of(Drained::cpu_per_million)),
                ratio(Drained::cpu_per_million),
                hundredths(of(|d| d.second_half)),
                format!("{:.0}", of(|d| d.usage.peak_rss as f64 / f64::from(1 << 20))),
                runs.last().map_or(0, |r| r.output).to_string(),
            ]);
        }
        markdown(&rows)
    }
}

/// The table of latency: medians over rounds of each quantile.
pub fn latency_table(series: &[(String, u64, Vec<Measurement>)]) -> String {
    let mut rows = vec![
        ["", "commit interval ms", "p50 ms", "p95 ms", "p99 ms", "p95 of copy", "p99 of copy", "CPU %", "busiest thread %", "orders"]
            .map(String::from)
            .to_vec(),
    ];
    for (name, commit, runs) in series {
        let of = |q: f64| median(runs.iter().map(|run| run.latencies.quantile(q)));
        let cpu = |figure: fn(&Measurement) -> f64| format!("{:.0}", 100.0 * median(runs.iter().map(figure)));
        let base = series.iter().find(|(n, c, _)| n == "copy" && c == commit);
        let ratio = |q: f64| {
            let ratios =
                base.map(|(_, _, base)| runs.iter().zip(base).map(move |(a, b)| a.latencies.quantile(q) / b.latencies.quantile(q)));
            ratios.map_or("-".into(), |ratios| format!("{:.2}", median(ratios)))
        };
        rows.push(vec![
            name.clone(),
            commit.to_string(),
            format!("{:.0}", of(0.5)),
            format!("{:.0}", of(0.95)),
            format!("{:.0}", of(0.99)),
            ratio(0.95),
            ratio(0.99),
            cpu(|run| run.threads.all()),
            cpu(|run| run.threads.busiest()),
            runs.iter().map(|run| run.latencies.count()).sum::<usize>().to_string(),
        ]);
    }
    markdown(&rows)
}

/// `1.23`, or `-` where nothing was measured.
pub fn hundredths(figure: f64) -> String {
    if figure.is_finite() { format!("{figure:.2}") } else { "-".into() }
}

/// `123,000`: three digits are as many as a benchmark knows.
pub fn thousands(figure: f64) -> String {
    if !figure.is_finite() {
        return "-".into();
    }
    let rounded = (figure / 1_000.0).round() as u64;
    if rounded >= 1_000 { format!("{},{:03},000", rounded / 1_000, rounded % 1_000) } else { format!("{rounded},000") }
}

fn markdown(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> =
        (0..columns).map(|c| rows.iter().filter_map(|r| r.get(c)).map(String::len).max().unwrap_or(0).max(3)).collect();
    let mut out = String::new();
    for (n, row) in rows.iter().enumerate() {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(c, (cell, w))| if c == 0 { format!(" {cell:<w$} ") } else { format!(" {cell:>w$} ") });
        out += &format!("|{}|\n", cells.collect::<Vec<_>>().join("|"));
        if n == 0 {
            let rules = widths.iter().enumerate().map(|(c, w)| if c == 0 { "-".repeat(w + 2) } else { "-".repeat(w + 1) + ":" });
            out += &format!("|{}|\n", rules.collect::<Vec<_>>().join("|"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn tables_are_aligned() {
        let table = markdown(&[vec!["".into(), "records/s".into()], vec!["copy".into(), thousands(1_234_567.0)]]);
        assert_eq!(table, "|      | records/s |\n|------|----------:|\n| copy | 1,235,000 |\n");
    }
}
