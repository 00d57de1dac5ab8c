//! Checks of a pipeline as a whole: what is read or written twice, and what nobody reads.

use std::collections::BTreeMap;

use operator_core::Diagnostic;

use super::build::Builder;

impl Builder<'_> {
    /// What may be named once only.
    pub(super) fn read_once(&mut self) {
        self.topics_once();
        self.table_topics_once();
        self.tables_once();
    }

    /// One topic is one source's, and nobody's sink: the engine finds a record's source by its topic, and a pipeline
    /// that reads what it writes never ends.
    fn topics_once(&mut self) {
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for (_, input) in &self.inputs {
            for topic in &input.topics {
                if let Some(first) = seen.insert(topic.name.to_string(), input.name.clone()) {
                    let found = Diagnostic::error("topic-twice", format!("`{}` is read by the source `{first}` already", topic.name));
                    self.found.push(found.at(["sources", &input.name]).help("read it once, and let several steps start there"));
                }
            }
        }
        for (name, sink) in &self.pipeline.sinks {
            if sink.topic.as_ref().is_some_and(|t| seen.contains_key(t)) {
                let found = Diagnostic::error("loop", "the pipeline would read what it writes here, without end");
                self.found.push(found.at(["sinks", name, "topic"]));
            }
        }
    }

    /// One table per topic: the loader finds a record's table by its topic.
    fn table_topics_once(&mut self) {
        let mut seen: BTreeMap<&String, &String> = BTreeMap::new();
        for (name, table) in &self.pipeline.tables {
            if let Some(first) = seen.insert(&table.topic, name) {
                let found = Diagnostic::error("topic-twice", format!("`{}` is the table `{first}` already", table.topic));
                self.found.push(found.at(["tables", name, "topic"]).help("look rows up in that one"));
            }
        }
    }

    /// One sink per ClickHouse table: positions tell a sink's rows apart, and another one has the same.
    fn tables_once(&mut self) {
        let mut seen: BTreeMap<&String, &String> = BTreeMap::new();
        let sinks = self.pipeline.sinks.iter().filter_map(|(name, sink)| Some((name, sink.clickhouse.as_ref()?)));
        for (name, table) in sinks {
            if let Some(first) = seen.insert(table, name) {
                let found = Diagnostic::error("table-twice", format!("the sink `{first}` writes to `{table}` already"));
                let help = "read several streams in one sink, through a step with `from: [a, b]`, or use another table";
                self.found.push(found.at(["sinks", name, "clickhouse"]).help(help));
            }
        }
    }

    /// What nobody reads.
    pub(super) fn unread(&mut self) {
        let mut found = Vec::new();
        for (name, stream) in self.streams.iter().filter(|(name, _)| !self.read.contains(name)) {
            let base = name.split('.').next().unwrap_or(name);
            let section = if self.pipeline.sources.contains_key(base) { "sources" } else { "steps" };
            let used = self.read.iter().any(|r| r.split('.').next() == Some(base) && !r.starts_with('!'));
            if stream.lossy {
                found.push(
                    Diagnostic::warning("unread-port", format!("nobody reads `{name}`: its rows are counted and dropped"))
                        .at([section, base])
                        .help(format!("write it somewhere: `from: {name}`")),
                );
            } else if !used {
                found.push(Diagnostic::warning("unread", format!("nobody reads `{name}`")).at([section, base]));
            }
        }
        let looked_up: Vec<&String> = self.nodes.iter().flat_map(|(_, n)| &n.planned.tables).collect();
        for name in self.pipeline.tables.keys().filter(|name| !looked_up.contains(name)) {
            found.push(Diagnostic::warning("unused-table", format!("no step looks anything up in `{name}`")).at(["tables", name]));
        }
        self.found.extend(found);
    }
}
