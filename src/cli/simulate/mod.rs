//! `hw simulate`: a shop's orders and users, and services that answer commands, for local work, tests and the demo.
//!
//! What is written follows from `generate/src/simulate`; here it goes to Kafka. All of it is written at least once: ids follow from
//! seeds and causes, so a repetition after a crash is the same event, and readers tell it by its `eventId`.

pub mod participant;
pub mod shop;
mod writer;

use std::time::Duration;

use clap::{Args, Subcommand};
use headwater_engine::broker::Broker;
use headwater_engine::worker::Stop;
use headwater_generate::simulate::{OrderArgs, Orders, PAYMENTS, Participant, ParticipantArgs, SHIPPING, Service, UserArgs, Users};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Environment, Failure, runtime};
use crate::diagnose::Problem;
use crate::observe::outages::Outages;
use crate::say;
use crate::worker::run;
use participant::Answered;

#[derive(Args)]
#[command(
    after_help = "Services read all commands in their topic, also those from before they started, and answer those that have no answer yet: \
one that starts again, with the same --seed, goes on where it was. They end on Ctrl-C or SIGTERM, or after --count.

Examples:
  hw simulate payments --decline 0.1 --lose 0.05 --double 0.05
  hw simulate shipping --latency 1s..5s --late 0.01
  hw simulate orders --rate 50 --skus 20 --stock 500 --count 10000
  hw simulate users --count 1000"
)]
pub struct SimulateArgs {
    #[command(subcommand)]
    command: Command,
}

/// A simulator's own options, and those of all.
#[derive(Args)]
struct Of<A: Args> {
    #[command(flatten)]
    own: A,
    #[command(flatten)]
    all: All,
}

#[derive(Args)]
struct All {
    #[command(flatten)]
    environment: Environment,
    /// Partitions of topics that do not exist yet
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: i32,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Answer payments.authorise, payments.status and payments.void in commands.payments
    Payments(Of<ParticipantArgs>),
    /// Answer shipping.dispatch, shipping.status and shipping.cancel in commands.shipping
    Shipping(Of<ParticipantArgs>),
    /// Receive stock, then place orders: business.orders.placed
    Orders(Of<OrderArgs>),
    /// Register, change and erase users: business.users.events
    Users(Of<UserArgs>),
}

pub fn run(args: &SimulateArgs) -> Result<(), Failure> {
    let all = match &args.command {
        Command::Payments(Of { all, .. }) | Command::Shipping(Of { all, .. }) => all,
        Command::Orders(Of { all, .. }) => all,
        Command::Users(Of { all, .. }) => all,
    };
    let config = all.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
    let runtime = runtime()?;
    let services = run::connect(&config, "hw-simulate", None, runtime.handle(), &Outages::default())?;
    let stop = Stop::default();
    run::stop_on_signals(runtime.handle(), stop.clone());
    let broker = services.broker.as_ref();
    match &args.command {
        Command::Payments(Of { own, .. }) => answer(all, &PAYMENTS, own, broker, &stop)?,
        Command::Shipping(Of { own, .. }) => answer(all, &SHIPPING, own, broker, &stop)?,
        Command::Orders(Of { own, .. }) => {
            let (mut orders, bar) = (Orders::new(own.options()), bar(all, own.count, "orders"));
            let pace = shop::Pace { rate: own.rate, restock: own.restock.map(Duration::from_millis) };
            let placed = shop::orders(broker, all.partitions, &mut orders, &pace, &stop, &mut |placed| bar.set_position(placed))?;
            bar.finish_and_clear();
            say!("{placed} orders placed");
        }
        Command::Users(Of { own, .. }) => {
            let (mut users, bar) = (Users::new(own.options()), bar(all, own.count, "events"));
            let written = shop::users(broker, all.partitions, &mut users, own.rate, &stop, &mut |written| bar.set_position(written))?;
            bar.finish_and_clear();
            say!("{written} events of users written");
        }
    }
    Ok(())
}

fn answer(all: &All, service: &'static Service, own: &ParticipantArgs, broker: &dyn Broker, stop: &Stop) -> Result<(), Problem> {
    let bar = bar(all, own.count, "answers");
    let participant = Participant::new(service, own.behaviour());
    let show = &mut |so_far: &Answered| {
        bar.set_position(so_far.answers);
        bar.set_message(format!("{} commands, {} waiting", so_far.commands, so_far.waiting));
    };
    let answered = participant::run(broker, all.partitions, participant, own.count, stop, show)?;
    bar.finish_and_clear();
    let Answered { commands, answers, before, unreadable, .. } = answered;
    say!("{}: {commands} commands read, {answers} answers written", service.name);
    if before > 0 {
        say!("{before} commands had been answered before");
    }
    if unreadable > 0 {
        say!("{unreadable} records are no commands of this service, and were left alone");
    }
    Ok(())
}

/// How far it is, on a terminal.
fn bar(all: &All, count: Option<u64>, what: &str) -> ProgressBar {
    if all.quiet {
        return ProgressBar::hidden();
    }
    let (bar, template) = match count {
        Some(count) => (ProgressBar::new(count), "{bar:30} {pos}/{len} WHAT, {per_sec} {msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {pos} WHAT, {per_sec} {msg}"),
    };
    bar.enable_steady_tick(Duration::from_millis(200));
    let style = ProgressStyle::with_template(&template.replace("WHAT", what));
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
