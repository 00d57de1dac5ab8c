//! Positions that are set from outside, together with the state that goes with them.
//!
//! Several topics and a group can't be changed at once. So the manifest says that it began before anything changes, and that it is done at
//! the end: a start in between is refused, and the same command, given again, finishes.

use operator_core::Diagnostic;

use super::Manifest;

impl Manifest {
    /// Topics that hold state, or rows between two steps: what was made of the rows before the positions.
    pub fn made_of_rows(&self) -> Vec<String> {
        let changelogs = self.steps.values().map(|step| step.changelog.clone());
        let repartitions = self.inputs.iter().filter(|(_, input)| input.source.is_none()).map(|(topic, _)| topic.clone());
        changelogs.chain(repartitions).collect()
    }

    /// The version that says: this has begun, such as `reset to earliest`.
    pub fn resetting(&self, what: &str) -> Manifest {
        let repeated = self.unfinished.is_some();
        let version = if repeated { self.version } else { self.version + 1 };
        Manifest { version, changes: vec![format!("positions were {what}")], unfinished: Some(what.to_string()), ..self.clone() }
    }

    /// The version that says: it is done. `without_state`: the topics of [`Manifest::made_of_rows`] were deleted, and all positions set.
    pub fn reset(&self, without_state: bool) -> Manifest {
        let mut done = Manifest { unfinished: None, ..self.clone() };
        if without_state {
            done.steps.values_mut().for_each(|step| step.id = None);
            // The positions are those of the sources' topics as they are now, deleted and created again or not.
            done.inputs.values_mut().for_each(|input| (input.id, input.begun) = (None, 0));
        }
        done
    }

    /// Why no worker may run now, if so.
    pub(super) fn is_being_reset(&self) -> Option<Diagnostic> {
        let what = self.unfinished.as_ref()?;
        let why = format!("\"{what}\" has begun and is not done: positions and state may not fit each other");
        Some(Diagnostic::error("unfinished-reset", why).help("give the same `hw reset` again: it finishes"))
    }
}
