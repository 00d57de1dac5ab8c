//! What the planner makes of pipelines, and what it refuses: with code and place.

use headwater_engine::plan::{Catalog, InputKind, Plan, Registered};

use super::{Source, make_plan, parse};

/// A cluster whose topics have as many partitions as their names end in, or 6.
struct Cluster;

impl Catalog for Cluster {
    fn subject(&self, _: &str) -> Result<Option<Registered>, String> {
        Ok(None)
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, String> {
        let digits = topic.rsplit('-').next().and_then(|n| n.parse().ok());
        Ok((topic != "missing").then_some(digits.unwrap_or(6)))
    }

    fn topics(&self) -> Result<Vec<String>, String> {
        Ok(["business.a", "business.b", "business.b.dlq", "other"].map(str::to_string).to_vec())
    }
}

fn plan(body: &str) -> Result<(Plan, Vec<String>), Vec<String>> {
    let text = format!("apiVersion: headwater/v1\nname: p\n{body}");
    let show = |found: Vec<super::Problem>| found.iter().map(|p| format!("{} {}", p.code, p.place().unwrap_or_default())).collect();
    let loaded = parse(Source::new("p.yaml", text)).map_err(show)?;
    make_plan(&loaded, &Cluster).map(|(plan, warnings)| (plan, show(warnings))).map_err(show)
}

fn refused(body: &str, wanted: &[&str]) {
    match plan(body) {
        Ok(_) => panic!("accepted:\n{body}"),
        Err(found) => assert_eq!(found, wanted, "{body}"),
    }
}

const A: &str = "sources:\n  a: { topic: a, schema: { id: string, n: long }, key: id }\n";

#[test]
fn what_is_named_twice_is_refused() {
    refused(
        &format!("{A}  b: {{ topic: a, schema: {{ id: string }} }}\nsinks:\n  s: {{ from: a, topic: t }}\n  u: {{ from: b, topic: u }}\n"),
        &["topic-twice p.yaml:5:15"],
    );
    refused(
        &format!("{A}sinks:\n  x: {{ from: a, clickhouse: d.t }}\n  y: {{ from: a, clickhouse: d.t }}\n"),
        &["table-twice p.yaml:7:29"],
    );
    refused(
        &format!(
            "{A}tables:\n  t: {{ topic: k, key: id, schema: {{ id: string }} }}\n  u: {{ topic: k, key: id, schema: {{ id: string }} }}\nsinks:\n  s: {{ from: a, topic: t }}\n"
        ),
        &["topic-twice p.yaml:7:15"],
    );
    refused(&format!("{A}sinks:\n  s: {{ from: a, topic: a }}\n"), &["loop p.yaml:6:24"]);
}

#[test]
fn streams_that_cannot_meet_are_refused() {
    refused(
        "sources:\n  a: { topic: a-6, schema: { id: string } }\n  b: { topic: b-4, schema: { id: string } }\nsteps:\n  both: { from: [a, b], filter: id <> '' }\nsinks:\n  s: { from: both, topic: t }\n",
        &["co-partitioning p.yaml:7:11"],
    );
    refused(
        &format!("{A}steps:\n  x: {{ from: y, filter: n > 0 }}\n  y: {{ from: x, filter: n > 0 }}\nsinks:\n  s: {{ from: a, topic: t }}\n"),
        &["cycle p.yaml:6:14"],
    );
    refused(&format!("{A}sinks:\n  s: {{ from: a, topic: missing }}\n"), &["unknown-topic p.yaml:6:24"]);
}

#[test]
fn a_table_needs_a_time_that_is_one_and_a_format_that_tables_have() {
    let table = |rest: &str| format!("{A}tables:\n  t: {{ topic: k, key: id, {rest} }}\nsinks:\n  s: {{ from: a, topic: t }}\n");
    refused(&table("schema: { id: string, on: bool }, time: on"), &["time-type p.yaml:6:67"]);
}

fn repartitions(plan: &Plan) -> usize {
    plan.stages.iter().flat_map(|s| &s.inputs).filter(|i| matches!(i.kind, InputKind::Repartition { .. })).count()
}

/// Streams that are keyed differently have no key together: a step behind their union must bring groups together.
#[test]
fn a_union_has_a_key_only_if_all_streams_agree() {
    let body = |key: &str| {
        format!(
            "sources:\n  a: {{ topic: a, schema: {{ id: string, n: long }}, key: id }}\n  b: {{ topic: b, schema: {{ id: string, n: long }}{key} }}\n\
             steps:\n  both: {{ from: [a, b], filter: n > 0 }}\n  w: {{ from: both, window: {{ tumbling: 1m, by: [id], compute: {{ n: count(*) }} }} }}\n\
             sinks:\n  s: {{ from: w, topic: t }}\n  late: {{ from: w.late, topic: l }}\n"
        )
    };
    assert_eq!(repartitions(&plan(&body(", key: id")).unwrap().0), 0);
    assert_eq!(repartitions(&plan(&body("")).unwrap().0), 1);
    assert_eq!(repartitions(&plan(&body(", key: n")).unwrap().0), 1);
}

#[test]
fn a_pattern_reads_topics_but_no_dead_letters() {
    let (plan, warnings) =
        plan("sources:\n  s: { pattern: business.*, schema: { n: long } }\nsinks:\n  o: { from: s, topic: t }\n").unwrap();
    let topics: Vec<&str> = plan.stages.iter().flat_map(|s| &s.inputs).flat_map(|i| &i.topics).map(|t| t.name.as_ref()).collect();
    assert_eq!((topics, warnings), (vec!["business.a", "business.b"], vec![]));
}

#[test]
fn rows_that_nobody_would_read_are_warned_about() {
    let body = format!(
        "{A}steps:\n  w: {{ from: a, window: {{ tumbling: 1m, by: [id], compute: {{ n: count(*) }} }} }}\nsinks:\n  s: {{ from: w, topic: t }}\n"
    );
    assert_eq!(plan(&body).unwrap().1, ["unread-port p.yaml:6:3"]);
}
