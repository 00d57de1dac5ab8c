//! A plan as text for a terminal.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Column, Entry, Explained};
use crate::style::{dim, good, name, strong, wrapped, wrapping};

/// Width of the names of facts.
const NAMES: usize = 22;

/// The whole plan, with colours: print it with `anstream`.
pub fn render(plan: &Explained) -> String {
    let mut out = String::new();
    let title = format!("{} {}", strong(&plan.pipeline), dim(plan.description.as_deref().unwrap_or_default()));
    let _ = writeln!(out, "{}", wrapped(&title, 2));
    let line = format!("{}, a commit every {}, consumer group {}", good(&plan.guarantee), plan.commit_interval, name(&plan.group));
    let _ = writeln!(out, "{}\n", wrapped(&line, 2));
    let mut known = BTreeMap::new();
    for table in &plan.tables {
        entry(&mut out, table, &mut known);
    }
    for (number, stage) in plan.stages.iter().enumerate() {
        let tasks = if stage.tasks == 1 { "1 task".to_string() } else { format!("{} tasks, one per partition", stage.tasks) };
        let _ = writeln!(out, "{} {}\n", strong(&format!("── stage {}", number + 1)), dim(&format!("── {tasks} ──")));
        for part in &stage.entries {
            entry(&mut out, part, &mut known);
        }
    }
    let _ = writeln!(out, "{}\n", strong("── topics that the pipeline creates ──"));
    for topic in &plan.topics {
        let settings: Vec<String> = topic.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let settings = if settings.is_empty() { "broker's defaults".to_string() } else { settings.join(", ") };
        let partitions = if topic.partitions == 1 { "1 partition".to_string() } else { format!("{} partitions", topic.partitions) };
        let _ = writeln!(out, "  {}", name(&topic.name));
        for line in [format!("    {partitions}, {settings}"), format!("    {}", dim(&topic.why))] {
            let _ = writeln!(out, "{}", wrapped(&line, 6));
        }
    }
    if plan.assumed_partitions {
        let _ = writeln!(out, "\n{}", dim("Partition counts are assumed; `--config` reads them from the cluster."));
    }
    out
}

/// `known`: the columns shown before, by name, so that they are not repeated.
fn entry<'a>(out: &mut String, entry: &'a Entry, known: &mut BTreeMap<String, &'a [Column]>) {
    let from = if entry.from.is_empty() { String::new() } else { format!(" {} {}", dim("from"), entry.from.join(", ")) };
    let line = format!("{} {} {} {}{from}", dim(entry.role), strong(&entry.name), dim("·"), name(&entry.what));
    let _ = writeln!(out, "{}", wrapped(&line, 4));
    for (title, value) in &entry.facts {
        fact(out, title, value);
    }
    for (port, columns) in &entry.schemas {
        let title = if port.is_empty() { "columns".to_string() } else { format!("columns .{port}") };
        let same = entry.from.first().filter(|from| known.get(*from) == Some(&columns.as_slice()));
        let text = match same {
            Some(from) => format!("those of {from}"),
            None => columns.iter().map(column).collect::<Vec<_>>().join(", "),
        };
        fact(out, &title, &text);
        let name = match (entry.role, port.as_str()) {
            ("repartition", _) => format!("{} (repartitioned)", entry.name),
            (_, "") => entry.name.clone(),
            (_, port) => format!("{}.{port}", entry.name),
        };
        known.insert(name, columns);
    }
    out.push('\n');
}

fn column(column: &Column) -> String {
    format!("{} {}{}", column.name, column.data_type, if column.nullable { "?" } else { "" })
}

/// A fact: its name, and its value in lines that start in the same column.
fn fact(out: &mut String, title: &str, value: &str) {
    let (first, rest) = (format!("    {} ", dim(&format!("{title:<NAMES$}"))), " ".repeat(NAMES + 5));
    let _ = writeln!(out, "{}", textwrap::fill(value, wrapping().initial_indent(&first).subsequent_indent(&rest)));
}
