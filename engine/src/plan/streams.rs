//! Streams while planning: which are in one stage, and which must be repartitioned first.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use operator_core::diagnostic::names as list;
use operator_core::{Diagnostic, InputInfo, Mode, Path};

use super::build::{Builder, Stream};
use super::{InputKind, InputTopic, Output, StageInput, Target, Upstream, source};
use crate::format::Layout;
use crate::partitioner::KeyHash;
use crate::pipeline::Step;
use crate::union::united;

impl Builder<'_> {
    /// A new component that begins with `input`.
    pub(super) fn begin(&mut self, input: StageInput) -> Stream {
        let component = self.parents.len();
        self.parents.push(component);
        let index = self.inputs.len();
        let stream = Stream {
            component,
            from: Upstream::Input(index),
            input: source::input_of(&input),
            origins: vec![index],
            lossy: false,
            timed: false,
        };
        self.inputs.push((component, input));
        stream
    }

    pub(super) fn component(&self, mut of: usize) -> usize {
        while let Some(&parent) = self.parents.get(of).filter(|&&parent| parent != of) {
            of = parent;
        }
        of
    }

    pub(super) fn topics_of(&self, component: usize) -> impl Iterator<Item = &InputTopic> {
        let component = self.component(component);
        self.inputs.iter().filter(move |(c, _)| self.component(*c) == component).flat_map(|(_, input)| &input.topics)
    }

    /// Partition count of a component, and whether all its topics have that many.
    pub(super) fn partitions(&self, component: usize) -> (i32, bool) {
        let counts: Vec<i32> = self.topics_of(component).map(|t| t.partitions).collect();
        let most = counts.iter().copied().max().unwrap_or(1);
        (most, counts.iter().all(|c| *c == most))
    }

    /// Several streams as one: common columns, one component, co-partitioned if they are keyed. `names` are those of the streams,
    /// `place` is where they are listed.
    pub(super) fn union(&mut self, place: &[String], names: &[&str], mut streams: Vec<Stream>) -> Option<Vec<Stream>> {
        let mode = self.same_mode(place, names, &streams)?;
        let columns = self.common_columns(place, names, &streams)?;
        for stream in &mut streams {
            stream.input.schema = columns.clone();
            stream.input.mode = mode.clone();
        }
        let (first, rest) = streams.split_first()?;
        if !rest.is_empty() && streams.iter().any(|stream| stream.timed) {
            self.no_order(place);
        }
        for other in rest {
            self.merge(place, first.component, other.component)?;
        }
        Some(streams)
    }

    /// Makes one component of two, which have as many partitions.
    pub(super) fn merge(&mut self, place: &[String], a: usize, b: usize) -> Option<()> {
        let (a, b) = (self.component(a), self.component(b));
        if a == b {
            return Some(());
        }
        let ((left, left_even), (right, right_even)) = (self.partitions(a), self.partitions(b));
        if left != right || !left_even || !right_even {
            let topics = |c| list(self.topics_of(c).map(|t| t.name.as_ref()).collect::<Vec<_>>());
            let message = format!("{} with {left} partitions and {} with {right} are not co-partitioned", topics(a), topics(b));
            let found = Diagnostic::error("co-partitioning", message).at(place.to_vec());
            self.found.push(found.help("give the topics the same number of partitions, or process them in two pipelines"));
            return None;
        }
        if let Some(parent) = self.parents.get_mut(b) {
            *parent = a;
        }
        Some(())
    }

    /// The mode of streams of events, or of changes by one key.
    fn same_mode(&mut self, place: &[String], names: &[&str], streams: &[Stream]) -> Option<Mode> {
        let (first, mut mode) = (names.first()?, streams.first()?.input.mode.clone());
        for (at, (name, other)) in names.iter().zip(streams).enumerate().skip(1) {
            let other = &other.input.mode;
            let Some(united) = mode.united(other) else {
                let said = |mode: &Mode| if mode.is_changes() { mode.to_string() } else { "only added".to_string() };
                let message = format!("`{first}` and `{name}` can't be read together: rows are {} and {}", said(&mode), said(other));
                let found = Diagnostic::error("union-changes", message).at([at.to_string()]).under(place.to_vec());
                self.found.push(found.help("read them in two steps; streams of changes by the same key can be read together"));
                return None;
            };
            mode = united;
        }
        Some(mode)
    }

    /// The columns that all of the streams have. What differs is reported, all of it.
    fn common_columns(&mut self, place: &[String], names: &[&str], streams: &[Stream]) -> Option<SchemaRef> {
        let (first, mut columns) = (names.first()?, streams.first()?.input.schema.clone());
        let mut fit = true;
        for (at, (name, stream)) in names.iter().zip(streams).enumerate().skip(1) {
            match united((first, &columns), (name, &stream.input.schema)) {
                Ok(wider) => columns = wider,
                Err(differing) => {
                    fit = false;
                    let message = format!("`{first}` and `{name}` can't be read together: {}", differing.join("; "));
                    let found = Diagnostic::error("union-columns", message).at([at.to_string()]).under(place.to_vec());
                    self.found
                        .push(found.help("give them the same columns with `map: { select: .. }` first; order and nullability may differ"));
                }
            }
        }
        fit.then_some(columns)
    }

    /// Window results are merged with other rows here.
    pub(super) fn no_order(&mut self, at: &[String]) {
        let message = "window results are merged with other rows here; their relative order is undefined";
        let found = Diagnostic::warning("no-order", message).at(at.to_vec());
        self.found.push(found.help("write each stream to its own topic or step, or use only results that don't depend on the order"));
    }

    /// Rows with equal values in `needed` are in one partition already: every stream's key is among these columns,
    /// all streams agree on it and on the partitioner, and all topics of the component have the same number of partitions.
    pub(super) fn co_located(&self, streams: &[Stream], needed: &[Path]) -> bool {
        let Some(first) = streams.first() else { return true };
        let (partitions, even) = self.partitions(first.component);
        if partitions == 1 {
            return true;
        }
        let key = &first.input.key;
        even && key.as_ref().is_some_and(|key| key.iter().all(|k| needed.contains(k)))
            && streams.iter().all(|s| s.input.key == *key)
            && self.partitioners(streams).len() == 1
            && self.keys_are_alike(streams)
    }

    /// Equal values are equal bytes in all keys. A record has several notations (the order of members, spaces, the id of a schema), so
    /// that those of two topics may differ.
    pub(super) fn keys_are_alike<'s>(&self, streams: impl IntoIterator<Item = &'s Stream>) -> bool {
        let (mut topics, mut records) = (BTreeSet::new(), false);
        for (_, input) in streams.into_iter().flat_map(|s| &s.origins).filter_map(|origin| self.inputs.get(*origin)) {
            if let InputKind::Source(decode) = &input.kind {
                topics.extend(input.topics.iter().map(|topic| topic.name.clone()));
                records |= decode.key.is_some() || decode.changes.is_some() || input.key.as_ref().is_some_and(|key| key.len() > 1);
            }
        }
        !records || topics.len() <= 1
    }

    /// How the rows came into their partitions, each way once. A repartition topic is written by the default.
    pub(super) fn partitioners<'s>(&self, streams: impl IntoIterator<Item = &'s Stream>) -> Vec<KeyHash> {
        let mut found = Vec::new();
        for (_, input) in streams.into_iter().flat_map(|s| &s.origins).filter_map(|origin| self.inputs.get(*origin)) {
            let hash = match &input.kind {
                InputKind::Source(decode) => decode.partitioner.hash(),
                InputKind::Repartition { .. } => KeyHash::Murmur2,
            };
            if !found.contains(&hash) {
                found.push(hash);
            }
        }
        found
    }

    /// These streams are not repartitioned for a step or sink, `by`: the keys of the sources are checked while they are read.
    pub(super) fn rely_on_keys<'s, S: Iterator<Item = &'s Stream>>(&mut self, by: &str, streams: impl Fn() -> S) {
        if streams().next().is_some_and(|first| self.partitions(first.component).0 == 1) {
            return;
        }
        let origins: Vec<usize> = streams().flat_map(|s| s.origins.iter().copied()).collect();
        // Sources that two steps or sinks rely on, each with others, are one group: all their keys must agree.
        let earlier: Vec<Arc<str>> =
            origins.iter().filter_map(|origin| self.inputs.get(*origin)).filter_map(|(_, i)| relied_on(i)).collect();
        let by = earlier.first().cloned().unwrap_or_else(|| by.into());
        for (index, (_, input)) in self.inputs.iter_mut().enumerate() {
            let in_group = origins.contains(&index) || relied_on(input).is_some_and(|other| earlier.contains(&other));
            if let (true, InputKind::Source(decode)) = (in_group, &mut input.kind) {
                decode.relied_on_by = Some(by.clone());
            }
        }
    }

    /// Why rows with equal values in `needed` are not in one partition already.
    pub(super) fn why_apart(&self, streams: &[Stream], needed: &[Path]) -> String {
        let Some(first) = streams.first() else { return String::new() };
        if needed.is_empty() {
            return "all rows must be in one partition".to_string();
        }
        let wanted = format!("rows with equal {} must be in one partition", paths(needed));
        match &first.input.key {
            _ if !self.partitions(first.component).1 => format!("{wanted}, but the topics have different numbers of partitions"),
            _ if streams.iter().any(|s| s.input.key != first.input.key) => format!("{wanted}, but the streams have different keys"),
            Some(key) if key.iter().all(|k| needed.contains(k)) => {
                let names = self.partitioners(streams).into_iter().map(|hash| hash.described().0).collect::<Vec<_>>();
                format!("{wanted}, but the sources have different partitioners: {}", list(names))
            }
            None => format!("{wanted}, and the source has no `key` that ensures it"),
            Some(key) => format!("{wanted}, but they are partitioned by {}", paths(key)),
        }
    }

    /// Ends the stage here: rows go through a repartition topic of so many partitions, keyed by `needed`. `reader`: the step, or its
    /// input.
    pub(super) fn repartition(
        &mut self,
        (step, reader): (&str, &str),
        streams: &[Stream],
        needed: &[Path],
        partitions: i32,
        why: String,
    ) -> Stream {
        let input = reader.strip_prefix(step).unwrap_or_default();
        let topic = self.names.repartition(&format!("{}{input}", self.pipeline.topics_named(step)));
        if let Some(first) = streams.first()
            && !self.partitions(first.component).1
        {
            let topics = list(self.topics_of(first.component).map(|t| t.name.as_ref()).collect::<Vec<_>>());
            let found = Diagnostic::error(
                "co-partitioning",
                format!("{topics} have different numbers of partitions, so their watermarks can't be written to a repartition topic"),
            );
            self.found.push(
                found.at(["steps", step, "from"]).help("give the topics the same number of partitions, or read them as separate sources"),
            );
        }
        let writers = streams.first().map_or(1, |first| self.partitions(first.component).0);
        let mut schema = None;
        let mut component = 0;
        for stream in streams {
            component = stream.component;
            schema.get_or_insert_with(|| stream.input.schema.clone());
            let target = Target::Repartition { topic: topic.clone(), partitions, key: needed.to_vec() };
            let (InputInfo { schema, mode, .. }, united) = (stream.input.clone(), streams.len() > 1);
            let output = Output { name: reader.to_string(), from: stream.from, schema, mode, united, target };
            self.outputs.push((stream.component, output));
        }
        let input = StageInput {
            name: reader.to_string(),
            topics: vec![InputTopic::new(topic, partitions, Layout::default())],
            // The component stands in for the stage until stages are cut.
            kind: InputKind::Repartition { stage: component, writers, why },
            schema: schema.unwrap_or_else(|| Arc::new(Schema::empty())),
            key: Some(needed.to_vec()),
            mode: streams.first().map(|stream| stream.input.mode.repartitioned(needed)).unwrap_or_default(),
        };
        let timed = streams.iter().any(|stream| stream.timed);
        Stream { timed, ..self.begin(input) }
    }
}

/// Paths in a sentence.
fn paths(paths: &[Path]) -> String {
    let paths: Vec<String> = paths.iter().map(Path::to_string).collect();
    list(paths.iter().map(String::as_str))
}

/// What relies on the key of a source.
fn relied_on(input: &StageInput) -> Option<Arc<str>> {
    match &input.kind {
        InputKind::Source(decode) => decode.relied_on_by.clone(),
        InputKind::Repartition { .. } => None,
    }
}

/// The first cycle among steps of which each waits for another.
pub(super) fn cycle(waiting: &[(&String, &Step)]) -> Option<Diagnostic> {
    let before = |name: &str| {
        let (_, step) = waiting.iter().find(|(waits, _)| waits.as_str() == name)?;
        let bases = step.from.iter().map(|from| from.split('.').next().unwrap_or(from));
        bases.into_iter().find_map(|base| waiting.iter().find(|(waits, _)| waits.as_str() == base)).map(|(waits, _)| waits.as_str())
    };
    // Going back from any of them ends in the cycle, which need not hold the first.
    let mut path: Vec<&str> = vec![waiting.first()?.0];
    let start = loop {
        let next = before(path.last()?)?;
        if let Some(at) = path.iter().position(|name| *name == next) {
            break at;
        }
        path.push(next);
    };
    // Collected against the flow: `a` reads `b`.
    let cycle = path.get(start..)?;
    let flow: Vec<String> = cycle.iter().rev().chain(cycle.last()).map(|name| format!("`{name}`")).collect();
    let message = format!("steps form a cycle: {}", flow.join(" → "));
    let found = Diagnostic::error("cycle", message).at(["steps", cycle.first()?, "from"]);
    Some(found.help("change one `from`: a step can't read its own output, directly or through other steps"))
}
