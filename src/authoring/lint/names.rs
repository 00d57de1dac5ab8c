//! Names of topics: `{kind}.{domain}.{event-type}` (ADR-005), so that permissions, retention and dashboards can rely on
//! the name. Commands of a domain whose order matters share a topic: `commands.{domain}`, or else `commands.{domain}.{command}`.

use headwater_engine::yaml::Node;
use operator_core::Diagnostic;
use regex::Regex;

/// The convention of ADR-005, where `*` of a pattern and `{column}` of a sink may stand for a part.
pub const CONVENTION: &str = r"(business|audit|analytics)((\.([a-z0-9*_-]|\{[^}]*\})+){2}(\.dlq)?|\.[a-z0-9*_.-]*\*[a-z0-9*_.-]*)|audit\.\{[^}]*\}|commands(\.([a-z0-9*_-]|\{[^}]*\})+){1,2}(\.dlq)?";

/// Topics of a pipeline whose names are not as `convention` wants them.
pub fn check(root: &Node, convention: &Regex, written: &str) -> Vec<Diagnostic> {
    let help = match written {
        CONVENTION => "topics are named `business|audit|analytics.{domain}.{event-type}`: `business.orders.created`; commands are in \
                       `commands.{domain}` or `commands.{domain}.{command}`"
            .to_string(),
        other => format!("names of topics match `{other}` (--topics)"),
    };
    let mut found = Vec::new();
    for section in ["sources", "tables", "sinks"] {
        let Some(section_node) = root.get(section) else { continue };
        section_node.texts(&mut |path, _, text| {
            let names_topics = match path {
                [_, key] => ["topic", "pattern"].contains(&key.as_str()),
                [_, key, _] => key == "topics",
                _ => false,
            };
            if names_topics && !text.contains("${") && !convention.is_match(text) {
                let problem = Diagnostic::warning("topic-convention", format!("the topic name `{text}` does not follow the convention"));
                let at = std::iter::once(section.to_string()).chain(path.iter().cloned());
                found.push(problem.at(at).help(&help));
            }
        });
    }
    found
}
