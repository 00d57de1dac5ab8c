//! `hw saga`: what became of sagas, and what people do about those that are stuck.
//!
//! `list` and `show` read the changelog of the step. `retry`, `skip` and `compensate` write an event to the topic of the input `repairs`, which the
//! step acts on when it reads it: so a repair has a place in the history, with who asked for it and why.

mod read;
mod repair;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use headwater_engine::pipeline::Pipeline;
use operator_core::Spec;
use operator_saga::Saga;
use operator_saga::inspect::Shown;
use serde_json::{Value, json};

use super::{Environment, Failure, runtime};
use crate::diagnose::Problem;
use crate::observe::outages::Outages;
use crate::pipeline_files::{self, Loaded};
use crate::say;
use crate::style::{dim, good, name};
use crate::worker::run;

#[derive(Args)]
#[command(after_help = "Examples:
  hw saga list pipeline.yaml --stuck
  hw saga show pipeline.yaml order-17
  hw saga retry pipeline.yaml order-17 --reason 'the bank answers again'
  hw saga skip pipeline.yaml order-17 --reason 'voided by phone'")]
pub struct SagaArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Of {
    /// The pipeline file
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
    /// Who asks for it [default: the user of this shell]
    #[arg(long)]
    user: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// List sagas that are remembered: id, status, step, attempts, since when, cause
    List {
        #[command(flatten)]
        of: Of,
        /// Only those that are stuck
        #[arg(long)]
        stuck: bool,
        /// Only those that have not ended
        #[arg(long)]
        open: bool,
        /// Print one JSON object per saga
        #[arg(long)]
        json: bool,
    },
    /// Show a saga with its steps
    Show {
        #[command(flatten)]
        one: One,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Send the undo of a stuck saga again
    Retry(Repair),
    /// Leave what is stuck as it is, because it was taken back by hand, and go on
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
        let loaded = pipeline_files::load(&of.pipeline).map_err(Failure::Wrong)?;
        let found = |pipeline: &Pipeline| -> Vec<String> {
            let sagas = pipeline.steps.keys().filter(|step| loaded.root.find(&["steps", step, Saga::KIND].map(String::from)).is_some());
            sagas.filter(|step| of.step.as_ref().is_none_or(|wanted| wanted == *step)).cloned().collect()
        };
        let wrong = |message: String| Failure::Wrong(vec![Problem::plain(message)]);
        match found(&loaded.pipeline).as_slice() {
            [name] => Ok(Step { name: name.clone(), loaded }),
            [] => Err(wrong(match &of.step {
                Some(step) => format!("the pipeline has no step `{step}` that is a saga"),
                None => "the pipeline has no step that is a saga".to_string(),
            })),
            several => Err(wrong(format!("the pipeline has the sagas {}: choose one with --step", several.join(", ")))),
        }
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
    let repair = |event: &str, Repair { id, reason, user, .. }: &Repair| -> Result<(), Failure> {
        let user = user.clone().or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "unknown".into());
        let topic = repair::write(broker, &step, event, id, &user, reason)?;
        say!("{} {event} of {} to {topic}: `hw saga show` says what came of it", good("wrote"), name(id));
        Ok(())
    };
    match &args.command {
        Command::List { stuck, open, json, .. } => {
            let all = read::sagas(broker, &step)?;
            let wanted = |saga: &&Shown| match saga.view.status.name() {
                "stuck" => true,
                "running" | "compensating" => !stuck,
                _ => !stuck && !open,
            };
            let chosen: Vec<&Shown> = all.iter().filter(wanted).collect();
            chosen.iter().for_each(|saga| if *json { say!("{}", document(saga)) } else { say!("{}", line(saga)) });
            if !json {
                say!("{}", dim(&format!("{} of {} sagas", chosen.len(), all.len())));
            }
        }
        Command::Show { one, json } => {
            let all = read::sagas(broker, &step)?;
            let saga = all.iter().find(|saga| saga.id == one.id);
            let saga = saga.ok_or_else(|| Problem::plain(format!("there is no saga `{}`: it has not begun, or is forgotten", one.id)))?;
            if *json {
                say!("{}", document(saga));
                return Ok(());
            }
            say!("{}", line(saga));
            for task in &saga.tasks {
                let line = task.line.as_ref().map_or_else(String::new, |line| format!(" ({line})"));
                let due = task.due.map_or_else(String::new, |due| format!(", waits until {}", read::time(due)));
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

/// A saga on a line.
fn line(saga: &Shown) -> String {
    let view = &saga.view;
    let mut line = format!("{}  {}", name(&saga.id), view.status.name());
    if let Some(step) = &view.step {
        line.push_str(&format!(" at {step}, attempt {}", view.attempts));
    }
    line.push_str(&format!(", since {}, definition {}", read::time(view.since), view.definition));
    if let Some(cause) = &view.cause {
        line.push_str(&format!(": {cause}"));
    }
    line
}

fn document(saga: &Shown) -> Value {
    let view = &saga.view;
    let task = |task: &operator_saga::inspect::ShownTask| json!({ "step": task.step, "line": task.line, "state": task.state, "attempts": task.attempts, "due": task.due.map(read::time) });
    json!({
        "id": saga.id,
        "status": view.status.name(),
        "step": view.step,
        "attempts": view.attempts,
        "since": read::time(view.since),
        "definition": view.definition,
        "cause": view.cause,
        "due": saga.due.map(read::time),
        "tasks": saga.tasks.iter().map(task).collect::<Vec<_>>(),
    })
}
