//! Pages are those of the code, and their examples run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use headwater_engine::yaml;
use operator_core::batch::system_fields;
use operator_core::{InputInfo, Mode, PlanCx};
use serde_json::json;

use super::*;
use crate::cases::{self, Options};
use crate::registry::operators;

#[test]
fn pages_of_operators_are_current() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operators");
    let update = std::env::var("UPDATE").is_ok_and(|v| v == "1");
    let mut wrong = Vec::new();
    for kind in &operators().0 {
        let (path, page) = (dir.join(format!("{}.md", kind.name)), page(kind));
        if update {
            std::fs::write(&path, &page).unwrap();
        } else if std::fs::read_to_string(&path).unwrap_or_default() != page {
            wrong.push(path.display().to_string());
        }
        for line in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.split(" | ").collect();
            assert!(cells.len() >= 4 && cells[1].len() > 1 && cells[3].trim_end_matches('|').trim().len() > 5, "{}: {line}", kind.name);
        }
    }
    assert!(wrong.is_empty(), "not current (UPDATE=1 rewrites them): {wrong:?}");
    let files = std::fs::read_dir(&dir).unwrap().count();
    assert_eq!(files, operators().0.len(), "a page of no operator is left over");
    for (page, row) in [("README.md", "| `NAME` |"), ("docs/yaml.md", "### NAME\n")] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
        let missing: Vec<_> = operators().names().filter(|name| !text.contains(&row.replace("NAME", name))).collect();
        assert!(missing.is_empty(), "{page} says nothing of {missing:?}");
    }
}

/// A type as a source declares it, and a value of it.
fn declared(field: &Field) -> (String, Value) {
    match field.data_type() {
        DataType::Struct(fields) => {
            let parts: Vec<(String, (String, Value))> = fields.iter().map(|f| (f.name().clone(), declared(f))).collect();
            let text = parts.iter().map(|(name, (of, _))| format!("{name}: {of}")).collect::<Vec<_>>().join(", ");
            (format!("{{ {text} }}"), Value::Object(parts.into_iter().map(|(name, (_, value))| (name, value)).collect()))
        }
        DataType::List(item) => {
            let (of, value) = declared(item);
            (format!("[{of}]"), json!([value, value]))
        }
        // A command that the example has rules for.
        DataType::Utf8 if field.name() == "eventType" => ("string".into(), json!("inventory.receive")),
        DataType::Utf8 => ("string".into(), json!("x")),
        DataType::Boolean => ("bool".into(), json!(true)),
        other => (format!("\"{}\"", operator_core::type_name(other).replace(", ", ",")), json!(2000)),
    }
}

/// The name of the first output of the example: empty for the main one, as where the example reads tables.
fn first_port(kind: &Kind, step: &str) -> String {
    let root = yaml::parse(kind.example).unwrap();
    let inputs = operator_script::type_syntax::inputs(kind.example_input, kind.inputs).unwrap();
    let with_system = |input: &Schema| input.fields().iter().cloned().chain(system_fields().into_iter().map(Arc::new)).collect::<Vec<_>>();
    let info = |input| InputInfo { schema: Arc::new(Schema::new(with_system(input))), key: None, mode: Mode::Append };
    let inputs: Vec<InputInfo> = inputs.iter().map(info).collect();
    let config = root.find(&["steps", step, kind.name].map(String::from)).unwrap();
    let planned = kind.plan(config, &PlanCx { others: &inputs[1..], ..PlanCx::new(&inputs[0], &BTreeMap::new()) });
    planned.map_or_else(|_| String::new(), |planned| planned.outputs[0].name.clone())
}

/// The example as a whole pipeline: sources with the columns it wants, the tables it names, a sink for its output. Also a row for
/// each topic.
fn pipeline(kind: &Kind) -> (String, Vec<(String, String)>) {
    let step = kind.example.lines().nth(1).unwrap().trim().trim_end_matches(':').to_string();
    let from = kind.example.lines().find_map(|line| line.trim().strip_prefix("from: ")).unwrap();
    let names: Vec<&str> = match kind.inputs {
        [] => vec![from],
        // `{ left: orders, right: payments }`
        inputs => inputs.iter().map(|input| from.split(&format!("{input}: ")).nth(1).unwrap().split([',', ' ']).next().unwrap()).collect(),
    };
    let (mut sources, mut rows) = (String::new(), Vec::new());
    for (name, input) in names.into_iter().zip(operator_script::type_syntax::inputs(kind.example_input, kind.inputs).unwrap()) {
        let columns: Vec<(String, (String, Value))> = input.fields().iter().map(|f| (f.name().clone(), declared(f))).collect();
        let schema = columns.iter().map(|(name, (of, _))| format!("{name}: {of}")).collect::<Vec<_>>().join(", ");
        let row = Value::Object(columns.into_iter().map(|(name, (_, value))| (name, value)).collect());
        let topic = format!("business.{name}.created");
        sources.push_str(&format!("  {name}: {{ topic: {topic}, schema: {{ {schema} }} }}\n"));
        rows.push((topic, row.to_string()));
    }
    let tables = "tables:\n  products: { topic: business.catalog.products, key: id, schema: { id: string, category: string } }\n  \
                  customers: { topic: business.users.customers, key: id, schema: { id: long, tier: string } }\n";
    let tables = if kind.example.contains("table: products") { tables } else { "" };
    let output = match first_port(kind, &step).as_str() {
        "" => step,
        port => format!("{step}.{port}"),
    };
    let text = format!(
        "apiVersion: headwater/v1\nname: example\nsources:\n{sources}{tables}{}\
         sinks:\n  out: {{ from: {output}, topic: analytics.orders.example, create: {{ partitions: 1 }} }}\n",
        kind.example
    );
    (text, rows)
}

#[test]
fn every_example_runs() {
    for kind in &operators().0 {
        let dir = tempfile::tempdir().unwrap();
        let (text, rows) = pipeline(kind);
        let case = dir.path().join("cases/example");
        std::fs::create_dir_all(&case).unwrap();
        std::fs::write(dir.path().join("pipeline.yaml"), &text).unwrap();
        std::fs::write(case.join("why.txt"), "The example of the page runs.").unwrap();
        for (topic, row) in rows {
            std::fs::write(case.join(format!("in.{topic}.jsonl")), format!("{row}\n{row}\n{{\"@advance\": \"2h\"}}\n")).unwrap();
        }
        let options = Options { schemas: dir.path().join("schemas"), only: String::new(), schedule: None };
        let suite = |()| {
            let found = cases::suite(&dir.path().join("pipeline.yaml"), &options);
            found.unwrap_or_else(|p| panic!("{}: {}\n{text}", kind.name, p.iter().map(|p| p.render()).collect::<String>()))
        };
        suite(()).update().unwrap_or_else(|e| panic!("{}: {e}", kind.name));
        let reports = cases::run(&[suite(())], false, &|| {});
        assert!(reports.iter().all(|r| r.failure.is_none()), "{}: schedules differ", kind.name);
        let files = std::fs::read_dir(&case).unwrap().filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().starts_with("out."));
        assert!(files.count() >= 1, "{}: nothing came out", kind.name);
    }
}

#[test]
fn the_pipeline_of_the_comparison_is_clean_and_passes_its_case() {
    let page = include_str!("../../../docs/coming-from.md");
    let block = |language: &str, n: usize| page.split(&format!("```{language}\n")).nth(n).and_then(|b| b.split("\n```").next()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (pipeline, case) = (dir.path().join("pipeline.yaml"), dir.path().join("cases/late_order"));
    std::fs::create_dir_all(&case).unwrap();
    std::fs::write(&pipeline, block("yaml", 1)).unwrap();
    std::fs::write(case.join("why.txt"), "The case of the page.").unwrap();
    let (input, output) = (block("jsonl", 1), block("jsonl", 2));
    std::fs::write(case.join("in.business.orders.created.jsonl"), input).unwrap();
    std::fs::write(case.join("out.analytics.orders.per-customer.jsonl"), output).unwrap();
    let late = input.lines().find(|line| line.contains("o-4")).unwrap();
    let late = late.replace("09:00:30Z", "09:00:30.000Z");
    std::fs::write(case.join("out.analytics.orders.per-customer-late.jsonl"), late).unwrap();
    let folder = crate::pipeline_files::catalog::Folder::read(&dir.path().join("schemas")).unwrap();
    let found =
        crate::authoring::lint::check(&pipeline, &crate::authoring::lint::Rules::new(&folder, crate::authoring::lint::CONVENTION).unwrap());
    assert!(found.is_empty(), "{:?}", found.iter().map(|p| &p.message).collect::<Vec<_>>());
    let options = Options { schemas: dir.path().join("schemas"), only: String::new(), schedule: None };
    let reports = cases::run(&[cases::suite(&pipeline, &options).unwrap_or_else(|p| panic!("{}", p[0].message))], false, &|| {});
    let failed: Vec<_> = reports.iter().filter_map(|r| r.failure.as_ref()).flat_map(|f| &f.differences).collect();
    assert!(reports.len() == 1 && failed.is_empty(), "{failed:#?}");
}
