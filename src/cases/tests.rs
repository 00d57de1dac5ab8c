//! Cases as files: what is refused, and with which words.

use headwater_engine::operators::Kind;

use super::*;

/// An operator with timers: no shipped one has any.
#[path = "../../engine/tests/simulation/remind.rs"]
mod remind;

const PIPELINE: &str = "
apiVersion: headwater/v1
name: tried
sources:
  e: { topic: business.shop.events, schema: { id: string }, key: id }
sinks:
  out: { from: e, topic: analytics.shop.events, key: id, format: json }
";

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.write("pipeline.yaml", PIPELINE);
        files.write("cases/good/why.txt", "it works");
        files.write("cases/good/in.business.shop.events.jsonl", "{\"id\":\"a\"}\n");
        files.write("cases/good/out.analytics.shop.events.jsonl", "{\"id\":\"a\"}\n");
        files
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn suite(&self, only: &str) -> Result<Suite, Vec<String>> {
        let options = Options { schemas: self.0.path().join("schemas"), only: only.into(), schedule: None };
        let root = format!("{}/", self.0.path().display());
        suite(&self.0.path().join("pipeline.yaml"), &options)
            .map_err(|problems| problems.into_iter().map(|p| p.message.replace(&root, "")).collect())
    }
}

#[test]
fn a_half_written_case_blocks_no_other() {
    let files = Files::new();
    files.write("cases/half/in.business.shop.events.jsonl", "{\"id\":\n");
    files.write("cases/typo/why.txt", "x");
    files.write("cases/typo/in.business.shop.event.jsonl", "{\"id\":\"a\"}\n");
    for only in ["good", ""] {
        let suite = files.suite(only).ok().unwrap();
        let unfinished: Vec<(&str, usize)> = suite.unfinished.iter().map(|case| (case.case.as_str(), case.problems.len())).collect();
        assert_eq!(unfinished, if only.is_empty() { vec![("half", 2), ("typo", 1)] } else { vec![] }, "the line, and why.txt");
        let reports = run(&[suite], false, &|| {});
        assert!(reports.len() == 1 && reports[0].failure.is_none() && reports[0].complete);
    }
}

#[test]
fn windows_that_are_open_at_the_end_are_told() {
    let files = Files::new();
    let window =
        "steps:\n  per_id: { from: e, window: { tumbling: 10m, by: [id], compute: { n: count(*) } } }\nsinks:\n  out: { from: per_id";
    let pipeline =
        PIPELINE.replace("sinks:\n  out: { from: e", window).replace("key: id }\nsteps", "key: id, time: { field: at } }\nsteps");
    files.write("pipeline.yaml", &pipeline.replace("{ id: string }", "{ id: string, at: timestamp }"));
    let rows = "{\"id\":\"a\",\"at\":\"2026-01-01T00:00:00Z\"}\n{\"id\":\"b\",\"at\":\"2026-01-01T00:00:00Z\"}\n";
    files.write("cases/good/in.business.shop.events.jsonl", rows);
    std::fs::remove_file(files.0.path().join("cases/good/out.analytics.shop.events.jsonl")).unwrap();
    let held = |files: &Files| run(&[files.suite("").ok().unwrap()], true, &|| {})[0].held.clone();
    assert_eq!(held(&files), [("per_id".to_string(), 2)]);
    files.write("cases/good/in.jsonl", "{\"@advance\":\"1h\"}\n");
    assert_eq!(held(&files), []);
}

#[test]
fn problems_of_case_files_are_told_all_at_once_with_their_places() {
    let files = Files::new();
    files.write("cases/one/why.txt", "x");
    files.write("cases/one/in.jsonl", "{\"@topic\":\"business.shop.event\",\"@value\":{\"id\":\"a\"}}\n");
    files.write("cases/two/why.txt", "x");
    files.write(
        "cases/two/in.business.shop.events.jsonl",
        "{\"id\":\"a\"}\n{\"@value\":{\"id\":\"b\"},\"@partition\":3}\n{\"@value\":1,\"@schema\":\"v1\"}\n",
    );
    files.write("cases/three/in.business.shop.events.jsonl", "{\"id\" \"a\"}\n{\"@at\":5,\"@value\":1}\n");
    files.write("cases/topics.yaml", "business.shop.eventz: { partitions: 1 }\n");
    let said = files.suite("").err().unwrap();
    let expected = [
        "cases/three/in.business.shop.events.jsonl:1:7: expected `:`",
        "cases/three/in.business.shop.events.jsonl:2:2: `@at` must be a quoted duration such as \"10m\", not 5",
        "cases/three: `why.txt` is missing: write the purpose of the case in one sentence",
        "cases/topics.yaml: the pipeline doesn't use `business.shop.eventz`",
        "cases/one/in.jsonl:1: no source or table reads `business.shop.event`",
        "cases/two/in.business.shop.events.jsonl:2:22: `business.shop.events` has 3 partitions; set more in `cases/topics.yaml`",
        "cases/two/in.business.shop.events.jsonl:3:13: values in `json` have no registered schema",
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_compacted_topic_refuses_what_a_broker_refuses() {
    let files = Files::new();
    files.write("cases/topics.yaml", "business.shop.events: { cleanup.policy: compact }\n");
    files.write("cases/good/in.business.shop.events.jsonl", "{\"@key\":null,\"@value\":{\"id\":\"a\"}}\n");
    let reports = run(&[files.suite("").ok().unwrap()], true, &|| {});
    let failure = reports[0].failure.as_ref().unwrap();
    assert!(failure.differences[0].contains("a compacted topic cannot accept a message without key"), "{:?}", failure.differences);
}

#[test]
fn files_go_on_side_by_side() {
    let files = Files::new();
    files.write("cases/good/in.jsonl", "{\"@advance\":\"10s\"}\n{\"@topic\":\"business.shop.events\",\"@value\":{\"id\":\"b\"}}\n");
    files.write(
        "cases/good/in.business.shop.events.jsonl",
        "{\"id\":\"a\"}\n{\"@at\":\"5s\",\"@value\":{\"id\":\"c\"}}\n{\"@advance\":\"1m\"}\n",
    );
    let suite = files.suite("").ok().unwrap();
    let step = |step: &encode::Step| match step {
        encode::Step::Record(input) => String::from_utf8(input.key.clone().unwrap()).unwrap(),
        encode::Step::Advance(span) => span.to_string(),
    };
    let steps: Vec<String> = suite.cases[0].records.steps.iter().map(step).collect();
    assert_eq!(steps, ["a", "5000", "c", "5000", "b", "55000"]);
}

/// Timers follow the clock of the case: they fire once `@advance` reaches them, and the same ones under every schedule.
#[test]
fn timers_fire_on_the_clock_of_the_case() {
    let files = Files::new();
    files.write(
        "pipeline.yaml",
        "
apiVersion: headwater/v1
name: tried
sources:
  e: { topic: business.shop.events, schema: { id: string, at: timestamp }, key: id, time: { field: at, out_of_order: 0s, idle: 10s } }
steps:
  reminded: { from: e, remind: {} }
sinks:
  reminded: { from: reminded, topic: analytics.shop.reminded, key: id, format: json }
  woken: { from: reminded.woken, topic: analytics.shop.woken, key: id, format: json }
",
    );
    std::fs::remove_file(files.0.path().join("cases/good/out.analytics.shop.events.jsonl")).unwrap();
    let row = |id: &str, second: i64| format!("{{\"id\":\"{id}\",\"at\":\"2026-01-01T00:00:{second:02}Z\"}}\n");
    let advance = |span: &str| format!("{{\"@advance\":\"{span}\"}}\n");
    let lines = [row("a", 1), row("b", 2), advance("4s"), row("x", 3), row("a", 20), advance("2m")];
    files.write("cases/good/in.business.shop.events.jsonl", &lines.concat());
    // The case begins 4 s before its latest row, which comes after as long.
    let fired =
        |id: &str, second: i64, row: &str| format!("{{\"id\":\"{id}\",\"due\":{},\"row\":{row}}}\n", (1_767_225_600 + second) * 1_000);
    let woken = [("a", 19), ("b", 19), ("a", 23)].map(|(id, second)| fired(id, second, "\"<any>\""));
    files.write("cases/good/out.analytics.shop.woken.jsonl", &woken.concat());
    let reminded = [("a", 20), ("a", 25), ("b", 20), ("b", 25), ("x", 20), ("x", 25), ("a", 40), ("a", 45)];
    files.write("cases/good/out.analytics.shop.reminded.jsonl", &reminded.map(|(id, second)| fired(id, second, "-1")).concat());
    let options = Options { schemas: files.0.path().join("schemas"), only: String::new(), schedule: None };
    let operators = Operators(vec![Kind::of::<remind::Remind>()]);
    let suite = suite_of(&files.0.path().join("pipeline.yaml"), &options, &operators).ok().unwrap();
    let reports = run(&[suite], false, &|| {});
    let failure = reports[0].failure.as_ref().map(|failure| (&failure.schedule, &failure.differences));
    assert!(failure.is_none() && reports[0].complete && reports[0].disturbed > 0, "{failure:?}");
}
