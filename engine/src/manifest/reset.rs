//! Positions that are set from outside, together with the state that goes with them.
//!
//! Several topics and a group can't be changed at once. So the manifest says that it began before anything changes, and that it is done at
//! the end: a start in between is refused, and the same command, given again, finishes.

use operator_core::Diagnostic;

use super::Manifest;
use super::check::Check;

impl Manifest {
    /// Topics that hold state, or rows between two steps: what was made of the rows before the positions.
    pub fn made_of_rows(&self) -> Vec<String> {
        let changelogs = self.steps.values().map(|step| step.changelog.clone());
        let repartitions = self.inputs.iter().filter(|(_, input)| input.source.is_none()).map(|(topic, _)| topic.clone());
        changelogs.chain(repartitions).collect()
    }

    /// The version that says: this has begun.
    pub fn resetting(&self, what: &str) -> Manifest {
        let repeated = self.unfinished.is_some();
        let version = if repeated { self.version } else { self.version + 1 };
        Manifest { version, changes: vec![what.to_string()], unfinished: Some(what.to_string()), ..self.clone() }
    }

    /// The version that says: it is done. `without_state`: the topics of [`Manifest::made_of_rows`] were deleted.
    pub fn reset(&self, without_state: bool) -> Manifest {
        let mut done = Manifest { unfinished: None, ..self.clone() };
        if without_state {
            done.steps.values_mut().for_each(|step| step.id = None);
            for input in done.inputs.values_mut().filter(|input| input.source.is_none()) {
                (input.id, input.begun) = (None, 0);
            }
        }
        done
    }

    /// Why no worker may run now, if so.
    pub(super) fn is_being_reset(&self) -> Option<String> {
        let what = self.unfinished.as_ref()?;
        Some(format!("\"{what}\" has begun and is not done: positions and state may not fit each other"))
    }
}

impl Check<'_> {
    pub(super) fn unfinished(&mut self, was: &Manifest) {
        if let Some(why) = was.is_being_reset() {
            let help = "give the same `hw reset` again: it finishes";
            self.refused.push(Diagnostic::error("unfinished-reset", why).help(help));
        }
    }
}
