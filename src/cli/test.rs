//! `hw test`: a pipeline's cases, each under every schedule of its family.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use notify::{RecursiveMode, Watcher};
use quick_junit::{NonSuccessKind, Report as JUnit, TestCase, TestCaseStatus, TestSuite};

use super::{Failure, Schemas};
use crate::cases::{self, Options, Report, Suite};
use crate::diagnose::Problem;
use crate::prepare;
use crate::say;
use crate::style::{bad, dim, good, name, strong};

#[derive(Args)]
#[command(after_help = "A case is a folder beside the pipeline:
  cases/<name>/why.txt                  one sentence: what the case shows
  cases/<name>/in.<topic>.jsonl         a record a line: its value, or an object with @value or @raw and @key, @headers,
                                        @timestamp, @partition, @schema (\"v1\"), @at (\"90s\" after the beginning);
                                        {\"@advance\": \"10m\"} lets time pass. {\"@base64\": \"..\"} stands for bytes
  cases/<name>/in.jsonl                 records of several topics in their order, each with @topic
  cases/<name>/out.<topic>.jsonl        exactly these values; {\"@key\": .., \"@headers\": .., \"@value\": ..} says more.
                                        Rows of one source partition and key are in this order
  cases/<name>/out.<topic>.dlq.jsonl    dead letters: {\"cause\": .., \"step\": .., \"value\": ..}
  cases/<name>/table.<db.table>.jsonl   rows in a ClickHouse table
  cases/topics.yaml                     topics: { partitions: 6, cleanup.policy: compact }
What has no file must not come out.

Every case runs under a family of schedules that must give one answer: row by row, in one go, partition by partition in \
several orders, on three lanes with a rebalance, with a crash on either side of every protocol step, with commits and \
inserts whose outcome is unknown. docs/yaml.md says how answers are compared.

Examples:
  hw test pipelines/*/pipeline.yaml
  hw test pipeline.yaml --case late --update      write what comes out, then read it
  hw test pipeline.yaml --case late --schedule crash-after-commit-1
  hw test pipeline.yaml --watch")]
pub struct TestArgs {
    /// The pipeline files; cases are in the folder `cases` beside each
    #[arg(required = true)]
    pipelines: Vec<PathBuf>,
    #[command(flatten)]
    schemas: Schemas,
    /// Run only the case of this name; if there is none, cases whose name contains it
    #[arg(long, default_value = "", hide_default_value = true)]
    case: String,
    /// Run only this schedule, as a failure names it
    #[arg(long)]
    schedule: Option<String>,
    /// Stop at the first difference
    #[arg(long)]
    fail_fast: bool,
    /// Write what comes out into the cases, then see whether every schedule agrees
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
            Err(Failure::Wrong(problems)) => prepare::print(&problems),
            Err(Failure::Failed(problem)) => anstream::eprintln!("{}", problem.render()),
            Ok(()) | Err(Failure::Said) => {}
        }
        anstream::eprintln!("{}", dim("waiting for changes; Ctrl-C ends"));
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
    args.pipelines.iter().map(suite).collect()
}

fn update(args: &TestArgs) -> Result<(), Failure> {
    for suite in suites(args)? {
        for case in suite.update().map_err(Problem::plain)? {
            say!("{} {}", good("written"), name(&format!("{}/cases/{case}", folder(&suite.pipeline))));
        }
    }
    Ok(())
}

fn once(args: &TestArgs) -> Result<(), Failure> {
    let suites = suites(args)?;
    if suites.iter().all(|suite| suite.runs() == 0) {
        return Err(Failure::Wrong(vec![Problem::plain(format!("no case has a name with `{}` in it", args.case))]));
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
    if let Some(file) = junit_file {
        junit(&reports).serialize(file).map_err(|e| Problem::plain(format!("the results can't be written: {e}")))?;
    }
    let failed = reports.iter().filter(|report| report.failure.is_some()).count();
    let stopped = reports.iter().filter(|report| report.failure.is_none() && !report.complete).count();
    let runs: usize = reports.iter().map(|report| report.schedules).sum();
    let result = if failed == 0 { good("ok") } else { bad("FAILED") };
    let (passed, took) = (reports.len() - failed - stopped, started.elapsed().as_secs_f64());
    let cases = if passed == 1 { "case" } else { "cases" };
    say!("\n{result}: {passed} {cases} passed, {failed} failed; {runs} runs in {took:.1} s");
    match failed {
        0 => Ok(()),
        _ => Err(Problem::plain(format!("{failed} of {} cases failed", reports.len())).into()),
    }
}

fn folder(pipeline: &Path) -> String {
    match pipeline.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.display().to_string(),
        _ => ".".to_string(),
    }
}

fn show(report: &Report, args: &TestArgs) {
    let place = format!("{}/cases/{}", folder(&report.pipeline), report.case);
    let Some(failure) = &report.failure else {
        let schedules = match report.schedules {
            1 => "1 schedule".to_string(),
            n if n == report.disturbed => format!("{n} schedules"),
            n => format!("{n} schedules, {} with nothing to disturb", n - report.disturbed),
        };
        match report.complete {
            true => say!("{} {place} {}", good("✓"), dim(&schedules)),
            false => say!("{} {place} {}", dim("…"), dim(&format!("stopped after {schedules}"))),
        }
        return;
    };
    say!("\n{} {}: {}", bad("✗"), strong(&place), report.why);
    let others = match report.failed {
        _ if report.schedules == 1 => "the only one that was run".to_string(),
        1 => "only under this schedule".to_string(),
        n if n == report.schedules => "under every schedule".to_string(),
        n => format!("under {n} of {} schedules, this is the simplest", report.schedules),
    };
    say!("    schedule {} {}", name(&failure.schedule), dim(&format!("({others})")));
    say!("    {} expected, {} found\n", bad("-"), good("+"));
    failure.differences.iter().for_each(|line| say!("{line}"));
    if let Some(lines) = failure.smallest {
        let lines = if lines == 1 { "the first input line is".to_string() } else { format!("the first {lines} input lines are") };
        say!("\n    {lines} enough: without the disturbance they give the right answer");
    }
    let mut again = vec!["hw".to_string(), "test".to_string(), report.pipeline.display().to_string()];
    if let Some(schemas) = &args.schemas.given {
        again.extend(["--schemas".to_string(), schemas.display().to_string()]);
    }
    again.extend(["--case", &report.case, "--schedule", &failure.schedule].map(str::to_string));
    say!("\n    again: {}", name(&again.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")));
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn junit(reports: &[Report]) -> JUnit {
    let mut junit = JUnit::new("hw test");
    for pipeline in reports.iter().map(|r| &r.pipeline).collect::<std::collections::BTreeSet<_>>() {
        let mut suite = TestSuite::new(pipeline.display().to_string());
        for report in reports.iter().filter(|r| r.pipeline == *pipeline) {
            let status = match &report.failure {
                None => TestCaseStatus::success(),
                Some(failure) => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    let lines: Vec<String> = failure.differences.iter().map(|l| anstream::adapter::strip_str(l).to_string()).collect();
                    status.set_message(format!("{}: another answer under schedule {}", report.why, failure.schedule));
                    status.set_description(lines.join("\n"));
                    status
                }
            };
            let mut case = TestCase::new(report.case.clone(), status);
            case.set_classname(classname(pipeline)).set_time(report.took);
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
fn changes(args: &TestArgs) -> Result<(Receiver<()>, notify::RecommendedWatcher), Problem> {
    let (sender, receiver) = channel();
    let fail = |e: notify::Error| Problem::plain(format!("files can't be watched: {e}"));
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is no change.
        if event.is_ok_and(|event| event.kind.is_create() || event.kind.is_modify() || event.kind.is_remove()) {
            let _ = sender.send(());
        }
    })
    .map_err(fail)?;
    let folders = args.pipelines.iter().map(|pipeline| PathBuf::from(folder(pipeline)));
    let schemas: Vec<PathBuf> = args.pipelines.iter().map(|pipeline| args.schemas.folder(pipeline)).collect::<Result<_, _>>()?;
    for path in folders.chain(schemas).filter(|path| path.is_dir()) {
        watcher.watch(&path, RecursiveMode::Recursive).map_err(fail)?;
    }
    Ok((receiver, watcher))
}
