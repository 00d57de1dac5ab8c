//! `hw test`: a pipeline's cases, each under every schedule of its family.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use notify::{RecursiveMode, Watcher};
use quick_junit::{NonSuccessKind, Report as JUnit, TestCase, TestCaseStatus, TestSuite};

use super::{Failure, Schemas, folders};
use crate::authoring::lint::Document;
use crate::cases::{self, Options, Report, Suite, Unfinished};
use crate::diagnose::Problem;
use crate::pipeline_files;
use crate::say;
use crate::style::{bad, dim, good, name, strong, wrapped};

#[derive(Args)]
#[command(after_help = "A case is a folder `cases/<name>` beside the pipeline, with these files:
  why.txt                purpose of the case, one sentence
  in.<topic>.jsonl       input, one record per line: the value, or an object
                         with @value or @raw and @key, @headers, @timestamp,
                         @partition, @schema (\"v1\"), @at (\"90s\")
  in.jsonl               input of several topics, each record with @topic
  out.<topic>.jsonl      expected output: values, or objects with @key,
                         @headers, @value; in order per source partition and key
  out.<topic>.dlq.jsonl  expected dead letters:
                         {\"cause\": .., \"step\": .., \"value\": ..}
  table.<table>.jsonl    expected rows of the table of a sink
  ../topics.yaml         settings of topics, such as `partitions: 6`
The line {\"@advance\": \"10m\"} advances the clock; {\"@base64\": \"..\"} is bytes.
A missing output file means that no output is expected. The result is 1 if a case \
fails, otherwise 2 if the files of a case can't be used; all others are run.

Every case runs under many schedules, which must all produce the same output: row by row, in one go, partition by \
partition in several orders, on three lanes with a rebalance, with a crash before and after every protocol step, with \
commits and inserts whose outcome is unknown. docs/yaml.md describes the comparison.

Examples:
  hw test pipelines/*/pipeline.yaml
  hw test pipeline.yaml --case late --update      then review the files
  hw test pipeline.yaml --case late --schedule crash-after-commit-1
  hw test pipeline.yaml --watch")]
pub struct TestArgs {
    /// Pipeline files, or folders to search for pipelines; the folder `cases` beside each has its cases
    #[arg(required = true)]
    pipelines: Vec<PathBuf>,
    #[command(flatten)]
    schemas: Schemas,
    /// Run only the case of this name or, if no case has it, the cases whose name contains it
    #[arg(long, default_value = "", hide_default_value = true)]
    case: String,
    /// Run only this schedule; a failure prints its name
    #[arg(long)]
    schedule: Option<String>,
    /// Stop at the first difference
    #[arg(long)]
    fail_fast: bool,
    /// Write the actual output into the cases, then run all schedules
    #[arg(long, conflicts_with_all = ["schedule", "watch", "junit"])]
    update: bool,
    /// Run again whenever a pipeline, a case or a schema changes
    #[arg(long)]
    watch: bool,
    /// Write the results to this file as JUnit XML
    #[arg(long)]
    junit: Option<PathBuf>,
}

pub fn run(args: &TestArgs) -> Result<(), Failure> {
    if args.update {
        update(args)?;
    }
    if !args.watch {
        return once(args);
    }
    let (changes, _watcher) = changes(args)?;
    loop {
        match once(args) {
            Err(Failure::Wrong(problems)) => pipeline_files::print(&problems),
            Err(Failure::Failed(problem)) => anstream::eprintln!("{}", problem.render()),
            Ok(()) | Err(Failure::Said | Failure::FailedAsSaid | Failure::Answer(_)) => {}
        }
        anstream::eprintln!("{}", dim("waiting for changes; press Ctrl-C to stop"));
        if changes.recv().is_err() {
            return Ok(());
        }
        // Editors write in several steps.
        while changes.recv_timeout(Duration::from_millis(100)).is_ok() {}
    }
}

fn suites(args: &TestArgs) -> Result<Vec<Suite>, Failure> {
    let suite = |pipeline: &PathBuf| {
        let schemas = args.schemas.folder(pipeline)?;
        let options = Options { schemas, only: args.case.clone(), schedule: args.schedule.clone() };
        cases::suite(pipeline, &options).map_err(Failure::Wrong)
    };
    let (mut suites, mut wrong) = (Vec::new(), Vec::new());
    for pipeline in pipelines(args)? {
        match suite(&pipeline) {
            Ok(suite) => suites.push(suite),
            Err(Failure::Wrong(problems)) => wrong.extend(problems),
            Err(other) => return Err(other),
        }
    }
    if wrong.is_empty() { Ok(suites) } else { Err(Failure::Wrong(wrong)) }
}

/// The pipelines that were named, and those with cases in the folders that were.
fn pipelines(args: &TestArgs) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for given in &args.pipelines {
        let files = folders::files(std::slice::from_ref(given), &[Document::Pipeline])?;
        let (with, without): (Vec<PathBuf>, Vec<PathBuf>) =
            files.into_iter().partition(|file| !given.is_dir() || file.with_file_name("cases").is_dir());
        without.iter().for_each(|file| say!("{} {}", file.display(), dim("has no cases")));
        found.extend(with);
    }
    match found.is_empty() {
        true => Err(Failure::Wrong(vec![Problem::plain("no pipeline has cases: a case is a folder in `cases` beside the pipeline")])),
        false => Ok(found),
    }
}

fn update(args: &TestArgs) -> Result<(), Failure> {
    for suite in suites(args)? {
        for case in suite.update().map_err(Problem::plain)? {
            say!("{} {}", good("written"), name(&place(&suite.pipeline, &case)));
        }
    }
    Ok(())
}

fn once(args: &TestArgs) -> Result<(), Failure> {
    let suites = suites(args)?;
    if suites.iter().all(|suite| suite.runs() == 0) {
        let wrong: Vec<Problem> = suites.into_iter().flat_map(|suite| suite.unfinished).flat_map(|case| case.problems).collect();
        return Err(Failure::Wrong(match wrong.is_empty() {
            true => vec![Problem::plain(format!("no case name contains `{}`", args.case))],
            false => wrong,
        }));
    }
    // Before the runs: they may take long.
    let junit_file = |path: &PathBuf| std::fs::File::create(path).map_err(|e| Problem::plain(format!("{}: {e}", path.display())));
    let junit_file = args.junit.as_ref().map(junit_file).transpose()?;
    let started = Instant::now();
    let bar = ProgressBar::new(suites.iter().map(Suite::runs).sum::<usize>() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} runs") {
        bar.set_style(style);
    }
    let reports = cases::run(&suites, args.fail_fast, &|| bar.inc(1));
    bar.finish_and_clear();
    reports.iter().for_each(|report| show(report, args));
    let unfinished: Vec<(&Path, &Unfinished)> =
        suites.iter().flat_map(|suite| suite.unfinished.iter().map(|case| (suite.pipeline.as_path(), case))).collect();
    for (pipeline, case) in &unfinished {
        say!("\n{} {}: its files can't be used", bad("✗"), strong(&place(pipeline, &case.case)));
        pipeline_files::print(&case.problems);
    }
    if let Some(file) = junit_file {
        junit(&reports, &unfinished).serialize(file).map_err(|e| Problem::plain(format!("can't write the results: {e}")))?;
    }
    let result = Totals::of(&reports, unfinished.len());
    let of = if suites.len() > 1 { format!(" in {} pipelines", suites.len()) } else { String::new() };
    say!("\n{result}{of}; {} runs in {:.1} s", result.runs, started.elapsed().as_secs_f64());
    match (result.failed, result.unfinished) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::Said),
        _ => Err(Failure::FailedAsSaid),
    }
}

/// What all cases came to.
struct Totals {
    passed: usize,
    failed: usize,
    unfinished: usize,
    runs: usize,
}

impl Totals {
    fn of(reports: &[Report], unfinished: usize) -> Totals {
        let failed = reports.iter().filter(|report| report.failure.is_some()).count();
        let stopped = reports.iter().filter(|report| report.failure.is_none() && !report.complete).count();
        let runs = reports.iter().map(|report| report.schedules).sum();
        Totals { passed: reports.len() - failed - stopped, failed, unfinished, runs }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = if self.failed + self.unfinished == 0 { good("ok") } else { bad("FAILED") };
        let cases = if self.passed == 1 { "case" } else { "cases" };
        write!(f, "{result}: {} {cases} passed, {} failed", self.passed, self.failed)?;
        match self.unfinished {
            0 => Ok(()),
            n => write!(f, ", {n} could not be run"),
        }
    }
}

fn place(pipeline: &Path, case: &str) -> String {
    format!("{}/cases/{case}", folder(pipeline))
}

fn folder(pipeline: &Path) -> String {
    match pipeline.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.display().to_string(),
        _ => ".".to_string(),
    }
}

fn show(report: &Report, args: &TestArgs) {
    let place = place(&report.pipeline, &report.case);
    let Some(failure) = &report.failure else {
        let schedules = match report.schedules {
            1 => "1 schedule".to_string(),
            n if n == report.disturbed => format!("{n} schedules"),
            n => format!("{n} schedules, {} without effect", n - report.disturbed),
        };
        let line = match report.complete {
            true => format!("{} {place} {}", good("✓"), dim(&schedules)),
            false => format!("{} {place} {}", dim("…"), dim(&format!("stopped after {schedules}"))),
        };
        say!("{}", wrapped(&line, 4));
        open_windows(report);
        return;
    };
    say!("\n{}", wrapped(&format!("{} {}: {}", bad("✗"), strong(&place), report.why), 4));
    let others = match report.failed {
        _ if report.schedules == 1 => "the only one run".to_string(),
        1 => "only under this schedule".to_string(),
        n if n == report.schedules => "under every schedule".to_string(),
        n => format!("{n} of {} schedules fail; this is the simplest", report.schedules),
    };
    say!("{}", wrapped(&format!("    schedule {} {}", name(&failure.schedule), dim(&format!("({others})"))), 4));
    say!("    {} expected, {} found\n", bad("-"), good("+"));
    failure.differences.iter().for_each(|line| say!("{line}"));
    if let Some(lines) = failure.smallest {
        let lines = if lines == 1 { "the first input line is".to_string() } else { format!("the first {lines} input lines are") };
        say!("\n{}", wrapped(&format!("    {lines} enough to reproduce it; without the disturbance the output is right"), 4));
    }
    let mut again = vec!["hw".to_string(), "test".to_string(), report.pipeline.display().to_string()];
    if let Some(schemas) = &args.schemas.given {
        again.extend(["--schemas".to_string(), schemas.display().to_string()]);
    }
    again.extend(["--case", &report.case, "--schedule", &failure.schedule].map(str::to_string));
    say!("\n    again: {}", name(&again.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")));
}

/// Rows in windows that nothing closes come to no output, which looks like a pipeline that drops them.
fn open_windows(report: &Report) {
    for (step, rows) in &report.held {
        let rows = if *rows == 1 { "1 row".to_string() } else { format!("{rows} rows") };
        let line = format!(
            "  note: step `{step}` holds {rows} at the end: their window or interval is still open. To close it, add a line \
             {{\"@advance\": \"10m\"}} to the input, longer than that, or records with later times in every partition"
        );
        say!("{}", wrapped(&dim(&line), 4));
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn junit(reports: &[Report], unfinished: &[(&Path, &Unfinished)]) -> JUnit {
    let mut junit = JUnit::new("hw test");
    let pipelines = reports.iter().map(|r| r.pipeline.as_path()).chain(unfinished.iter().map(|(pipeline, _)| *pipeline));
    for pipeline in pipelines.collect::<std::collections::BTreeSet<_>>() {
        let mut suite = TestSuite::new(pipeline.display().to_string());
        for report in reports.iter().filter(|r| r.pipeline == pipeline) {
            let status = match &report.failure {
                None => TestCaseStatus::success(),
                Some(failure) => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    let lines: Vec<String> = failure.differences.iter().map(|l| anstream::adapter::strip_str(l).to_string()).collect();
                    status.set_message(format!("{}: different output under schedule {}", report.why, failure.schedule));
                    status.set_description(lines.join("\n"));
                    status
                }
            };
            let mut case = TestCase::new(report.case.clone(), status);
            case.set_classname(classname(pipeline)).set_time(report.took);
            suite.add_test_case(case);
        }
        for (_, unfinished) in unfinished.iter().filter(|(of, _)| *of == pipeline) {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_message("the files of the case can't be used");
            status.set_description(unfinished.problems.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("\n"));
            let mut case = TestCase::new(unfinished.case.clone(), status);
            case.set_classname(classname(pipeline));
            suite.add_test_case(case);
        }
        junit.add_test_suite(suite);
    }
    junit
}

/// The folder's name, also where it is the current one.
fn classname(pipeline: &Path) -> String {
    let whole = PathBuf::from(folder(pipeline)).canonicalize().unwrap_or_default();
    match (folder(pipeline).as_str(), whole.file_name()) {
        (".", Some(name)) => name.to_string_lossy().into_owned(),
        (path, _) => path.to_string(),
    }
}

/// Tells of changes to what the tests read.
fn changes(args: &TestArgs) -> Result<(Receiver<()>, notify::RecommendedWatcher), Failure> {
    let (sender, receiver) = channel();
    let fail = |e: notify::Error| Problem::plain(format!("can't watch files: {e}"));
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is not a change.
        if event.is_ok_and(|event| event.kind.is_create() || event.kind.is_modify() || event.kind.is_remove()) {
            let _ = sender.send(());
        }
    })
    .map_err(fail)?;
    let pipelines = pipelines(args)?;
    let folders = pipelines.iter().map(|pipeline| PathBuf::from(folder(pipeline)));
    let schemas: Vec<PathBuf> = pipelines.iter().map(|pipeline| args.schemas.folder(pipeline)).collect::<Result<_, _>>()?;
    for path in folders.chain(schemas).filter(|path| path.is_dir()) {
        watcher.watch(&path, RecursiveMode::Recursive).map_err(fail)?;
    }
    Ok((receiver, watcher))
}
