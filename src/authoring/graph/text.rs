//! Graphs in the languages of other tools.

use std::fmt::Write;

use super::{Graph, Role};

/// For Graphviz.
pub fn dot(graph: &Graph) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let mut out = format!("digraph \"{}\" {{\n  rankdir=LR\n", quoted(&graph.title));
    out.push_str("  node [shape=box style=\"rounded,filled\" fontname=\"Helvetica\" fontsize=11 fillcolor=white]\n");
    out.push_str("  edge [fontname=\"Helvetica\" fontsize=9 color=\"#64748b\"]\n");
    for b in &graph.boxes {
        let color = super::svg::colors(b.role).0;
        let label = format!("{}\\n{} {}", quoted(&b.title), quoted(&b.kind), quoted(&b.detail));
        let _ = writeln!(out, "  {} [label=\"{label}\" fillcolor=\"{color}\"]", b.id);
    }
    for a in &graph.arrows {
        let style = if a.lookup { " style=dashed" } else { "" };
        let _ = writeln!(out, "  {} -> {} [label=\"{}\"{style}]", a.from, a.to, quoted(&a.label));
    }
    out + "}\n"
}

/// For Markdown pages that render Mermaid.
pub fn mermaid(graph: &Graph) -> String {
    // Mermaid has no escapes in quoted texts but entities.
    let text = |text: &str| text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;");
    let mut out = String::from("flowchart LR\n");
    for b in &graph.boxes {
        let (open, close) = match b.role {
            Role::Source => ("([", "])"),
            Role::Table => ("[(", ")]"),
            Role::Step => ("[", "]"),
            Role::Repartition => ("{{", "}}"),
            Role::Sink | Role::DeadLetters => ("[/", "/]"),
        };
        let label = format!("<b>{}</b><br/>{} {}", text(&b.title), text(&b.kind), text(&b.detail));
        let _ = writeln!(out, "  {}{open}\"{label}\"{close}", b.id);
    }
    for a in &graph.arrows {
        let arrow = if a.lookup { "-.->" } else { "-->" };
        let label = if a.label.is_empty() { String::new() } else { format!("|{}|", text(&a.label)) };
        let _ = writeln!(out, "  {} {arrow}{label} {}", a.from, a.to);
    }
    for role in [Role::Source, Role::Table, Role::Step, Role::Repartition, Role::Sink, Role::DeadLetters] {
        let (fill, line) = super::svg::colors(role);
        let ids: Vec<&str> = graph.boxes.iter().filter(|b| b.role == role).map(|b| b.id.as_str()).collect();
        if !ids.is_empty() {
            let class = format!("{role:?}").to_lowercase();
            let _ = writeln!(out, "  classDef {class} fill:{fill},stroke:{line},color:#0f172a\n  class {} {class}", ids.join(","));
        }
    }
    out
}
