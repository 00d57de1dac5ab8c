//! Connections to the services of an environment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Broker, Failure};
use headwater_engine::schemas::{MemorySchemas, SchemaSource};
use operator_core::Interval;

use crate::config::Config;
use crate::diagnose::{Problem, UNREACHABLE};
use crate::observe::outages::Outages;
use crate::pipeline_files::catalog::{NoSubjects, RegistrySubjects, Subjects};
use crate::schema_registry::{Registry, RegistryConfig, Schemas};
use headwater_kafka::{Kafka, KafkaConfig};

/// What the services of an environment look like from here.
#[derive(Clone)]
pub struct Services {
    pub broker: Arc<dyn Broker>,
    /// The same, where it is real brokers: only they have access rules.
    pub kafka: Option<Arc<Kafka>>,
    pub subjects: Arc<dyn Subjects>,
    pub schemas: Arc<dyn SchemaSource>,
    pub runtime: tokio::runtime::Handle,
    /// Which of them answer; their clients report it.
    pub outages: Outages,
}

/// Connects to the brokers and the registry of an environment, whose clients report to `outages` whether they answer. `commit`: how often a
/// pipeline commits what it reads, if one is to run.
pub fn connect(
    config: &Config,
    client_id: &str,
    commit: Option<Interval>,
    runtime: &tokio::runtime::Handle,
    outages: &Outages,
) -> Result<Services, Problem> {
    let kafka = Arc::new(kafka(config, client_id, commit)?);
    let service = outages.service("kafka", "Kafka", "");
    kafka.report(move |answered| service.report(answered));
    let (subjects, schemas): (Arc<dyn Subjects>, Arc<dyn SchemaSource>) = match registry(config)? {
        Some(registry) => {
            let registry = registry.reporting(outages.service("schema_registry", "the schema registry", ""));
            let schemas = Schemas::new(registry.clone(), runtime.clone());
            (Arc::new(RegistrySubjects { registry, runtime: runtime.clone() }), Arc::new(schemas))
        }
        None => (Arc::new(NoSubjects), Arc::new(MemorySchemas::default())),
    };
    Ok(Services { broker: kafka.clone(), kafka: Some(kafka), subjects, schemas, runtime: runtime.clone(), outages: outages.clone() })
}

/// The brokers of an environment; `commit` as for [`connect`].
fn kafka(config: &Config, client_id: &str, commit: Option<Interval>) -> Result<Kafka, Problem> {
    let bootstrap = config.bootstrap().map_err(Problem::plain)?.to_string();
    let mut properties = BTreeMap::new();
    for (name, setting) in &config.kafka.properties {
        properties.insert(name.clone(), setting.reveal().map_err(Problem::plain)?);
    }
    let kafka = KafkaConfig {
        properties,
        transaction_timeout: Duration::from_millis(config.kafka.transaction_timeout.millis() as u64),
        session_timeout: Duration::from_millis(config.kafka.session_timeout.millis() as u64),
        client_id: client_id.to_string(),
        ..KafkaConfig::new(bootstrap.clone())
    };
    let kafka = match commit {
        Some(interval) => kafka.committing_every(Duration::from_millis(interval.millis().unsigned_abs())),
        None => kafka,
    };
    Kafka::connect(kafka).map_err(|e| {
        let problem = Problem::plain(format!("can't reach Kafka at {bootstrap}: {e}"));
        if e.failure == Failure::Transient { problem.with_code(UNREACHABLE) } else { problem }
    })
}

/// A client of the environment's schema registry, if it has one.
pub fn registry(config: &Config) -> Result<Option<Registry>, Problem> {
    let Some(settings) = &config.schema_registry else { return Ok(None) };
    let password = settings.password.as_ref().map(|p| p.reveal()).transpose().map_err(Problem::plain)?;
    let token = settings.token.as_ref().map(|t| t.reveal()).transpose().map_err(Problem::plain)?;
    let tls = settings.tls.read().map_err(|(key, why)| Problem::plain(format!("`schema_registry.tls.{key}`: {why}")))?;
    let settings =
        RegistryConfig { username: settings.username.clone(), password, token, tls, ..RegistryConfig::new(settings.url.clone()) };
    Registry::new(settings).map(Some).map_err(Problem::plain)
}

impl Services {
    /// A service that doesn't answer, and what came instead: what failed because of it may work later.
    pub fn unreachable(&self) -> Option<String> {
        self.brokers_away().or_else(|| self.subjects.unreachable())
    }

    /// Why the brokers can't be asked now, if so.
    pub fn brokers_away(&self) -> Option<String> {
        let away = self.broker.topics().err().filter(|e| e.failure == Failure::Transient);
        away.map(|e| format!("Kafka: {e}"))
    }
}
