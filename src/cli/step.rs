//! The step of a pipeline that a command is about.

use operator_core::diagnostic::{did_you_mean, names};

use crate::diagnose::Problem;
use crate::pipeline_files::Loaded;

/// The name of the only step of a kind, or of the one that `--step` names.
pub(super) fn find(loaded: &Loaded, kind: &str, wanted: Option<&str>) -> Result<String, Problem> {
    let is_one = |step: &&String| loaded.root.find(&["steps", step, kind].map(String::from)).is_some();
    let all: Vec<&str> = loaded.pipeline.steps.keys().filter(is_one).map(String::as_str).collect();
    match (wanted, all.as_slice()) {
        (_, []) => Err(Problem::plain(format!("the pipeline has no step of the kind `{kind}`"))),
        (None, [one]) => Ok((*one).to_string()),
        (None, _) => {
            let problem = Problem::plain(format!("the pipeline has several steps of the kind `{kind}`: {}", names(all.iter().copied())));
            Err(problem.with_help(Some("choose one with --step".into())))
        }
        (Some(wanted), _) if all.contains(&wanted) => Ok(wanted.to_string()),
        (Some(wanted), _) => {
            let known = || format!("there are {}", names(all.iter().copied()));
            let help = did_you_mean(wanted, all.iter().copied()).unwrap_or_else(known);
            Err(Problem::plain(format!("the pipeline has no step `{wanted}` of the kind `{kind}`")).with_help(Some(help)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::Source;
    use crate::pipeline_files;

    #[test]
    fn a_step_is_found_by_its_kind_and_by_its_name() {
        let of = |steps: &str, kind: &str, wanted: Option<&str>| {
            let text = format!(
                "apiVersion: headwater/v1\nname: p\nsources:\n  a: {{ topic: business.a.b, schema: {{ x: int }} }}\nsteps:\n{steps}sinks:\n  s: {{ from: one, topic: t }}\n"
            );
            let loaded = pipeline_files::parse(Source::new("p.yaml", text)).unwrap_or_else(|_| panic!("a pipeline"));
            find(&loaded, kind, wanted).map_err(|problem| (problem.message, problem.help.unwrap_or_default()))
        };
        let one = "  one: { from: a, filter: x > 1 }\n  other: { from: a, map: { add: { y: x } } }\n";
        assert_eq!(of(one, "filter", None), Ok("one".into()));
        assert_eq!(of(one, "filter", Some("one")), Ok("one".into()));
        let wrong = |message: &str, help: &str| Err((message.to_string(), help.to_string()));
        assert_eq!(of(one, "saga", Some("one")), wrong("the pipeline has no step of the kind `saga`", ""));
        assert_eq!(of(one, "filter", Some("other")), wrong("the pipeline has no step `other` of the kind `filter`", "there are `one`"));
        let two = "  one: { from: a, filter: x > 1 }\n  two: { from: a, filter: x > 2 }\n";
        assert_eq!(
            of(two, "filter", None),
            wrong("the pipeline has several steps of the kind `filter`: `one` and `two`", "choose one with --step")
        );
    }
}
