//! Checks of a pipeline as a whole: streams read or written twice, and outputs that nothing consumes.

use std::collections::BTreeMap;

use operator_core::{Diagnostic, TableUse};

use super::build::Builder;
use super::source::DEFAULT_HISTORY;
use super::{TablePlan, Target, TopicSink};
use crate::format::{Format, Layout};
use crate::pipeline::{Declared, Sink, SinkTarget};
use crate::yaml::Node;

/// What the readers of a sink's records must know, or else what its records are called.
type Agreed = Result<String, String>;

impl Builder<'_> {
    /// What may be named once only.
    pub(super) fn read_once(&mut self) {
        // Of two steps with the same topics the inputs are the same, too.
        if self.state_once() {
            self.topics_once();
        }
        self.table_topics_once();
        self.tables_once();
    }

    /// A step that was renamed has the topics of its first name, which no other step may have. Whether that is so.
    fn state_once(&mut self) -> bool {
        let (mut seen, before): (BTreeMap<&str, &String>, usize) = (BTreeMap::new(), self.found.len());
        for name in self.pipeline.steps.keys() {
            let called = self.pipeline.topics_named(name);
            let Some(first) = seen.insert(called, name) else { continue };
            let (step, other) = if called == name { (first, name) } else { (name, first) };
            let found = Diagnostic::error("was-taken", format!("the topics of `{called}` belong to the step `{other}`"));
            let help = format!("`was` is the name that `{step}` itself had: remove it, or give `{other}` another name");
            self.found.push(found.at(["steps", step, "was"]).help(help));
        }
        self.found.len() == before
    }

    /// A topic belongs to one source and to no sink: the engine finds a record's source by its topic, and a pipeline
    /// that reads what it writes never ends.
    fn topics_once(&mut self) {
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        // In the order of the file: the second one is the mistake.
        let order: Vec<&str> = self.root.get("sources").into_iter().flat_map(Node::keys).collect();
        let mut inputs: Vec<_> = self.inputs.iter().map(|(_, input)| input).collect();
        inputs.sort_by_key(|input| order.iter().position(|name| *name == input.name));
        for input in inputs {
            for (n, topic) in input.topics.iter().enumerate() {
                let Some(first) = seen.insert(topic.name.to_string(), input.name.clone()) else { continue };
                let message = match first == input.name {
                    true => format!("duplicate topic `{}`", topic.name),
                    false => format!("the source `{first}` already reads `{}`", topic.name),
                };
                let list = self.pipeline.sources.get(&input.name).is_some_and(|s| s.topics.is_some());
                let at = if list { vec!["topics".to_string(), n.to_string()] } else { vec!["topic".to_string()] };
                let found = Diagnostic::error("topic-twice", message).at(at).under(["sources", &input.name]);
                self.found.push(found.help("keep one source, and let several steps read it"));
            }
        }
        for (name, table) in &self.pipeline.tables {
            if let Some(source) = seen.get(&table.topic) {
                let found = Diagnostic::error("topic-twice", format!("the source `{source}` already reads `{}`", table.topic));
                self.found.push(
                    found
                        .at(["tables", name, "topic"])
                        .help("a topic is read either as a source or as a table: use separate topics for events and for state"),
                );
            }
        }
        for (name, sink) in &self.pipeline.sinks {
            let Some(topic) = sink.topic().map(|to| &to.topic) else { continue };
            if seen.contains_key(topic) || self.pipeline.tables.values().any(|table| table.topic == *topic) {
                let found = Diagnostic::error("loop", "the pipeline reads this topic, so it would process its own output endlessly");
                self.found.push(found.at(["sinks", name, "topic"]).help("write to another topic"));
            } else if topic.starts_with("hw.") {
                let found =
                    Diagnostic::error("topic-name", "topic names that start with `hw.` are reserved for the pipelines' internal topics");
                self.found.push(found.at(["sinks", name, "topic"]).help("write to another topic"));
            }
        }
    }

    /// One table per topic: the loader finds a record's table by its topic.
    fn table_topics_once(&mut self) {
        let mut seen: BTreeMap<&String, &String> = BTreeMap::new();
        for (name, table) in &self.pipeline.tables {
            if let Some(first) = seen.insert(&table.topic, name) {
                let found = Diagnostic::error("topic-twice", format!("the table `{first}` already reads `{}`", table.topic));
                self.found.push(found.at(["tables", name, "topic"]).help("use that table"));
            }
        }
    }

    /// One sink per table of a store: positions tell a sink's rows apart, and another one has the same.
    fn tables_once(&mut self) {
        let mut seen: BTreeMap<(&str, &str), &String> = BTreeMap::new();
        let sinks = self.pipeline.sinks.iter().filter_map(|(name, sink)| Some((name, sink.table()?)));
        for (name, table) in sinks {
            if let Some(first) = seen.insert((table.kind(), table.name()), name) {
                let found = Diagnostic::error("table-twice", format!("the sink `{first}` already writes to `{}`", table.name()));
                let help = "merge the streams in a step with `from: [a, b]` before one sink, or use another table";
                self.found.push(found.at(["sinks", name, table.kind()]).help(help));
            }
        }
    }

    /// Sinks that write one topic with rows that have no order among each other.
    pub(super) fn shared_sinks(&mut self) {
        let timed = |from: &str| self.streams.get(from).is_some_and(|stream| stream.timed);
        let mut topics: BTreeMap<&String, bool> = BTreeMap::new();
        let mut found = Vec::new();
        for (name, sink) in &self.pipeline.sinks {
            let Some(topic) = sink.topic().map(|to| &to.topic) else { continue };
            let here = timed(&sink.from);
            if let Some(before) = topics.insert(topic, here)
                && (here || before)
            {
                found.push(name.clone());
            }
        }
        found.into_iter().for_each(|name| self.no_order(&["sinks".to_string(), name, "topic".to_string()]));
    }

    /// Sinks of one topic whose records can't be read alike. What a sink of raw values writes is not known.
    pub(super) fn sinks_agree(&mut self) {
        let described = |format: &Format, layout: &Layout| format.agreed(layout).ok_or_else(|| format!("`{}`", format.name()));
        let mut topics: BTreeMap<&str, (&str, &TopicSink)> = BTreeMap::new();
        let mut found = Vec::new();
        for (_, output) in &self.outputs {
            let Target::Topic(sink) = &output.target else { continue };
            let Some(topic) = self.pipeline.sinks.get(&output.name).and_then(Sink::topic).filter(|_| !sink.format.is_raw()) else {
                continue;
            };
            let (first, other) = *topics.entry(&topic.topic).or_insert((&output.name, sink));
            let mut compare = |place: &str, whose: &str, here: Agreed, there: Agreed| {
                // Without anything to agree on, records say themselves what they are.
                if here != there && (here.is_ok() || there.is_ok()) {
                    let [here, there] = [here, there].map(|agreed| agreed.unwrap_or_else(|records| records));
                    let message = format!("{whose}: {here} here, {there} from the sink `{first}`, and a reader can't read both");
                    let problem = Diagnostic::error("topic-format", message).at(["sinks", &output.name, place]);
                    found.push(problem.help("bring the rows into one form, in a `map` step before each sink, or write to separate topics"));
                }
            };
            compare("topic", "records of the topic differ", described(&sink.format, &sink.layout), described(&other.format, &other.layout));
            let codec = |sink: &'_ TopicSink| sink.key.as_ref().and_then(|key| key.codec.clone());
            if let (Some(here), Some(there)) = (codec(sink), codec(other)) {
                compare("key", "keys of the topic differ", described(&here.format, &here.layout), described(&there.format, &there.layout));
            }
        }
        self.found.extend(found);
    }

    /// Tables keep replaced rows where a step looks them up as of event time.
    pub(super) fn history(&mut self, tables: &mut [TablePlan]) {
        let uses: Vec<&TableUse> = self.nodes.iter().flat_map(|(_, n)| &n.planned.tables).collect();
        for table in tables {
            let as_of_time = uses.iter().any(|used| used.name == table.name && used.as_of_time);
            if as_of_time {
                table.history.get_or_insert(DEFAULT_HISTORY);
            } else if table.history.is_some() {
                let found = Diagnostic::warning("no-effect", "`history` has no effect here: no join has `as_of: event_time`");
                let found = found.at(["tables", &table.name, "history"]).key();
                self.found.push(found.help("remove it, or write `as_of: event_time` in the join"));
            }
        }
    }

    /// Settings that say nothing where they stand.
    pub(super) fn without_effect(&mut self) {
        let mut found = Vec::new();
        let mut idle = |section: &str, name: &str, keys: &[&str], why: &str| {
            for key in keys.iter().filter(|key| self.root.get(section).and_then(|s| s.get(name)).is_some_and(|s| s.get(key).is_some())) {
                let problem = Diagnostic::warning("no-effect", format!("`{key}` has no effect here: {why}"));
                found.push(problem.at([section, name, key]).key().help("remove it"));
            }
        };
        for (name, sink) in &self.pipeline.sinks {
            let keys: Vec<&str> = sink.without_effect.iter().map(String::as_str).collect();
            match &sink.to {
                SinkTarget::Table(table) => idle("sinks", name, &keys, &format!("a `{}` sink has no such key", table.kind())),
                SinkTarget::Topic(topic) => {
                    idle("sinks", name, &keys, "the sink writes to a topic, not to a table");
                    if !topic.format.is_registered() {
                        let why = format!("values in `{}` have no registered schema", topic.format.name());
                        idle("sinks", name, &["subject"], &why);
                    }
                    if !topic.format.shapes_events() {
                        let why = format!("`{}` writes events as it writes any row", topic.format.name());
                        idle("sinks", name, &["event"], &why);
                    }
                }
            }
        }
        for (name, source) in self.pipeline.sources.iter().filter(|(_, source)| source.key.is_none()) {
            if source.partitioner.is_some() {
                idle("sources", name, &["partitioner"], "the source has no `key`");
            }
        }
        for (name, source) in &self.pipeline.sources {
            match source.types.is_empty() {
                true => idle("sources", name, &["type", "other"], "the source has no `types`"),
                false => idle("sources", name, &["schema", "subject"], "each of the `types` has its own"),
            }
        }
        // Marks of personal data apply to any format: samples are masked by them.
        let counts = |schema: &Option<Declared>| schema.as_ref().is_some_and(Declared::has_private);
        let inputs = self
            .pipeline
            .sources
            .iter()
            .filter(|(_, s)| !counts(&s.schema) && s.types.is_empty())
            .map(|(n, s)| ("sources", n, &s.format, s.schema.is_some()));
        let tables =
            self.pipeline.tables.iter().filter(|(_, t)| !counts(&t.schema)).map(|(n, t)| ("tables", n, &t.format, t.schema.is_some()));
        for (section, name, format, declared) in inputs.chain(tables) {
            let (keys, why) = format.without_effect(declared);
            idle(section, name, keys, why);
        }
        self.found.extend(found);
    }

    /// Outputs that nothing consumes.
    pub(super) fn unread(&mut self) {
        let mut found = Vec::new();
        for (name, stream) in self.streams.iter().filter(|(name, _)| !self.read.contains(name)) {
            let base = name.split('.').next().unwrap_or(name);
            let section = if self.pipeline.sources.contains_key(base) { "sources" } else { "steps" };
            let used = self.read.iter().any(|r| r.split('.').next() == Some(base) && !r.starts_with('!'));
            if stream.lossy {
                found.push(
                    Diagnostic::warning("unread-port", format!("output `{name}` is not consumed; its rows are counted and dropped"))
                        .at([section, base])
                        .help(format!("add a sink or step with `from: {name}`")),
                );
            } else if !used {
                found.push(
                    Diagnostic::warning("unread", format!("output `{name}` is not consumed"))
                        .at([section, base])
                        .key()
                        .help("write it to a sink, or remove it"),
                );
            }
        }
        let looked_up: Vec<&String> = self.nodes.iter().flat_map(|(_, n)| &n.planned.tables).map(|used| &used.name).collect();
        for name in self.pipeline.tables.keys().filter(|name| !looked_up.contains(name)) {
            found.push(
                Diagnostic::warning("unused-table", format!("no step uses the table `{name}`"))
                    .at(["tables", name])
                    .key()
                    .help("use it in an `enrich` step, or remove it: every worker loads it into memory"),
            );
        }
        self.found.extend(found);
    }
}
