//! Files that are made from others are current, and the shipped pipelines are without fault.

use std::path::Path;
use std::process::Command;

use crate::environment::HW;

const PIPELINES: [&str; 3] = ["order-analytics", "inventory-levels", "audit-trail"];

fn hw(arguments: &[&str]) -> std::process::Output {
    Command::new(HW).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("hw starts")
}

#[test]
fn shipped_pipelines_have_no_findings() {
    for name in PIPELINES {
        let output = hw(&["lint", &format!("pipelines/{name}/pipeline.yaml")]);
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// `UPDATE=1` writes them.
#[test]
fn tables_of_shipped_pipelines_are_current() {
    for name in PIPELINES {
        let output = hw(&["clickhouse", "ddl", &format!("pipelines/{name}/pipeline.yaml")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/clickhouse/{name}.sql"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &output.stdout).unwrap();
        }
        let file = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(file, String::from_utf8_lossy(&output.stdout), "{}: run with UPDATE=1", path.display());
    }
}

/// A mistake is refused with its place, what is wrong and what would be right, and exit code 2.
#[test]
fn mistakes_are_refused_with_their_place() {
    let shipped = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/order-analytics/pipeline.yaml")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mistakes = [
        ("out_of_order: 5s", "out_of_ordr: 5s", "did you mean `out_of_order`?"),
        ("from: valid", "from: valdi", "did you mean `valid`?"),
        ("tumbling: 1m", "tumbling: 1 minute", "duration"),
        ("data.total > 0", "data.totl > 0", "did you mean"),
        ("data.total > 0", "data.total > 'x' AND 1", "cannot be computed"),
        ("data.total > 0 AND", "data.total > > 0 AND", "expected an expression"),
        ("count(DISTINCT order_id)", "cuont(DISTINCT order_id)", "did you mean `count`?"),
        ("sources:", "sources: [", "not valid YAML"),
        ("by: [product_id, category]", "by: [product_id, categry]", "category"),
        (
            "topic: analytics.orders.high-value\n    key: customer_id",
            "topic: analytics.orders.high-value\n    key: customer",
            "customer_id",
        ),
    ];
    for (old, new, expected) in mistakes {
        assert!(shipped.contains(old), "{old}");
        let path = dir.path().join("wrong.yaml");
        std::fs::write(&path, shipped.replacen(old, new, 1)).unwrap();
        let output = hw(&["lint", path.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{new}: {text}");
        assert!(text.contains("wrong.yaml:") && text.contains(expected), "{new}: no {expected:?} in\n{text}");
    }
}

/// The cases of the shipped pipelines, each under every schedule of its family.
#[test]
fn shipped_pipelines_pass_their_cases() {
    let mut command = std::process::Command::new(HW);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("test");
    for pipeline in ["order-analytics", "inventory-levels", "audit-trail"] {
        command.arg(format!("pipelines/{pipeline}/pipeline.yaml"));
    }
    let output = command.output().expect("hw starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("13 passed, 0 failed"), "{text}");
}

/// An expectation that is wrong must be told, or the cases prove nothing.
#[test]
fn a_case_with_another_expectation_fails() {
    let dir = tempfile::tempdir().unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let case = dir.path().join("cases/low_stock");
    std::fs::create_dir_all(&case).unwrap();
    let shipped = root.join("pipelines/inventory-levels");
    std::fs::copy(shipped.join("pipeline.yaml"), dir.path().join("pipeline.yaml")).unwrap();
    for file in std::fs::read_dir(shipped.join("cases/low_stock")).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let text =
            if path.ends_with("out.analytics.inventory.low-stock.jsonl") { text.replace("\"balance\":3", "\"balance\":4") } else { text };
        std::fs::write(case.join(path.file_name().unwrap()), text).unwrap();
    }
    let output = std::process::Command::new(HW).current_dir(root).arg("test").arg(dir.path().join("pipeline.yaml")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("missing") && text.contains("unexpected") && text.contains("hw test"), "{text}");
}
