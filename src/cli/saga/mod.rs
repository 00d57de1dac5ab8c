//! `hw saga`: what became of sagas, and what people do about those that are stuck.
//!
//! `list` and `show` read the changelog of the step. `retry`, `skip` and `compensate` write an event to the topic of the input `repairs`, which the
//! step acts on when it reads it: so a repair has a place in the history, with who asked for it and why.

mod list;
mod read;
mod repair;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use operator_core::Spec;
use operator_saga::Saga;
use operator_saga::inspect::Shown;
use serde_json::{Value, json};

use self::read::Changelog;
use super::{Environment, Failure, folders, runtime, time};
use crate::diagnose::Problem;
use crate::observe::outages::Outages;
use crate::pipeline_files::{self, Loaded};
use crate::say;
use crate::style::{good, name};
use crate::worker::run;

#[derive(Args)]
#[command(
    after_help = "With --json one object per saga: id, status, step (null: it waits for none), attempts, since (the event time, or that of a timer, at which it came to this status and step), \
definition, cause, due (when it acts next by itself, or null), tasks (step, line, state, attempts, due).

Exit codes: 0, also if nothing is listed; 1 if the changelog can't be read, a saga is missing, a repair would change nothing, or
`list --check` lists one; 2 if the pipeline file or the arguments are wrong.

Examples:
  hw saga list pipeline.yaml --stuck --check
  hw saga list pipeline.yaml --at pay --older-than 1h --json
  hw saga show pipeline.yaml order-17
  hw saga retry pipeline.yaml order-17 --reason 'the bank answers again'
  hw saga skip pipeline.yaml order-17 --reason 'voided by phone'
  hw saga skip pipeline.yaml order-18 --at ship --reason 'shipped by hand'"
)]
pub struct SagaArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Of {
    /// The pipeline file, or a folder with one pipeline in it
    pipeline: PathBuf,
    /// The step, if the pipeline has several sagas
    #[arg(long)]
    step: Option<String>,
    #[command(flatten)]
    environment: Environment,
}

#[derive(Args)]
struct One {
    #[command(flatten)]
    of: Of,
    /// The saga's id
    id: String,
}

#[derive(Args)]
struct Repair {
    #[command(flatten)]
    of: Of,
    /// The saga's id
    id: String,
    /// Why: it is written beside the repair
    #[arg(long)]
    reason: String,
    /// The step that is meant, of several that the saga waits for; its input `repairs` needs the column `data.step`
    #[arg(long, value_name = "STEP")]
    at: Option<String>,
    /// Who asks for it [default: $HW_USER, or the user of this shell: $USER, $LOGNAME, or the user's number]
    #[arg(long)]
    user: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// List sagas that are remembered: id, status, step, attempts, since when, cause
    List {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        chosen: list::Chosen,
    },
    /// Show a saga with its steps
    Show {
        #[command(flatten)]
        one: One,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Send again, at once, what a saga waits for: a command, a question, an undo; also what is stuck
    Retry(Repair),
    /// Go on without what is stuck, because it was taken back by hand; with --at without any step that is waited for, because it was done by
    /// hand, or taken back
    Skip(Repair),
    /// Compensate a saga that runs
    Compensate(Repair),
}

/// A pipeline, and its step that is a saga.
struct Step {
    loaded: Loaded,
    name: String,
}

impl Step {
    fn of(of: &Of) -> Result<Step, Failure> {
        let loaded = pipeline_files::load(&folders::only(&of.pipeline)?).map_err(Failure::Wrong)?;
        let name = super::step::find(&loaded, Saga::KIND, of.step.as_deref()).map_err(|p| Failure::Wrong(vec![p]))?;
        Ok(Step { loaded, name })
    }
}

pub fn run(args: &SagaArgs) -> Result<(), Failure> {
    let of = match &args.command {
        Command::List { of, .. } => of,
        Command::Show { one, .. } => &one.of,
        Command::Retry(repair) | Command::Skip(repair) | Command::Compensate(repair) => &repair.of,
    };
    let step = Step::of(of)?;
    let config = of.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
    let runtime = runtime()?;
    let services = run::connect(&config, "hw-saga", None, runtime.handle(), &Outages::default())?;
    let broker = services.broker.as_ref();
    let repair = |event: &str, Repair { id, reason, user, at, .. }: &Repair| -> Result<(), Failure> {
        let at = at.as_deref();
        let changelog = Changelog::read(broker, &step, Some(id))?;
        let saga = changelog.saga(id)?.ok_or_else(|| missing(id))?;
        if let Some(why) = changelog.refused(id, event, at)? {
            let problem = Problem::plain(format!("{event} would change nothing: {why}"));
            return Err(problem.with_help(Some(repair::help(&saga))).into());
        }
        let user = user.clone().unwrap_or_else(of_this_shell);
        let topic = repair::write(broker, &step, event, id, at, (&user, reason))?;
        say!("{} {event} of {} to {topic}: `hw saga show` says what came of it", good("wrote"), name(id));
        Ok(())
    };
    match &args.command {
        Command::List { chosen, .. } => list::run(&Changelog::read(broker, &step, None)?, chosen)?,
        Command::Show { one, json } => {
            let saga = Changelog::read(broker, &step, Some(&one.id))?.saga(&one.id)?.ok_or_else(|| missing(&one.id))?;
            let saga = &saga;
            if *json {
                say!("{}", document(saga));
                return Ok(());
            }
            say!("{}", line(saga));
            for task in &saga.tasks {
                let line = task.line.as_ref().map_or_else(String::new, |line| format!(" ({line})"));
                let due = task.due.map_or_else(String::new, |due| format!(", waits until {}", time(due)));
                let attempts = if task.attempts > 1 { format!(", {} attempts", task.attempts) } else { String::new() };
                say!("  {}{line}: {}{attempts}{due}", task.step, task.state);
            }
        }
        Command::Retry(args) => repair(operator_saga::RETRY, args)?,
        Command::Skip(args) => repair(operator_saga::SKIP, args)?,
        Command::Compensate(args) => repair(operator_saga::COMPENSATE, args)?,
    }
    Ok(())
}

/// Who runs this: a service or a container may have no name, but always a number.
fn of_this_shell() -> String {
    let mut names = ["HW_USER", "USER", "LOGNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    names.find(|name| !name.is_empty()).unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

fn missing(id: &str) -> Problem {
    Problem::plain(format!("there is no saga `{id}`: it has not begun, or is forgotten"))
}

/// A saga on a line.
fn line(saga: &Shown) -> String {
    let view = &saga.view;
    let mut line = format!("{}  {}", name(&saga.id), view.status.name());
    if let Some(step) = &view.step {
        line.push_str(&format!(" at {step}, attempt {}", view.attempts));
    }
    line.push_str(&format!(", since {}, definition {}", time(view.since), view.definition));
    if let Some(cause) = &view.cause {
        line.push_str(&format!(": {cause}"));
    }
    line
}

fn document(saga: &Shown) -> Value {
    let view = &saga.view;
    let task = |task: &operator_saga::inspect::ShownTask| json!({ "step": task.step, "line": task.line, "state": task.state, "attempts": task.attempts, "due": task.due.map(time) });
    json!({
        "id": saga.id,
        "status": view.status.name(),
        "step": view.step,
        "attempts": view.attempts,
        "since": time(view.since),
        "definition": view.definition,
        "cause": view.cause,
        "due": saga.due.map(time),
        "tasks": saga.tasks.iter().map(task).collect::<Vec<_>>(),
    })
}
