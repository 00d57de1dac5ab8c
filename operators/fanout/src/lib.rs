//! `fanout`: sends each row to the routes whose conditions hold for it.
//!
//! Every route is a named output of the step: `routed.high_value` is what the route `high_value` of the step `routed`
//! carries; the step itself has no main output. With `match: first` a row goes to the first route, in the order
//! written, whose condition is true; with `match: all` to every such route. The route whose condition is the word
//! `default` takes the rows that no other route took; without one they are filtered, and counted.
//!
//! The ledger counts a row once, on the first route it takes. A row is rejected when a condition that decides about it
//! cannot be computed: with `match: first` conditions after the one that held decide nothing, with `match: all` every
//! condition does, and a rejected row goes to no route at all. The operator keeps no state and rows stay in their
//! partition.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod spec;

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use operator_core::diagnostic::names;
use operator_core::{Batch, Context, Diagnostic, Input, KeyEffect, Operator, OutputPort, PlanCx, Planned, Port, Spec, StateError};
use operator_expr::Predicate;

pub use spec::{Fanout, Match};

/// The condition of the route for everything else.
const DEFAULT: &str = "default";
/// More routes than anyone draws; ports are numbered with 16 bits.
const MAX_ROUTES: usize = 1_000;

impl Spec for Fanout {
    const KIND: &'static str = "fanout";
    const SUMMARY: &'static str = "Routes rows to named outputs by SQL conditions.";
    const EXAMPLE: &'static str = "\
steps:
  routed:
    from: lines
    fanout:
      match: all
      routes:
        high_value: revenue > 1000
        foreign: currency <> 'EUR'
        rest: default
";
    const EXAMPLE_INPUT: &'static str = "\
order_id: string
revenue: double
currency: string
";

    const REFUSES_CHANGES: Option<&'static str> = None;

    fn pass_through_ports(&self) -> Vec<String> {
        self.routes.iter().map(|(name, _)| name.to_string()).collect()
    }

    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        let schema = &cx.input.schema;
        let mut found = Vec::new();
        self.check_names(&mut found);
        let mut routes = Vec::with_capacity(self.routes.0.len());
        for (name, sql) in self.routes.iter() {
            if sql.trim().eq_ignore_ascii_case(DEFAULT) {
                routes.push(Route { name: name.to_string(), condition: None });
                continue;
            }
            match Predicate::compile(sql, schema) {
                Ok(condition) => routes.push(Route { name: name.to_string(), condition: Some(condition) }),
                Err(error) => found.push(error.diagnostic().at(self.path(name))),
            }
        }
        if !found.is_empty() {
            return Err(found);
        }
        let outputs = routes.iter().map(|route| OutputPort {
            name: route.name.clone(),
            lossy_if_unread: true,
            ..OutputPort::main(schema.clone(), KeyEffect::Unchanged).of_mode(&cx.input.mode)
        });
        let outputs: Vec<OutputPort> = outputs.collect();
        let [first, ..] = outputs.as_slice() else { return Err(vec![no_routes()]) };
        let fallible = routes.iter().filter_map(|r| Some(r.condition.as_ref()?.fallible()?.at(self.path(&r.name)))).collect();
        let warnings = self.unreachable(&routes);
        let reads: Vec<String> = routes.iter().filter_map(|r| r.condition.as_ref()).flat_map(Predicate::columns).cloned().collect();
        let has_default = routes.iter().any(|route| route.condition.is_none());
        let routing = Routing { routes: routes.into(), all: self.matching == Match::All };
        let mut planned = Planned::stateless(first.clone(), move || Box::new(routing.clone())).reads(&reads);
        planned.outputs = outputs;
        planned.fallible = fallible;
        planned.warnings = warnings;
        let matching = if self.matching == Match::All { "all" } else { "first" };
        let rest = if has_default { "go to the default route" } else { "filtered" };
        Ok(planned.detail("match", matching).detail("rows without a route", rest))
    }
}

fn no_routes() -> Diagnostic {
    Diagnostic::error("nothing-to-do", "there are no routes")
        .help("write `high_value: revenue > 1000`, and `rest: default` for everything else")
}

impl Fanout {
    fn path<'a>(&self, name: &'a str) -> Vec<&'a str> {
        if self.short { vec![name] } else { vec!["routes", name] }
    }

    /// Routes that no row ever takes.
    fn unreachable(&self, routes: &[Route]) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let mut all_taken: Option<&str> = None;
        for Route { name, condition } in routes {
            let constant = condition.as_ref().and_then(Predicate::constant);
            let why = match (all_taken, constant) {
                (_, Some(false)) => Some("its condition is never true".to_string()),
                (Some(before), _) => Some(format!("the earlier route `{before}` takes every row")),
                _ => None,
            };
            if let Some(why) = why {
                let problem = Diagnostic::warning("unreachable", format!("no row ever reaches the route `{name}`: {why}"));
                found.push(problem.at(self.path(name)).help("remove the route, or correct the condition"));
            }
            if constant == Some(true) && self.matching == Match::First {
                all_taken.get_or_insert(name);
            }
        }
        found
    }

    fn check_names(&self, found: &mut Vec<Diagnostic>) {
        if self.routes.is_empty() {
            found.push(no_routes());
        }
        if self.routes.0.len() > MAX_ROUTES {
            let message = format!("there are {} routes, at most {MAX_ROUTES} are allowed", self.routes.0.len());
            found.push(Diagnostic::error("too-long", message));
        }
        for (name, _) in self.routes.iter() {
            let good = name.starts_with(|c: char| c.is_alphabetic()) && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
            if !good {
                let problem = Diagnostic::error("bad-name", format!("`{name}` is not a valid route name"));
                found.push(
                    problem
                        .at(self.path(name))
                        .key()
                        .help("use a letter, then letters, digits, `_` and `-`: `from` refers to the route as `step.name`"),
                );
            }
        }
        let is_default = |sql: &str| sql.trim().eq_ignore_ascii_case(DEFAULT);
        let defaults: Vec<&str> = self.routes.iter().filter(|(_, sql)| is_default(sql)).map(|(name, _)| name).collect();
        if let [_, second, ..] = defaults.as_slice() {
            let problem =
                Diagnostic::error("conflicting-settings", format!("{} are both the default route", names(defaults.iter().copied())));
            found.push(problem.at(self.path(second)).help("only one route can take the rows that match no other"));
        }
    }
}

struct Route {
    name: String,
    /// `None`: the default route.
    condition: Option<Predicate>,
}

#[derive(Clone)]
struct Routing {
    routes: Arc<[Route]>,
    all: bool,
}

impl Operator for Routing {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        let rows = batch.num_rows();
        // Rows no route has taken yet, and rows whose condition failed while that still mattered.
        let mut open = BooleanBuffer::new_set(rows);
        let mut failed: Vec<Option<String>> = vec![None; rows];
        let mut taken: Vec<(u16, BooleanBuffer)> = Vec::with_capacity(self.routes.len());
        for (port, route) in self.routes.iter().enumerate() {
            let Some(condition) = &route.condition else { continue };
            let decided = condition.evaluate(&batch.rows);
            for (row, cause) in decided.failed {
                if let Some(slot @ None) = failed.get_mut(row)
                    && (self.all || open.value(row))
                {
                    *slot = Some(format!("{}: {cause}", route.name));
                }
            }
            let holds = decided.holds.values();
            taken.push((port as u16, if self.all { holds.clone() } else { holds & &open }));
            open = &open & &!holds;
        }
        let good = BooleanBuffer::collect_bool(rows, |row| matches!(failed.get(row), Some(None)));
        open = &open & &good;
        let default = self.routes.iter().position(|route| route.condition.is_none());
        match default {
            Some(port) => {
                taken.push((port as u16, open));
                taken.sort_by_key(|(port, _)| *port);
            }
            None => cx.filtered(open.count_set_bits()),
        }
        // Each row counts on the first route it takes.
        let mut uncounted = good.clone();
        for (port, mask) in taken {
            let mask = &mask & &good;
            let inputs = (&mask & &uncounted).count_set_bits();
            uncounted = &uncounted & &!&mask;
            if mask.count_set_bits() > 0 {
                cx.pass(Port(port), select(&batch.rows, mask)?, inputs);
            }
        }
        for (row, cause) in failed.into_iter().enumerate() {
            if let Some(cause) = cause {
                cx.reject(batch, row, cause);
            }
        }
        Ok(())
    }
}

/// The rows of `mask`; all of them without a copy.
fn select(rows: &RecordBatch, mask: BooleanBuffer) -> Result<RecordBatch, StateError> {
    if mask.count_set_bits() == rows.num_rows() {
        return Ok(rows.clone());
    }
    filter_record_batch(rows, &BooleanArray::new(mask, None)).map_err(|e| StateError::new(e.to_string()))
}
