//! Environment variables in configurations and pipelines: `${NAME}` and `${NAME:-default}`.

/// Names of the environment variables that pipelines may use begin with this.
pub const PIPELINE_VARIABLES: &str = "HW_VAR_";

/// [`substitute`] for the text of a pipeline. A pipeline is often written by others than those who run it, and what it reads can
/// reach a topic: it sees the variables that are meant for it and not the secrets of its worker.
pub fn substitute_in_pipeline(text: &str) -> Result<Option<String>, String> {
    substitute_allowed(text, &|name| match name.starts_with(PIPELINE_VARIABLES) {
        true => Ok(()),
        false => Err(format!(
            "a pipeline can't use the environment variable `{name}`: only those whose names begin with `{PIPELINE_VARIABLES}`, such as `{PIPELINE_VARIABLES}{}`",
            name.trim_start_matches("HW_")
        )),
    })
}

/// Replaces `${NAME}` and `${NAME:-default}` by environment variables.
pub fn substitute(text: &str) -> Result<Option<String>, String> {
    substitute_allowed(text, &|_| Ok(()))
}

fn substitute_allowed(text: &str, allowed: &dyn Fn(&str) -> Result<(), String>) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after.split_once('}').ok_or("`${` without `}`")?;
        let (name, default) = name.split_once(":-").map_or((name, None), |(n, d)| (n, Some(d)));
        out.push_str(before);
        allowed(name)?;
        match (std::env::var(name), default) {
            (Ok(value), _) => out.push_str(&value),
            (Err(_), Some(default)) => out.push_str(default),
            (Err(_), None) => return Err(format!("the environment variable `{name}` is not set; `${{{name}:-default}}` gives a default")),
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(Some(out))
}
