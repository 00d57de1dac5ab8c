//! Files that are refused: `tests/refused/<code>.yaml` (or `<code>.<what>.yaml`), one or more per code, each with what
//! is said of it in `.txt`. `UPDATE=1` rewrites those.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;

/// Codes that no file alone shows: they need a service, or are no finding about a file.
const ELSEWHERE: [&str; 5] = ["broker", "schema-registry", "error", "unreachable-service", "pattern"];

fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    paths.sort();
    paths
}

fn problems(path: &Path) -> Vec<Problem> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Folder::read(&root.join("tests/refused/schemas")).unwrap();
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
    let missing: Vec<&str> = crate::codes::all().map(|(code, _)| code).filter(|c| !shown.contains(*c) && !ELSEWHERE.contains(c)).collect();
    assert!(missing.is_empty(), "no file in tests/refused shows {missing:?}");
}
