//! Registers the schemas of the load with a Confluent-compatible schema registry.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::GenerateError;
use crate::encode::SchemaIds;
use crate::topics::Topic;

/// A registry that does not answer within this time is taken to be down.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Registered {
    id: u32,
}

/// Registers every version of every subject, oldest first, and returns the ids. Registering again is harmless: the registry
/// answers with the id it has.
///
/// A subject without a compatibility level of its own is set to BACKWARD, the rule in `schemas/README.md`, where the registry
/// lets us; an existing level is left alone.
///
/// # Errors
/// [`GenerateError::Registry`] when the registry cannot be reached or refuses a schema.
pub(crate) async fn register(url: &str) -> Result<SchemaIds, GenerateError> {
    let url = url.trim_end_matches('/');
    if !url.starts_with("http://") || url.contains('@') {
        let message = "the address of the schema registry must begin with http:// and hold no user and password".to_string();
        return Err(GenerateError::Registry(message));
    }
    let failed = |error: reqwest::Error| {
        GenerateError::Registry(format!("schema registry {url}: {error}; check the address and that it is running"))
    };
    let client =
        reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).no_proxy().build().map_err(failed)?;
    let mut ids = SchemaIds::new();
    for topic in Topic::ALL {
        let subject = topic.subject();
        let config = format!("{url}/config/{subject}");
        if client.get(&config).send().await.map_err(failed)?.status() == reqwest::StatusCode::NOT_FOUND {
            // A refusal is not ours to judge: many registries reserve this for their owners.
            client.put(&config).json(&json!({ "compatibility": "BACKWARD" })).send().await.map_err(failed)?;
        }
        for (version, schema) in topic.schemas().iter().enumerate() {
            let request = client.post(format!("{url}/subjects/{subject}/versions")).json(&json!({ "schema": schema }));
            let answer = request.send().await.map_err(failed)?;
            let status = answer.status();
            if !status.is_success() {
                let why: String = answer.text().await.unwrap_or_default().chars().take(500).collect();
                let message = format!("schema registry {url} refuses version {} of {subject}: {status} {why}", version + 1);
                return Err(GenerateError::Registry(message));
            }
            let Registered { id } = answer.json().await.map_err(failed)?;
            ids.entry(topic).or_default().push(id);
        }
    }
    Ok(ids)
}
