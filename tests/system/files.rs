//! Generated files are current, and the shipped pipelines have no findings.

use std::path::Path;
use std::process::Command;

use crate::environment::HW;

const PIPELINES: [&str; 5] = ["order-analytics", "inventory-levels", "audit-trail", "inventory", "order-fulfilment"];
/// Of these, those with sinks that write to tables.
const WITH_TABLES: [&str; 3] = ["order-analytics", "inventory-levels", "audit-trail"];

fn hw(arguments: &[&str]) -> std::process::Output {
    Command::new(&*HW).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("hw starts")
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
    for name in WITH_TABLES {
        let output = hw(&["ddl", &format!("pipelines/{name}/pipeline.yaml")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/clickhouse/{name}.sql"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &output.stdout).unwrap();
        }
        let file = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(file, String::from_utf8_lossy(&output.stdout), "{}: run with UPDATE=1", path.display());
    }
}

/// A mistake is rejected with its location and exit code 2. The messages: `tests/refused`.
#[test]
fn mistakes_are_refused_with_their_place() {
    let shipped = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/order-analytics/pipeline.yaml")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wrong.yaml");
    std::fs::write(&path, shipped.replace("data.total > 0", "data.totl > 0").replace("fanout:", "fanuot:")).unwrap();
    for command in ["lint", "explain", "graph", "test", "run"] {
        let output = hw(&[command, path.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), if command == "run" { Some(1) } else { Some(2) }, "{command}: {text}");
        if command != "run" {
            assert!(text.contains("wrong.yaml:31:") && text.contains("wrong.yaml:73:"), "{command}: {text}");
        }
    }
}

/// The cases of the shipped pipelines, each under every schedule of its family.
#[test]
fn shipped_pipelines_pass_their_cases() {
    let mut command = std::process::Command::new(&*HW);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["test", "pipelines"]);
    let output = command.output().expect("hw starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("ok: 40 cases passed, 0 failed in 5 pipelines; 2552 runs"), "{text}");
}

/// No answer depends on where batches begin, also where rows of a key are split across branches.
#[test]
fn branches_are_merged_in_source_order() {
    let output = hw(&["test", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/regressions/merged-branches/pipeline.yaml")]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("ok: 1 case passed, 0 failed; 57 runs"), "{text}");
}

/// Every folder of `tests/regressions` holds a pipeline whose cases failed before a defect was fixed.
#[test]
fn regressions_stay_fixed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    let folders = std::fs::read_dir(&root).expect("tests/regressions").map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.filter(|path| path.join("pipeline.yaml").exists()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "{} holds no pipeline", root.display());
    for folder in folders {
        let output = Command::new(&*HW).args(["test", "pipeline.yaml"]).current_dir(&folder).output().expect("hw starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains(" 0 failed"), "{}: {text}", folder.display());
    }
}

/// Cases whose input is drawn and whose answers are computed by a program that shares no code with the product.
fn agrees_with(oracle: &str) {
    let dir = tempfile::tempdir().unwrap();
    let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle").join(oracle);
    let drawn = Command::new("python3").arg(oracle).arg(dir.path()).arg("12").output().expect("python3 starts");
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
    let output = hw(&["test", dir.path().to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("ok: 12 cases passed, 0 failed in 12 pipelines"), "{text}");
}

#[test]
fn deduplication_is_what_the_oracle_says() {
    agrees_with("dedup.py");
}

#[test]
fn joins_are_what_the_oracle_says() {
    agrees_with("join.py");
}

#[test]
fn joins_and_sums_of_tables_are_what_the_oracle_says() {
    agrees_with("changes.py");
}

/// The cases of the recipes pass, and the page shows the pipelines as they are.
#[test]
fn recipes_work_as_they_are_shown() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let output = hw(&["test", docs.join("recipes").to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("has no cases"), "{text}");
    let page = std::fs::read_to_string(docs.join("recipes.md")).unwrap();
    let folders: Vec<_> = std::fs::read_dir(docs.join("recipes")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!folders.is_empty());
    for folder in folders {
        let pipeline = std::fs::read_to_string(folder.join("pipeline.yaml")).unwrap();
        assert!(page.contains(&format!("```yaml\n{pipeline}```\n")), "docs/recipes.md shows another {}", folder.display());
    }
}

/// Sessions, windows of a calendar and results before the close, over random records, are those that the oracle computes, under every schedule.
/// `HW_SEEDS=20` draws more of them.
#[test]
fn generated_windows_agree_with_the_oracle() {
    let dir = tempfile::tempdir().unwrap();
    let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/windows.py");
    let seeds = std::env::var("HW_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    for (kind, seed) in ["sessions", "calendar", "every"].iter().flat_map(|kind| (1..=seeds).map(move |seed: u32| (kind, seed))) {
        let folder = dir.path().join(format!("{kind}-{seed}"));
        let drawn = Command::new("python3").arg(&oracle).args([kind, seed.to_string().as_str()]).arg(&folder).output().expect("python3");
        assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
        assert!(!String::from_utf8_lossy(&drawn.stdout).contains("\"rows\": 0"), "{kind} {seed} expects nothing");
    }
    let output = hw(&["test", dir.path().to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains(&format!("{} cases passed, 0 failed", 3 * seeds)), "{text}");
}

/// A wrong expectation must fail, or the cases prove nothing.
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
    let output = std::process::Command::new(&*HW).current_dir(root).arg("test").arg(dir.path().join("pipeline.yaml")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("balance: expected 4, found 3") && text.contains("again: hw test"), "{text}");
}
