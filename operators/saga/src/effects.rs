//! Effects on their way to rows: their expressions are computed for all that wait, by kind.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int32Array, ListArray, StringArray, StructArray, UInt32Array};
use operator_core::StateError;
use operator_core::changes::ADDED;
use operator_core::stores::{RowCodec, RowReader};
use operator_event::{Causes, Head, unwritable};

use crate::machine::{Effect, Event, Phase};
use crate::outputs::{States, View, answer_key};
use crate::program::{ATTEMPT, CAUSE, ID, LINE, Program, list, rows_of};
use crate::turn::{Pending, Turn};

impl Turn<'_> {
    /// Computes what waits. A command that can't be computed is an event, which may have effects in turn.
    pub fn flush(&mut self, programs: &BTreeMap<String, Arc<Program>>) -> Result<(), StateError> {
        while !self.pending.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            let base = Base::new(self, &pending)?;
            let ids = StringArray::from_iter_values(pending.iter().map(|pending| &pending.cause.id));
            let correlations =
                StringArray::from_iter_values(pending.iter().map(|pending| self.lives.get(pending.live).map_or("", |live| &live.id)));
            let causes = Causes::new(ids, correlations);
            self.commands.causes(causes.clone());
            self.ended.causes(causes);
            let mut groups: BTreeMap<(String, Option<(usize, u8)>, Option<Phase>), Vec<usize>> = BTreeMap::new();
            for (at, one) in pending.iter().enumerate() {
                if let Some(live) = self.lives.get_mut(one.live) {
                    live.waiting -= 1;
                }
                let version = self.live(one.live)?.kept.definition.clone();
                let of = match one.effect {
                    Effect::Send { at, call, .. } => (version, Some((at.step, call as u8)), None),
                    Effect::End(phase) => (version, None, Some(phase)),
                    Effect::Stuck { .. } => continue,
                };
                groups.entry(of).or_default().push(at);
            }
            let mut failed: BTreeMap<usize, String> = BTreeMap::new();
            for members in groups.values() {
                self.compute(&pending, members, &base, programs, &mut failed)?;
            }
            for (at, why) in failed {
                let Some(one) = pending.get(at) else { continue };
                if let Effect::Send { at, call, .. } = one.effect {
                    let program = self.program(one.live, programs)?;
                    let _ = self.apply(one.live, &program, Event::Broken { at, call, why: &why }, &one.cause);
                }
            }
        }
        Ok(())
    }

    /// The rows of effects of one kind.
    fn compute(
        &mut self,
        pending: &[Pending],
        members: &[usize],
        base: &Base,
        programs: &BTreeMap<String, Arc<Program>>,
        failed: &mut BTreeMap<usize, String>,
    ) -> Result<(), StateError> {
        let Some(first) = members.first().and_then(|at| pending.get(*at)) else { return Ok(()) };
        let program = self.program(first.live, programs)?;
        let sending = match first.effect {
            Effect::Send { at, call, .. } => program.sending(at.step, call),
            Effect::End(phase) => Some(program.ending(phase)),
            Effect::Stuck { .. } => None,
        };
        let template = match sending {
            Some(Ok(template)) => template,
            Some(Err(why)) => {
                failed.extend(members.iter().map(|at| (*at, why.clone())));
                return Ok(());
            }
            None => return Ok(()),
        };
        let of: Vec<&Pending> = members.iter().filter_map(|at| pending.get(*at)).collect();
        let sagas = UInt32Array::from_iter_values(of.iter().map(|one| base.row(one.live)));
        let lines = lines(&program, &of, base, &sagas)?;
        let column = |name: &str| -> Option<ArrayRef> {
            match name {
                ATTEMPT => Some(Arc::new(Int32Array::from_iter_values(of.iter().map(|one| number(one.effect))))),
                CAUSE => Some(Arc::new(of.iter().map(|one| one.why.as_deref()).collect::<StringArray>())),
                LINE => lines.clone(),
                _ if program.answers_of(name).is_some() => self.answers(&of, &program, name).ok(),
                _ => rows_of(&base.column_of(name)?, &sagas).ok(),
            }
        };
        let mut computed = template.compute(of.len(), column)?;
        // A saga must not wait for the answer to a command that no topic takes.
        let named: Vec<(&str, &ArrayRef)> = template.fields.iter().map(|field| field.name().as_str()).zip(&computed.columns).collect();
        for (row, why) in unwritable(&named) {
            computed.failed.entry(row).or_insert(why);
        }
        let heads = of.iter().enumerate().filter(|(row, _)| !computed.failed.contains_key(row));
        let heads: Vec<(Head, usize)> = heads.filter_map(|(row, one)| Some((self.head(one, *members.get(row)?, &program)?, row))).collect();
        let is_end = matches!(first.effect, Effect::End(_));
        let events = if is_end { &self.plan.ended } else { &self.plan.commands };
        let columns = template.arranged(&computed.columns, events, of.len());
        if is_end {
            self.ended.push(template.kind, columns, heads)?
        } else {
            self.commands.push(template.kind, columns, heads)?
        };
        for (row, why) in computed.failed {
            match is_end {
                true => self.broken_end(&of, row, why)?,
                false => failed.extend(members.get(row).map(|at| (*at, why))),
            }
        }
        Ok(())
    }

    /// What was kept of the answers to a step, for each effect: of a step with lines, that of the line of the same name.
    fn answers(&self, of: &[&Pending], program: &Program, name: &str) -> Result<ArrayRef, StateError> {
        let missing = || StateError::new("a step that keeps answers is missing: this is a bug");
        let (step, answers) = program.answers_of(name).ok_or_else(missing)?;
        let mut reader = RowCodec::new(answers.fields.clone()).reader()?;
        let mut there = Vec::with_capacity(of.len());
        for one in of {
            let live = self.live(one.live)?;
            let line = match one.effect {
                Effect::Send { at, .. } if step.lines.is_some() => live.kept.instance.task(at).map_or("", |task| task.line.as_str()),
                _ => "",
            };
            let answer = live.answers.get(&answer_key(name, line));
            there.push(answer.is_some());
            match answer {
                Some(row) => reader.push(row)?,
                None => reader.push_nulls(),
            }
        }
        let rows = StructArray::try_new(answers.fields.clone(), reader.take()?, Some(there.into()));
        Ok(Arc::new(rows.map_err(|e| StateError::new(format!("the answers to sagas: {e}")))?))
    }

    /// An end that can't be computed is a dead letter: its saga has ended all the same.
    fn broken_end(&mut self, of: &[&Pending], row: usize, why: String) -> Result<(), StateError> {
        let Some((one, live)) = of.get(row).and_then(|one| Some((one, self.lives.get(one.live)?))) else { return Ok(()) };
        let mut letter = States::default();
        let program = &self.plan.program;
        letter.push(&live.id, View::of(&live.kept, &program.definition), ADDED, one.cause.system);
        self.broken.push((letter.finish(&self.plan.states)?, format!("the event of its end can't be computed: {why}")));
        Ok(())
    }

    fn head(&self, one: &Pending, cause: usize, program: &Program) -> Option<Head> {
        let live = self.lives.get(one.live)?;
        let id = match one.effect {
            Effect::Send { at, call, number } => self.command_id(&live.id, program, &live.kept.instance, at, call, number),
            _ => self.plan.ids.of(&live.id, &[b"ended"]),
        };
        Some(Head { place: one.place, id, cause, sequence: Some(one.sequence), system: one.cause.system })
    }
}

fn number(effect: Effect) -> i32 {
    match effect {
        Effect::Send { number, .. } => i32::try_from(number).unwrap_or(i32::MAX),
        _ => 0,
    }
}

/// The elements that effects of a step are about; `None` for a step without lines.
fn lines(program: &Program, of: &[&Pending], base: &Base, sagas: &UInt32Array) -> Result<Option<ArrayRef>, StateError> {
    let step = of.first().and_then(|one| if let Effect::Send { at, .. } = one.effect { Some(at.step) } else { None });
    let Some(Some(Ok(lines))) = step.and_then(|step| program.lines.get(step)) else { return Ok(None) };
    let computed = lines.each.compute(base.ids.len(), |name| base.column_of(name))?;
    let list: &ListArray = list(&computed)?;
    let element = |(one, saga): (&&Pending, Option<u32>)| {
        let Effect::Send { at, .. } = one.effect else { return None };
        let saga = saga? as usize;
        let [from, to] = [list.value_offsets().get(saga)?, list.value_offsets().get(saga + 1)?].map(|bound| *bound as usize);
        u32::try_from(from + at.line).ok().filter(|element| (*element as usize) < to)
    };
    let elements: UInt32Array = of.iter().zip(sagas).map(element).collect();
    Ok(Some(rows_of(list.values(), &elements)?))
}

/// What is kept of the sagas whose effects wait, as columns.
struct Base {
    rows: HashMap<usize, u32>,
    ids: StringArray,
    names: Vec<String>,
    columns: Vec<ArrayRef>,
}

impl Base {
    fn new(turn: &Turn<'_>, pending: &[Pending]) -> Result<Base, StateError> {
        let kept = &turn.plan.scope.kept;
        let mut reader: RowReader = RowCodec::new(kept.clone()).reader()?;
        let (mut rows, mut ids) = (HashMap::new(), Vec::new());
        for one in pending {
            if rows.contains_key(&one.live) {
                continue;
            }
            let live = turn.live(one.live)?;
            rows.insert(one.live, ids.len() as u32);
            ids.push(live.id.as_str());
            reader.push(&live.row)?;
        }
        let names = kept.iter().map(|field| field.name().clone()).collect();
        Ok(Base { rows, ids: StringArray::from(ids), names, columns: reader.take()? })
    }

    fn row(&self, live: usize) -> u32 {
        self.rows.get(&live).copied().unwrap_or_default()
    }

    fn column_of(&self, name: &str) -> Option<ArrayRef> {
        if name == ID {
            return Some(Arc::new(self.ids.clone()));
        }
        self.columns.get(self.names.iter().position(|known| known == name)?).cloned()
    }
}
