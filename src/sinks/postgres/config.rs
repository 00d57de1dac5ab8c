//! The section `postgres` of an environment.

use schemars::JsonSchema;
use serde::Deserialize;

use super::connection::address;
use super::sink::PostgresSink;
use crate::config::{Secret, Section, ServiceConfig, TlsConfig};
use crate::sinks::Spec;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// Address of the server and name of the database: `postgres://host:5432/database`.
    pub url: String,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub password: Option<Secret>,
    /// Encrypt the connection and verify the server: `tls: {}` by the CAs of the system. Without this key there is no encryption.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Create schemas and tables that are missing (`hw ddl` shows how).
    #[serde(default)]
    pub create_tables: bool,
}

impl Section for PostgresConfig {
    fn service(&self) -> ServiceConfig<'_> {
        let service = ServiceConfig {
            section: PostgresSink::KIND,
            title: PostgresSink::TITLE,
            url: &self.url,
            tls: self.tls.as_ref(),
            reached: address(&self.url).map(|address| (address.host, self.tls.is_some())),
            example: "such as `postgres://db.example.com:5432/analytics`",
            encrypt: "set `tls: {}`, or name the CA in `tls.ca`",
            carries: "",
            secrets: Vec::new(),
        };
        service.taking_rows(self.password.as_ref())
    }
}
