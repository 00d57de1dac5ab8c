//! The inputs of a step: the streams that belong to each, and the partitions in which rows of several inputs meet.
//!
//! Inputs are read as they are if their rows are already where they must be: in equally many partitions, by the same columns of
//! the needed key, and put there in the same way, all of them by producers or all of them by this pipeline. Otherwise each of them
//! goes through a repartition topic of its own. Repartitioning only some would be cheaper, but how producers write a key is known only
//! while it is read.

use operator_core::diagnostic::{did_you_mean, names as list};
use operator_core::{Diagnostic, Path};

use super::InputKind;
use super::build::{Builder, Stream};
use crate::operators::Kind;
use crate::pipeline::{From, Names};

impl Builder<'_> {
    /// The streams of each input of a step, in the order of the kind's inputs; `None` if there is something wrong with them.
    pub(super) fn inputs_of(&mut self, step: &str, from: &From, kind: &Kind) -> Option<Vec<Vec<Stream>>> {
        let place: Vec<String> = ["steps", step, "from"].map(String::from).to_vec();
        let given = match (from, kind.inputs) {
            (From::Only(names), []) => vec![self.input_of(&place, names)],
            (From::Named(given), [_, ..]) => self.named_inputs(&place, given, kind)?,
            (From::Only(_), known) => {
                let message = format!("`{}` has the inputs {}", kind.name, list(known.iter().copied()));
                let example: Vec<String> =
                    known.iter().zip(["orders", "payments", "repairs"]).map(|(input, from)| format!("{input}: {from}")).collect();
                let found = Diagnostic::error("from", message).at(place);
                self.found.push(found.help(format!("say what each reads: `from: {{ {} }}`", example.join(", "))));
                return None;
            }
            (From::Named(_), []) => {
                let found = Diagnostic::error("from", format!("`{}` has one input, without a name", kind.name)).at(place);
                self.found.push(found.help("write `from: orders`, or a list of streams with the same columns"));
                return None;
            }
        };
        // All of them first, so that every unknown stream is reported.
        given.into_iter().collect()
    }

    fn named_inputs(&mut self, place: &[String], given: &[(String, Names)], kind: &Kind) -> Option<Vec<Option<Vec<Stream>>>> {
        let before = self.found.len();
        for (name, _) in given.iter().filter(|(name, _)| !kind.inputs.contains(&name.as_str())) {
            let found = Diagnostic::error("from", format!("`{}` has no input `{name}`", kind.name)).at([name]).under(place.to_vec()).key();
            let known = || format!("inputs: {}", kind.inputs.join(", "));
            self.found.push(found.help(did_you_mean(name, kind.inputs.iter().copied()).unwrap_or_else(known)));
        }
        if self.found.len() > before {
            return None;
        }
        let of = |name: &str| given.iter().find(|(given, _)| given == name);
        for missing in kind.inputs.iter().filter(|name| of(name).is_none()) {
            let found = Diagnostic::error("from", format!("the input `{missing}` is missing")).at(place.to_vec());
            self.found.push(found.help(format!("add a source, a step or a port: `{missing}: payments`")));
        }
        if self.found.len() > before {
            return None;
        }
        let inputs = kind.inputs.iter().filter_map(|name| of(name)).map(|(name, names)| {
            let place: Vec<String> = place.iter().cloned().chain([name.clone()]).collect();
            self.input_of(&place, names)
        });
        Some(inputs.collect())
    }

    /// The streams of one input, with common columns.
    fn input_of(&mut self, place: &[String], names: &Names) -> Option<Vec<Stream>> {
        let names: Vec<&str> = names.iter().collect();
        if names.is_empty() {
            let found = Diagnostic::error("from", "`from` is empty: a step reads at least one stream").at(place.to_vec());
            self.found.push(found.help("name a source, a step or a port: `from: orders`"));
            return None;
        }
        if let Some(twice) = names.iter().enumerate().find(|(n, from)| names.iter().take(*n).any(|before| before == *from)) {
            let found = Diagnostic::error("stream-twice", format!("`from` lists `{}` twice", twice.1));
            let found = found.at([twice.0.to_string()]).under(place.to_vec());
            self.found.push(found.help("remove one: a step reads each row of a stream once"));
        }
        // All of them, so that every unknown one is reported.
        let streams: Vec<Option<Stream>> = names.iter().map(|from| self.resolve(from, place)).collect();
        let streams: Option<Vec<Stream>> = streams.into_iter().collect();
        self.union(place, &names, streams?)
    }

    /// Brings all inputs of a step into one component, and rows with equal values in `needed` (columns of each input) into one
    /// partition.
    pub(super) fn brought_together(
        &mut self,
        step: &str,
        kind: &Kind,
        inputs: Vec<Vec<Stream>>,
        needed: Option<&[Vec<Path>]>,
    ) -> Option<Vec<Vec<Stream>>> {
        let mut inputs = inputs;
        match needed {
            Some(needed) if self.are_together(&inputs, needed) => self.rely_on_keys(&format!("step `{step}`"), || inputs.iter().flatten()),
            Some(needed) => inputs = self.repartitioned(step, kind, &inputs, needed),
            None => {}
        }
        let place: Vec<String> = ["steps", step, "from"].map(String::from).to_vec();
        let components: Vec<usize> = inputs.iter().flatten().map(|stream| stream.component).collect();
        for pair in components.windows(2) {
            if let [a, b] = pair {
                self.merge(&place, *a, *b)?;
            }
        }
        Some(inputs)
    }

    fn repartitioned(&mut self, step: &str, kind: &Kind, inputs: &[Vec<Stream>], needed: &[Vec<Path>]) -> Vec<Vec<Stream>> {
        let most = inputs.iter().flatten().map(|stream| self.partitions(stream.component).0).max().unwrap_or(1);
        let mut moved = Vec::new();
        for (index, (streams, needed)) in inputs.iter().zip(needed).enumerate() {
            let reader = kind.inputs.get(index).map_or_else(|| step.to_string(), |input| format!("{step}.{input}"));
            let partitions = if needed.is_empty() { 1 } else { most };
            let why = match self.co_located(streams, needed) {
                true => {
                    "its rows must be in the partitions of those of the other input, which are not partitioned in the same way".to_string()
                }
                false => self.why_apart(streams, needed),
            };
            moved.push(vec![self.repartition((step, &reader), streams, needed, partitions, why)]);
        }
        moved
    }

    /// Rows with equal values in `needed` are in one partition already.
    fn are_together(&self, inputs: &[Vec<Stream>], needed: &[Vec<Path>]) -> bool {
        if let ([streams], [needed]) = (inputs, needed) {
            return self.co_located(streams, needed);
        }
        let streams = || inputs.iter().flatten();
        let mut components: Vec<usize> = streams().map(|stream| self.component(stream.component)).collect();
        components.sort_unstable();
        components.dedup();
        let counts: Vec<(i32, bool)> = components.iter().map(|component| self.partitions(*component)).collect();
        let one = counts.first().map(|(count, _)| *count);
        if counts.iter().any(|(count, even)| Some(*count) != one || !even) || self.feed_each_other(&components) {
            return false;
        }
        // Which of the needed columns decide the partition.
        let places = inputs.iter().zip(needed).flat_map(|(streams, needed)| {
            let place = |column: &Path| needed.iter().position(|needed| needed == column);
            streams.iter().map(move |stream| stream.input.key.as_ref()?.iter().map(place).collect::<Option<Vec<usize>>>())
        });
        let places: Vec<Option<Vec<usize>>> = places.collect();
        let same = places.first().is_some_and(|first| first.is_some() && places.iter().all(|place| place == first));
        one == Some(1) || same && self.partitioners(streams()).len() == 1 && self.keys_are_alike(streams()) && self.of_one_kind(streams())
    }

    /// All of them come straight from sources, or all from repartition topics.
    fn of_one_kind<'s>(&self, streams: impl Iterator<Item = &'s Stream>) -> bool {
        let inputs = streams.flat_map(|stream| &stream.origins).filter_map(|origin| self.inputs.get(*origin));
        let kinds: Vec<bool> = inputs.map(|(_, input)| matches!(input.kind, InputKind::Source(_))).collect();
        kinds.windows(2).all(|pair| matches!(pair, [a, b] if a == b))
    }

    /// Some of the components reads what another one writes: as one component they would read what they write.
    fn feed_each_other(&self, components: &[usize]) -> bool {
        components.iter().any(|of| {
            let mut above = self.writers_of(*of);
            let mut seen = 0;
            while let Some(next) = above.get(seen).copied() {
                let more = self.writers_of(next).into_iter().filter(|writer| !above.contains(writer)).collect::<Vec<_>>();
                above.extend(more);
                seen += 1;
            }
            components.iter().any(|other| above.contains(other))
        })
    }

    /// The components that write the repartition topics of this one.
    fn writers_of(&self, component: usize) -> Vec<usize> {
        let inputs = self.inputs.iter().filter(|(of, _)| self.component(*of) == component);
        let writers = inputs.filter_map(|(_, input)| match &input.kind {
            InputKind::Repartition { stage, .. } => Some(self.component(*stage)),
            InputKind::Source(_) => None,
        });
        writers.collect()
    }

    /// Components in an order in which each comes behind those whose repartition topics it reads.
    pub(super) fn in_flow_order(&self, mut components: Vec<usize>) -> Vec<usize> {
        let mut ordered: Vec<usize> = Vec::new();
        while !components.is_empty() {
            let is_ready = |of: &usize| self.writers_of(*of).iter().all(|writer| writer == of || ordered.contains(writer));
            let next = components.iter().position(is_ready).unwrap_or(0);
            ordered.push(components.remove(next));
        }
        ordered
    }
}
