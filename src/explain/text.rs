//! A plan as text for a terminal.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Column, Entry, Explained};
use crate::style::{dim, good, name, strong};

/// Width of the names of facts.
const NAMES: usize = 22;
/// Where long lines are broken.
const WIDTH: usize = 110;

/// The whole plan, with colours: print it with `anstream`.
pub fn render(plan: &Explained) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} {}", strong(&plan.pipeline), dim(plan.description.as_deref().unwrap_or_default()));
    let _ = writeln!(out, "{}, a commit every {}, consumer group {}\n", good(&plan.guarantee), plan.commit_interval, name(&plan.group));
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
    let _ = writeln!(out, "{}\n", strong("── topics the pipeline makes ──"));
    for topic in &plan.topics {
        let settings: Vec<String> = topic.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let settings = if settings.is_empty() { "broker's defaults".to_string() } else { settings.join(", ") };
        let partitions = if topic.partitions == 1 { "1 partition".to_string() } else { format!("{} partitions", topic.partitions) };
        let _ = writeln!(out, "  {}\n    {partitions}, {settings}\n    {}", name(&topic.name), dim(&topic.why));
    }
    if plan.assumed_partitions {
        let _ = writeln!(out, "\n{}", dim("Partition counts of topics are assumed: `--config` asks the cluster."));
    }
    out
}

/// `known`: the columns of what was shown before, by name, so that they are not said twice.
fn entry<'a>(out: &mut String, entry: &'a Entry, known: &mut BTreeMap<String, &'a [Column]>) {
    let from = if entry.from.is_empty() { String::new() } else { format!(" {} {}", dim("from"), entry.from.join(", ")) };
    let _ = writeln!(out, "{} {} {} {}{from}", dim(entry.role), strong(&entry.name), dim("·"), name(&entry.what));
    for (fact, value) in &entry.facts {
        wrapped(out, &format!("    {} ", dim(&format!("{fact:<NAMES$}"))), value);
    }
    for (port, columns) in &entry.schemas {
        let title = if port.is_empty() { "columns".to_string() } else { format!("columns .{port}") };
        let same = entry.from.first().filter(|from| known.get(*from) == Some(&columns.as_slice()));
        let text = match same {
            Some(from) => format!("those of {from}"),
            None => columns.iter().map(column).collect::<Vec<_>>().join(", "),
        };
        wrapped(out, &format!("    {} ", dim(&format!("{title:<NAMES$}"))), &text);
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

/// Words in lines that begin under one another.
fn wrapped(out: &mut String, title: &str, text: &str) {
    let indent = NAMES + 5;
    let mut line = String::new();
    let mut title = title.to_string();
    for word in text.split(' ') {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{title}{line}");
            title = " ".repeat(indent);
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(out, "{title}{line}");
}
