//! The section `clickhouse` of an environment.

use schemars::JsonSchema;
use serde::Deserialize;

use super::sink::ClickHouseSink;
use crate::config::{Secret, Section, ServiceConfig, TlsConfig};
use crate::sinks::Spec;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClickHouseConfig {
    /// Address of the HTTP interface.
    pub url: String,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub password: Option<Secret>,
    #[serde(default)]
    pub tls: TlsConfig,
    /// Run even where a table can't give exactly once (see the start-up report).
    #[serde(default)]
    pub allow_weaker_guarantee: bool,
    /// Create databases and tables that are missing (`hw ddl` shows how).
    #[serde(default)]
    pub create_tables: bool,
}

impl Section for ClickHouseConfig {
    fn service(&self) -> ServiceConfig<'_> {
        let service = ServiceConfig::http(ClickHouseSink::KIND, ClickHouseSink::TITLE, &self.url, &self.tls);
        service.taking_rows(self.password.as_ref())
    }
}

impl ClickHouseConfig {
    /// A server without authentication.
    pub fn at(url: String) -> ClickHouseConfig {
        let tls = TlsConfig::default();
        ClickHouseConfig { url, user: None, password: None, tls, allow_weaker_guarantee: false, create_tables: false }
    }
}
