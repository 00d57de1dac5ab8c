//! The shape of the tree: sizes of files, directions of imports, references that lead somewhere, public items that something uses.
//! Sizes of functions are clippy's (`clippy.toml`), imports between crates Cargo's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::Regex;

/// Longest file, lines; unit tests at its end don't count.
const LONGEST: usize = 400;
/// Where unit tests begin in a file.
const TESTS: &str = "#[cfg(test)]\nmod tests {";
/// Folders whose top-level modules must not import each other in a cycle.
const LAYERED: [&str; 3] = ["src", "engine/src", "operators/core/src"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, extensions: &[&str], files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() && name != "target" && name != "node_modules" && !name.starts_with('.') {
            collect(&path, extensions, files);
        } else if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) {
            files.push(path);
        }
    }
}

/// Files of the tree with these extensions: path from the root, and text.
fn texts(extensions: &[&str]) -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(root(), extensions, &mut files);
    files.sort();
    let named = |file: &PathBuf| file.strip_prefix(root()).unwrap().display().to_string();
    files.iter().map(|file| (named(file), std::fs::read_to_string(file).unwrap())).collect()
}

/// A file without the unit tests at its end.
fn product(text: &str) -> &str {
    text.split_once(TESTS).map_or(text, |(product, _)| product)
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn assert_none(found: &[String], what: &str) {
    assert!(found.is_empty(), "{} {what}:\n{}", found.len(), found.join("\n"));
}

#[test]
fn files_are_short() {
    let long = |(name, text): &(String, String)| {
        let lines = product(text).lines().count();
        (lines > LONGEST).then(|| format!("{name}: {lines} lines"))
    };
    let found: Vec<_> = texts(&["rs"]).iter().filter_map(long).collect();
    assert_none(&found, "files to split by what they are about");
}

/// What the top-level modules of a folder import of each other, each with a file that does.
fn imports(folder: &str, files: &[(String, String)]) -> BTreeMap<String, BTreeMap<String, String>> {
    let import = Regex::new(r"\bcrate::(?:(\w+)|\{([^}]*)\})").unwrap();
    let module = |name: &str| Some(name.strip_prefix(folder)?.strip_prefix('/')?.split('/').next()?.trim_end_matches(".rs").to_string());
    let own: BTreeSet<String> = files.iter().filter_map(|(name, _)| module(name)).collect();
    // A file of tests is named in its module with `#[cfg(test)]`.
    let tests: BTreeSet<String> = files
        .iter()
        .flat_map(|(name, text)| {
            let dir = Path::new(name).with_extension("");
            let dir = if dir.ends_with("mod") || dir.ends_with("lib") { dir.parent().unwrap().to_path_buf() } else { dir };
            let named = Regex::new(r"#\[cfg\(test\)\]\n(?:pub )?mod (\w+);").unwrap();
            named.captures_iter(text).map(|found| dir.join(&found[1]).display().to_string()).collect::<Vec<_>>()
        })
        .collect();
    let is_test = |name: &str| tests.iter().any(|test| name.starts_with(&format!("{test}.")) || name.starts_with(&format!("{test}/")));
    let mut imports: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (name, text) in files.iter().filter(|(name, _)| !is_test(name)) {
        let Some(from) = module(name) else { continue };
        for found in import.captures_iter(&without_comments(product(text))) {
            let names: Vec<&str> = match (found.get(1), found.get(2)) {
                (Some(one), _) => vec![one.as_str()],
                (_, Some(many)) => many.as_str().split(',').map(|name| name.trim().split("::").next().unwrap_or_default()).collect(),
                _ => Vec::new(),
            };
            for to in names.into_iter().filter(|to| *to != from && own.contains(*to)) {
                imports.entry(from.clone()).or_default().insert(to.to_string(), name.clone());
            }
        }
    }
    imports
}

/// A cycle of imports, as the files that make it, if there is one.
fn cycle(imports: &BTreeMap<String, BTreeMap<String, String>>) -> Option<Vec<String>> {
    // Modules that import nothing that is left are taken away; what remains is cycles and what leads into them.
    let mut left: BTreeSet<&str> = imports.keys().map(String::as_str).collect();
    loop {
        let leads = |name: &str| imports[name].keys().any(|to| left.contains(to.as_str()));
        let stay: BTreeSet<&str> = left.iter().copied().filter(|name| leads(name)).collect();
        if stay.len() == left.len() {
            break;
        }
        left = stay;
    }
    let (mut at, mut path, mut passed) = (*left.iter().next()?, Vec::new(), Vec::new());
    while !passed.contains(&at) {
        passed.push(at);
        let (to, file) = imports[at].iter().find(|(to, _)| left.contains(to.as_str()))?;
        path.push(format!("{file} imports `{to}`"));
        at = to;
    }
    let start = passed.iter().position(|module| *module == at)?;
    Some(path.split_off(start))
}

#[test]
fn modules_import_in_one_direction() {
    let files = texts(&["rs"]);
    for folder in LAYERED {
        let imports = imports(folder, &files);
        assert!(imports.len() > 8, "{folder}: {} modules with imports", imports.len());
        assert_none(&cycle(&imports).unwrap_or_default(), &format!("imports of {folder} that lead in a cycle"));
    }
}

/// The folders and files of `src`, each below those that may import it.
const ORDER: [&str; 14] = [
    "style",
    "check",
    "diagnose",
    "observe",
    "web",
    "schema_registry",
    "config",
    "sinks",
    "registry",
    "pipeline_files",
    "cases",
    "authoring",
    "worker",
    "cli",
];

#[test]
fn the_program_imports_downwards() {
    let rank = |name: &str| ORDER.iter().position(|known| *known == name);
    let mut found = Vec::new();
    for (from, imports) in imports("src", &texts(&["rs"])) {
        let Some(own) = rank(&from) else {
            found.push(format!("`{from}` has no place in the order of folders"));
            continue;
        };
        let upward = imports.iter().filter(|(to, _)| rank(to).is_none_or(|to| to > own));
        found.extend(upward.map(|(to, file)| format!("{file} imports `{to}`, which is above it")));
    }
    assert_none(&found, "imports that lead upwards");
}

/// What the crates may depend on, of ours; families of operators have a line for all of them.
const CRATES: [(&str, &[&str]); 10] = [
    ("operators/core", &[]),
    ("operators/script", &["operator-core"]),
    ("operators/expr", &["operator-core"]),
    ("operators/event", &["operator-core"]),
    ("operators/", &["operator-core", "operator-expr", "operator-event"]),
    ("formats", &[]),
    ("engine", &["operator-core", "headwater-formats"]),
    ("kafka", &["headwater-engine"]),
    ("generate", &[]),
    ("devenv", &[]),
];

#[test]
fn crates_depend_downwards() {
    let own = Regex::new(r"(?m)^((?:operator|headwater)-[a-z]+)\b").unwrap();
    let mut found = Vec::new();
    for (name, text) in texts(&["toml"]).iter().filter(|(name, _)| name.ends_with("/Cargo.toml")) {
        let Some((_, may)) = CRATES.iter().find(|(folder, _)| name.starts_with(folder)) else { continue };
        let dependencies = text.split_once("\n[dependencies]").map_or("", |(_, rest)| rest.split("\n[").next().unwrap_or_default());
        let more = own.captures_iter(dependencies).filter(|one| !may.contains(&&one[1]));
        found.extend(more.map(|one| format!("{name}: {}", &one[1])));
    }
    assert_none(&found, "dependencies between crates that lead upwards");
}

/// Names that say nothing of what is inside.
const EMPTY: [&str; 8] = ["common", "utils", "types", "error", "proto", "macros", "testing", "helpers"];

#[test]
fn modules_are_called_after_what_they_hold() {
    let stem = |name: &str| {
        Path::new(name).with_extension("").components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let empty = |name: &&String| stem(name).iter().any(|part| EMPTY.contains(&part.as_str()));
    let files = texts(&["rs"]);
    let found: Vec<_> = files.iter().map(|(name, _)| name).filter(empty).cloned().collect();
    assert_none(&found, "names that say nothing");
}

#[test]
fn a_cycle_is_found_and_what_leads_into_it_is_not_part_of_it() {
    let file = |name: &str, text: &str| (format!("src/{name}.rs"), text.to_string());
    let tree = |c: &str| [file("a", "use crate::b::B;"), file("b", "use crate::{c, d::D};"), file("c", c), file("d", "")];
    assert_eq!(cycle(&imports("src", &tree("use crate::d;"))), None);
    let found = cycle(&imports("src", &tree("fn f() { crate::b::g() }"))).unwrap();
    assert_eq!(found, ["src/b.rs imports `c`", "src/c.rs imports `b`"]);
}

/// What the recipe for a new operator writes.
const TO_WRITE: &str = "operators/top/Cargo.toml";

/// Paths of files that texts name in backquotes or link to.
#[test]
fn references_lead_somewhere() {
    let quoted = Regex::new(r"`((?:engine|src|operators|formats|kafka|generate|devenv|tests|docs|deploy|benches)/[\w./-]+)`").unwrap();
    let link = Regex::new(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)").unwrap();
    let mut found = Vec::new();
    for (name, text) in texts(&["rs", "md"]) {
        let folder = root().join(&name).parent().unwrap().to_path_buf();
        for (number, line) in text.lines().enumerate() {
            let is_text = name.ends_with(".md") || line.trim_start().starts_with("//");
            let quoted = quoted.captures_iter(line).filter(|_| is_text).map(|path| (path[1].to_string(), root().to_path_buf()));
            let linked = link.captures_iter(line).filter(|_| name.ends_with(".md")).map(|path| (path[1].to_string(), folder.clone()));
            for (path, from) in quoted.chain(linked) {
                if path != TO_WRITE && !from.join(&path).exists() && !folder.join(&path).exists() {
                    found.push(format!("{name}:{}: {path}", number + 1));
                }
            }
        }
    }
    assert_none(&found, "references to files that do not exist");
}

/// By name: an item whose name the tree has once is defined and never used.
#[test]
fn public_items_are_used() {
    let item = Regex::new(r"(?m)^\s*pub (?:const |async |unsafe )*(?:fn|struct|enum|trait|type|const|static) ([A-Za-z_]\w*)").unwrap();
    let word = Regex::new(r"[A-Za-z_]\w*").unwrap();
    let files = texts(&["rs"]);
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    let bare: Vec<String> = files.iter().map(|(_, text)| without_comments(text)).collect();
    bare.iter().flat_map(|text| word.find_iter(text)).for_each(|word| *uses.entry(word.as_str()).or_default() += 1);
    let mut found = Vec::new();
    for ((name, _), text) in files.iter().zip(&bare) {
        let unused = item.captures_iter(product(text)).filter(|item| uses.get(&item[1]) == Some(&1));
        found.extend(unused.map(|item| format!("{name}: `{}`", &item[1])));
    }
    assert_none(&found, "public items that nothing uses");
}
