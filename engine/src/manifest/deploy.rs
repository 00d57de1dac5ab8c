//! A start fits what is deployed, or is rejected.

use operator_core::Diagnostic;

use super::check::{Verdict, check};
use super::store::{self, Deployed, StoreError};
use super::{Impact, Manifest};
use crate::broker::{Broker, BrokerError, Failure};
use crate::plan::{Plan, topics_to_create};

/// Workers that start at once make each other compare again; at this many rounds something else is wrong.
const ATTEMPTS: usize = 20;

/// Why a plan was not deployed.
#[derive(Debug)]
pub enum DeployError {
    Store(StoreError),
    /// What state, positions or unread rows can't follow, with remedies.
    Refused(Vec<Diagnostic>),
}

impl<E: Into<StoreError>> From<E> for DeployError {
    fn from(e: E) -> DeployError {
        DeployError::Store(e.into())
    }
}

/// What a start agreed on.
pub struct Agreed {
    pub deployed: Deployed,
    /// What differs from the version before, a line each.
    pub changes: Vec<String>,
    /// The pipeline ran before without a manifest: it was taken as it was found.
    pub adopted: bool,
}

/// What a deployment would do.
pub struct Preview {
    /// What is deployed now, if anything is.
    pub deployed: Option<Deployed>,
    pub verdict: Verdict,
}

impl Preview {
    /// The manifest that a deployment would write, or leave as it is.
    pub fn next(&self) -> Manifest {
        let next = self.verdict.next.clone();
        match &self.deployed {
            None => next,
            // What is only noted, such as the ids of topics, is no other version.
            Some(Deployed { manifest: was, .. }) if self.verdict.changes.is_empty() => {
                Manifest { version: was.version, changes: was.changes.clone(), ..next }
            }
            Some(was) => Manifest { version: was.manifest.version + 1, changes: self.verdict.changes.clone(), ..next },
        }
    }

    /// What the refusals, or else the changes, mean for who deploys.
    pub fn impact(&self) -> Impact {
        let worst = self.verdict.refused.iter().map(Impact::of_refusal).max();
        let changes = self.deployed.is_none() || !self.verdict.changes.is_empty();
        worst.unwrap_or(if changes { Impact::Compatible } else { Impact::None })
    }
}

/// Compares `plan` with what is deployed, as [`deploy`] does first. Changes nothing.
///
/// # Errors
/// See [`StoreError`].
pub fn preview(broker: &dyn Broker, plan: &Plan) -> Result<Preview, StoreError> {
    let deployed = store::read(broker, &plan.names)?;
    let verdict = check(broker, plan, deployed.as_ref().map(|d| &d.manifest), true)?;
    Ok(Preview { deployed, verdict })
}

/// Compares `plan` with what is deployed, creates the topics that are missing, writes the manifest if anything differs, and
/// adds to the plan what the manifest records.
///
/// # Errors
/// See [`DeployError`]; nothing was changed if the first comparison refuses.
pub fn deploy(broker: &dyn Broker, plan: &mut Plan) -> Result<Agreed, DeployError> {
    let mut found = preview(broker, plan)?;
    let (changes, adopted) = (found.verdict.changes.clone(), found.verdict.adopted);
    for attempt in 0..ATTEMPTS {
        if !found.verdict.refused.is_empty() {
            return Err(DeployError::Refused(found.verdict.refused));
        }
        if attempt == 0 {
            broker.create_topics(&topics_to_create(plan))?;
        }
        found.verdict.next.identify(broker)?;
        let next = found.next();
        let agreed = match found.deployed {
            Some(deployed) if deployed.manifest.says_the_same(&next) => deployed,
            before => store::write(broker, &plan.names, before.as_ref(), &next)?,
        };
        if agreed.manifest.says_the_same(&next) {
            agreed.manifest.inform(plan);
            return Ok(Agreed { deployed: agreed, changes, adopted });
        }
        // Another worker was first.
        let verdict = check(broker, plan, Some(&agreed.manifest), false)?;
        found = Preview { deployed: Some(agreed), verdict };
    }
    Err(BrokerError::new(Failure::Transient, "other workers keep changing the manifest").into())
}
