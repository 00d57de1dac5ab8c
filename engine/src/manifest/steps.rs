//! Checks of steps and of sinks that write to tables: state and rows that another plan would not find or misread.

use operator_core::Diagnostic;

use super::check::{Check, layout_differences, replaced, required};
use super::evidence::{Counts, has_entries, unread};
use super::same::{lost_outbox, lost_topic};
use super::{Manifest, Outbox, Partitioned, Step};
use crate::broker::BrokerError;

impl Check<'_> {
    pub(super) fn steps(&mut self, was: &Manifest) -> Result<(), BrokerError> {
        let steps = self.next.steps.clone();
        let ids = self.broker.topic_ids(&was.steps.values().map(|s| s.changelog.clone()).collect::<Vec<_>>())?;
        for (name, before) in &was.steps {
            let gone = replaced(&before.id, &ids.get(&before.changelog).cloned());
            let renamed = steps.iter().find(|(other, step)| *other != name && step.changelog == before.changelog);
            let now = renamed.or_else(|| steps.get_key_value(name));
            if let Some((other, _)) = renamed {
                self.changes.push(format!("step `{name}` is step `{other}` now, and keeps its state"));
            }
            let now_name = now.map_or(name, |(now, _)| now);
            match now.map(|(_, now)| now) {
                None => self.removed(name, (before, gone), was)?,
                Some(now) if now.changelog != before.changelog => self.moved(name, before, now)?,
                Some(now)
                    if now.partitioned != before.partitioned || !(now.reads_state_of(before) || self.grown(now_name, before, now)) =>
                {
                    if gone {
                        self.changes.push(format!("step `{name}` begins without state: its changelog was deleted"));
                    } else {
                        self.changed(now_name, before, now)?;
                    }
                }
                Some(now) if gone => {
                    let what = format!("the state of the step `{name}`");
                    let found = lost_topic(&self.group, &self.plan.names, &now.changelog, &what);
                    self.refused.extend(found.map(|found| self.at_step(found, now_name)));
                }
                Some(_) => {}
            }
        }
        let known = |name: &String, step: &Step| was.steps.contains_key(name) || was.steps.values().any(|w| w.changelog == step.changelog);
        let new = steps.iter().filter(|(name, step)| !known(name, step));
        self.changes.extend(new.map(|(name, _)| format!("step `{name}` is new and begins without state")));
        Ok(())
    }

    /// The state is under another name than the step would look for it, as `was` in the file or its absence says.
    fn moved(&mut self, name: &str, before: &Step, now: &Step) -> Result<(), BrokerError> {
        let cause = format!("step `{name}` has its state in `{}`, and would look for it in `{}`", before.changelog, now.changelog);
        if !has_entries(self.broker, &before.changelog)? {
            match self.alone {
                true => self.changes.push(format!("step `{name}` keeps its state in `{}` now; it had none", now.changelog)),
                false => self.running(&cause),
            }
            return Ok(());
        }
        let first =
            before.changelog.trim_start_matches(&format!("{}.", self.plan.names.group())).trim_end_matches(".changelog").to_string();
        let undo = if first == name { "remove `was` from the step".to_string() } else { format!("write `was: {first}` at the step") };
        let help = format!("{undo}, or give up the state: {}", self.without_state(&before.changelog));
        self.refused.push(self.at_step(Diagnostic::error("changed-state", cause), name).help(help));
        Ok(())
    }

    /// The step reads rows that lack its last columns, too.
    fn grown(&mut self, name: &str, before: &Step, now: &Step) -> bool {
        let node = self.plan.stages.iter().flat_map(|s| &s.nodes).find(|node| node.step == name);
        let reads = node.and_then(|node| node.planned.state.as_ref()).is_some_and(|layout| layout.reads(&before.layout));
        let grown = reads && required(&before.nullable, &now.nullable).is_empty();
        if grown {
            let differences = layout_differences(&before.layout, &now.layout).join("; ");
            self.changes
                .push(format!("step `{name}` reads the state of before with its new columns as null, or as their default: {differences}"));
        }
        grown
    }

    fn removed(&mut self, name: &str, (before, gone): (&Step, bool), was: &Manifest) -> Result<(), BrokerError> {
        let cause = format!("step `{name}` kept state in `{}`, but the pipeline has no such step any more", before.changelog);
        if !has_entries(self.broker, &before.changelog)? {
            match self.alone {
                true => {
                    let state = if gone { "its changelog was deleted" } else { "it had no state" };
                    self.changes.push(format!("step `{name}` was removed; {state}"));
                }
                false => self.running(&cause),
            }
            return Ok(());
        }
        let like = self.next.steps.iter().find(|(other, step)| !was.steps.contains_key(*other) && step.layout == before.layout);
        let renamed = like.map(|(other, _)| format!("; the new step `{other}` keeps the same state: was `{name}` renamed?"));
        let found = Diagnostic::error("changed-state", format!("{cause}{}", renamed.unwrap_or_default()));
        let undo = match like {
            Some((other, _)) => format!("if it was, write `was: {name}` at `{other}`; else bring `{name}` back"),
            None => format!("bring the step `{name}` back, or write `was: {name}` at the one that it is now"),
        };
        let found = match like {
            Some((other, _)) => self.at_step(found, other),
            None => found,
        };
        self.refused.push(found.help(format!("{undo}, or give up its state: {}", self.without_state(&before.changelog))));
        Ok(())
    }

    fn changed(&mut self, name: &str, before: &Step, now: &Step) -> Result<(), BrokerError> {
        let mut differences = layout_differences(&before.layout, &now.layout);
        let required = required(&before.nullable, &now.nullable);
        if differences.is_empty() && !required.is_empty() {
            differences.push(format!("columns became required: {}", required.join(", ")));
        }
        match (&before.partitioned, &now.partitioned) {
            (Partitioned::BySource(_), Partitioned::ByRepartition) => differences.push("rows were read in their source's partitions, now they go through a repartition topic (`key` was removed from a source, or `by` names other columns)".to_string()),
            (Partitioned::ByRepartition, Partitioned::BySource(_)) => differences.push("rows went through a repartition topic, now they are read in their source's partitions (`key` was added to it)".to_string()),
            (Partitioned::BySource(was), Partitioned::BySource(is)) if was != is => {
                let shown = |name: &Option<String>| name.as_ref().map_or("no `key`".to_string(), |name| format!("`{name}`"));
                differences.push(format!(
                    "`partitioner` of its source: was {}, now {}, so groups would be in other partitions than their state",
                    shown(was),
                    shown(is)
                ));
            }
            _ => {}
        }
        let cause = format!("step `{name}` has state of an incompatible version: {}", differences.join("; "));
        if !has_entries(self.broker, &before.changelog)? {
            match self.alone {
                true => self.changes.push(format!("step `{name}` changed; it had no state: {}", differences.join("; "))),
                false => self.running(&cause),
            }
            return Ok(());
        }
        let help = format!("undo the change, or give up the state: {}", self.without_state(&before.changelog));
        self.refused.push(self.at_step(Diagnostic::error("changed-state", cause), name).help(help));
        Ok(())
    }

    fn at_step(&self, found: Diagnostic, name: &str) -> Diagnostic {
        let node = self.plan.stages.iter().flat_map(|s| &s.nodes).find(|node| node.step == name);
        match node {
            Some(node) => found.at(["steps", name, &node.kind]),
            None => found,
        }
    }

    pub(super) fn outboxes(&mut self, was: &Manifest) -> Result<(), BrokerError> {
        for (sink, before) in &was.outboxes {
            match self.next.outboxes.get(sink).cloned() {
                Some(Outbox { topic, id, .. }) if replaced(&before.id, &id) => {
                    let found = lost_outbox(&self.group, &self.plan.names, &topic, sink);
                    self.refused.extend(found.map(|found| found.at(["sinks", sink]).key()));
                }
                Some(now) if now.changes != before.changes => self.other_rows(sink, before, &now)?,
                Some(now) if now.changes && now.partitions != before.partitions => self.spread(sink, before, &now),
                Some(_) => {}
                None => self.removed_sink(sink, before)?,
            }
        }
        Ok(())
    }

    /// Changes of a row would be in the partition where its key was and in the one where it is now: no one knows their order.
    fn spread(&mut self, sink: &str, before: &Outbox, now: &Outbox) {
        let message = format!(
            "the sink `{sink}` takes changes, which were in {} partitions and are in {} now: changes of a row could come out of order",
            before.partitions, now.partitions
        );
        let help = "give the pipeline another `name` and the sink another table, which are filled from the beginning of the source";
        self.refused.push(Diagnostic::error("changes-sink", message).at(["sinks", sink]).key().help(help));
    }

    /// Rows that are only added and changes are written and delivered differently.
    fn other_rows(&mut self, sink: &str, before: &Outbox, now: &Outbox) -> Result<(), BrokerError> {
        let said = |outbox: &Outbox| if outbox.changes { "changes" } else { "rows that are only added" };
        let cause = format!("the sink `{sink}` took {}, now it takes {}", said(before), said(now));
        if !self.undelivered(sink, before, &cause)? {
            match self.alone {
                true => self.changes.push(cause),
                false => self.running(&cause),
            }
        }
        Ok(())
    }

    fn removed_sink(&mut self, sink: &str, before: &Outbox) -> Result<(), BrokerError> {
        if !self.undelivered(sink, before, &format!("the sink `{sink}` was removed"))? {
            self.changes.push(format!("the sink `{sink}` was removed; all of its rows are in its table"));
        }
        Ok(())
    }

    /// Refuses, for this cause, if there are rows in an outbox that are not in the table yet.
    fn undelivered(&mut self, sink: &str, before: &Outbox, cause: &str) -> Result<bool, BrokerError> {
        let positions = self.broker.group(&self.plan.names.sink_group(sink))?;
        let Some(partition) = unread(self.broker, &before.topic, &positions, Counts::WithValue)? else { return Ok(false) };
        let message = format!("{cause}, but {partition} has rows that are not in its table yet");
        let help = format!(
            "run the previous version until it has delivered them, or give them up: stop all workers and delete the topic `{}`",
            before.topic
        );
        self.refused.push(Diagnostic::error("unread-rows", message).help(help));
        Ok(true)
    }
}
