//! Rejected files: `tests/refused/<code>.yaml` (or `<code>.<what>.yaml`), one or more per code, each with its expected
//! message in `.txt`. `UPDATE=1` rewrites those.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;

/// Codes that no file alone shows: they need another file, a service or what was deployed before, a file of 1 MiB, or are not findings
/// about a file. (Those about changes: scripts of the operators.)
const ELSEWHERE: [&str; 19] = [
    "unfinished-reset",
    "internal-topics",
    "changes-aggregate",
    "no-changes",
    "broker",
    "schema-registry",
    "error",
    "service-unreachable",
    "pattern",
    "too-large",
    "unknown-topic",
    "changed-state",
    "recreated-topic",
    "lost-topic",
    "lost-positions",
    "unread-rows",
    "workers-running",
    "same-name",
    "saga-violation",
];

fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    paths.sort();
    paths
}

fn problems(path: &Path) -> Vec<Problem> {
    // From the package's folder, where tests run: findings name the file.
    let folder = Folder::read(Path::new("tests/refused/schemas")).unwrap();
    let rules = Rules::new(&folder, CONVENTION).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    check_source(Source::new(name, std::fs::read_to_string(path).unwrap()), &rules)
}

#[test]
fn every_finding_is_shown_as_it_should_be() {
    let update = std::env::var("UPDATE").is_ok_and(|v| v == "1");
    let mut wrong = Vec::new();
    for path in cases() {
        let problems = problems(&path);
        let shown: String = problems.iter().map(|p| anstream::adapter::strip_str(&p.render()).to_string() + "\n").collect();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let code = stem.split('.').next().unwrap();
        if !problems.iter().any(|p| p.code == code) {
            wrong.push(format!("{}: does not say {code}:\n{shown}", path.display()));
        }
        if problems.iter().any(|p| p.place().is_none()) {
            wrong.push(format!("{}: a finding has no place:\n{shown}", path.display()));
        }
        let expected = path.with_extension("txt");
        if update {
            std::fs::write(&expected, &shown).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != shown {
            wrong.push(format!("{}: not as expected (UPDATE=1 rewrites it):\n{shown}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_has_a_file() {
    let shown: BTreeSet<String> = cases().iter().flat_map(|path| problems(path)).map(|p| p.code).collect();
    let missing: Vec<&str> =
        crate::authoring::codes::all().map(|(code, _)| code).filter(|c| !shown.contains(*c) && !ELSEWHERE.contains(c)).collect();
    assert!(missing.is_empty(), "no file in tests/refused shows {missing:?}");
}

/// What is changed in a shipped pipeline, and the expected finding: code, line and a part of message or help.
const MUTATIONS: [(&str, &str, &str, &str, usize, &str); 10] = [
    ("a typo in a key", "out_of_order: 5s", "out_of_ordr: 5s", "unknown-key", 10, "did you mean `out_of_order`?"),
    (
        "a missing step",
        "from: valid\n    map:\n      unnest",
        "from: valdi\n    map:\n      unnest",
        "unknown-stream",
        34,
        "did you mean `valid`?",
    ),
    ("a bad duration", "lateness: 2m", "lateness: 2 minutes", "invalid-value", 59, "such as 250ms, 5s, 2m"),
    ("an unknown column", "data.total > 0", "data.totl > 0", "unknown-column", 31, "did you mean `total`?"),
    (
        "a type error",
        "item.quantity * item.unitPrice",
        "item.quantity * data.items",
        "type-mismatch",
        42,
        "`*` does not take int and a list",
    ),
    ("a syntax error", "total > 1000,", "total >> > 1000,", "syntax", 75, "expected"),
    ("an unknown aggregate", "sum(quantity)", "summ(quantity)", "unknown-aggregate", 57, "did you mean `sum`?"),
    ("broken YAML", "      lateness: 2m", "     lateness: 2m", "yaml-syntax", 59, "start in the same column"),
    ("an alias bomb", "description:", BOMB, "too-many-nodes", 7, "counting what anchors and aliases copy"),
    ("a wrong ClickHouse type", "revenue: sum(revenue)", "revenue: max(product_id)", "clickhouse-type", 84, "`Decimal(38, 2)`"),
];

const BOMB: &str = "x1: &x1 [aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, b, c, d, e, f, g, h, i, j]
x2: &x2 [*x1, *x1, *x1, *x1, *x1, *x1, *x1, *x1, *x1, *x1]
x3: &x3 [*x2, *x2, *x2, *x2, *x2, *x2, *x2, *x2, *x2, *x2]
x4: &x4 [*x3, *x3, *x3, *x3, *x3, *x3, *x3, *x3, *x3, *x3]
x5: &x5 [*x4, *x4, *x4, *x4, *x4, *x4, *x4, *x4, *x4, *x4]
x6: &x6 [*x5, *x5, *x5, *x5, *x5, *x5, *x5, *x5, *x5, *x5]
x7: &x7 [*x6, *x6, *x6, *x6, *x6, *x6, *x6, *x6, *x6, *x6]
description:";

#[test]
fn ten_mutated_copies_of_a_shipped_pipeline_are_refused() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Folder::read(&root.join("schemas")).unwrap();
    let rules = Rules::new(&folder, CONVENTION).unwrap();
    let shipped = std::fs::read_to_string(root.join("pipelines/order-analytics/pipeline.yaml")).unwrap();
    assert!(check_source(Source::new("pipeline.yaml", shipped.clone()), &rules).is_empty());
    let mut wrong = Vec::new();
    for (what, old, new, code, line, said) in MUTATIONS {
        assert_eq!(shipped.matches(old).count(), 1, "{what}");
        let found = check_source(Source::new("pipeline.yaml", shipped.replace(old, new)), &rules);
        let hit = found.iter().any(|p| {
            let tells = p.message.contains(said) || p.help.as_deref().is_some_and(|help| help.contains(said));
            p.code == code && p.position().0 == line && tells
        });
        if !hit || found.len() > 2 {
            let shown: String = found.iter().map(|p| anstream::adapter::strip_str(&p.render()).to_string()).collect();
            wrong.push(format!("{what}: wanted {code} in line {line} with \"{said}\", got\n{shown}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn shipped_pipelines_and_environments_are_clean() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Folder::read(&root.join("schemas")).unwrap();
    let rules = Rules::new(&folder, CONVENTION).unwrap();
    let pipelines = ["audit-trail", "inventory", "inventory-levels", "order-analytics", "order-fulfilment"]
        .map(|name| format!("pipelines/{name}/pipeline.yaml"));
    let environments = ["ci", "compose", "local", "production"].map(|name| format!("config/{name}.yaml"));
    for file in pipelines.iter().chain(&environments) {
        let found = check(&root.join(file), &rules);
        assert!(found.is_empty(), "{file}: {:?}", found.iter().map(|p| &p.message).collect::<Vec<_>>());
    }
}

#[test]
fn a_secret_that_others_can_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (secret, file) = (dir.path().join("password"), dir.path().join("env.yaml"));
    std::fs::write(&secret, "s3cret").unwrap();
    let text = format!("clickhouse:\n  url: http://localhost:8123\n  password: {{ file: {} }}\n", secret.display());
    std::fs::write(&file, text).unwrap();
    let folder = Folder::read(Path::new("tests/refused/schemas")).unwrap();
    let rules = Rules::new(&folder, CONVENTION).unwrap();
    for (mode, findings) in [(0o644, 1), (0o640, 1), (0o600, 0), (0o400, 0)] {
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
        let found = check(&file, &rules);
        assert_eq!(found.len(), findings, "{mode:o}");
        assert!(found.iter().all(|p| p.code == "unsafe-setting" && p.position().0 == 3 && p.message.contains(&format!("{mode:o}"))));
    }
}
