//! Sagas as the entries of a step's changelog have them, for people: outside of a worker, and without the pipeline's inputs.

use arrow::datatypes::Fields;
use operator_core::{MemoryState, Millis, State, StateError};

use crate::codec::Kept;
use crate::definition::Definition;
use crate::operator::Stores;
use crate::outputs::{View, text_of};
use crate::plan::INSTANCES;

/// Collects entries of a changelog, in their order.
#[derive(Default)]
pub struct Sagas {
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

impl Sagas {
    /// Takes an entry: its key, and its value, which is `None` where it is removed.
    pub fn entry(&mut self, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => drop(self.state.entries.insert(key.to_vec(), value.to_vec())),
            None => drop(self.state.entries.remove(key)),
        }
    }

    /// All sagas, in the order of their ids.
    ///
    /// # Errors
    /// An entry can't be read: it was written by another version, or the topic is not the changelog of a saga.
    pub fn all(&self) -> Result<Vec<Shown>, StateError> {
        let stores = Stores::new(&Fields::empty());
        let known = stores.versions(&self.state)?;
        let mut keys = Vec::new();
        self.state.scan(&[INSTANCES], &[INSTANCES + 1], &mut |key, _| {
            keys.push(key.get(1..).unwrap_or_default().to_vec());
            true
        })?;
        let (mut sagas, mut bytes) = (Vec::new(), Vec::new());
        for key in keys {
            if stores.instances.get(&key, &[], &self.state, &mut bytes)?.is_none() {
                continue;
            }
            let kept = Kept::read(&bytes)?;
            let definition = known.get(&kept.definition);
            let missing = || StateError::new(format!("the definition {}, with which a saga began, is missing", kept.definition));
            sagas.push(shown(text_of(&key).unwrap_or_default(), &kept, definition.ok_or_else(missing)?));
        }
        sagas.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(sagas)
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
