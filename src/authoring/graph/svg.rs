//! Graphs as SVG. The layout is dagre's (layers from left to right, few crossings); drawing is done here.

use std::fmt::Write;

use dagre::graph::{Graph as Layered, GraphOptions};
use dagre::layout::types::LabelPos;
use dagre::{EdgeLabel, LayoutOptions, NodeLabel, Point, RankDir, layout};

use super::{Box, Graph, Role};

const MARGIN: f64 = 32.0;
/// Room for the title above the graph.
const HEADER: f64 = 44.0;
const HEIGHT: f64 = 58.0;
/// Width of a character of titles and of the smaller texts, with a little to spare.
const TITLE_CHAR: f64 = 8.2;
const TEXT_CHAR: f64 = 6.7;

/// Fill and line of a box.
pub(super) fn colors(role: Role) -> (&'static str, &'static str) {
    match role {
        Role::Source => ("#dbeafe", "#2563eb"),
        Role::Table => ("#ede9fe", "#7c3aed"),
        Role::Step => ("#ffffff", "#64748b"),
        Role::Repartition => ("#fef3c7", "#d97706"),
        Role::Sink => ("#dcfce7", "#16a34a"),
        Role::DeadLetters => ("#fee2e2", "#dc2626"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn width(b: &Box) -> f64 {
    let title = b.title.chars().count() as f64 * TITLE_CHAR + (b.kind.chars().count() + 2) as f64 * TEXT_CHAR;
    let detail = b.detail.chars().count() as f64 * TEXT_CHAR;
    title.max(detail).max(110.0) + 28.0
}

/// The picture.
pub fn svg(graph: &Graph) -> String {
    let mut layered: Layered<NodeLabel, EdgeLabel> =
        Layered::with_options(GraphOptions { directed: true, multigraph: true, compound: false });
    for b in &graph.boxes {
        layered.set_node(b.id.clone(), Some(NodeLabel { width: width(b), height: HEIGHT, ..NodeLabel::default() }));
    }
    for (n, a) in graph.arrows.iter().enumerate() {
        let label = EdgeLabel {
            width: a.label.chars().count() as f64 * TEXT_CHAR + 4.0,
            height: 14.0,
            labelpos: LabelPos::Center,
            ..EdgeLabel::default()
        };
        layered.set_edge(&a.from, &a.to, Some(label), Some(&n.to_string()));
    }
    let options = LayoutOptions { rankdir: RankDir::LR, nodesep: 26.0, ranksep: 54.0, edgesep: 16.0, ..LayoutOptions::default() };
    layout(&mut layered, Some(options));

    let place = |b: &Box| layered.node(&b.id).and_then(|n| Some((n.x?, n.y?))).unwrap_or_default();
    let right = graph.boxes.iter().map(|b| place(b).0 + width(b) / 2.0).fold(0.0, f64::max) + 2.0 * MARGIN;
    let bottom = graph.boxes.iter().map(|b| place(b).1 + HEIGHT / 2.0).fold(0.0, f64::max) + 2.0 * MARGIN + HEADER;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{right:.0}\" height=\"{bottom:.0}\" viewBox=\"0 0 {right:.0} {bottom:.0}\" \
         font-family=\"Inter, 'Helvetica Neue', Helvetica, Arial, sans-serif\" role=\"img\" aria-label=\"pipeline {0}\">\n\
         <defs><marker id=\"arrow\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
         <path d=\"M0 1 L9 5 L0 9 Z\" fill=\"#64748b\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#f8fafc\"/>\n\
         <text x=\"{MARGIN}\" y=\"40\" font-size=\"18\" font-weight=\"600\" fill=\"#0f172a\">{0}</text>\n\
         <g transform=\"translate({MARGIN} {1})\">\n",
        escape(&graph.title),
        MARGIN + HEADER - 12.0
    );
    for (n, a) in graph.arrows.iter().enumerate() {
        let Some(edge) = layered.edge(&a.from, &a.to, Some(&n.to_string())) else { continue };
        let dash = if a.lookup { " stroke-dasharray=\"5 4\"" } else { "" };
        let path = curve(&edge.points);
        let _ =
            writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"#64748b\" stroke-width=\"1.5\"{dash} marker-end=\"url(#arrow)\"/>");
        if let (Some(x), Some(y), false) = (edge.x, edge.y, a.label.is_empty()) {
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"middle\" fill=\"#334155\" stroke=\"#f8fafc\" stroke-width=\"4\" paint-order=\"stroke\">{}</text>",
                y + 4.0,
                escape(&a.label)
            );
        }
    }
    graph.boxes.iter().for_each(|b| drawn(&mut out, b, place(b)));
    out + "</g>\n</svg>\n"
}

fn drawn(out: &mut String, b: &Box, (x, y): (f64, f64)) {
    let (w, (fill, line)) = (width(b), colors(b.role));
    let (left, top) = (x - w / 2.0, y - HEIGHT / 2.0);
    let round = if matches!(b.role, Role::Source | Role::Sink | Role::DeadLetters) { 16 } else { 7 };
    let _ = writeln!(
        out,
        "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{w:.1}\" height=\"{HEIGHT}\" rx=\"{round}\" fill=\"{fill}\" stroke=\"{line}\" stroke-width=\"1.5\"/>\n\
         <text x=\"{0:.1}\" y=\"{1:.1}\" font-size=\"14\" font-weight=\"600\" fill=\"#0f172a\">{2}</text>\n\
         <text x=\"{3:.1}\" y=\"{1:.1}\" font-size=\"11\" text-anchor=\"end\" fill=\"{line}\">{4}</text>\n\
         <text x=\"{0:.1}\" y=\"{5:.1}\" font-size=\"11\" font-family=\"ui-monospace, Menlo, Consolas, monospace\" fill=\"#475569\">{6}</text>",
        left + 14.0,
        top + 24.0,
        escape(&b.title),
        left + w - 14.0,
        escape(&b.kind),
        top + 43.0,
        escape(&b.detail)
    );
}

/// A smooth line through the points of an edge.
fn curve(points: &[Point]) -> String {
    let mut path = String::new();
    for (n, p) in points.iter().enumerate() {
        let next = points.get(n + 1);
        let _ = match (n, next) {
            (0, _) => write!(path, "M{:.1} {:.1}", p.x, p.y),
            (_, Some(next)) if n + 2 < points.len() => {
                write!(path, " Q{:.1} {:.1} {:.1} {:.1}", p.x, p.y, (p.x + next.x) / 2.0, (p.y + next.y) / 2.0)
            }
            (_, Some(next)) => write!(path, " Q{:.1} {:.1} {:.1} {:.1}", p.x, p.y, next.x, next.y),
            // Two points are a line; a longer curve has reached its end already.
            (1, None) => write!(path, " L{:.1} {:.1}", p.x, p.y),
            (_, None) => Ok(()),
        };
    }
    path
}
