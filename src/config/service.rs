//! How a service is reached and protected: what the sections of the services have in common.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::secret::Secret;
use crate::web::{self, Files, Tls};

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
