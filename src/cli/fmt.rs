//! `hw fmt`: one layout for all pipelines. Only blanks and quotes change; the order of keys and all comments stay.

use std::path::{Path, PathBuf};

use clap::Args;
use headwater_engine::yaml::{self, Node, Value};
use pretty_yaml::config::{FormatOptions, LanguageOptions, LayoutOptions};

use super::{Failure, folders};
use crate::authoring::lint::{self, Document};
use crate::diagnose::{Problem, Source};
use crate::say;
use crate::style::{good, name};

/// Lines are broken where they would be longer.
const WIDTH: usize = 120;

#[derive(Args)]
#[command(after_help = "Examples:
  hw fmt pipelines
  hw fmt --check pipelines config       in CI
  hw fmt -                              standard input to output, for editors")]
pub struct FmtArgs {
    /// Pipeline files, environment files, and folders to search for both; - is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Only check; exit code 1 if a file is not formatted
    #[arg(long)]
    check: bool,
}

pub fn run(args: &FmtArgs) -> Result<(), Failure> {
    let (mut unformatted, mut wrong) = (0, Vec::new());
    let files = folders::files(&args.files, &[Document::Pipeline, Document::Environment])?;
    for path in &files {
        let read = Source::read(path).and_then(|source| Ok((format(&source)?, source)));
        let (formatted, source) = match read {
            Ok(read) => read,
            Err(problem) => {
                wrong.push(problem);
                continue;
            }
        };
        if source.is_stdin() && !args.check {
            say!("{}", formatted.trim_end());
            continue;
        }
        if formatted == *source.text {
            continue;
        }
        unformatted += 1;
        if args.check {
            say!("not formatted: {}", name(&path.display().to_string()));
        } else {
            std::fs::write(path, formatted).map_err(|e| Problem::plain(format!("{}: {e}", path.display())))?;
            say!("{} {}", good("formatted"), name(&path.display().to_string()));
        }
    }
    match args.check && unformatted > 0 {
        _ if !wrong.is_empty() => Err(Failure::Wrong(wrong)),
        true => Err(Problem::plain(format!("{unformatted} of {} files are not formatted: run `hw fmt`", files.len())).into()),
        false => Ok(()),
    }
}

/// The text in its layout.
///
/// # Errors
/// The file is no YAML that a pipeline may have.
pub fn format(source: &Source) -> Result<String, Problem> {
    let before = yaml::parse(&source.text).map_err(|e| Problem::yaml(source, e))?;
    // JSON is YAML, too, and so is much else.
    let is_yaml = Path::new(&source.name).extension().is_none_or(|extension| extension == "yaml" || extension == "yml");
    if !is_yaml || lint::document(&before).is_none() {
        return Err(Problem::plain(format!("{}: skipped: neither a pipeline nor an environment file", source.name)));
    }
    let layout = LayoutOptions { print_width: WIDTH, ..LayoutOptions::default() };
    let options = FormatOptions { layout, language: LanguageOptions { format_comments: true, ..LanguageOptions::default() } };
    let formatted = pretty_yaml::format_text(&source.text, &options).map_err(|e| Problem::plain(format!("{}: {e}", source.name)))?;
    // A formatter may never change what a file says.
    match yaml::parse(&formatted) {
        Ok(after) if same(&before, &after) => Ok(formatted),
        _ => Err(Problem::plain(format!("{}: skipped: formatting would change its meaning", source.name))),
    }
}

/// The same values, wherever they stand and however they are quoted.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Scalar { text: a, plain: p, .. }, Value::Scalar { text: b, plain: q, .. }) => a == b && p == q,
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((ka, va), (kb, vb))| ka.text == kb.text && same(va, vb))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(text: &str) -> String {
        format(&Source::new("p.yaml", text)).unwrap_or_else(|p| panic!("{}", p.message))
    }

    #[test]
    fn layout_changes_and_comments_stay() {
        let text = "# top\nname:   x   # why\nsteps:\n    a:   {from: b,filter: 'x > 1'}\n\n\n\n    c:\n        from: [a,b]\n";
        let once = formatted(text);
        assert_eq!(once, "# top\nname: x # why\nsteps:\n  a: { from: b, filter: \"x > 1\" }\n\n  c:\n    from: [a, b]\n");
        assert_eq!(formatted(&once), once, "formatting again changes nothing");
    }

    #[test]
    fn other_files_are_left_alone() {
        let other = [("t.sql", "name: x"), ("t.json", "{\"name\": \"x\"}"), ("notes.yaml", "shopping: [milk]"), ("t.yaml", "- name")];
        for (name, text) in other {
            let problem = format(&Source::new(name, text)).unwrap_err();
            assert!(problem.message.contains("skipped"), "{name}: {}", problem.message);
        }
    }

    #[test]
    fn shipped_files_are_formatted() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        for pipeline in ["audit-trail", "inventory", "inventory-levels", "order-analytics", "order-fulfilment"] {
            let source = Source::read(&root.join("pipelines").join(pipeline).join("pipeline.yaml")).unwrap();
            assert_eq!(format(&source).unwrap(), *source.text, "{pipeline}");
        }
    }
}
