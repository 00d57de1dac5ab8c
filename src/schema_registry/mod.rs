//! The schema registry, with Confluent's API, which other registries also implement.
//!
//! [`Registry`] asks and waits; [`Schemas`] is what lanes use: it answers at once from its cache and fetches in the
//! background. A registry that is down never looks like a missing schema: an outage is waited out with backoff, and
//! only a 404, three times in a row, counts as "not registered" (and is asked again after a while).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_engine::backoff::Backoff;
use headwater_engine::printable::printable;
use headwater_engine::schemas::{Lookup, SchemaSource};
use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::observe::outages::Service;
use crate::web::{Tls, Web};

/// Pauses between attempts to reach the registry: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How often a 404 must be heard before it is believed.
const MISSES: u32 = 3;
/// How long a missing schema stays missing before it is asked for again.
const MISSING_FOR: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most schemas that one schema may refer to, directly and through others.
const MAX_REFERENCES: usize = 32;
/// How deep a schema may be nested with them: what reads it has a limit of about this, and a stack.
const MAX_DEPTH: usize = 120;
/// Longest message of the registry that is shown, bytes.
const SHOWN: usize = 500;
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
    /// A bearer token, instead of user and password.
    pub token: Option<String>,
    pub tls: Tls,
}

impl RegistryConfig {
    pub fn new(url: impl Into<String>) -> RegistryConfig {
        RegistryConfig { url: url.into(), username: None, password: None, token: None, tls: Tls::default() }
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
    web: Web,
}

impl Registry {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// The address or the TLS material can't be used, and why.
    pub fn new(config: RegistryConfig) -> Result<Registry, String> {
        let web = Web::new(&config.url, &config.tls).map_err(|why| format!("`schema_registry`: {why}"))?;
        Ok(Registry { config: Arc::new(config), web })
    }

    /// Tells `service` whether the registry answers.
    pub fn reporting(self, service: Service) -> Registry {
        Registry { web: self.web.reporting(service), ..self }
    }

    /// How the server is verified, in words; `None`: not at all.
    pub fn verifies(&self) -> Option<String> {
        self.web.verifies()
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.web.url().clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = self.web.request(method, url);
        match (&self.config.token, &self.config.username) {
            (Some(token), _) => request.bearer_auth(token),
            (None, Some(user)) => request.basic_auth(user, self.config.password.as_deref()),
            (None, None) => request,
        }
    }

    async fn send<T: for<'de> Deserialize<'de>>(&self, request: RequestBuilder, what: &str) -> Result<T, RegistryError> {
        let result = self.ask(request, what).await;
        self.web.report(match &result {
            Err(RegistryError::Unavailable(why)) => Err(why.clone()),
            _ => Ok(()),
        });
        result
    }

    async fn ask<T: for<'de> Deserialize<'de>>(&self, request: RequestBuilder, what: &str) -> Result<T, RegistryError> {
        let answer = self.web.send(request, TIMEOUT, MAX_ANSWER).await.map_err(|e| RegistryError::Unavailable(e.to_string()))?;
        let (status, body) = (answer.status, answer.body);
        if status.is_success() {
            let unreadable =
                |e: serde_json::Error| RegistryError::Unavailable(format!("unreadable response: {}", printable(&e.to_string(), SHOWN)));
            return serde_json::from_slice(&body).map_err(unreadable);
        }
        let message = printable(&String::from_utf8_lossy(&body), SHOWN);
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
            self.send(self.request(Method::GET, &["schemas", "ids", &id.to_string()]), &format!("schema with id {id}")).await?;
        self.whole(schema).await
    }

    /// The latest schema of a subject; `None` if there is no such subject.
    pub async fn latest(&self, subject: &str) -> Result<Option<Schema>, RegistryError> {
        let found = self.send::<Schema>(self.request(Method::GET, &["subjects", subject, "versions", "latest"]), subject).await;
        match found {
            Ok(schema) => {
                let text = self.whole(schema.clone()).await?;
                Ok(Some(Schema { schema: text, ..schema }))
            }
            Err(RegistryError::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Why it can't be asked at this moment, if so.
    pub async fn unavailable(&self) -> Option<String> {
        match self.latest("headwater-is-there-a-registry").await {
            Err(RegistryError::Unavailable(why)) => Some(why),
            _ => None,
        }
    }

    /// Registers a schema (the same text again gives the same id) and returns its id.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        #[derive(Deserialize)]
        struct Registered {
            id: u32,
        }
        let request = self.request(Method::POST, &["subjects", subject, "versions"]).json(&json!({ "schema": schema }));
        Ok(self.send::<Registered>(request, &format!("a schema of `{subject}`")).await?.id)
    }

    /// Whether `schema` may follow the latest one of the subject, by the rules set for it. True if the subject has no schema.
    pub async fn is_compatible(&self, subject: &str, schema: &str) -> Result<bool, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            is_compatible: bool,
        }
        let path = ["compatibility", "subjects", subject, "versions", "latest"];
        let request = self.request(Method::POST, &path).json(&json!({ "schema": schema }));
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
        let refused = |message: String| RegistryError::Refused { what: "the schema".into(), message: printable(&message, SHOWN) };
        let (mut named, mut asked) = (HashMap::new(), BTreeSet::new());
        // References that are not looked up yet, with the schemas that led to them.
        let mut open: Vec<(Reference, Vec<String>)> = schema.references.into_iter().map(|reference| (reference, Vec::new())).collect();
        while let Some((Reference { name, subject, version }, mut way)) = open.pop() {
            let step = format!("`{subject}` version {version}");
            if way.contains(&step) {
                return Err(refused(format!("{step} refers to itself through {}", way.join(", "))));
            }
            if !asked.insert((name.clone(), step.clone())) {
                continue;
            }
            if asked.len() > MAX_REFERENCES {
                return Err(refused(format!("it refers to more than {MAX_REFERENCES} others, directly and through them")));
            }
            let request = self.request(Method::GET, &["subjects", &subject, "versions", &version.to_string()]);
            let found: Schema = self.send(request, &subject).await?;
            way.push(step);
            open.extend(found.references.into_iter().map(|reference| (reference, way.clone())));
            named.insert(name, parsed(&found.schema)?);
        }
        let mut tree = parsed(&schema.schema)?;
        match inline(&mut tree, &mut named, MAX_DEPTH) {
            true => Ok(tree.to_string()),
            false => Err(refused(format!("with what it refers to it is nested deeper than {MAX_DEPTH} levels"))),
        }
    }
}

fn parsed(text: &str) -> Result<serde_json::Value, RegistryError> {
    let wrong = |e: serde_json::Error| RegistryError::Refused { what: "the schema".into(), message: printable(&e.to_string(), SHOWN) };
    serde_json::from_str(text).map_err(wrong)
}

/// Puts each named type where it is first used; later uses refer to it by name. `false`: that would be deeper than `room` levels.
fn inline(tree: &mut serde_json::Value, named: &mut HashMap<String, serde_json::Value>, room: usize) -> bool {
    let Some(room) = room.checked_sub(1) else { return false };
    match tree {
        serde_json::Value::String(name) => match named.remove(name.as_str()) {
            Some(mut found) => {
                let fits = inline(&mut found, named, room);
                *tree = found;
                fits
            }
            None => true,
        },
        serde_json::Value::Array(items) => items.iter_mut().all(|item| inline(item, named, room)),
        serde_json::Value::Object(members) => {
            let mut types = members.iter_mut().filter(|(key, _)| matches!(key.as_str(), "type" | "items" | "values" | "fields"));
            types.all(|(_, value)| inline(value, named, room))
        }
        _ => true,
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

enum Known {
    Text(Arc<str>),
    Asking {
        trouble: Option<String>,
    },
    /// `why`: there is one, and it can't be used.
    Missing {
        since: Instant,
        why: Option<String>,
    },
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
            let (mut backoff, mut misses) = (Backoff::new(BACKOFF.0, BACKOFF.1), 0);
            loop {
                let answer = this.registry.by_id(id).await;
                let known = match answer {
                    Ok(text) => Known::Text(text.into()),
                    Err(RegistryError::NotFound(_)) if misses + 1 >= MISSES => Known::Missing { since: Instant::now(), why: None },
                    Err(RegistryError::Refused { message, .. }) if misses + 1 >= MISSES => {
                        Known::Missing { since: Instant::now(), why: Some(message) }
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
                tokio::time::sleep(backoff.pause()).await;
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
            Some(Known::Missing { since, why }) if since.elapsed() < MISSING_FOR => {
                return why.clone().map_or(Lookup::NotFound, Lookup::Unusable);
            }
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
