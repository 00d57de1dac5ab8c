//! Sagas as the entries of a step's changelog have them, for people: outside of a worker, and without the pipeline's inputs.

use std::collections::BTreeMap;

use arrow::datatypes::Fields;
use operator_core::{MemoryState, Millis, StateError};

use crate::codec::Kept;
use crate::definition::Definition;
use crate::machine::step;
use crate::operator::Stores;
pub use crate::outputs::View;
use crate::outputs::{key, text_of};
use crate::plan::{DEFINITIONS, INSTANCES};
use crate::repairs;

/// Collects entries of a partition of a changelog, in their order: of all sagas, or of one.
#[derive(Default)]
pub struct Sagas {
    /// The key of the only saga that is collected.
    only: Option<Vec<u8>>,
    state: MemoryState,
}

/// A saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub id: String,
    pub view: View,
    /// When it is acted on next, if nothing happens before.
    pub due: Option<Millis>,
    pub tasks: Vec<ShownTask>,
}

/// A step of a saga, or a line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownTask {
    pub step: String,
    pub line: Option<String>,
    pub state: &'static str,
    /// How often the command that it waits for was sent; of one that waits for nothing, how often its last one was.
    pub attempts: u32,
    /// Until when it waits.
    pub due: Option<Millis>,
}

/// The definitions that sagas of a partition began with, by version.
pub type Definitions = BTreeMap<String, Definition>;

impl Sagas {
    /// Collects the saga of this id only.
    pub fn only(id: &str) -> Sagas {
        Sagas { only: Some(key(id)), ..Sagas::default() }
    }

    /// Takes an entry: its key, and its value, which is `None` where it is removed. What nobody is shown is not collected.
    pub fn entry(&mut self, key: &[u8], value: Option<&[u8]>) {
        let of_saga = |saga: &[u8]| self.only.as_ref().is_none_or(|only| saga == only);
        if !matches!(key.split_first(), Some((tag, rest)) if *tag == DEFINITIONS || *tag == INSTANCES && of_saga(rest)) {
            return;
        }
        match value {
            Some(value) => drop(self.state.entries.insert(key.to_vec(), value.to_vec())),
            None => drop(self.state.entries.remove(key)),
        }
    }

    /// The ids of all sagas.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let entries = self.state.entries.keys().filter_map(|key| key.split_first());
        entries.filter(|(tag, _)| **tag == INSTANCES).filter_map(|(_, key)| text_of(key))
    }

    /// The definitions of its sagas.
    ///
    /// # Errors
    /// One can't be read: the topic is not the changelog of a saga.
    pub fn definitions(&self) -> Result<Definitions, StateError> {
        Stores::new(&Fields::empty()).versions(&self.state)
    }

    /// The saga of this id, if there is one.
    ///
    /// # Errors
    /// It can't be read: it was written by another version.
    pub fn saga(&self, id: &str, definitions: &Definitions) -> Result<Option<Shown>, StateError> {
        Ok(self.read(id, definitions)?.map(|(kept, definition)| shown(id, &kept, definition)))
    }

    /// Why a repair would change nothing, if that is so: at this moment, which is not the one in which the step reads it.
    ///
    /// # Errors
    /// The saga can't be read.
    pub fn refused(&self, id: &str, definitions: &Definitions, repair: &str, at: Option<&str>) -> Result<Option<&'static str>, StateError> {
        let Some((mut kept, definition)) = self.read(id, definitions)? else { return Ok(Some(repairs::UNKNOWN)) };
        Ok(match repairs::event(definition, repair, at, "") {
            Ok(event) => step(definition, &mut kept.instance, event, 0, &mut Vec::new()).err().map(repairs::reason),
            Err(why) => Some(why),
        })
    }

    fn read<'d>(&self, id: &str, definitions: &'d Definitions) -> Result<Option<(Kept, &'d Definition)>, StateError> {
        let mut bytes = Vec::new();
        if Stores::new(&Fields::empty()).instances.get(&key(id), &[], &self.state, &mut bytes)?.is_none() {
            return Ok(None);
        }
        let kept = Kept::read(&bytes)?;
        let missing = || StateError::new(format!("the definition {}, with which a saga began, is missing", kept.definition));
        let definition = definitions.get(&kept.definition).ok_or_else(missing)?;
        Ok(Some((kept, definition)))
    }
}

fn shown(id: &str, kept: &Kept, definition: &Definition) -> Shown {
    let tasks = kept.instance.tasks().map(|(at, task)| ShownTask {
        step: definition.steps.get(at.step).map_or_else(String::new, |step| step.name.clone()),
        line: Some(task.line.clone()).filter(|line| !line.is_empty()),
        state: task.state.name(),
        attempts: task.attempts(),
        due: task.due,
    });
    Shown { id: id.to_string(), view: View::of(kept, definition), due: kept.timer, tasks: tasks.collect() }
}
