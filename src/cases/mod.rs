//! Pipeline cases: what goes in, what must come out, as files that people read and write.
//!
//! ```text
//! pipelines/<name>/cases/<case>/
//!   why.txt                     one sentence: what this case shows
//!   in.<topic>.jsonl            records, one JSON value a line; tables are read before everything else
//!   out.<topic>.jsonl           what is committed to a topic: exactly these values, per key in this order
//!   out.<topic>.dlq.jsonl       dead letters: {"cause": .., "step": .., "value": ..}
//!   table.<database.table>.jsonl   rows for ClickHouse
//! ```
//!
//! A file that is not there means that nothing may come out. `"<any>"` stands for any value. An input line is the value,
//! or `{"@key": .., "@value": .., "@raw": "bytes", "@timestamp": ms}`, or `{"@advance": "10m"}`, which lets time pass.
//! Values are JSON for people; they are encoded in the topic's real format, Avro included.
//!
//! Every case runs as a **family**: the lane of production over the in-memory Kafka, under schedules that must all give
//! the same answer: in one go, row by row, on three lanes with a rebalance, with a crash after each of several steps,
//! and with every fault of the broker that a commit can meet ([`schedule`]).

mod compare;
mod encode;
mod files;
mod schedule;
mod world;

use std::path::Path;

use crate::catalog::Folder;
use crate::diagnose::Problem;
use crate::prepare;

pub use files::Case;

/// What came of a case.
pub struct Report {
    pub case: String,
    /// Schedules that were run.
    pub schedules: usize,
    /// The first schedule that gave another answer, and the differences.
    pub failure: Option<(String, Vec<String>)>,
}

/// Runs the cases of a pipeline whose name contains `only`. With `update`, writes what comes out into the files instead.
///
/// # Errors
/// The pipeline or a case can't be read or planned.
pub fn run(pipeline: &Path, schemas: &Path, only: &str, update: bool) -> Result<Vec<Report>, Vec<Problem>> {
    let one = |text: String| vec![Problem::plain(text)];
    let folder = Folder::read(schemas).map_err(|e| one(format!("{}: {e}", schemas.display())))?;
    let loaded = prepare::load(pipeline)?;
    let (plan, _) = prepare::make_plan(&loaded, &world::Topics(&folder))?;
    let plan = std::sync::Arc::new(plan);
    let dir = pipeline.parent().unwrap_or(Path::new(".")).join("cases");
    let mut reports = Vec::new();
    for case in files::read_all(&dir).map_err(one)?.into_iter().filter(|case| case.name.contains(only)) {
        let records = encode::records(&plan, &loaded.pipeline, &case).map_err(|e| one(format!("case {}: {e}", case.name)))?;
        if update {
            let outcome = world::run(&plan, &records, &schedule::Schedule::plain()).map_err(|e| one(format!("case {}: {e}", case.name)))?;
            case.write(&outcome).map_err(one)?;
            reports.push(Report { case: case.name, schedules: 1, failure: None });
            continue;
        }
        let family = schedule::family();
        let failure = family.iter().find_map(|schedule| {
            let differences = match world::run(&plan, &records, schedule) {
                Ok(outcome) => compare::differences(&case, &outcome),
                Err(e) => vec![e],
            };
            (!differences.is_empty()).then(|| (schedule.name.clone(), differences))
        });
        reports.push(Report { case: case.name, schedules: family.len(), failure });
    }
    Ok(reports)
}
