//! Folders on the command line: the pipelines and configurations that are in them.

use std::path::{Path, PathBuf};

use headwater_engine::pipeline::can_name_a_pipeline;
use headwater_engine::yaml::{self, Node};

use super::Failure;
use crate::authoring::lint::{Document, document};
use crate::diagnose::{Problem, Source};
use crate::pipeline_files;

/// Folders of tools, and of what belongs to a pipeline without being one. Hidden folders are left out, too.
const SKIPPED: [&str; 4] = ["target", "node_modules", "cases", "schemas"];

/// The files of a command line, with folders replaced by the files of the `wanted` kinds in them, in order of their names.
///
/// # Errors
/// A folder can't be read, or has no such file.
pub fn files(given: &[PathBuf], wanted: &[Document]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in given {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let before = files.len();
        search(path, wanted, &mut files).map_err(|e| Problem::plain(format!("{}: {e}", path.display())))?;
        if files.len() == before {
            let none = Problem::plain(format!("{}: there is no pipeline in this folder", path.display()));
            let help = "a pipeline is a .yaml file with `apiVersion: headwater/v1`; `hw new` begins one".to_string();
            return Err(Failure::Wrong(vec![none.with_help(Some(help))]));
        }
    }
    Ok(files)
}

/// The file, or the only pipeline in the folder.
///
/// # Errors
/// The folder has none or several, or can't be read.
pub fn only(path: &Path) -> Result<PathBuf, Failure> {
    let found = files(&[path.to_path_buf()], &[Document::Pipeline])?;
    match found.as_slice() {
        [only] => Ok(only.clone()),
        several => {
            let names: Vec<String> = several.iter().map(|file| file.display().to_string()).collect();
            let problem = Problem::plain(format!("{}: there are several pipelines in this folder", path.display()));
            Err(Failure::Wrong(vec![problem.with_help(Some(format!("name one: {}", names.join(", "))))]))
        }
    }
}

/// The name of a pipeline, given as such or by its file or folder. A name is enough for what was deployed.
///
/// # Errors
/// There is no such file, and it is no name; or the file can't be read.
pub fn name_of(given: &Path) -> Result<String, Failure> {
    match given.to_str().filter(|text| !given.exists() && can_name_a_pipeline(text)) {
        Some(name) => Ok(name.to_string()),
        None => Ok(pipeline_files::load(&only(given)?).map_err(Failure::Wrong)?.pipeline.name),
    }
}

fn search(dir: &Path, wanted: &[Document], files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        // file_type does not follow links, so a link to a parent can't recurse forever.
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
                search(&path, wanted, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") && kind(&path).is_some_and(|kind| wanted.contains(&kind)) {
            files.push(path);
        }
    }
    Ok(())
}

/// What a file is, judged more strictly than where it was named: others' YAML files have a `name`, too.
fn kind(path: &Path) -> Option<Document> {
    let source = Source::read(path).ok()?;
    let Ok(root) = yaml::parse(&source.text) else {
        // What can't be read must not be passed over.
        return source.text.lines().any(|line| line.starts_with("apiVersion: headwater/")).then_some(Document::Pipeline);
    };
    let has = |key: &&str| root.get(key).is_some();
    let version = root.get("apiVersion").and_then(Node::text).is_some_and(|version| version.starts_with("headwater"));
    match document(&root)? {
        Document::Pipeline => {
            (version || ["sources", "steps", "sinks"].iter().filter(|key| has(key)).count() > 1).then_some(Document::Pipeline)
        }
        Document::Environment => (has(&"kafka") || has(&"local")).then_some(Document::Environment),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelines_are_found_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let files_in = [
            ("a/pipeline.yaml", "apiVersion: headwater/v1\nname: a\n"),
            ("b/deep/broken.yml", "apiVersion: headwater/v1\nname: [b\n"),
            ("b/typo.yaml", "apiVersoin: headwater/v1\nsources: {}\nsinks: {}\n"),
            ("config/local.yaml", "kafka: { bootstrap: \"localhost:9092\" }\n"),
            ("a/cases/topics.yaml", "apiVersion: headwater/v1\n"),
            (".hidden/pipeline.yaml", "apiVersion: headwater/v1\n"),
            ("target/pipeline.yaml", "apiVersion: headwater/v1\n"),
            ("compose.yaml", "name: shop\nservices: { kafka: {} }\n"),
            ("k8s.yaml", "apiVersion: apps/v1\nkind: Deployment\n"),
            ("notes.txt", "apiVersion: headwater/v1\n"),
        ];
        for (name, text) in files_in {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let found = |wanted: &[Document]| -> Vec<String> {
            let files = files(&[dir.path().to_path_buf()], wanted).unwrap_or_default();
            files.iter().map(|file| file.strip_prefix(dir.path()).unwrap().display().to_string()).collect()
        };
        let pipelines = ["a/pipeline.yaml", "b/deep/broken.yml", "b/typo.yaml"];
        assert_eq!(found(&[Document::Pipeline]), pipelines);
        assert_eq!(found(&[Document::Environment]), ["config/local.yaml"]);
        assert_eq!(only(&dir.path().join("a")).ok(), Some(dir.path().join("a/pipeline.yaml")));
        assert!(only(dir.path()).is_err() && only(&dir.path().join("config")).is_err());
    }
}
