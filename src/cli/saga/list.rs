//! `hw saga list`: which sagas are shown.

use clap::{Args, ValueEnum};
use operator_core::{Interval, Millis};
use operator_saga::inspect::Shown;
use operator_saga::machine;

use super::read::Changelog;
use super::{Failure, document, line};
use crate::diagnose::Problem;
use crate::say;
use crate::style::dim;

/// Which sagas, and how they are shown.
#[derive(Args, Default)]
pub(super) struct Chosen {
    /// Only those that are stuck
    #[arg(long)]
    stuck: bool,
    /// Only those that have not ended
    #[arg(long)]
    open: bool,
    /// Only those with this status; may be repeated
    #[arg(long, value_name = "STATUS", value_enum)]
    status: Vec<Status>,
    /// Only those that wait for this step
    #[arg(long, value_name = "STEP")]
    at: Option<String>,
    /// Only those whose status and step are older than this, such as 10m
    #[arg(long, value_name = "DURATION")]
    older_than: Option<Interval>,
    /// List at most this many; all of them are counted
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print one JSON object per saga, and nothing else
    #[arg(long)]
    json: bool,
    /// The exit code is 1 if a saga is listed
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Status {
    Running,
    Compensating,
    Completed,
    Compensated,
    Stuck,
}

impl From<machine::Status> for Status {
    fn from(status: machine::Status) -> Status {
        match status {
            machine::Status::Running => Status::Running,
            machine::Status::Compensating => Status::Compensating,
            machine::Status::Completed => Status::Completed,
            machine::Status::Compensated => Status::Compensated,
            machine::Status::Stuck => Status::Stuck,
        }
    }
}

impl Chosen {
    fn has(&self, saga: &Shown, now: Millis) -> bool {
        let status = Status::from(saga.view.status);
        let steps = saga.view.step.as_deref().unwrap_or_default();
        (!self.stuck || status == Status::Stuck)
            && !(self.open && matches!(status, Status::Completed | Status::Compensated))
            && (self.status.is_empty() || self.status.contains(&status))
            && self.at.as_ref().is_none_or(|at| steps.split(", ").any(|step| step == at))
            && self.older_than.is_none_or(|age| saga.view.since < now.saturating_sub(age.millis()))
    }
}

/// Prints the sagas that are chosen.
pub(super) fn run(changelog: &Changelog, chosen: &Chosen) -> Result<(), Failure> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_millis() as Millis);
    let (mut all, mut listed) = (0_usize, 0_usize);
    changelog.each(&mut |saga| {
        all += 1;
        if !chosen.has(saga, now) {
            return;
        }
        listed += 1;
        match chosen.limit {
            Some(limit) if listed > limit => {}
            _ if chosen.json => say!("{}", document(saga)),
            _ => say!("{}", line(saga)),
        }
    })?;
    if !chosen.json {
        say!("{}", dim(&format!("{listed} of {all} sagas")));
    }
    match listed {
        0 => Ok(()),
        _ if chosen.check => Err(Problem::plain(format!("{listed} of {all} sagas are as --check looks for")).into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use operator_saga::inspect::View;

    use super::*;

    #[test]
    fn sagas_are_chosen_by_status_step_and_age() {
        let saga = |status, step: Option<&str>, since| {
            let (step, definition, cause) = (step.map(String::from), "v".to_string(), None);
            Shown { id: "o1".into(), view: View { status, step, attempts: 1, since, definition, cause }, due: None, tasks: Vec::new() }
        };
        let running = saga(machine::Status::Running, Some("pay, pack"), 1_000);
        let stuck = saga(machine::Status::Stuck, Some("pay"), 5_000);
        let ended = saga(machine::Status::Compensated, None, 5_000);
        let of = |chosen: Chosen| [&running, &stuck, &ended].map(|saga| chosen.has(saga, 10_000));
        assert_eq!(of(Chosen::default()), [true, true, true]);
        assert_eq!(of(Chosen { stuck: true, ..Chosen::default() }), [false, true, false]);
        assert_eq!(of(Chosen { open: true, ..Chosen::default() }), [true, true, false]);
        assert_eq!(of(Chosen { status: vec![Status::Running, Status::Compensated], ..Chosen::default() }), [true, false, true]);
        assert_eq!(of(Chosen { at: Some("pack".into()), ..Chosen::default() }), [true, false, false]);
        assert_eq!(of(Chosen { at: Some("pac".into()), ..Chosen::default() }), [false, false, false]);
        assert_eq!(of(Chosen { older_than: Some(Interval(5_000)), ..Chosen::default() }), [true, false, false]);
    }
}
