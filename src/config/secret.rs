//! Secrets by reference, and settings that may be secrets.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// A secret by reference. Never printed.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(from = "SecretSource")]
pub enum Secret {
    /// The environment variable that holds it.
    Env(String),
    /// The file that holds it; white space at its end doesn't count.
    File(PathBuf),
}

/// The YAML form. Any other value may be the secret itself, so errors must not repeat it.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields, expecting = "write a secret as `{ env: NAME }` or `{ file: path }`")]
enum SecretSource {
    Env { env: String },
    File { file: PathBuf },
}

impl From<SecretSource> for Secret {
    fn from(source: SecretSource) -> Secret {
        match source {
            SecretSource::Env { env } => Secret::Env(env),
            SecretSource::File { file } => Secret::File(file),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Env(name) => write!(f, "secret from ${name}"),
            Secret::File(path) => write!(f, "secret from {}", path.display()),
        }
    }
}

impl Secret {
    /// The permissions of its file, if others than the owner may read it.
    pub fn readable_by_others(&self) -> Option<u32> {
        let Secret::File(path) = self else { return None };
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).ok()?.permissions()) & 0o777;
        (mode & 0o077 != 0).then_some(mode)
    }

    /// The secret itself.
    pub fn reveal(&self) -> Result<String, String> {
        match self {
            Secret::Env(name) => std::env::var(name).map_err(|_| format!("the environment variable `{name}` with a secret is not set")),
            Secret::File(path) => std::fs::read_to_string(path)
                .map(|text| text.trim_end().to_string())
                .map_err(|e| format!("can't read the file {} with a secret: {e}", path.display())),
        }
    }
}

/// A setting: text, or a secret.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text (numbers and booleans in quotes), `{ env: NAME }` or `{ file: path }`")]
pub enum Setting {
    Secret(Secret),
    Text(String),
}

impl Setting {
    pub fn reveal(&self) -> Result<String, String> {
        match self {
            Setting::Secret(secret) => secret.reveal(),
            Setting::Text(text) => Ok(text.clone()),
        }
    }
}
