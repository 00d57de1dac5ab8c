//! Pipeline cases: input and expected output as files.
//!
//! ```text
//! pipelines/<name>/cases/topics.yaml   partitions and settings of topics, where they matter
//! pipelines/<name>/cases/<case>/
//!   why.txt                     one sentence: the purpose of this case
//!   in.<topic>.jsonl            records, one JSON value per line; tables are read before everything else
//!   in.jsonl                    records of several topics in order, each with its `@topic`
//!   out.<topic>.jsonl           what is committed to a topic: exactly these values, per source partition and key in this order
//!   out.<topic>.dlq.jsonl       dead letters: {"cause": .., "step": .., "value": ..}
//!   table.<table>.jsonl         rows in the table of a sink, such as table.analytics.orders.jsonl
//!   out.hw.<pipeline>.<sink>.dlq.jsonl   rows that its columns do not accept
//! ```
//!
//! A missing file means that no output is expected. `"<any>"` matches any value. [`line`] describes the other members of a
//! line. Values are JSON; they are encoded in the topic's real format, Avro included. Input files are read concurrently:
//! `@at` and `@advance` count from the start of the case.
//!
//! Every case runs under a **family** of schedules: the production code of lanes and deliveries over an in-memory Kafka and
//! in-memory tables. Every schedule must produce the same output ([`schedule`]): row by row (the reference, which the files
//! describe), in one go, partition by partition in several orders ([`arrival`]), on three lanes with a rebalance, with a crash before
//! and after every protocol step, with commits and inserts whose outcome is unknown.

mod arrival;
mod case_names;
mod compare;
mod crash;
mod encode;
mod files;
mod forms;
pub mod json_rows;
#[cfg(test)]
mod json_schemas;
mod line;
mod outcome;
mod schedule;
mod shape;
mod simulation;
mod tables;
mod topics;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use headwater_engine::operators::Operators;
use headwater_engine::plan::Plan;
use headwater_engine::yaml::Node;
use parking_lot::Mutex;

pub(crate) use self::encode::changed_row;
use crate::cases::json_rows::Rows;
use crate::diagnose::Problem;
use crate::pipeline_files;
use crate::pipeline_files::catalog::Folder;
use crate::registry::operators;

pub use files::Case;

use arrival::Dependence;
use outcome::Outcome;
use schedule::Schedule;
use topics::TopicSettings;

/// Most numbers of input lines that are tried for the smallest.
const SMALLEST_TRIES: usize = 40;
/// Most time between two commits, in milliseconds.
const COMMIT_INTERVAL: i64 = 100;

/// What to run.
pub struct Options {
    /// Where schemas are.
    pub schemas: PathBuf,
    /// Only cases whose name contains this.
    pub only: String,
    /// Only this schedule.
    pub schedule: Option<String>,
}

/// The cases of a pipeline, ready to run.
pub struct Suite {
    pub pipeline: PathBuf,
    plan: Arc<Plan>,
    topics: TopicSettings,
    fits: tables::Fits,
    dependence: Dependence,
    cases: Vec<Prepared>,
    family: Vec<Schedule>,
    /// Cases that can't be run.
    pub unfinished: Vec<Unfinished>,
}

/// A case whose files can't be used: half written, or for another version of the pipeline.
pub struct Unfinished {
    pub case: String,
    pub problems: Vec<Problem>,
}

/// A case, encoded.
struct Prepared {
    case: Case,
    records: encode::Records,
    /// What came out under the reference schedule, once it ran.
    reference: OnceLock<Result<Outcome, String>>,
}

/// What came of a case.
pub struct Report {
    pub pipeline: PathBuf,
    pub case: String,
    pub why: String,
    /// Schedules that were run, and how many of them gave another answer.
    pub schedules: usize,
    pub failed: usize,
    /// Schedules whose crash or fault found its occasion: the others were like a run without.
    pub disturbed: usize,
    /// Every schedule of the family was run.
    pub complete: bool,
    /// Time spent in all runs together.
    pub took: Duration,
    /// The simplest schedule that gave another answer.
    pub failure: Option<Failure>,
    /// Rows that steps still hold at the end, by step: their windows are open.
    pub held: Vec<(String, u64)>,
}

/// A schedule that gave another answer than the files.
pub struct Failure {
    pub schedule: String,
    /// Lines to be shown.
    pub differences: Vec<String>,
    /// The number of input lines after which it first differs from an undisturbed run, if that one is right.
    pub smallest: Option<usize>,
}

/// What one run came to.
struct Ran {
    /// Lines that differ.
    differences: Vec<String>,
    took: Duration,
    /// What the schedule has in store did happen.
    disturbed: bool,
}

/// Reads and plans a pipeline and reads its cases.
///
/// # Errors
/// Everything that is wrong with the pipeline or with the settings of its topics, and then with the cases that are to be run, too.
/// What is wrong with cases alone is in [`Suite::unfinished`]: the others can be run.
pub fn suite(pipeline: &Path, options: &Options) -> Result<Suite, Vec<Problem>> {
    suite_of(pipeline, options, &operators())
}

/// The same for a pipeline of these operators.
fn suite_of(pipeline: &Path, options: &Options, operators: &Operators) -> Result<Suite, Vec<Problem>> {
    let one = |text: String| vec![Problem::plain(text)];
    let folder = Folder::read(&options.schemas).map_err(|e| one(format!("{}: {e}", options.schemas.display())))?;
    let loaded = pipeline_files::load(pipeline)?;
    let dir = pipeline.parent().unwrap_or(Path::new(".")).join("cases");
    let settings = dir.join("topics.yaml");
    let folders = files::folders(&dir).map_err(|e| vec![e]);
    let names: BTreeSet<String> = folders.iter().flatten().flat_map(|folder| files::topics(folder)).collect();
    let topics = TopicSettings::read(&settings);
    let chosen = folders.map(|all| chosen(all, &options.only));
    // Cases that are not run may be half written.
    let read: Vec<(String, Result<Case, Vec<Problem>>)> = chosen.iter().flatten().map(|folder| read_case(folder)).collect();
    let none = TopicSettings::default();
    let catalog = topics::Topics { folder: &folder, settings: topics.as_ref().unwrap_or(&none), cases: names };
    let planned = pipeline_files::make_plan_of(&loaded, operators, &catalog);
    // Problems of the pipeline are reported before those of its cases.
    let mut problems: Vec<Problem> = planned.as_ref().err().into_iter().flatten().cloned().collect();
    problems.extend(topics.as_ref().err().into_iter().flatten().cloned());
    problems.extend(chosen.err().into_iter().flatten());
    let mut blocking = !problems.is_empty();
    problems.extend(read.iter().filter_map(|(_, case)| case.as_ref().err()).flatten().cloned());
    let (Ok((mut plan, _)), Ok(topics)) = (planned, topics) else { return Err(problems) };
    let unused = case_names::check_settings(&plan, &topics, &settings);
    blocking |= !unused.is_empty();
    problems.extend(unused);
    // No output depends on it, and a longer interval takes longer.
    plan.commit_interval = plan.commit_interval.min(COMMIT_INTERVAL);
    let (mut cases, mut unfinished) = (Vec::new(), Vec::new());
    for (name, case) in read {
        let usable = case.and_then(|case| {
            let wrong = match case_names::check(&plan, &case) {
                unknown if unknown.is_empty() => match encode::records(&plan, &loaded.pipeline, &folder, &case) {
                    Ok(records) => return Ok(Prepared { case, records, reference: OnceLock::new() }),
                    Err(wrong) => wrong.into_iter().map(Problem::plain).collect(),
                },
                unknown => unknown,
            };
            problems.extend(wrong.iter().cloned());
            Err(wrong)
        });
        match usable {
            Ok(prepared) => cases.push(prepared),
            Err(problems) => unfinished.push(Unfinished { case: name, problems }),
        }
    }
    if blocking {
        return Err(problems);
    }
    let mut family = schedule::family(plan.outboxes().next().is_some());
    let fits = tables::fits(&plan, &folder).map_err(one)?;
    if let Some(name) = &options.schedule {
        let names: Vec<String> = family.iter().map(|s| s.name.clone()).collect();
        family.retain(|schedule| schedule.name == *name);
        if family.is_empty() {
            let text = format!("{}: there is no schedule `{name}`; the schedules are {}", pipeline.display(), names.join(", "));
            return Err(one(text));
        }
    }
    let dependence = Dependence::of(&plan, &|step, kind| keeps_rows(&loaded.root, step, kind));
    Ok(Suite { pipeline: pipeline.to_path_buf(), plan: Arc::new(plan), topics, fits, dependence, cases, family, unfinished })
}

/// The case in a folder, and its name.
fn read_case(folder: &Path) -> (String, Result<Case, Vec<Problem>>) {
    let wrong = |wrong: Vec<String>| wrong.into_iter().map(Problem::plain).collect();
    (files::name_of(folder), files::read(folder).map_err(wrong))
}

/// A `map` gives a row for each row, unless it takes lists apart.
fn keeps_rows(root: &Node, step: &str, kind: &str) -> bool {
    let map = root.get("steps").and_then(|steps| steps.get(step)).and_then(|step| step.get("map"));
    kind == "map" && map.is_some_and(|map| map.get("unnest").is_none())
}

/// The case of this name; otherwise those whose name contains it.
fn chosen(mut folders: Vec<PathBuf>, only: &str) -> Vec<PathBuf> {
    let exact = folders.iter().any(|folder| files::name_of(folder) == only);
    folders.retain(|folder| if exact { files::name_of(folder) == only } else { files::name_of(folder).contains(only) });
    folders
}

/// A bug of ours is a failed run, not the end of all runs.
fn survived<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    std::panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|thrown| {
        let text = thrown.downcast_ref::<String>().map(String::as_str).or_else(|| thrown.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("no reason given")))
    })
}

impl Suite {
    fn family_size(suite: &Suite) -> usize {
        suite.family.len()
    }

    /// Runs of all cases together.
    pub fn runs(&self) -> usize {
        self.cases.len() * self.family.len()
    }

    /// Writes the output of each case into its files; returns their names.
    ///
    /// # Errors
    /// A run failed, or a file can't be written.
    pub fn update(&self) -> Result<Vec<String>, String> {
        let update = |prepared: &Prepared| {
            let name = &prepared.case.name;
            let place = prepared.case.dir.display();
            let outcome = self.reference(prepared).as_ref().map_err(|e| format!("{place}: {}", e.trim()))?;
            if let Some(error) = outcome.errors.first() {
                return Err(format!("{place}: nothing written, because {}", error.trim()));
            }
            prepared.case.write(outcome)?;
            Ok(name.clone())
        };
        self.cases.iter().map(update).collect()
    }

    fn run(&self, records: &encode::Records, schedule: &Schedule) -> Result<Outcome, String> {
        survived(|| simulation::run(&self.plan, &self.topics, &self.fits, records, schedule))
    }

    fn reference<'a>(&self, prepared: &'a Prepared) -> &'a Result<Outcome, String> {
        prepared.reference.get_or_init(|| self.run(&prepared.records, &Schedule::reference()))
    }

    fn ran(&self, case: usize, schedule: usize) -> Ran {
        let started = Instant::now();
        let (Some(prepared), Some(schedule)) = (self.cases.get(case), self.family.get(schedule)) else {
            return Ran { differences: Vec::new(), took: Duration::ZERO, disturbed: false };
        };
        let reference = self.reference(prepared);
        let differ = |e: &String| (vec![format!("    {e}")], true);
        let (differences, disturbed) = match (schedule.is_reference(), reference) {
            (true, Ok(outcome)) => (compare::differences(&prepared.case, outcome), outcome.disturbed),
            (true, Err(e)) => differ(e),
            (false, reference) => match self.run(&prepared.records, schedule) {
                Ok(outcome) => {
                    let none = Outcome::default();
                    let reference = reference.as_ref().unwrap_or(&none);
                    (compare::differences_under(&prepared.case, &self.dependence, reference, &outcome), outcome.disturbed)
                }
                Err(e) => differ(&e),
            },
        };
        Ran { differences, took: started.elapsed(), disturbed }
    }

    /// The first number of input lines with which a schedule comes to something else than the reference.
    fn smallest(&self, records: &encode::Records, schedule: &Schedule) -> Option<usize> {
        // A few tries are enough for long cases.
        let all = records.steps.len();
        (1..=all).step_by(all.div_ceil(SMALLEST_TRIES)).find(|lines| {
            let part = records.first(*lines);
            let undisturbed = self.run(&part, &Schedule::reference());
            let disturbed = self.run(&part, schedule);
            undisturbed.is_ok_and(|undisturbed| !disturbed.is_ok_and(|disturbed| compare::same(&self.dependence, &undisturbed, &disturbed)))
        })
    }

    /// `ran`: what was run, by schedule.
    fn report(&self, number: usize, ran: &[Option<Ran>]) -> Option<Report> {
        let Prepared { case, records, .. } = self.cases.get(number)?;
        let done = || ran.iter().enumerate().filter_map(|(n, ran)| Some((n, ran.as_ref()?)));
        let wrong: Vec<(usize, &Ran)> = done().filter(|(_, ran)| !ran.differences.is_empty()).collect();
        let failure = wrong.first().and_then(|(first, ran)| {
            let schedule = self.family.get(*first)?;
            let smallest = if schedule.is_reference() { None } else { self.smallest(records, schedule) };
            Some(Failure { schedule: schedule.name.clone(), differences: ran.differences.clone(), smallest })
        });
        Some(Report {
            pipeline: self.pipeline.clone(),
            case: case.name.clone(),
            why: case.why.clone(),
            schedules: done().count(),
            failed: wrong.len(),
            disturbed: done().filter(|(_, ran)| ran.disturbed).count(),
            complete: done().count() == self.family.len(),
            took: done().map(|(_, ran)| ran.took).sum(),
            failure,
            held: self.reference(self.cases.get(number)?).as_ref().map(|outcome| outcome.held.clone()).unwrap_or_default(),
        })
    }
}

/// Runs every case of the suites under every schedule, on all processors. `progress` receives each run that ended. With
/// `fail_fast`, nothing more is begun once something differed.
pub fn run(suites: &[Suite], fail_fast: bool, progress: &(dyn Fn() + Sync)) -> Vec<Report> {
    let of_case = |suite, case| (0..Suite::family_size(suite)).map(move |schedule| (suite, case, schedule));
    let runs: Vec<(&Suite, usize, usize)> =
        suites.iter().flat_map(|suite| (0..suite.cases.len()).flat_map(move |case| of_case(suite, case))).collect();
    let results: Mutex<Vec<Option<Ran>>> = Mutex::new(runs.iter().map(|_| None).collect());
    let (next, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((suite, case, schedule)) = runs.get(at).filter(|_| !enough.load(Ordering::Relaxed)) else { break };
                    let ran = suite.ran(*case, *schedule);
                    enough.fetch_or(fail_fast && !ran.differences.is_empty(), Ordering::Relaxed);
                    if let Some(slot) = results.lock().get_mut(at) {
                        *slot = Some(ran);
                    }
                    progress();
                }
            });
        }
    });
    let mut results = results.into_inner().into_iter();
    let mut reports = Vec::new();
    for suite in suites {
        for case in 0..suite.cases.len() {
            let ran: Vec<Option<Ran>> = results.by_ref().take(suite.family.len()).collect();
            reports.extend(suite.report(case, &ran).filter(|report| report.schedules > 0));
        }
    }
    reports
}

/// Rows of a case, as a source's steps see them, and what the source can't read: for looking at expressions.
///
/// # Errors
/// The pipeline or the case can't be read, or there is no such source or case.
pub fn rows(pipeline: &Path, schemas: &Path, source: Option<&str>, case: Option<&str>) -> Result<(Rows, Vec<String>), Vec<Problem>> {
    let one = |text: String| vec![Problem::plain(text)];
    let options = Options { schemas: schemas.to_path_buf(), only: case.unwrap_or_default().to_string(), schedule: None };
    let suite = suite(pipeline, &options)?;
    let wrong = || suite.unfinished.iter().flat_map(|case| case.problems.clone()).collect::<Vec<_>>();
    let none = || match wrong() {
        wrong if wrong.is_empty() => one("the pipeline has no such case".into()),
        wrong => wrong,
    };
    let prepared = suite.cases.first().ok_or_else(none)?;
    encode::source_rows(&suite.plan, source, &prepared.case).map_err(one)
}

#[cfg(test)]
mod tests;
