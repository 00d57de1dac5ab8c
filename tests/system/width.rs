//! What commands print fits a terminal of 80 columns.

use std::path::Path;
use std::process::Command;

use crate::environment::HW;

/// Prints to a pipe, where the width is 80.
fn printed(arguments: &[&str]) -> String {
    let output = Command::new(&*HW).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("hw starts");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Lines that are too long. A line is not if it has one word, such as a path, or if `verbatim` says that it is the user's own text.
fn wide(text: &str, verbatim: fn(&str) -> bool) -> Vec<&str> {
    let too_wide = |line: &&str| line.chars().count() > 80 && line.split_whitespace().nth(1).is_some() && !verbatim(line);
    text.lines().filter(too_wide).collect()
}

fn check(arguments: &[&str], verbatim: fn(&str) -> bool) {
    let text = printed(arguments);
    let wide = wide(&text, verbatim);
    assert!(!text.is_empty() && wide.is_empty(), "hw {}:\n{}", arguments.join(" "), wide.join("\n"));
}

#[test]
fn help_fits_80_columns() {
    let help = printed(&["help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> =
        commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty())).collect();
    assert!(commands.len() > 12, "{help}");
    check(&["--help"], |_| false);
    for command in commands {
        check(&["help", command], |_| false);
    }
    for command in ["up", "down", "status", "env", "topic"] {
        check(&["help", "local", command], |_| false);
    }
}

/// Names of the operators, by their pages.
pub fn operators() -> Vec<String> {
    let pages = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operators")).unwrap();
    pages.map(|page| page.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn documentation_fits_80_columns() {
    check(&["operators"], |_| false);
    for operator in operators() {
        // Text is indented by six columns or not at all; everything else is the example.
        check(&["operators", &operator], |line| line.starts_with(' ') && line.len() - line.trim_start().len() != 6);
    }
    for code in printed(&["explain-error"]).lines() {
        check(&["explain-error", code], |line| line.starts_with("  "));
    }
}

#[test]
fn reports_fit_80_columns() {
    for pipeline in ["order-analytics", "inventory-levels", "audit-trail", "inventory", "order-fulfilment"] {
        check(&["explain", &format!("pipelines/{pipeline}/pipeline.yaml")], |_| false);
    }
    let refused = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused")).unwrap();
    let refused = refused.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    let files: Vec<String> = refused.map(|path| format!("tests/refused/{}", path.file_name().unwrap().to_string_lossy())).collect();
    let mut arguments = vec!["lint"];
    arguments.extend(files.iter().map(String::as_str));
    // Messages and help start with a mark in column 3, and continue in column 5.
    check(&arguments, |line| line.contains(['╭', '╰', '·']) || line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
}

#[test]
fn failures_of_cases_fit_80_columns() {
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/inventory-levels");
    let case = dir.path().join("cases/low_stock");
    std::fs::create_dir_all(&case).unwrap();
    std::fs::copy(root.join("pipeline.yaml"), dir.path().join("pipeline.yaml")).unwrap();
    for file in std::fs::read_dir(root.join("cases/low_stock")).unwrap().map(|file| file.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap().replace("\"balance\":3", "\"balance\":4");
        std::fs::write(case.join(file.file_name().unwrap()), text).unwrap();
    }
    let pipeline = dir.path().join("pipeline.yaml").display().to_string();
    let schemas = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas");
    let rows = |line: &str| line.trim_start().starts_with(['-', '+', '{', '"']) || line.contains("again: ");
    check(&["test", &pipeline, "--schemas", schemas], rows);
    check(&["test", "pipelines/order-analytics/pipeline.yaml", "--schedule", "in-one-go"], rows);
}
