//! The planner. Streams are resolved in flow order; stages begin as one component per source, are joined where steps
//! combine streams, and end in a repartition topic where a step needs another key.

use std::collections::BTreeMap;

use operator_core::diagnostic::{did_you_mean, names as list};
use operator_core::{Diagnostic, Input, InputInfo, KeyEffect, Path, PlanCx, Planned, Port, Severity, TableInfo, renamed};

use super::record::RecordColumns;
use super::remembered::Remembered;
use super::streams::cycle;
use super::{Branch, Catalog, InputKind, Names, Output, Plan, PlanNode, StageInput, Upstream, sink, source};
use crate::definition;
use crate::operators::{Operators, Refused};
use crate::pipeline::{API_VERSION, Pipeline, Step, can_name_a_pipeline};
use crate::yaml::{Node, YamlError};

/// A stream of rows while planning. Indices are global; stages are cut out at the end.
#[derive(Clone)]
pub(super) struct Stream {
    pub(super) component: usize,
    pub(super) from: Upstream,
    pub(super) input: InputInfo,
    /// The inputs whose partitions its rows are in.
    pub(super) origins: Vec<usize>,
    pub(super) lossy: bool,
    /// Its rows are made when time moves.
    pub(super) timed: bool,
}

pub(super) struct Builder<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) root: &'a Node,
    pub(super) operators: &'a Operators,
    pub(super) catalog: &'a dyn Catalog,
    pub(super) names: Names,
    pub(super) tables: BTreeMap<String, TableInfo>,
    /// Union-find: the component each component was joined into.
    pub(super) parents: Vec<usize>,
    pub(super) inputs: Vec<(usize, StageInput)>,
    pub(super) nodes: Vec<(usize, PlanNode)>,
    pub(super) outputs: Vec<(usize, Output)>,
    pub(super) streams: BTreeMap<String, Stream>,
    pub(super) read: Vec<String>,
    /// Steps that were rejected: their problems have been reported.
    refused: Vec<String>,
    pub(super) found: Vec<Diagnostic>,
}

/// Checks a pipeline and makes its plan. Every problem at once; diagnostics carry paths from the root of the file.
pub fn plan(pipeline: &Pipeline, root: &Node, operators: &Operators, catalog: &dyn Catalog) -> Result<Plan, Vec<Diagnostic>> {
    let catalog = Remembered::new(catalog);
    let all = RecordColumns::all();
    let draft = planned(pipeline, root, operators, &catalog, &all)?;
    let read = RecordColumns::read_by(draft.stages.iter().flat_map(|stage| &stage.nodes), pipeline.sinks.values());
    if read == all { Ok(draft) } else { planned(pipeline, root, operators, &catalog, &read) }
}

/// The plan with rows that have these columns about their record.
fn planned(
    pipeline: &Pipeline,
    root: &Node,
    operators: &Operators,
    catalog: &dyn Catalog,
    record: &RecordColumns,
) -> Result<Plan, Vec<Diagnostic>> {
    let mut builder = Builder {
        pipeline,
        root,
        operators,
        catalog,
        names: Names(pipeline.name.clone()),
        tables: BTreeMap::new(),
        parents: Vec::new(),
        inputs: Vec::new(),
        nodes: Vec::new(),
        outputs: Vec::new(),
        streams: BTreeMap::new(),
        read: Vec::new(),
        refused: Vec::new(),
        found: Vec::new(),
    };
    builder.header();
    let mut tables = builder.tables();
    builder.sources(record);
    builder.steps();
    builder.sinks();
    builder.read_once();
    builder.shared_sinks();
    builder.sinks_agree();
    builder.without_effect();
    // After an error, outputs may be unread only because their readers were rejected.
    if builder.found.iter().all(|d| d.severity != Severity::Error) {
        builder.unread();
        builder.history(&mut tables);
    }
    let (errors, warnings): (Vec<_>, Vec<_>) = std::mem::take(&mut builder.found).into_iter().partition(|d| d.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(errors.into_iter().chain(warnings).collect());
    }
    let stages = builder.cut();
    Ok(Plan {
        pipeline: pipeline.name.clone(),
        guarantee: pipeline.guarantee,
        commit_interval: pipeline.commit_interval.millis(),
        tables,
        stages,
        warnings,
        names: Names(pipeline.name.clone()),
        definition: definition::of(root),
    })
}

/// The key of a step's output, from that of its input.
fn key_after(effect: &KeyEffect, key: Option<&Vec<Path>>) -> Option<Vec<Path>> {
    match (effect, key) {
        (KeyEffect::Unchanged, key) => key.cloned(),
        // The group's rows are in the partitions of the group's key.
        (KeyEffect::Columns(_), Some(key)) => Some(key.iter().map(|path| Path::column(path.last())).collect()),
        (KeyEffect::Columns(columns), None) => Some(columns.iter().map(Path::column).collect()),
        (KeyEffect::Renamed(renames), key) => renamed(key?, renames),
    }
}

/// An error of the YAML reader, which knows its location more precisely than a path.
fn unreadable(e: YamlError, path: &[String]) -> Diagnostic {
    let mut found = Diagnostic::error(e.code, e.message).at(path);
    found.help = e.help;
    found.within = e.place.map(|p| p.start..p.end);
    found.path.push("@".into());
    found
}

impl Builder<'_> {
    fn header(&mut self) {
        let p = self.pipeline;
        if p.api_version != API_VERSION {
            let message = format!("this version of `hw` does not support `{}`", p.api_version);
            self.found
                .push(Diagnostic::error("api-version", message).at(["apiVersion"]).help(format!("write `apiVersion: {API_VERSION}`")));
        }
        if !can_name_a_pipeline(&p.name) {
            let found = Diagnostic::error("name", format!("`{}` is not a valid pipeline name", p.name)).at(["name"]);
            self.found.push(found.help(
                "use at most 100 lower-case letters, digits and dashes, no dash first: topics, groups and transactional ids derive from it",
            ));
        }
        if !(10..=60_000).contains(&p.commit_interval.millis()) {
            let found = Diagnostic::error("commit-interval", "`commit_interval` must be from 10ms to 1m").at(["commit_interval"]);
            self.found.push(found.help("each commit is a transaction; `100ms` is the default"));
        }
        let declared = p.sources.keys().map(|n| ("sources", n)).chain(p.tables.keys().map(|n| ("tables", n)));
        let declared = declared.chain(p.steps.keys().map(|n| ("steps", n))).chain(p.sinks.keys().map(|n| ("sinks", n)));
        let former = p.steps.iter().filter_map(|(step, of)| Some((of.was.as_ref()?, vec!["steps", step.as_str(), "was"])));
        for (name, place) in declared.map(|(section, n)| (n, vec![section, n.as_str()])).chain(former) {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || name.len() > 100 || !name.chars().all(word) {
                let is_key = place.len() == 2;
                let found = Diagnostic::error("name", format!("`{name}` is not a valid name")).at(place);
                let found = if is_key { found.key() } else { found };
                self.found.push(found.help("use letters, digits, `_` and `-`, at most 100: topic names contain it"));
            }
        }
        for name in p.steps.keys().filter(|name| p.sources.contains_key(*name)) {
            self.found.push(
                Diagnostic::error("name-twice", format!("a source is already called `{name}`"))
                    .at(["steps", name])
                    .key()
                    .help("rename the step: `from` would be ambiguous"),
            );
        }
    }

    fn tables(&mut self) -> Vec<super::TablePlan> {
        let mut tables = Vec::new();
        for (name, table) in &self.pipeline.tables {
            match source::table(name, table, self.catalog) {
                Ok(planned) => {
                    self.tables.insert(name.clone(), TableInfo { schema: planned.schema.clone(), key: planned.key.clone() });
                    tables.push(planned);
                }
                Err(d) => self.found.push(d.under(["tables", name])),
            }
        }
        tables
    }

    fn sources(&mut self, record: &RecordColumns) {
        if self.root.get("sources").is_some_and(Node::is_empty) {
            let found = Diagnostic::error("no-source", "the pipeline has no sources").at(["sources"]).key();
            self.found.push(found.help("add one: `orders: { topic: business.orders.created, format: avro }`"));
        }
        for (name, spec) in &self.pipeline.sources {
            match source::source(name, spec, self.catalog, record) {
                Ok((input, warnings)) => {
                    self.found.extend(warnings.into_iter().map(|d| d.under(["sources", name])));
                    let types = if let InputKind::Source(decode) = &input.kind { decode.types.clone() } else { None };
                    let stream = self.begin(input);
                    match types {
                        Some(types) => self.split(name, &types, &stream),
                        None => drop(self.streams.insert(name.clone(), stream)),
                    }
                }
                Err(wrong) => self.found.extend(wrong.into_iter().map(|d| d.under(["sources", name]))),
            }
        }
    }

    fn steps(&mut self) {
        let mut waiting: Vec<(&String, &Step)> = self.pipeline.steps.iter().collect();
        while !waiting.is_empty() {
            let before = waiting.len();
            let mut later = Vec::new();
            for (name, step) in waiting {
                let open = step.from.iter().any(|from| {
                    let base = from.split('.').next().unwrap_or(from);
                    !self.streams.contains_key(from) && self.pipeline.steps.contains_key(base) && !self.failed(base)
                });
                if open { later.push((name, step)) } else { self.step(name, step) }
            }
            waiting = later;
            if waiting.len() == before {
                self.found.extend(cycle(&waiting));
                return;
            }
        }
    }

    /// The step was planned (its ports are known, so a missing one is a mistake) or rejected (already reported).
    fn failed(&self, step: &str) -> bool {
        self.read.iter().any(|done| done == &format!("!{step}"))
    }

    fn step(&mut self, name: &str, step: &Step) {
        self.read.push(format!("!{name}"));
        let Some(kind) = self.operators.get(&step.kind) else {
            let found =
                Diagnostic::error("unknown-operator", format!("unknown operator `{}`", step.kind)).at(["steps", name, &step.kind]).key();
            let help = did_you_mean(&step.kind, self.operators.names())
                .unwrap_or_else(|| format!("operators: {}", self.operators.names().collect::<Vec<_>>().join(", ")));
            self.found.push(found.help(help));
            return;
        };
        let path = ["steps".to_string(), name.to_string(), step.kind.clone()];
        let Some(config) = self.root.find(&path) else { return };
        let Some(inputs) = self.inputs_of(name, &step.from, kind) else {
            // What it reads was refused: its own shape can be checked anyway.
            self.found.extend(kind.shape(config).into_iter().map(|e| unreadable(e, &path)));
            return;
        };
        let infos: Vec<InputInfo> = inputs.iter().filter_map(|streams| streams.first()).map(|stream| stream.input.clone()).collect();
        let [input, others @ ..] = infos.as_slice() else { return };
        // Ids of what it makes stay the same when it is renamed.
        let source = format!("{}.{}", self.pipeline.name, self.pipeline.topics_named(name));
        let cx = PlanCx { input, others, tables: &self.tables, source: &source };
        let planned = match kind.plan(config, &cx) {
            Ok(planned) => planned,
            Err(Refused::Wrong(wrong, ports)) => {
                self.refused.push(name.to_string());
                let first = inputs.iter().flatten().next();
                for port in ports {
                    let full = if port.is_empty() { name.to_string() } else { format!("{name}.{port}") };
                    let stream = first.map(|first| Stream { lossy: false, ..first.clone() });
                    self.streams.extend(stream.map(|stream| (full, stream)));
                }
                let wrong: Vec<_> = wrong.into_iter().map(|d| d.under(path.clone())).filter(|d| !self.said_of_table(d)).collect();
                self.found.extend(wrong);
                return;
            }
            Err(Refused::Unreadable(errors)) => {
                self.found.extend(errors.into_iter().map(|e| unreadable(e, &path)));
                return;
            }
        };
        self.found.extend(planned.warnings.iter().cloned().map(|d| d.under(path.clone())));
        if step.on_error.is_none() {
            self.found.extend(planned.fallible.iter().cloned().map(|d| d.under(path.clone())));
        }
        if let Some(inputs) = self.brought_together(name, kind, inputs, planned.needs_key.as_deref()) {
            self.place(name, step, planned, inputs);
        }
    }

    /// The file has `name` in a section, readable or not.
    fn declares(&self, section: &str, name: &str) -> bool {
        self.root.get(section).is_some_and(|section| section.get(name).is_some())
    }

    /// A table that is declared is unknown only because it was refused itself.
    fn said_of_table(&self, found: &Diagnostic) -> bool {
        let name = self.root.find(&found.path).and_then(Node::text);
        found.code == "unknown-table" && name.is_some_and(|name| self.declares("tables", name))
    }

    pub(super) fn resolve(&mut self, from: &str, place: &[String]) -> Option<Stream> {
        self.read.push(from.to_string());
        if let Some(stream) = self.streams.get(from) {
            return Some(stream.clone());
        }
        let base = from.split('.').next().unwrap_or(from);
        // By the file: what can't be read is declared, too.
        let declared = ["sources", "steps"].iter().any(|section| self.declares(section, base));
        let planned = self.streams.keys().any(|name| name.split('.').next() == Some(base));
        // A rejected step, or one that reads a rejected step, has been reported already.
        let nothing_declared = self.root.get("sources").is_some_and(Node::is_empty);
        if (!declared || planned) && !nothing_declared && !self.refused.iter().any(|step| step == base) {
            let known: Vec<&str> = match declared {
                true => self.streams.keys().filter(|name| name.split('.').next() == Some(base)).map(String::as_str).collect(),
                false => self.pipeline.sources.keys().chain(self.pipeline.steps.keys()).map(String::as_str).collect(),
            };
            let message = match declared && from == base {
                true => format!("`{from}` has no main output: read one of its ports"),
                false if self.pipeline.tables.contains_key(from) => format!("`{from}` is a table, not a stream"),
                false => format!("there is no source, step or port `{from}`"),
            };
            let found = Diagnostic::error("unknown-stream", message).at(place.to_vec());
            if self.pipeline.tables.contains_key(from) {
                self.found.push(found.help("look up its rows with `enrich`, or read its topic as a source of another pipeline"));
                return None;
            }
            let help = did_you_mean(from, known.iter().copied()).unwrap_or_else(|| format!("there are {}", list(known.iter().copied())));
            self.found.push(found.help(help));
        }
        None
    }

    fn place(&mut self, name: &str, step: &Step, planned: Planned, inputs: Vec<Vec<Stream>>) {
        let streams = || inputs.iter().flatten();
        let Some(first) = streams().next() else { return };
        let node = self.nodes.len();
        let mut port_keys = Vec::new();
        for (port, output) in planned.outputs.iter().enumerate() {
            // A union has a key only if it is the same in all streams.
            let of = inputs.get(usize::from(output.key_of.0)).map(Vec::as_slice).unwrap_or_default();
            let keys: Vec<_> = of.iter().map(|stream| key_after(&output.key, stream.input.key.as_ref())).collect();
            let key = keys.first().filter(|first| keys.iter().all(|key| key == *first)).cloned().flatten();
            port_keys.push(key.clone());
            let stream = Stream {
                component: first.component,
                from: Upstream::Node(node, Port(port as u16)),
                input: InputInfo { schema: output.schema.clone(), key, mode: output.mode.clone() },
                origins: streams().flat_map(|stream| stream.origins.iter().copied()).collect(),
                lossy: output.lossy_if_unread,
                timed: output.timed || streams().any(|stream| stream.timed),
            };
            let full = if output.name.is_empty() { name.to_string() } else { format!("{name}.{}", output.name) };
            self.streams.insert(full, stream);
        }
        let changelog = planned.state.is_some().then(|| self.names.changelog(self.pipeline.topics_named(name)));
        let branches = inputs.iter().enumerate().flat_map(|(input, streams)| {
            let united = |stream: &Stream| (streams.len() > 1).then(|| stream.input.schema.clone());
            streams.iter().map(move |stream| {
                let mode = stream.input.mode.clone();
                Branch { from: stream.from, input: Input(input as u16), united: united(stream), mode }
            })
        });
        let branches = branches.collect();
        let on_error = step.on_error.unwrap_or_default();
        let (kind, keys) = (step.kind.clone(), port_keys);
        let node = PlanNode { step: name.to_string(), kind, planned, branches, on_error, keys, changelog, changelog_id: None };
        self.nodes.push((first.component, node));
    }

    fn sinks(&mut self) {
        for (name, spec) in &self.pipeline.sinks {
            let place = ["sinks".to_string(), name.clone(), "from".to_string()];
            let Some(stream) = self.resolve(&spec.from, &place) else { continue };
            let partitions = self.partitions(stream.component).0;
            let (target, found) = sink::sink(name, spec, &stream.input, partitions, &self.names, self.catalog);
            self.found.extend(found.into_iter().map(|d| d.under(["sinks", name])));
            if let Some(target) = target {
                // The changes of a row are in order if they are in one partition.
                if stream.input.mode.key().is_some() {
                    self.rely_on_keys(&format!("sink `{name}`"), || std::iter::once(&stream));
                }
                let InputInfo { schema, mode, .. } = stream.input;
                let output = Output { name: name.clone(), from: stream.from, schema, mode, united: false, target };
                self.outputs.push((stream.component, output));
            }
        }
        if self.root.get("sinks").is_none_or(Node::is_empty) {
            self.found.push(
                Diagnostic::error("no-sink", "the pipeline has no sinks")
                    .at(["sinks"])
                    .help("add one: `out: { from: step, topic: analytics.orders.big, create: { partitions: 6 } }`"),
            );
        }
    }
}
