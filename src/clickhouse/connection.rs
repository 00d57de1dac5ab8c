//! A connection to one server: queries, and quoting.

use std::fmt;
use std::time::Duration;

use clickhouse::{Client, Compression};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::failure::ClickHouseError;

/// A text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where ClickHouse is, and how to insert.
#[derive(Clone, Debug)]
pub struct Config {
    /// URL of the HTTP interface, such as `http://localhost:8123`. Without user and password: URLs are logged.
    pub url: String,
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// `max_execution_time` of an insert; an answer is waited for a little longer.
    pub max_execution: Duration,
    pub connect_timeout: Duration,
    /// Compress what is sent (LZ4): for a network slower than about 1 Gbit/s.
    pub compress: bool,
    /// Other pipelines write to the table too, so that positions don't tell their rows apart and rows are not counted.
    pub shared_table: bool,
}

impl Config {
    pub fn new(url: impl Into<String>) -> Config {
        Config {
            url: url.into(),
            user: None,
            password: None,
            max_execution: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            compress: false,
            shared_table: false,
        }
    }
}

/// A table by database and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    pub database: String,
    pub name: String,
}

impl Table {
    pub fn new(database: impl Into<String>, name: impl Into<String>) -> Table {
        Table { database: database.into(), name: name.into() }
    }

    /// Reads `database.table`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Table, String> {
        match text.split_once('.') {
            Some((database, name)) if !database.is_empty() && !name.is_empty() && !name.contains('.') => Ok(Table::new(database, name)),
            _ => Err(format!("`{text}` is not `database.table`")),
        }
    }

    /// Quoted for SQL.
    pub fn quoted(&self) -> String {
        format!("{}.{}", identifier(&self.database), identifier(&self.name))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.name)
    }
}

/// An identifier quoted for SQL.
pub(super) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A string literal quoted for SQL.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Seconds a question (not an insert) may take.
const QUESTION_SECONDS: u64 = 30;

/// A pool of HTTP connections to one server. Cheap to clone. Its futures need a Tokio runtime.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    config: Config,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Connection {
    /// Prepares a connection; nothing is sent yet.
    ///
    /// # Errors
    /// The URL is not one that can be used.
    pub fn new(config: Config) -> Result<Connection, ClickHouseError> {
        let wrong = |why: &str| ClickHouseError::Unexpected(why.to_owned());
        let Some(rest) = config.url.strip_prefix("http://") else {
            let scheme = config.url.split(':').next().unwrap_or_default();
            return Err(ClickHouseError::Unexpected(format!(
                "the URL of ClickHouse begins with `{scheme}:`; it must begin with `http://` (TLS is not compiled in)"
            )));
        };
        if rest.contains('@') {
            return Err(wrong("put user and password of ClickHouse into their own settings, not into the URL"));
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true); // head and body are two writes: Nagle would add 40 ms to small inserts
        connector.set_keepalive(Some(Duration::from_secs(60)));
        connector.set_connect_timeout(Some(config.connect_timeout));
        // Idle connections are closed before the server does it, whose default was 3 s for long.
        let http = HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_millis(2_500)).build(connector);
        let compression = if config.compress { Compression::Lz4 } else { Compression::None };
        let mut client = Client::with_http_client(http).with_url(config.url.as_str()).with_compression(compression);
        if let Some(user) = &config.user {
            client = client.with_user(user.as_str());
        }
        if let Some(password) = &config.password {
            client = client.with_password(password.reveal());
        }
        Ok(Connection { client, config })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Asks for the version of the server.
    ///
    /// # Errors
    /// It cannot be reached or refuses.
    pub async fn ping(&self) -> Result<String, ClickHouseError> {
        let rows = self.rows("SELECT version()").await?;
        rows.into_iter().flatten().next().ok_or_else(|| ClickHouseError::Unexpected("no version".to_owned()))
    }

    /// Runs a statement without an answer.
    ///
    /// # Errors
    /// The server's.
    pub async fn execute(&self, sql: &str) -> Result<(), ClickHouseError> {
        Ok(self.client.query_raw(sql).execute().await?)
    }

    /// Runs a query; every value as text, NULL as an empty one.
    ///
    /// # Errors
    /// The server's.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, ClickHouseError> {
        let query = self.client.query_raw(sql).with_setting("max_execution_time", QUESTION_SECONDS.to_string());
        let answer = async { Ok::<_, ClickHouseError>(query.fetch_bytes("JSONCompactStringsEachRow")?.collect().await?) };
        let limit = Duration::from_secs(QUESTION_SECONDS + 5);
        let late = |_| ClickHouseError::Lost("timeout".to_owned());
        let bytes = tokio::time::timeout(limit, answer).await.map_err(late)??;
        let wrong = |e: serde_json::Error| ClickHouseError::Unexpected(format!("not an answer of ClickHouse: {e}"));
        let rows = serde_json::Deserializer::from_slice(&bytes).into_iter::<Vec<Option<String>>>();
        rows.map(|row| Ok(row.map_err(wrong)?.into_iter().map(Option::unwrap_or_default).collect())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let config = Config { user: Some("hw".into()), password: Some(Secret::new("hunter2")), ..Config::new("http://h:1") };
        let connection = Connection::new(config).unwrap();
        let shown = format!("{connection:?}");
        assert!(shown.contains("hw") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn urls_that_cannot_be_used_are_refused_without_showing_them() {
        for url in ["https://host:8443", "tcp://host:9000", "http://user:hunter2@host:8123", "host"] {
            let shown = Connection::new(Config::new(url)).unwrap_err().to_string();
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(Table::parse("d.t`x").unwrap().quoted(), "`d`.`t\\`x`");
        assert_eq!(literal(r"it's \"), r"'it\'s \\'");
        for wrong in ["t", "a.b.c", ".t", "d."] {
            assert!(Table::parse(wrong).is_err(), "{wrong}");
        }
    }
}
