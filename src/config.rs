//! The environment a pipeline runs in: brokers, registry, ClickHouse, limits of the worker. One file per environment
//! under `config/`; several `--config` files are layers, the later one wins key by key.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use headwater_engine::yaml::{self, Node, Value};
use headwater_local::Environment;
use operator_core::{Diagnostic, Span};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::diagnose::{Problem, Source};
use crate::web::{self, Files, Tls};

pub use crate::clickhouse::ClickHouseConfig;
pub use crate::postgres::PostgresConfig;

/// The environment.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub kafka: KafkaConfig,
    #[serde(default)]
    pub schema_registry: Option<RegistryConfig>,
    #[serde(default)]
    pub clickhouse: Option<ClickHouseConfig>,
    #[serde(default)]
    pub postgres: Option<PostgresConfig>,
    #[serde(default)]
    pub worker: WorkerConfig,
    /// A folder that `hw local up` started services in: their addresses fill what is not set here.
    #[serde(default)]
    pub local: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port`, several with commas.
    #[serde(default)]
    pub bootstrap: String,
    /// Settings of librdkafka, such as `security.protocol`. Secrets by reference: `{ env: NAME }` or `{ file: path }`.
    #[serde(default)]
    pub properties: BTreeMap<String, Setting>,
    /// A transaction that takes longer is aborted by the broker. Also how long partitions of a killed worker wait
    /// before another one takes them over.
    #[serde(default = "default_transaction_timeout")]
    pub transaction_timeout: Span,
    /// A worker that is silent this long loses its partitions.
    #[serde(default = "default_session_timeout")]
    pub session_timeout: Span,
}

impl Default for KafkaConfig {
    fn default() -> KafkaConfig {
        KafkaConfig {
            bootstrap: String::new(),
            properties: BTreeMap::new(),
            transaction_timeout: default_transaction_timeout(),
            session_timeout: default_session_timeout(),
        }
    }
}

fn default_transaction_timeout() -> Span {
    Span(20_000)
}

fn default_session_timeout() -> Span {
    Span(10_000)
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// Base address of the Confluent-compatible API.
    pub url: String,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password: Option<Secret>,
    /// A bearer token, instead of user and password.
    #[serde(default)]
    pub token: Option<Secret>,
    #[serde(default)]
    pub tls: TlsConfig,
}

/// How server and client authenticate over `https://`. Verification can't be disabled.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// File of the CA certificates (PEM) that the server's certificate is verified against, instead of those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// File of the client certificate (PEM, intermediate certificates behind it), for servers that ask for one.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// File of the private key of `certificate` (PEM).
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Opens `key`, if it is encrypted.
    #[serde(default)]
    pub key_password: Option<Secret>,
    /// The name that the server's certificate must have, where that is not the host of `url`: through a tunnel, at an IP address.
    #[serde(default)]
    pub server_name: Option<String>,
}

impl TlsConfig {
    /// Reads the files and the key's password.
    ///
    /// # Errors
    /// The key of the setting that is wrong, and why.
    pub fn read(&self) -> Result<Tls, (&'static str, String)> {
        let password = self.key_password.as_ref().map(Secret::reveal).transpose().map_err(|why| ("key_password", why))?;
        let files = Files { ca: self.ca.as_deref(), certificate: self.certificate.as_deref(), key: self.key.as_deref() };
        Tls::read(files, password.as_deref(), self.server_name.clone())
    }

    pub fn is_default(&self) -> bool {
        let TlsConfig { ca, certificate, key, key_password, server_name } = self;
        ca.is_none() && certificate.is_none() && key.is_none() && key_password.is_none() && server_name.is_none()
    }
}

/// A service as its section of the configuration describes it.
pub struct ServiceConfig<'a> {
    pub section: &'static str,
    pub title: &'static str,
    pub url: &'a str,
    pub tls: Option<&'a TlsConfig>,
    /// The host, and whether the connection is encrypted; or why the address can't be used.
    pub reached: Result<(String, bool), String>,
    /// An address that can be used, and how to encrypt the connection, for help texts.
    pub example: &'static str,
    pub encrypt: &'static str,
    /// What goes there, for warnings; empty: nothing that needs protection.
    pub carries: &'static str,
    /// Secrets by their keys.
    pub secrets: Vec<(&'static str, Option<&'a Secret>)>,
}

impl<'a> ServiceConfig<'a> {
    /// A service that is asked over HTTP.
    pub fn http(section: &'static str, title: &'static str, url: &'a str, tls: &'a TlsConfig) -> ServiceConfig<'a> {
        let host = |url: reqwest::Url| (url.host_str().unwrap_or_default().to_string(), url.scheme() == "https");
        ServiceConfig {
            section,
            title,
            url,
            tls: Some(tls),
            reached: web::address(url).map(host),
            example: "such as `https://registry.example.com`",
            encrypt: "write `https://` in `url`",
            carries: "",
            secrets: Vec::new(),
        }
    }

    /// What rows go to, with a password or without.
    pub fn taking_rows(self, password: Option<&'a Secret>) -> ServiceConfig<'a> {
        let carries = if password.is_some() { "rows and the password" } else { "rows" };
        ServiceConfig { carries, secrets: vec![("password", password)], ..self }
    }
}

impl RegistryConfig {
    /// A registry without authentication.
    pub fn at(url: String) -> RegistryConfig {
        RegistryConfig { url, username: None, password: None, token: None, tls: TlsConfig::default() }
    }
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Lanes: threads that process partitions. About one per core.
    pub lanes: usize,
    /// Where local checkpoints are kept.
    pub state_dir: PathBuf,
    /// Name of this worker's slot: the same after a restart, another for every worker. By default the host name and
    /// the first free slot of the state folder.
    pub id: Option<String>,
    /// Address of `/metrics`, `/health` and `/ready`; port 0 takes a free one, an empty text none. By default
    /// `127.0.0.1:9644`, or a free port where another worker has that one.
    pub http: Option<String>,
    /// A lane commits after so many records even before `commit_interval` is over: a limit of memory and of repeated work.
    pub epoch_rows: u64,
    /// ... or after about so many bytes of output.
    pub epoch_bytes: usize,
}

impl Default for WorkerConfig {
    fn default() -> WorkerConfig {
        WorkerConfig { lanes: 2, state_dir: ".local/state".into(), id: None, http: None, epoch_rows: 200_000, epoch_bytes: 32 << 20 }
    }
}

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

/// Whether a worker can have this name: it is part of file names and of transactional ids.
pub fn can_name_a_worker(name: &str) -> bool {
    let simple = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=100).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(simple)
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

impl Config {
    /// Reads layers of configuration, and the local environment that one of them names.
    pub fn load(paths: &[PathBuf]) -> Result<Config, Problem> {
        let (mut merged, mut layers): (Option<Node>, Vec<(Node, Source)>) = (None, Vec::new());
        for path in paths {
            let source = Source::read(path)?;
            let mut node =
                yaml::parse(&source.text).map_err(|e| Problem::yaml(&source, e).shown_in(&crate::lint::blanked_lines(&source.text)))?;
            if let Some(e) = node.substitute(&mut |text| substitute(text)).into_iter().next() {
                return Err(Problem::yaml(&source, e));
            }
            wrong_by_itself(&source, &node)?;
            merged = Some(merged.map_or(node.clone(), |below| merge(below, node.clone())));
            layers.push((node, source));
        }
        let mut config = match (&merged, layers.last()) {
            (Some(node), Some((_, source))) => {
                let config = node
                    .read::<Config>()
                    .map_err(|e| without_secrets(source, Problem::yaml(source, e).without(&crate::lint::hidden(node))))?;
                let wrong = crate::lint::of_environment(&config).into_iter().chain(config.unreadable()).next();
                wrong.map_or(Ok(config), |wrong| Err(in_its_layer(&layers, wrong)))?
            }
            _ => Config::default(),
        };
        config.fill().map_err(Problem::plain)?;
        Ok(config)
    }

    /// The configuration of a local environment that is started with `hw local up`, and nothing else.
    pub fn of_local(dir: &str) -> Result<Config, Problem> {
        let mut config = Config { local: Some(dir.into()), ..Config::default() };
        config.fill().map_err(Problem::plain)?;
        Ok(config)
    }

    fn fill(&mut self) -> Result<(), String> {
        let Some(dir) = &self.local else { return Ok(()) };
        let Some(environment) = Environment::load(dir).map_err(|e| e.to_string())? else { return Ok(()) };
        if self.kafka.bootstrap.is_empty() {
            self.kafka.bootstrap = environment.bootstrap.clone();
        }
        if self.schema_registry.is_none() {
            self.schema_registry = environment.registry.clone().map(RegistryConfig::at);
        }
        if self.clickhouse.is_none() {
            self.clickhouse =
                environment.clickhouse.clone().map(|url| ClickHouseConfig { create_tables: true, ..ClickHouseConfig::at(url) });
        }
        if self.postgres.is_none() {
            let user = Some(headwater_local::POSTGRES_USER.to_string());
            self.postgres =
                environment.postgres.clone().map(|url| PostgresConfig { url, user, password: None, tls: None, create_tables: true });
        }
        Ok(())
    }

    /// The services besides Kafka.
    pub fn services(&self) -> Vec<ServiceConfig<'_>> {
        let registry = self.schema_registry.as_ref().map(|registry| ServiceConfig {
            carries: if registry.username.is_some() || registry.token.is_some() { "schemas and the password" } else { "" },
            secrets: vec![("password", registry.password.as_ref()), ("token", registry.token.as_ref())],
            ..ServiceConfig::http("schema_registry", "the schema registry", &registry.url, &registry.tls)
        });
        let clickhouse = self.clickhouse.as_ref().map(ClickHouseConfig::service);
        let postgres = self.postgres.as_ref().map(PostgresConfig::service);
        registry.into_iter().chain(clickhouse).chain(postgres).collect()
    }

    /// All secrets, each with its place.
    pub fn secrets(&self) -> Vec<(Vec<String>, &Secret)> {
        let properties = self.kafka.properties.iter().filter_map(|(name, setting)| match setting {
            Setting::Secret(secret) => Some((vec!["kafka", "properties", name], Some(secret))),
            Setting::Text(_) => None,
        });
        let mut found: Vec<(Vec<&str>, Option<&Secret>)> = properties.collect();
        for service in self.services() {
            found.extend(service.secrets.into_iter().map(|(key, secret)| (vec![service.section, key], secret)));
            let password = service.tls.and_then(|tls| tls.key_password.as_ref());
            found.push((vec![service.section, "tls", "key_password"], password));
        }
        let owned = |place: Vec<&str>| place.into_iter().map(str::to_string).collect();
        found.into_iter().filter_map(|(place, secret)| Some((owned(place), secret?))).collect()
    }

    /// Certificates and keys that can't be read here.
    fn unreadable(&self) -> Vec<Diagnostic> {
        let wrong = self.services().into_iter().filter_map(|service| Some((service.section, service.tls?.read().err()?)));
        wrong.map(|(section, (key, why))| Diagnostic::error("invalid-value", why).at([section, "tls", key])).collect()
    }

    /// The brokers, or what to do about their absence.
    pub fn bootstrap(&self) -> Result<&str, String> {
        match (&self.local, self.kafka.bootstrap.is_empty()) {
            (_, false) => Ok(&self.kafka.bootstrap),
            (Some(dir), true) => Err(format!("nothing runs in the local environment {}: start it with `hw local up`", dir.display())),
            (None, true) => {
                Err("no Kafka brokers: set `kafka.bootstrap` in the configuration, or start a local environment with `hw local up`".into())
            }
        }
    }
}

/// What is wrong with a layer whatever the others say, so that it is shown in its own file. A key that is missing may
/// stand in another.
fn wrong_by_itself(source: &Source, node: &Node) -> Result<(), Problem> {
    let (config, errors) = yaml::read_all::<Config>(node);
    let problem = match errors.into_iter().find(|e| e.code != "missing-key") {
        Some(e) => Some(Problem::yaml(source, e).without(&crate::lint::hidden(node))),
        None => config.iter().flat_map(crate::lint::of_environment).next().map(|d| Problem::found(source, node, d)),
    };
    problem.map_or(Ok(()), |problem| Err(without_secrets(source, problem)))
}

/// Shown where it is written: in the last layer that has the key.
fn in_its_layer(layers: &[(Node, Source)], wrong: Diagnostic) -> Problem {
    let has = |path: &[String]| layers.iter().rev().find(|(node, _)| node.find(path).is_some());
    match has(&wrong.path).or(layers.last()) {
        Some((node, source)) => without_secrets(source, Problem::found(source, node, wrong)),
        None => Problem::plain(wrong.message),
    }
}

/// The line of a mistake may be that of a secret.
fn without_secrets(source: &Source, problem: Problem) -> Problem {
    match yaml::parse(&source.text) {
        Ok(raw) => problem.shown_in(&crate::lint::blanked(source, &raw, true)),
        Err(_) => problem,
    }
}

/// `over` on `below`: mappings key by key, everything else as a whole.
fn merge(below: Node, over: Node) -> Node {
    let place = over.place;
    match (below.value, over.value) {
        (Value::Map(mut entries), Value::Map(new)) => {
            for (key, node) in new {
                match entries.iter().position(|(k, _)| k.text == key.text) {
                    Some(at) => {
                        let (k, old) = entries.remove(at);
                        entries.insert(at, (k, merge(old, node)));
                    }
                    None => entries.push((key, node)),
                }
            }
            Node { place, value: Value::Map(entries) }
        }
        (_, value) => Node { place, value },
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_shown_in_the_layer_it_stands_in() {
        let dir = tempfile::tempdir().unwrap();
        let layer = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let upper = layer("upper.yaml", "schema_registry: { url: http://registry:8081 }\n");
        let place = |below: &str| {
            let below = layer("below.yaml", below);
            Config::load(&[below, upper.clone()]).unwrap_err().place().unwrap_or_default()
        };
        assert!(place("worker:\n  lane: 4\n").ends_with("below.yaml:2:3"));
        assert!(place("worker:\n  lanes: 0\n").ends_with("below.yaml:2:10"));
        // A missing key may be in another layer.
        let below = layer("below.yaml", "schema_registry: { username: hw }\nworker: { lanes: 3 }\n");
        let config = Config::load(&[below, upper]).unwrap();
        assert_eq!((config.worker.lanes, config.schema_registry.unwrap().username.as_deref()), (3, Some("hw")));
    }

    /// A secret that is put in the place of a mapping or list was repeated, in the message or in the line that is shown.
    #[test]
    fn what_is_misplaced_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("environment.yaml");
        for text in [
            "clickhouse: { url: 'https://h', tls: hunter2 }",
            "clickhouse: { url: 'https://h', tls: [hunter2] }",
            "clickhouse: { url: 'https://h', password: [hunter2] }",
            "clickhouse: { url: 'https://h', password: { env: [hunter2] } }",
            "clickhouse: { url: 'https://h', password: { env: { name: hunter2 } } }",
            "clickhouse: { url: 'https://h', user: [hunter2] }",
            "clickhouse: { url: 'https://h', tls: { key_password: hunter2 } }",
            "clickhouse: hunter2",
            "clickhouse: [hunter2]",
            "schema_registry: hunter2",
            "schema_registry: { url: { password: hunter2 } }",
            "schema_registry: { url: 'https://h', token: '${HW_TEST_MISPLACED:-hunter2}' }",
            "schema_registry: { url: 'https://h', tls: '${HW_TEST_MISPLACED:-hunter2}' }",
            // No YAML.
            "schema_registry: { url: 'https://h', token: ${HW_TEST_MISPLACED:-hunter2} }",
            "clickhouse:\n  password: hunter2: {",
            "kafka: hunter2",
            "kafka: { properties: hunter2 }",
            "kafka: { properties: [hunter2] }",
            "kafka: { properties: { sasl.password: [hunter2] } }",
            "kafka: { properties: { sasl.password: { env: [hunter2] } } }",
            "kafka: { bootstrap: 'user:hunter2@h:9092' }",
            "worker: hunter2",
        ] {
            std::fs::write(&path, text).unwrap();
            let problem = Config::load(std::slice::from_ref(&path)).expect_err(text);
            let shown = format!("{} {}", problem.render(), problem.json());
            assert!(!shown.contains("hunter2"), "{text}\n{shown}");
            let source = Source::new("environment.yaml", text.to_string());
            for problem in crate::lint::check_source(source, &crate::lint::Rules::new(&no_schemas(), crate::lint::CONVENTION).unwrap()) {
                let shown = format!("{} {}", problem.render(), problem.json());
                assert!(!shown.contains("hunter2"), "{text}\n{shown}");
            }
        }
        // What is no secret helps.
        std::fs::write(&path, "worker: { lanes: many }").unwrap();
        assert!(Config::load(std::slice::from_ref(&path)).unwrap_err().render().contains("`many` is not a whole number"));
    }

    fn no_schemas() -> crate::catalog::Folder {
        crate::catalog::Folder::read(std::path::Path::new("no-such-folder")).unwrap()
    }
}
