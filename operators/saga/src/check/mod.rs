//! The model checker: everything that can happen to a saga, within bounds, against what must hold.
//!
//! ```text
//! world      the instance, and what each participant has done and said
//! moves      an answer comes (any that was ever given, in any order, late, again); a task's time is up
//! choices    a command is carried out, refused, or never looked at; so is an undo; questions are answered truthfully
//! lost       an answer that never comes: the time is up first
//! crash      changes nothing: what a worker did in an epoch is committed as a whole, or happens again. So it is no move
//! ```
//!
//! Worlds are explored breadth first, so that the first violation has the shortest trace. It runs the machine of the operator
//! ([`crate::machine`]), not a description of it.
//!
//! What is abstracted: nothing is sent more than [`ATTEMPTS`] times and a step with lines has [`LINES`] of them, because what happens for the third
//! time happened for the second; timers may fire in any order; people repair nothing. What is assumed: a participant gets the commands of
//! one step and line, its undo and questions about it in the order in which they were sent (in Kafka: one topic, one key), and tells the truth.

mod words;
mod world;

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, SchemaRef};
use operator_core::Diagnostic;
use operator_expr::Predicate;

use crate::definition::Definition;
use crate::invariant;
use crate::spec::Saga;

use world::{Model, Move, World};

/// How often anything is sent, at most.
pub const ATTEMPTS: u32 = 2;
/// Lines of a step with lines.
pub const LINES: usize = 2;
/// Moves from the beginning, at most, if nothing else is said.
pub const DEPTH: usize = 100;
/// Worlds, at most.
const MOST_WORLDS: usize = 1_000_000;
/// Moves from one world, at most: many commands at once, each carried out or not, are more than can be looked at.
const MOST_MOVES: usize = 100_000;

/// What was explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explored {
    pub worlds: usize,
    /// Moves from the beginning to the farthest world.
    pub depth: usize,
    /// Nothing was left out within the bounds.
    pub complete: bool,
}

/// A case in which something does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub what: String,
    /// What happens, move by move.
    pub trace: Vec<String>,
}

/// Why a saga can't be checked.
#[derive(Debug)]
pub enum Unchecked {
    /// The configuration is wrong.
    Wrong(Vec<Diagnostic>),
    Violated(Violation),
}

/// Looks for a case in which a saga breaks what must hold, at most `depth` moves from its beginning.
///
/// # Errors
/// There is such a case; or the configuration is wrong.
pub fn check(saga: &Saga, depth: usize) -> Result<Explored, Unchecked> {
    let (definition, mut found) = saga.definition();
    invariant::check(saga, &definition, &mut found);
    if !found.is_empty() {
        return Err(Unchecked::Wrong(found));
    }
    let invariants = invariant::compiled(saga, &definition);
    explore(&definition, &invariants, depth).map_err(Unchecked::Violated)
}

/// A world on its way to being expanded: how it was reached.
struct Reached {
    world: Arc<[u8]>,
    from: u32,
}

fn explore(definition: &Definition, invariants: &[(String, Predicate)], most: usize) -> Result<Explored, Violation> {
    let model = Model::new(definition);
    let mut known: HashSet<Arc<[u8]>> = HashSet::new();
    let mut reached: Vec<Reached> = Vec::new();
    let mut search =
        Search { model: &model, invariants, schema: invariant::columns(definition), known: &mut known, cut: false, reached: &mut reached };
    let mut level: Vec<u32> = Vec::new();
    search.expand(None, &mut level)?;
    let mut depth = 0;
    while !level.is_empty() {
        search.invariants(&level)?;
        if depth >= most || search.reached.len() >= MOST_WORLDS {
            return Ok(Explored { worlds: search.reached.len(), depth, complete: false });
        }
        depth += 1;
        let mut next = Vec::new();
        for world in std::mem::take(&mut level) {
            search.expand(Some(world), &mut next)?;
        }
        level = next;
    }
    Ok(Explored { complete: !search.cut, worlds: search.reached.len(), depth: depth.saturating_sub(1) })
}

struct Search<'s> {
    model: &'s Model,
    invariants: &'s [(String, Predicate)],
    schema: SchemaRef,
    known: &'s mut HashSet<Arc<[u8]>>,
    /// Something was left out.
    cut: bool,
    reached: &'s mut Vec<Reached>,
}

impl Search<'_> {
    fn world(&self, place: u32) -> Option<World> {
        self.model.read(&self.reached.get(place as usize)?.world)
    }

    /// Adds what can become of a world in one move to `next`; of none: the beginnings.
    fn expand(&mut self, from: Option<u32>, next: &mut Vec<u32>) -> Result<(), Violation> {
        let world = from.and_then(|from| self.world(from));
        let mut violated: Option<(String, String)> = None;
        let Search { model, known, reached, cut, .. } = self;
        let mut visited = 0;
        let all = model.moves(world.as_ref(), &mut |made: &Move, after: &World| {
            if let Some(what) = model.violation(after) {
                violated = Some((what, words::of(model, world.as_ref(), made, after)));
                return false;
            }
            let bytes: Arc<[u8]> = model.bytes(after).into();
            if known.insert(bytes.clone()) {
                next.push(reached.len() as u32);
                reached.push(Reached { world: bytes, from: from.unwrap_or(u32::MAX) });
            }
            visited += 1;
            visited < MOST_MOVES
        });
        *cut |= !all;
        match violated {
            None => Ok(()),
            Some((what, last)) => {
                let mut trace = from.map_or_else(Vec::new, |from| self.trace(from));
                trace.push(last);
                Err(Violation { what, trace })
            }
        }
    }

    /// How a world is reached, in words.
    fn trace(&self, to: u32) -> Vec<String> {
        let mut places = vec![to];
        while let Some(Reached { from, .. }) =
            places.last().and_then(|place| self.reached.get(*place as usize)).filter(|r| r.from != u32::MAX)
        {
            places.push(*from);
        }
        places.reverse();
        let mut trace = Vec::new();
        let mut before: Option<World> = None;
        for place in places {
            let Some(target) = self.reached.get(place as usize) else { continue };
            let mut said = None;
            self.model.moves(before.as_ref(), &mut |made, after| {
                if self.model.bytes(after).as_slice() == target.world.as_ref() {
                    said = Some(words::of(self.model, before.as_ref(), made, after));
                }
                said.is_none()
            });
            trace.extend(said);
            before = self.world(place);
        }
        trace
    }

    /// Looks for a world in which a declared invariant does not hold.
    fn invariants(&self, level: &[u32]) -> Result<(), Violation> {
        for part in level.chunks(4096) {
            let worlds: Vec<World> = part.iter().filter_map(|place| self.world(*place)).collect();
            let rows = self.rows(&worlds);
            let Some(rows) = rows else { continue };
            for (text, predicate) in self.invariants {
                let decided = predicate.evaluate(&rows);
                let broken = (0..rows.num_rows()).find(|row| !decided.holds.value(*row));
                if let Some(place) = broken.and_then(|row| part.get(row)) {
                    return Err(Violation { what: format!("`{text}` does not hold"), trace: self.trace(*place) });
                }
            }
        }
        Ok(())
    }

    /// What is true in each world, as columns of invariants.
    fn rows(&self, worlds: &[World]) -> Option<RecordBatch> {
        let flags =
            |of: &dyn Fn(&World) -> bool| Arc::new(worlds.iter().map(|world| Some(of(world))).collect::<BooleanArray>()) as ArrayRef;
        let of_saga = (0..invariant::OF_SAGA.len()).map(|which| flags(&|world| world.of_saga()[which]));
        let of_step = (0..self.model.definition.steps.len()).map(|step| {
            let fields = match self.schema.field(invariant::OF_SAGA.len() + step).data_type() {
                DataType::Struct(fields) => fields.clone(),
                _ => Default::default(),
            };
            let columns = (0..invariant::OF_STEP.len()).map(|which| flags(&|world| world.of_step(step)[which])).collect();
            Arc::new(StructArray::new(fields, columns, None)) as ArrayRef
        });
        RecordBatch::try_new(self.schema.clone(), of_saga.chain(of_step).collect()).ok()
    }
}
