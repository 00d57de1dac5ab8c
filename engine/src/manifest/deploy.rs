//! A start fits what is deployed, or is rejected.

use operator_core::Diagnostic;

use super::Manifest;
use super::check::check;
use super::store::{self, Deployed, StoreError};
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

/// Compares `plan` with what is deployed, creates the topics that are missing, writes the manifest if anything differs, and
/// adds to the plan what the manifest records.
///
/// # Errors
/// See [`DeployError`]; nothing was changed if the first comparison refuses.
pub fn deploy(broker: &dyn Broker, plan: &mut Plan) -> Result<Agreed, DeployError> {
    let mut deployed = store::read(broker, &plan.names)?;
    let mut verdict = check(broker, plan, deployed.as_ref().map(|d| &d.manifest), true)?;
    let (changes, adopted) = (verdict.changes.clone(), verdict.adopted);
    for attempt in 0..ATTEMPTS {
        if !verdict.refused.is_empty() {
            return Err(DeployError::Refused(verdict.refused));
        }
        if attempt == 0 {
            broker.create_topics(&topics_to_create(plan))?;
        }
        verdict.next.identify(broker)?;
        let agreed = match deployed {
            Some(deployed) if deployed.manifest.says_the_same(&verdict.next) => deployed,
            before => {
                // What is only noted, such as the ids of topics, is no other version.
                let version = before.as_ref().map_or(1, |d| d.manifest.version + u64::from(!verdict.changes.is_empty()));
                store::write(broker, &plan.names, before.as_ref(), &Manifest { version, ..verdict.next.clone() })?
            }
        };
        if agreed.manifest.says_the_same(&verdict.next) {
            agreed.manifest.inform(plan);
            return Ok(Agreed { deployed: agreed, changes, adopted });
        }
        // Another worker was first.
        verdict = check(broker, plan, Some(&agreed.manifest), false)?;
        deployed = Some(agreed);
    }
    Err(BrokerError::new(Failure::Transient, "other workers keep changing the manifest").into())
}
