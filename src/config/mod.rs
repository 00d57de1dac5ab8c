//! The environment a pipeline runs in: brokers, registry, ClickHouse, limits of the worker. One file per environment
//! under `config/`; several `--config` files are layers, the later one wins key by key.

mod check;
mod layers;
mod secret;
mod secrets;
mod section;
mod service;
mod variables;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use headwater_engine::sinks::keys_of;
use headwater_engine::yaml::{Node, YamlError, read_all, unknown_keys};
use operator_core::{Diagnostic, Interval};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::diagnose::Problem;

pub use check::{check, risks};
pub use secret::{Secret, Setting};
pub use secrets::{blanked, blanked_lines, hidden, plain_secrets};
pub use section::{Section, SectionKind, SectionSpec, Sections};
pub use service::{ServiceConfig, TlsConfig};
pub use variables::{PIPELINE_VARIABLES, substitute, substitute_in_pipeline};

/// The environment.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub kafka: KafkaConfig,
    #[serde(default)]
    pub schema_registry: Option<RegistryConfig>,
    /// The stores of sinks, by the keys of their sections.
    #[serde(skip)]
    stores: BTreeMap<&'static str, Arc<dyn Section>>,
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
    pub transaction_timeout: Interval,
    /// A worker that is silent this long loses its partitions.
    #[serde(default = "default_session_timeout")]
    pub session_timeout: Interval,
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

fn default_transaction_timeout() -> Interval {
    Interval(20_000)
}

fn default_session_timeout() -> Interval {
    Interval(10_000)
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

impl Config {
    /// Reads a configuration from its YAML tree, with everything that is wrong with its shape. `sections`: those of the stores.
    pub fn read(root: &Node, sections: &Sections) -> (Option<Config>, Vec<YamlError>) {
        let own = keys_of::<Config>();
        let known: Vec<String> = own.iter().cloned().chain(sections.names().map(str::to_string)).collect();
        let mut errors = unknown_keys(root, &known);
        let (mut config, wrong) = read_all::<Config>(&root.retaining(|key| own.iter().any(|own| own == key)));
        errors.extend(wrong);
        for kind in sections.0.iter().filter(|kind| root.get(kind.name).is_some()) {
            let (section, wrong) = (kind.read)(root, kind.name);
            errors.extend(wrong);
            if let (Some(config), Some(section)) = (&mut config, section) {
                config.stores.insert(kind.name, section);
            }
        }
        (config, errors)
    }

    /// The configuration of a local environment that is started with `hw local up`, and nothing else.
    ///
    /// # Errors
    /// The configuration in its folder can't be read.
    pub fn at_local(dir: &str, sections: &Sections) -> Result<Config, Problem> {
        let mut config = Config { local: Some(dir.into()), ..Config::default() };
        config.fill(sections)?;
        Ok(config)
    }

    /// The section of a store, if there is one.
    pub fn store<S: SectionSpec>(&self) -> Option<&S> {
        self.stores.values().find_map(|section| {
            let section: &dyn Any = section.as_ref();
            section.downcast_ref()
        })
    }

    /// Sets the section `name` of a store.
    pub fn set_store<S: SectionSpec>(&mut self, name: &'static str, section: S) {
        self.stores.insert(name, Arc::new(section));
    }

    /// The services besides Kafka.
    pub fn services(&self) -> Vec<ServiceConfig<'_>> {
        let registry = self.schema_registry.as_ref().map(|registry| ServiceConfig {
            carries: if registry.username.is_some() || registry.token.is_some() { "schemas and the password" } else { "" },
            secrets: vec![("password", registry.password.as_ref()), ("token", registry.token.as_ref())],
            ..ServiceConfig::http("schema_registry", "the schema registry", &registry.url, &registry.tls)
        });
        registry.into_iter().chain(self.stores.values().map(|section| section.service())).collect()
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

/// Whether a worker can have this name: it is part of file names and of transactional ids.
pub fn can_name_a_worker(name: &str) -> bool {
    let simple = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=100).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(simple)
}

#[cfg(test)]
mod tests;
