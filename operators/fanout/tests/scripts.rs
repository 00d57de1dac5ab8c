//! The scripts of `fanout`, its example, and the two forms of its YAML.

use std::collections::BTreeMap;

use operator_fanout::{Fanout, Match};

#[test]
fn scripts() {
    operator_script::check_dir::<Fanout>(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"));
}

#[test]
fn the_example_plans() {
    let plan = operator_script::plan_example::<Fanout>(&BTreeMap::new()).unwrap();
    let ports: Vec<&str> = plan.lines().filter_map(|l| l.strip_prefix("output ")?.split(':').next()).collect();
    assert_eq!(ports, ["high_value", "foreign", "rest"], "{plan}");
}

#[test]
fn both_forms_are_read() {
    let short: Fanout = operator_script::parse_spec("{ b: n > 1, a: true, rest: default }").unwrap();
    assert_eq!((short.matching, short.short), (Match::First, true));
    assert_eq!(short.routes.iter().collect::<Vec<_>>(), [("b", "n > 1"), ("a", "true"), ("rest", "default")]);
    let long: Fanout = operator_script::parse_spec("{ match: all, routes: { b: n > 1 } }").unwrap();
    assert_eq!((long.matching, long.short), (Match::All, false));
    let named: Fanout = operator_script::parse_spec("{ routes: n > 1 }").unwrap();
    assert_eq!(named.routes.iter().collect::<Vec<_>>(), [("routes", "n > 1")]);
}

#[test]
fn wrong_forms_say_what_is_right() {
    for (yaml, part) in [
        ("{ match: some, routes: { a: n > 1 } }", "`match` is `first` or `all`, not `some`"),
        ("{ match: all, a: n > 1 }", "with `match`, write the routes under `routes`"),
        ("{ routes: { a: n > 1 }, b: n > 2 }", "unknown field `b` beside `routes`"),
        ("{ a: { b: n > 1 } }", "the route `a` needs a SQL condition"),
        ("{ a: [n > 1] }", "expected a SQL condition"),
        ("[a]", "expected routes with a SQL condition each"),
        ("{ a: n > 1, a: n > 2 }", "duplicate route"),
    ] {
        let problem = operator_script::parse_spec::<Fanout>(yaml).unwrap_err();
        assert!(problem.contains(part), "{yaml}: {problem}");
    }
}

#[test]
fn the_schema_has_both_forms() {
    let schema = serde_json::to_value(schemars::schema_for!(Fanout)).unwrap();
    assert_eq!(schema["anyOf"].as_array().map(Vec::len), Some(2), "{schema:#}");
}
