//! Prose, messages and comments use plain words: phrases of an old house dialect don't come back.

use std::path::{Path, PathBuf};

/// Each has a plain replacement: "again", "branches", "downstream", "must be one of", "stop: fix by hand", "unsettled", "not consumed".
const BANNED: [&str; 15] = [
    "anew",
    "ways",
    "told of",
    "said of",
    "so long",
    "stands here",
    "is none",
    "a person must",
    "in doubt",
    "come to the same",
    "comes to the same",
    "nobody reads",
    "slip of the pen",
    "habits of",
    "a circle",
];

const TEXT: [&str; 10] = ["rs", "md", "txt", "yaml", "yml", "toml", "py", "sh", "sql", "svg"];

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let built = name == "target" || name == "node_modules" || name == "__pycache__" || name == ".venv";
        if entry.file_type().unwrap().is_dir() && !built && (!name.starts_with('.') || name == ".ci") {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| TEXT.iter().any(|text| e == *text)) || name == "test" || name == "run" {
            files.push(path);
        }
    }
}

/// The words of a text with their lines, so that a phrase is found across a line break and the comment marker after it.
fn words(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().enumerate();
    let split = |line: &str| -> Vec<String> {
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        // `None` of Rust and Python is not the word.
        words.map(|word| if word == "None" { word.to_owned() } else { word.to_lowercase() }).collect()
    };
    lines.flat_map(|(number, line)| split(line).into_iter().map(move |word| (number + 1, word))).collect()
}

fn found(text: &str) -> Vec<(usize, &'static str)> {
    let words = words(text);
    let at = |phrase: &str, start: usize| {
        let mut window = words[start..].iter().map(|(_, word)| word.as_str());
        phrase.split(' ').all(|word| window.next() == Some(word))
    };
    (0..words.len())
        .flat_map(|start| BANNED.into_iter().filter(move |phrase| at(phrase, start)).map(move |phrase| (start, phrase)))
        .map(|(start, phrase)| (words[start].0, phrase))
        .collect()
}

#[test]
fn texts_use_plain_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(root, &mut files);
    files.sort();
    assert!(files.len() > 300, "{} files found below {}", files.len(), root.display());
    let mut hits = Vec::new();
    for file in files.iter().filter(|file| !file.ends_with("tests/system/words.rs")) {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        let name = file.strip_prefix(root).unwrap().display();
        hits.extend(found(&text).into_iter().map(|(line, phrase)| format!("{name}:{line}: `{phrase}`")));
    }
    assert!(hits.is_empty(), "{} phrases to replace with plain ones:\n{}", hits.len(), hits.join("\n"));
}

#[test]
fn phrases_are_found_across_lines_and_none_of_python_is_code() {
    let text = "//! Rows that nobody\n//! reads.\nif x is None:\n# that is none.\n";
    assert_eq!(found(text), [(1, "nobody reads"), (4, "is none")]);
}
