//! A connection to one server: queries, and quoting.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use headwater_engine::printable::printable;
use headwater_engine::wording::without_values;
use serde::Deserialize;

use super::failure::ClickHouseError;
use super::http::{Http, Request};
use crate::observe::outages::Service;
use crate::web::Tls;

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
    /// URL of the HTTP interface, such as `http://localhost:8123`; without user and password.
    pub url: String,
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// `max_execution_time` of an insert; an answer is waited for a little longer.
    pub max_execution: Duration,
    pub tls: Tls,
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
            tls: Tls::default(),
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
/// ... and the first one, which asks whether the server is there.
const PING_SECONDS: u64 = 5;
/// How long a statement without an answer may take: `ON CLUSTER` waits for every host.
const STATEMENT: Duration = Duration::from_secs(60);

/// A pool of HTTP connections to one server. Cheap to clone. Its futures need a Tokio runtime.
#[derive(Clone)]
pub struct Connection {
    http: Http,
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
        Ok(Connection { http: Http::new(&config)?, config })
    }

    /// Tells `service` whether the server answers.
    pub fn reporting(self, service: Service) -> Connection {
        Connection { http: self.http.reporting(service), ..self }
    }

    /// How the server is verified, in words; `None`: not at all.
    pub fn verifies(&self) -> Option<String> {
        self.http.verifies()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Asks for the version of the server.
    ///
    /// # Errors
    /// It cannot be reached or refuses.
    pub async fn ping(&self) -> Result<String, ClickHouseError> {
        let rows = self.within("SELECT version()", PING_SECONDS).await?;
        rows.into_iter().flatten().next().ok_or_else(|| ClickHouseError::Unexpected("no version".to_owned()))
    }

    /// Runs a statement without an answer.
    ///
    /// # Errors
    /// The server's.
    pub async fn execute(&self, sql: &str) -> Result<(), ClickHouseError> {
        self.http.run(Request { sql, settings: Vec::new(), data: None, limit: STATEMENT }).await.map(drop)
    }

    /// Inserts `data` (of `rows` rows) by a statement that names its format, within `limit`.
    ///
    /// # Errors
    /// The server's, and an answer that does not prove that the server has taken all rows.
    pub(super) async fn insert(
        &self,
        sql: &str,
        settings: Vec<(&str, &str)>,
        data: Bytes,
        rows: usize,
        limit: Duration,
    ) -> Result<(), ClickHouseError> {
        let reply = self.http.run(Request { sql, settings, data: Some(data), limit }).await?;
        match reply.written {
            Some(written) if written >= rows as u64 && reply.body.is_empty() => Ok(()),
            Some(written) if reply.body.is_empty() => {
                Err(ClickHouseError::Lost(format!("the response counts {written} written rows of {rows} sent")))
            }
            Some(_) => Err(ClickHouseError::Lost(format!("the response to an insert has a body: {}", without_values(&reply.text())))),
            None => Err(ClickHouseError::Lost(
                "the response has no X-ClickHouse-Summary header, so it does not show what was written".to_owned(),
            )),
        }
    }

    /// Runs a query; every value as text, NULL as an empty one.
    ///
    /// # Errors
    /// The server's.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, ClickHouseError> {
        self.within(sql, QUESTION_SECONDS).await
    }

    async fn within(&self, sql: &str, seconds: u64) -> Result<Vec<Vec<String>>, ClickHouseError> {
        // One document, whose end and number of rows prove that it is complete.
        let limit = Duration::from_secs(seconds + 5);
        let seconds = seconds.to_string();
        let settings = vec![("default_format", "JSONCompactStrings"), ("max_execution_time", seconds.as_str())];
        let reply = self.http.run(Request { sql, settings, data: None, limit }).await?;
        let wrong = |why: String| ClickHouseError::Lost(format!("not a ClickHouse result ({}): {}", printable(&why, 500), reply.text()));
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|e| wrong(e.to_string()))?;
        if let Some(exception) = answer.exception {
            return Err(wrong(exception));
        }
        if answer.rows != answer.data.len() {
            return Err(wrong(format!("{} rows instead of {}", answer.data.len(), answer.rows)));
        }
        Ok(answer.data.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect())
    }
}

/// The format `JSONCompactStrings`.
#[derive(Deserialize)]
struct Answer {
    data: Vec<Vec<Option<String>>>,
    rows: usize,
    /// Why it broke off.
    exception: Option<String>,
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
        for url in ["tcp://host:9000", "http://user:hunter2@host:8123", "host"] {
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
