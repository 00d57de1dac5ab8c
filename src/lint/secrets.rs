//! Passwords and keys in plain text.

use std::sync::LazyLock;

use headwater_engine::yaml::Node;
use operator_core::Diagnostic;
use regex::Regex;

/// Keys whose values are secret.
static KEYS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)(password|passwd|secret|token|api[._-]?key|private[._-]?key|jaas)").ok());
/// Texts that are secret, whatever their key: a password in a URL or in JAAS options, keys, tokens of large services.
static VALUES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#"(?i)(://[^/\s:@]+:[^/\s@$]+@|-----BEGIN [A-Z ]*PRIVATE KEY|\bpassword\s*=\s*['"]?[^'"\s${]|\bAKIA[0-9A-Z]{16}\b|\bghp_[A-Za-z0-9]{30,}|\bxox[bp]-[A-Za-z0-9-]{20,})"#).ok()
});

/// Secrets that stand in a file. In a pipeline keys are columns, so only values are looked at there.
pub fn check(root: &Node, environment: bool) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    super::texts(root, &mut Vec::new(), &mut |path, text| {
        let key = path.iter().rev().find(|key| key.parse::<usize>().is_err()).map_or("", String::as_str);
        // `password: { env: NAME }` names where the secret is.
        let variable = text.starts_with("${") && !text.contains(":-");
        let named = ["env", "file"].contains(&key) || text.is_empty() || variable;
        let by_key = environment && !named && KEYS.as_ref().is_some_and(|keys| keys.is_match(key));
        let by_value = VALUES.as_ref().and_then(|values| values.find(text)).map(|found| found.range());
        if by_key || by_value.is_some() {
            let problem = Diagnostic::warning("plain-secret", "this looks like a secret in plain text");
            let help = "write `{ env: NAME }` or `{ file: path }` in the environment's configuration, and change the secret if the file was shared";
            found.push(problem.at(path.iter().cloned()).within(by_value.unwrap_or(0..text.len())).help(help));
        }
    });
    found
}
