//! The schema registry, with Confluent's API, which other registries also implement.
//!
//! [`Registry`] asks and waits; [`Schemas`] is what lanes use: it answers at once from its cache and fetches in the
//! background. A registry that is down never looks like a missing schema: an outage is waited out with backoff, and
//! only a 404, three times in a row, counts as "not registered" (and is asked again after a while).
//!
//! Honest limit: addresses are `http://`; TLS for the registry is not compiled in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_engine::schemas::{Lookup, SchemaSource};
use parking_lot::Mutex;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::json;

/// Pauses between attempts to reach the registry: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How often a 404 must be heard before it is believed.
const MISSES: u32 = 3;
/// How long a missing schema stays missing before it is asked for again.
const MISSING_FOR: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most schemas that one schema may refer to.
const MAX_REFERENCES: usize = 32;
/// Longest answer that is read, bytes.
const MAX_ANSWER: usize = 8 << 20;
/// Ids asked for at the same time, and ids remembered as missing: records with made-up ids must not fill the memory.
const MAX_ASKING: usize = 256;
const MAX_MISSING: usize = 10_000;

/// Where the registry is, and who asks.
#[derive(Clone)]
pub struct RegistryConfig {
    pub url: String,
    pub username: Option<String>,
    pub password: Option<String>,
}

impl RegistryConfig {
    pub fn new(url: impl Into<String>) -> RegistryConfig {
        RegistryConfig { url: url.into(), username: None, password: None }
    }
}

/// What went wrong with a request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no such subject or schema.
    #[error("the schema registry has no {0}")]
    NotFound(String),
    /// The registry refuses the request: an incompatible or invalid schema.
    #[error("the schema registry refuses {what}: {message}")]
    Refused { what: String, message: String },
    /// It can't be reached, or is in trouble itself.
    #[error("the schema registry does not answer: {0}")]
    Unavailable(String),
}

/// A schema of a subject.
#[derive(Clone, Debug, Deserialize)]
pub struct Schema {
    #[serde(default)]
    pub id: u32,
    pub schema: String,
    /// Absent for Avro.
    #[serde(rename = "schemaType", default)]
    pub kind: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Clone, Debug, Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: u32,
}

impl Schema {
    pub fn is_json(&self) -> bool {
        self.kind.as_deref() == Some("JSON")
    }
}

/// A client of the registry.
#[derive(Clone)]
pub struct Registry {
    config: Arc<RegistryConfig>,
    client: reqwest::Client,
}

impl Registry {
    pub fn new(config: RegistryConfig) -> Result<Registry, RegistryError> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| RegistryError::Unavailable(e.to_string()))?;
        Ok(Registry { config: Arc::new(config), client })
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.config.url.trim_end_matches('/')));
        match &self.config.username {
            Some(user) => request.basic_auth(user, self.config.password.as_deref()),
            None => request,
        }
    }

    async fn send<T: for<'de> Deserialize<'de>>(&self, request: reqwest::RequestBuilder, what: &str) -> Result<T, RegistryError> {
        let response = request.send().await.map_err(|e| RegistryError::Unavailable(without_address(&e)))?;
        let status = response.status();
        let body = read(response).await?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|e| RegistryError::Unavailable(format!("unreadable answer: {e}")));
        }
        let message: String = String::from_utf8_lossy(&body).chars().take(500).collect();
        Err(match status {
            // A proxy's answer while the registry is away looks the same, except for the registry's own code.
            StatusCode::NOT_FOUND if is_registrys(&body) => RegistryError::NotFound(what.to_string()),
            // Not the schema's fault: wrong credentials, too many requests, trouble inside or in between.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
                RegistryError::Unavailable(format!("{status}: {message}"))
            }
            _ if status.is_client_error() && is_registrys(&body) => RegistryError::Refused { what: what.to_string(), message },
            _ => RegistryError::Unavailable(format!("{status}: {message}")),
        })
    }

    /// The text of a schema, with what it refers to put in place.
    pub async fn by_id(&self, id: u32) -> Result<String, RegistryError> {
        let schema: Schema =
            self.send(self.request(reqwest::Method::GET, &format!("/schemas/ids/{id}")), &format!("schema with id {id}")).await?;
        self.whole(schema).await
    }

    /// The latest schema of a subject; `None` if there is no such subject.
    pub async fn latest(&self, subject: &str) -> Result<Option<Schema>, RegistryError> {
        let found = self
            .send::<Schema>(self.request(reqwest::Method::GET, &format!("/subjects/{}/versions/latest", escaped(subject))), subject)
            .await;
        match found {
            Ok(schema) => {
                let text = self.whole(schema.clone()).await?;
                Ok(Some(Schema { schema: text, ..schema }))
            }
            Err(RegistryError::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Registers a schema (the same text again gives the same id) and returns its id.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        #[derive(Deserialize)]
        struct Registered {
            id: u32,
        }
        let request =
            self.request(reqwest::Method::POST, &format!("/subjects/{}/versions", escaped(subject))).json(&json!({ "schema": schema }));
        Ok(self.send::<Registered>(request, &format!("a schema of `{subject}`")).await?.id)
    }

    /// Whether `schema` may follow the latest one of the subject, by the rules set for it. True if the subject has no schema.
    pub async fn is_compatible(&self, subject: &str, schema: &str) -> Result<bool, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            is_compatible: bool,
        }
        let path = format!("/compatibility/subjects/{}/versions/latest", escaped(subject));
        let request = self.request(reqwest::Method::POST, &path).json(&json!({ "schema": schema }));
        match self.send::<Answer>(request, subject).await {
            Ok(answer) => Ok(answer.is_compatible),
            Err(RegistryError::NotFound(_)) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// An Avro schema that names types of other subjects, as one text: each named type where it is first used.
    async fn whole(&self, schema: Schema) -> Result<String, RegistryError> {
        if schema.references.is_empty() || schema.is_json() {
            return Ok(schema.schema);
        }
        let mut named = HashMap::new();
        let mut open = schema.references;
        while let Some(reference) = open.pop() {
            if named.len() > MAX_REFERENCES {
                return Err(RegistryError::Refused {
                    what: "the schema".into(),
                    message: format!("more than {MAX_REFERENCES} references"),
                });
            }
            let path = format!("/subjects/{}/versions/{}", escaped(&reference.subject), reference.version);
            let found: Schema = self.send(self.request(reqwest::Method::GET, &path), &reference.subject).await?;
            let tree = parsed(&found.schema)?;
            open.extend(found.references);
            named.insert(reference.name, tree);
        }
        let mut tree = parsed(&schema.schema)?;
        inline(&mut tree, &mut named);
        Ok(tree.to_string())
    }
}

fn parsed(text: &str) -> Result<serde_json::Value, RegistryError> {
    serde_json::from_str(text).map_err(|e| RegistryError::Refused { what: "the schema".into(), message: e.to_string() })
}

/// Puts each named type where it is first used; later uses refer to it by name.
fn inline(tree: &mut serde_json::Value, named: &mut HashMap<String, serde_json::Value>) {
    match tree {
        serde_json::Value::String(name) => {
            if let Some(mut found) = named.remove(name.as_str()) {
                inline(&mut found, named);
                *tree = found;
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|t| inline(t, named)),
        serde_json::Value::Object(members) => {
            for (key, value) in members.iter_mut() {
                if matches!(key.as_str(), "type" | "items" | "values" | "fields") {
                    inline(value, named);
                }
            }
        }
        _ => {}
    }
}

/// An error in the form of the registry's API.
fn is_registrys(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Error {
        #[serde(rename = "error_code")]
        _code: i64,
    }
    serde_json::from_slice::<Error>(body).is_ok()
}

/// The body of an answer, up to a limit.
async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, RegistryError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| RegistryError::Unavailable(without_address(&e)))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(RegistryError::Unavailable(format!("an answer of more than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Errors of the HTTP client repeat the address, which may hold credentials.
fn without_address(e: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(e);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    if text.is_empty() { "the request failed".to_string() } else { text }
}

/// A subject as part of a path.
fn escaped(subject: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    subject.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

enum Known {
    Text(Arc<str>),
    Asking { trouble: Option<String> },
    Missing { since: Instant },
}

/// Writer schemas by id for the lanes: fetched in the background, cached forever.
#[derive(Clone)]
pub struct Schemas {
    registry: Registry,
    runtime: tokio::runtime::Handle,
    known: Arc<Mutex<HashMap<u32, Known>>>,
}

impl Schemas {
    pub fn new(registry: Registry, runtime: tokio::runtime::Handle) -> Schemas {
        Schemas { registry, runtime, known: Arc::default() }
    }

    fn ask(&self, id: u32) {
        let this = self.clone();
        self.runtime.spawn(async move {
            let (mut pause, mut misses) = (BACKOFF.0, 0);
            loop {
                let answer = this.registry.by_id(id).await;
                let known = match answer {
                    Ok(text) => Known::Text(text.into()),
                    Err(RegistryError::NotFound(_)) | Err(RegistryError::Refused { .. }) if misses + 1 >= MISSES => {
                        Known::Missing { since: Instant::now() }
                    }
                    Err(e) => {
                        if matches!(e, RegistryError::NotFound(_) | RegistryError::Refused { .. }) {
                            misses += 1;
                        } else {
                            misses = 0; // a registry that comes up may not have read all of its schemas yet
                            tracing::warn!(id, cause = %e, "can't fetch a schema; retrying");
                        }
                        Known::Asking { trouble: matches!(e, RegistryError::Unavailable(_)).then(|| e.to_string()) }
                    }
                };
                let done = !matches!(known, Known::Asking { .. });
                this.known.lock().insert(id, known);
                if done {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACKOFF.1);
            }
        });
    }
}

impl SchemaSource for Schemas {
    fn lookup(&self, id: u32) -> Lookup {
        let mut known = self.known.lock();
        match known.get(&id) {
            Some(Known::Text(text)) => return Lookup::Known(text.clone()),
            Some(Known::Asking { trouble: None }) => return Lookup::Pending,
            Some(Known::Asking { trouble: Some(why) }) => return Lookup::Unavailable(why.clone()),
            Some(Known::Missing { since }) if since.elapsed() < MISSING_FOR => return Lookup::NotFound,
            _ => {}
        }
        if known.values().filter(|k| matches!(k, Known::Asking { .. })).count() >= MAX_ASKING {
            return Lookup::Pending;
        }
        if known.values().filter(|k| matches!(k, Known::Missing { .. })).count() >= MAX_MISSING {
            known.retain(|_, k| !matches!(k, Known::Missing { .. }));
        }
        known.insert(id, Known::Asking { trouble: None });
        drop(known);
        self.ask(id);
        Lookup::Pending
    }
}

#[cfg(test)]
mod tests;
