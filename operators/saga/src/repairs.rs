//! What people do about sagas, as events of the machine, and why one changes nothing, in words.

use crate::definition::Definition;
use crate::machine::{Event, Ignored};

/// What repairs are called.
pub const RETRY: &str = "saga.retry";
pub const SKIP: &str = "saga.skip";
pub const COMPENSATE: &str = "saga.compensate";

/// Why a row changes nothing that is about a saga which is not there.
pub const UNKNOWN: &str = "there is no saga of this id";
/// Why a row changes nothing whose event type is no repair.
pub const NO_REPAIR: &str = "no such repair";

/// The event of a repair, of one step or of the whole saga.
///
/// # Errors
/// There is no such repair, or no such step.
pub fn event<'a>(definition: &Definition, what: &str, at: Option<&str>, why: &'a str) -> Result<Event<'a>, &'static str> {
    let step = match at {
        Some(name) => Some(definition.steps.iter().position(|step| step.name == name).ok_or("the saga has no such step")?),
        None => None,
    };
    match what {
        RETRY => Ok(Event::Retry { step }),
        SKIP => Ok(Event::Skip { step }),
        COMPENSATE => Ok(Event::Compensate { why }),
        _ => Err(NO_REPAIR),
    }
}

/// Why an event changed nothing, for the port `ignored` and for people.
pub fn reason(ignored: Ignored) -> &'static str {
    match ignored {
        Ignored::Ended => "the saga has ended",
        Ignored::Repeat => "the same was said before",
        Ignored::Late => "it is too late to matter",
        Ignored::Unexpected => "nothing was sent that this answers",
        Ignored::Compensating => "the saga is being compensated already",
        Ignored::NotWaiting => "the saga does not wait for this step",
        Ignored::NameStep => "the saga is not stuck: name the step to skip",
        Ignored::NotIdempotent => "the participant would carry the command out twice: skip the step, or compensate the saga",
        Ignored::Needed => "later steps need what this one answers: compensate the saga",
    }
}
