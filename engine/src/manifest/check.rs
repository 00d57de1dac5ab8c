//! Whether a plan may run on what is deployed: every difference is harmless, or rejected with a remedy.

use operator_core::Diagnostic;
use operator_core::batch::HEADERS;

use super::evidence::{Counts, has_entries, unread};
use super::same::{lost_positions, lost_topic, read_again};
use super::{Input, Manifest, Step};
use crate::broker::{Broker, BrokerError, GroupView, TopicId};
use crate::definition::differences;
use crate::pipeline::Start;
use crate::plan::{InputKind, Plan};

/// What a check found.
pub struct Verdict {
    /// Why the plan must not run; empty if it may.
    pub refused: Vec<Diagnostic>,
    /// What differs from the deployed version and does no harm, a line each.
    pub changes: Vec<String>,
    /// There was no manifest, but the group has positions: they are those of a version that wrote none.
    pub adopted: bool,
    /// What will be deployed. Ids of topics that do not exist yet are missing.
    pub next: Manifest,
}

/// Compares `plan` with the deployed manifest. Changes nothing.
///
/// Changes that are only harmless because there is no state or no unread row need that no worker is about to write some:
/// `first` is false if another worker has written a manifest during this start, and then they are refused.
///
/// # Errors
/// The brokers can't be asked.
pub fn check(broker: &dyn Broker, plan: &Plan, deployed: Option<&Manifest>, first: bool) -> Result<Verdict, BrokerError> {
    let group = broker.group(&plan.names.group())?;
    let mut next = Manifest::of(plan);
    next.identify(broker)?;
    let alone = first && group.members == 0;
    let mut check = Check { broker, plan, group, alone, next, refused: Vec::new(), changes: Vec::new() };
    let adopted = match deployed {
        // Halfway through a reset nothing else can be compared.
        Some(was) if was.unfinished.is_some() => {
            check.refused.extend(was.is_being_reset());
            false
        }
        Some(was) => {
            check.inputs(was)?;
            check.steps(was)?;
            check.outboxes(was)?;
            check.definition(was);
            false
        }
        None => !check.group.committed.is_empty(),
    };
    let Check { refused, changes, next, .. } = check;
    Ok(Verdict { refused, changes, adopted, next })
}

pub(super) struct Check<'a> {
    pub(super) broker: &'a dyn Broker,
    pub(super) plan: &'a Plan,
    pub(super) group: GroupView,
    /// No worker of the pipeline runs, or starts beside this one.
    pub(super) alone: bool,
    pub(super) next: Manifest,
    pub(super) refused: Vec<Diagnostic>,
    pub(super) changes: Vec<String>,
}

/// `is` is another topic than `was`. Without topic ids nothing is known.
pub(super) fn replaced(was: &Option<TopicId>, is: &Option<TopicId>) -> bool {
    was.is_some() && was != is
}

/// Columns that could be null and are required now.
pub(super) fn required(was: &Option<Vec<String>>, is: &Option<Vec<String>>) -> Vec<String> {
    let (Some(was), Some(is)) = (was, is) else { return Vec::new() };
    was.iter().filter(|column| !is.contains(column)).cloned().collect()
}

impl Step {
    /// Entries that `other` has written can be read.
    pub(super) fn reads_state_of(&self, other: &Step) -> bool {
        self.layout == other.layout && required(&other.nullable, &self.nullable).is_empty()
    }
}

impl Input {
    /// Rows that `other` has written can be read. Headers that nothing reads any more are no difference.
    fn reads_rows_of(&self, other: &Input) -> bool {
        let headers = |column: &String| column.starts_with(HEADERS);
        let unread = |column: &&String| !headers(column) || self.columns.iter().any(headers);
        other.columns.iter().filter(unread).eq(&self.columns)
            && required(&other.nullable, &self.nullable).iter().all(|column| column == HEADERS)
    }
}

impl Check<'_> {
    fn inputs(&mut self, was: &Manifest) -> Result<(), BrokerError> {
        let mut inputs = std::mem::take(&mut self.next.inputs);
        for (topic, input) in &mut inputs {
            match (was.inputs.get(topic), &input.source) {
                (Some(before), Some(_)) => self.source(topic, before, input, was)?,
                (Some(before), None) => self.repartition(topic, before, input)?,
                (None, Some(source)) => {
                    // A topic that a pattern matches later did not exist when `start` applied.
                    let later = was.inputs.values().any(|i| i.source.as_ref() == Some(source)) && self.by_pattern(source);
                    input.first_partitions = if later { 0 } else { input.partitions };
                    self.changes.push(format!("the source `{source}` now also reads the topic `{topic}`"));
                }
                (None, None) => self.changes.push(format!("the repartition topic `{topic}` is new")),
            }
        }
        for (topic, before) in was.inputs.iter().filter(|(topic, _)| !inputs.contains_key(*topic)) {
            self.no_longer_read(topic, before.source.is_some())?;
        }
        self.next.inputs = inputs;
        Ok(())
    }

    fn by_pattern(&self, source: &str) -> bool {
        let inputs = self.plan.stages.iter().flat_map(|s| &s.inputs).filter(|i| i.name == source);
        inputs.into_iter().any(|i| matches!(&i.kind, InputKind::Source(decode) if decode.pattern && decode.start == Start::Latest))
    }

    fn positions(&self, topic: &str) -> usize {
        self.group.committed.keys().filter(|tp| tp.topic.as_ref() == topic).count()
    }

    fn source(&mut self, topic: &str, before: &Input, now: &mut Input, was: &Manifest) -> Result<(), BrokerError> {
        let (group, manifest) = (self.plan.names.group(), self.plan.names.manifest());
        if replaced(&before.id, &now.id) {
            let kept = self.state_beside(topic, was)?;
            if self.positions(topic) == 0 && kept.is_none() {
                // All of its rows are new, whatever `start` says.
                now.first_partitions = 0;
                self.changes.push(format!("the topic `{topic}` was deleted and created again: it is read from its beginning"));
                return Ok(());
            }
            let belongs = match &kept {
                Some(step) => format!("the state of the step `{step}` belongs to the rows of the old topic"),
                None => format!("the positions of the group `{group}` belong to the old topic"),
            };
            let found = Diagnostic::error("recreated-topic", format!("the topic `{topic}` was deleted and created again: {belongs}"));
            let help = match kept {
                Some(_) => read_again(&self.plan.names),
                None => format!(
                    "{}. If it continues the old one at the same offsets, as after a restore, delete the topic `{manifest}` instead",
                    read_again(&self.plan.names)
                ),
            };
            self.refused.push(self.at_source(found, now).help(help));
            return Ok(());
        }
        now.first_partitions = before.first_partitions;
        now.begun = before.begun;
        // Without state nothing depends on how keys were written; a worker that runs may be about to write some.
        if before.notation.is_some() && (!self.alone || self.state_beside(topic, was)?.is_some()) {
            now.notation = before.notation;
        }
        self.lost_positions(topic, now);
        if before.partitions != now.partitions {
            self.changes.push(format!("the topic `{topic}` has {} partitions instead of {}", now.partitions, before.partitions));
        }
        Ok(())
    }

    fn lost_positions(&mut self, topic: &str, now: &Input) {
        let found = lost_positions(&self.group, &self.plan.names, topic, now).map(|found| self.at_source(found, now));
        self.refused.extend(found);
    }

    /// A step whose state was made of this source's rows in the same task, if it has any.
    fn state_beside(&self, topic: &str, was: &Manifest) -> Result<Option<String>, BrokerError> {
        let reads = |stage: &&crate::plan::Stage| stage.inputs.iter().flat_map(|i| &i.topics).any(|t| t.name.as_ref() == topic);
        for node in self.plan.stages.iter().filter(reads).flat_map(|s| &s.nodes) {
            if let Some(changelog) = &node.changelog
                && was.steps.values().any(|step| *step.changelog == **changelog)
                && has_entries(self.broker, changelog)?
            {
                return Ok(Some(node.step.clone()));
            }
        }
        Ok(None)
    }

    pub(super) fn at_source(&self, found: Diagnostic, input: &Input) -> Diagnostic {
        match &input.source {
            Some(source) => found.at(["sources", source]),
            None => found,
        }
    }

    fn repartition(&mut self, topic: &str, before: &Input, now: &mut Input) -> Result<(), BrokerError> {
        now.begun = before.begun;
        let changed = before.key != now.key || !now.reads_rows_of(before);
        if replaced(&before.id, &now.id) {
            now.begun = 0;
            if !changed {
                self.refused.extend(lost_topic(&self.group, &self.plan.names, topic, "rows between two steps"));
            }
            return Ok(());
        }
        self.lost_positions(topic, now);
        if changed {
            let required = required(&before.nullable, &now.nullable);
            let what = match before.key == now.key {
                true if before.columns == now.columns => format!("columns became required: {}", required.join(", ")),
                true => format!("columns were [{}], now [{}]", before.columns.join(", "), now.columns.join(", ")),
                false => format!("rows were partitioned by [{}], now by [{}]", before.key.join(", "), now.key.join(", ")),
            };
            self.rows_left(topic, &format!("the rows in the topic `{topic}` were written by another version ({what})"))?;
        }
        Ok(())
    }

    /// Refuses if the group has not read all rows of a repartition topic or dropped source, for this cause.
    pub(super) fn rows_left(&mut self, topic: &str, cause: &str) -> Result<bool, BrokerError> {
        let counts = if self.next_is_own(topic) { Counts::WithValue } else { Counts::All };
        let group = self.plan.names.group();
        if let Some(partition) = unread(self.broker, topic, &self.group, counts)? {
            let found =
                Diagnostic::error("unread-rows", format!("{cause}, and some are unread: {partition} has rows after the group's position"));
            let help = format!(
                "run the previous version until it has read them, then stop it; or give up these rows: stop all workers and delete {}",
                match counts {
                    Counts::WithValue => format!("the topic `{topic}`"),
                    Counts::All => format!("the positions (`kafka-consumer-groups --group {group} --topic {topic} --delete-offsets`)"),
                }
            );
            self.refused.push(found.help(help));
            return Ok(true);
        }
        if !self.alone {
            self.running(cause);
            return Ok(true);
        }
        Ok(false)
    }

    pub(super) fn next_is_own(&self, topic: &str) -> bool {
        topic.starts_with(&format!("{}.", self.plan.names.group()))
    }

    pub(super) fn no_longer_read(&mut self, topic: &str, source: bool) -> Result<(), BrokerError> {
        let cause = format!(
            "the topic `{topic}` {}, which this version doesn't read",
            if source { "was a source" } else { "was between two steps" }
        );
        if !self.rows_left(topic, &cause)? {
            self.changes.push(format!("the topic `{topic}` is not read any more"));
        }
        Ok(())
    }

    /// Everything else that the file says otherwise.
    fn definition(&mut self, was: &Manifest) {
        if was.definition.is_empty() || self.next.definition.is_empty() {
            return;
        }
        let announced = |part: &str| self.changes.iter().any(|line| line.contains(part));
        let lines = differences(&was.definition, &self.next.definition, announced);
        self.changes.extend(lines);
        self.left_behind(was);
    }

    pub(super) fn running(&mut self, cause: &str) {
        let message = format!("{cause}, and workers of the previous version are running or starting");
        self.refused
            .push(Diagnostic::error("workers-running", message).help("stop all workers of the pipeline, then start the new version"));
    }

    pub(super) fn without_state(&self, changelog: &str) -> String {
        format!(
            "stop all workers, delete the topic `{changelog}` and start again (results of open windows then lack the rows read so far). To compute them from the beginning: {}; or give the pipeline another `name`, and its sinks other topics and tables",
            read_again(&self.plan.names)
        )
    }
}

/// Why workers of two versions can't run at once: they would read and write the same state or rows as different things. What
/// only one of them has is not a conflict.
pub(super) fn conflict(mine: &Manifest, theirs: &Manifest) -> Option<String> {
    let steps = mine.steps.iter().filter_map(|(name, mine)| {
        // By its topic: one of them may call the step by another name.
        let theirs = theirs.steps.values().find(|theirs| theirs.changelog == mine.changelog)?;
        let same = mine.partitioned == theirs.partitioned && mine.reads_state_of(theirs) && theirs.reads_state_of(mine);
        (!same).then(|| format!("the state of the step `{name}` changed ({})", layout_differences(&mine.layout, &theirs.layout).join("; ")))
    });
    let rows = mine.inputs.iter().filter_map(|(topic, mine)| {
        let theirs = theirs.inputs.get(topic)?;
        let same = mine.key == theirs.key && mine.reads_rows_of(theirs) && theirs.reads_rows_of(mine);
        (!same).then(|| format!("the rows in `{topic}` changed"))
    });
    steps.chain(rows).next()
}

/// What differs between two layouts, a clause each.
pub(super) fn layout_differences(was: &[(String, String)], is: &[(String, String)]) -> Vec<String> {
    let of = |layout: &[(String, String)], name: &str| layout.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let mut names: Vec<&String> = was.iter().map(|(name, _)| name).collect();
    names.extend(is.iter().map(|(name, _)| name).filter(|name| of(was, name).is_none()));
    let clause = |name: &String| {
        let called = match name.split_once(' ') {
            Some((key, place)) => format!("`{key}` {place}"),
            None => format!("`{name}`"),
        };
        match (of(was, name), of(is, name)) {
            (Some(was), Some(is)) if was == is => None,
            (Some(was), Some(is)) => Some(format!("{called}: was {was}, now {is}")),
            (Some(was), None) => Some(format!("{called}: was {was}, now missing")),
            (None, Some(is)) => Some(format!("{called}: is new, {is}")),
            (None, None) => None,
        }
    };
    names.into_iter().filter_map(clause).collect()
}
