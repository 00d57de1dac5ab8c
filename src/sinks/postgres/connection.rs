//! Connections to one server: the address, TLS, sessions, and what their errors mean.

use std::fmt;
use std::time::Duration;

use headwater_engine::delivery::Reply;
use headwater_engine::printable::printable;
use headwater_engine::wording::without_values;
use postgres_native_tls::TlsConnector;
use reqwest::Url;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, NoTls};

use super::config::PostgresConfig;
use crate::config::TlsConfig;
use crate::observe::outages::Service;
use crate::web::Tls;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a statement may take, and how long a transaction may wait for its client: then the server ends it, so that a client that
/// has vanished does not hold the row of a position.
const STATEMENT: Duration = Duration::from_secs(30);
/// The name of its sessions.
pub(super) const APPLICATION: &str = "headwater";
/// Longest message kept, bytes.
const MAX_MESSAGE: usize = 2_000;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub database: String,
}

/// Reads `postgres://host:port/database`.
///
/// # Errors
/// What is wrong with it. The address is not repeated: it may hold a password.
pub fn address(url: &str) -> Result<Address, String> {
    let url = Url::parse(url).map_err(|e| format!("it is not a URL: {e}"))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err("it does not begin with `postgres://`".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("user and password have keys of their own: `user`, `password`".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it has parameters; `tls` has a key of its own, and there are no others".to_owned());
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("it has no host")?;
    let database = url.path().trim_start_matches('/');
    if database.is_empty() || database.contains('/') {
        return Err("it does not end with the name of a database, such as `/analytics`".to_owned());
    }
    let host = host.trim_matches(['[', ']']).to_owned();
    Ok(Address { host, port: url.port().unwrap_or(5432), database: database.to_owned() })
}

/// What an error means for a transaction that is certain not to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The rows are at fault. `message` may have values of the rows, `shown` has none.
    Rows { code: String, message: String, shown: String },
    /// The request, the configuration or the server is: retrying won't help.
    Wrong(String),
    /// The server was not done in time (57014): fewer rows may be.
    TooSlow(String),
    /// It passes.
    NotNow(String),
}

/// What an error of the server means, by SQLSTATE (appendix A of PostgreSQL's manual).
///
/// The server raises what it is in itself, and whatever a trigger or a function raises: a code of their own choice as well. So what
/// passes and what needs a change is listed, and everything else is about the rows: limits that a value exceeds (54), a subquery in a
/// trigger with two rows (21), a CASE without a branch (20), internal errors (XX000, with which extensions refuse values).
fn meaning(code: &str) -> Meaning {
    match (code, code.get(..2).unwrap_or_default()) {
        ("57014", _) => Meaning::TooSlow,
        // Read-only while roles are switched; the limits of time of a session; a transaction that has failed already.
        ("25006" | "25P02" | "25P03" | "25P04", _) => Meaning::NotNow,
        // An object that others use or lock.
        ("55006" | "55P03", _) => Meaning::NotNow,
        // Connections, deadlocks and serialization, resources, shutdown and start, disks, snapshots.
        (_, "08" | "40" | "53" | "57" | "58" | "72") => Meaning::NotNow,
        // Damaged data or indexes.
        ("XX001" | "XX002", _) => Meaning::Wrong,
        // Features, grantors, roles, prepared statements that a pooler has lost, logins, savepoints, databases, schemas, names and
        // rights, objects in another state, configuration files, foreign data; statements outside and inside of transactions.
        (_, "0A" | "0B" | "0L" | "0P" | "25" | "26" | "28" | "2B" | "3B" | "3D" | "3F" | "42" | "55" | "F0" | "HV") => Meaning::Wrong,
        _ => Meaning::Rows,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Rows,
    Wrong,
    TooSlow,
    NotNow,
}

impl Trouble {
    pub fn of(error: &tokio_postgres::Error) -> Trouble {
        let Some(found) = error.as_db_error() else {
            // Its parts say more than the whole: "error connecting to server" and the cause.
            let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
            return Trouble::NotNow(format!("PostgreSQL: {}", printable(&format!("{error}{cause}"), MAX_MESSAGE)));
        };
        let code = found.code().code().to_owned();
        let detail = found.detail().map_or(String::new(), |detail| format!(": {detail}"));
        let column = found.column().map_or(String::new(), |column| format!(" (column `{column}`)"));
        let message = printable(&format!("{}{column}{detail}", found.message()), MAX_MESSAGE);
        // To be logged and shown, to people who may not see the rows: the detail, and what a trigger or an extension raises, have values
        // without quotes.
        let constraint = found.constraint().map_or(String::new(), |constraint| format!(" (constraint `{constraint}`)"));
        let meaning = meaning(&code);
        let own = meaning != Meaning::Rows || matches!(code.get(..2), Some("20" | "21" | "22" | "23" | "54"));
        let said = if own { found.message() } else { "a trigger, a function or an extension has raised an error" };
        let shown = format!("PostgreSQL, {code}: {}{column}{constraint}", without_values(&printable(said, MAX_MESSAGE)));
        match meaning {
            Meaning::Rows => Trouble::Rows { code, message, shown },
            Meaning::Wrong => Trouble::Wrong(shown),
            Meaning::TooSlow => Trouble::TooSlow(shown),
            Meaning::NotNow => Trouble::NotNow(shown),
        }
    }

    /// What it means for rows that were to be written.
    pub fn reply(self) -> Reply {
        match self {
            Trouble::Rows { code, message, .. } => Reply::Refused { code, message },
            Trouble::Wrong(why) => Reply::Wrong(why),
            Trouble::TooSlow(why) => Reply::TooSlow(why),
            Trouble::NotNow(why) => Reply::Unavailable(why),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Rows { shown: why, .. } | Trouble::Wrong(why) | Trouble::TooSlow(why) | Trouble::NotNow(why) => f.write_str(why),
        }
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Trouble {
        Trouble::of(&error)
    }
}

/// A server and how to reach it. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    config: tokio_postgres::Config,
    /// How TLS is verified, and with which name; `None`: without TLS.
    tls: Option<(native_tls::TlsConnector, String)>,
    verifies: Option<String>,
    service: Option<Service>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("hosts", &self.config.get_hosts()).finish_non_exhaustive()
    }
}

impl Server {
    /// The environment's server; nothing is sent yet.
    ///
    /// # Errors
    /// A setting that can't be used.
    pub fn new(settings: &PostgresConfig) -> Result<Server, String> {
        let address = address(&settings.url).map_err(|why| format!("`postgres.url` can't be used: {why}"))?;
        let mut config = tokio_postgres::Config::new();
        config.host(&address.host).port(address.port).dbname(&address.database).application_name(APPLICATION).connect_timeout(CONNECT);
        config.keepalives_idle(Duration::from_secs(15)).keepalives_interval(Duration::from_secs(5)).keepalives_retries(3);
        if let Some(user) = &settings.user {
            config.user(user);
        }
        if let Some(password) = &settings.password {
            config.password(password.reveal()?);
        }
        let (tls, verifies) = match settings.tls.as_ref().map(TlsConfig::read).transpose() {
            Ok(None) => (None, None),
            Ok(Some(tls)) => {
                config.ssl_mode(tokio_postgres::config::SslMode::Require);
                let name = tls.server_name.clone().unwrap_or(address.host);
                let verifies = tls.verifies(&name);
                (Some((connector(&tls)?, name)), Some(verifies))
            }
            Err((key, why)) => return Err(format!("`postgres.tls.{key}`: {why}")),
        };
        if tls.is_none() {
            config.ssl_mode(tokio_postgres::config::SslMode::Disable);
        }
        Ok(Server { config, tls, verifies, service: None })
    }

    /// Tells `service` whether the server answers.
    #[must_use]
    pub fn reporting(self, service: Service) -> Server {
        Server { service: Some(service), ..self }
    }

    /// How the server is verified, in words; `None`: not at all.
    pub fn verifies(&self) -> Option<&str> {
        self.verifies.as_deref()
    }

    /// A new session, with limits of time.
    pub(super) async fn connect(&self) -> Result<Client, Trouble> {
        let connected = tokio::time::timeout(CONNECT, self.open()).await;
        let connected = connected.unwrap_or_else(|_| Err(Trouble::NotNow("PostgreSQL: no answer to a connection".to_owned())));
        match &connected {
            Ok(_) => self.report(Ok(())),
            // It answers, with a refusal.
            Err(Trouble::Wrong(_) | Trouble::Rows { .. }) => self.report(Ok(())),
            Err(Trouble::NotNow(why) | Trouble::TooSlow(why)) => self.report(Err(why.clone())),
        }
        connected
    }

    async fn open(&self) -> Result<Client, Trouble> {
        let client = match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                tokio::spawn(connection);
                client
            }
            Some((connector, name)) => {
                let (client, connection) = self.config.connect(Named(connector.clone(), name.clone())).await?;
                tokio::spawn(connection);
                client
            }
        };
        let seconds = STATEMENT.as_secs();
        client
            .batch_execute(&format!(
                "SET statement_timeout = '{seconds}s'; SET idle_in_transaction_session_timeout = '{seconds}s'; SET TimeZone = 'UTC'"
            ))
            .await?;
        Ok(client)
    }

    /// Asks the server to end what a session executes, if it can be reached.
    pub(super) async fn cancel(&self, client: &Client) {
        let token = client.cancel_token();
        let asked = async {
            match &self.tls {
                None => token.cancel_query(NoTls).await,
                Some((connector, name)) => token.cancel_query(Named(connector.clone(), name.clone())).await,
            }
        };
        if !matches!(tokio::time::timeout(CONNECT, asked).await, Ok(Ok(()))) {
            tracing::debug!("a statement of PostgreSQL could not be cancelled");
        }
    }

    /// Notes whether the server answers.
    pub(super) fn report(&self, answered: Result<(), String>) {
        if let Some(service) = &self.service {
            service.report(answered);
        }
    }
}

fn connector(tls: &Tls) -> Result<native_tls::TlsConnector, String> {
    let mut builder = native_tls::TlsConnector::builder();
    builder.min_protocol_version(Some(native_tls::Protocol::Tlsv12));
    if let Some(roots) = tls.roots_der() {
        builder.disable_built_in_roots(true);
        for der in roots {
            builder.add_root_certificate(native_tls::Certificate::from_der(der).map_err(|e| e.to_string())?);
        }
    }
    if let Some((certificate, key)) = tls.identity_pem() {
        builder.identity(native_tls::Identity::from_pkcs8(certificate, key).map_err(|e| e.to_string())?);
    }
    builder.build().map_err(|e| e.to_string())
}

/// Verifies this name, whatever host is connected to.
#[derive(Clone)]
struct Named(native_tls::TlsConnector, String);

impl<S> MakeTlsConnect<S> for Named
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    type Stream = postgres_native_tls::TlsStream<S>;
    type TlsConnect = TlsConnector;
    type Error = native_tls::Error;

    fn make_tls_connect(&mut self, _: &str) -> Result<TlsConnector, native_tls::Error> {
        Ok(TlsConnector::new(self.0.clone(), &self.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_pass_or_need_a_change_or_are_the_rows_fault() {
        for code in ["08006", "25006", "40001", "40P01", "53100", "53300", "55P03", "55006", "57P01", "57P03", "58030", "25P03"] {
            assert_eq!(meaning(code), Meaning::NotNow, "{code}");
        }
        for code in ["0A000", "25001", "26000", "28P01", "3D000", "3F000", "42501", "42P01", "55000", "HV00N", "XX001"] {
            assert_eq!(meaning(code), Meaning::Wrong, "{code}");
        }
        for code in ["20000", "21000", "22003", "23505", "38000", "44000", "54000", "54001", "P0001", "XX000", "AB123", ""] {
            assert_eq!(meaning(code), Meaning::Rows, "{code}");
        }
        assert_eq!(meaning("57014"), Meaning::TooSlow);
    }

    #[test]
    fn addresses_are_read_and_refused_without_showing_them() {
        let expected = Address { host: "db.example.com".to_owned(), port: 5432, database: "shop".to_owned() };
        assert_eq!(address("postgres://db.example.com/shop"), Ok(expected.clone()));
        assert_eq!(address("postgresql://db.example.com:6000/shop"), Ok(Address { port: 6000, ..expected }));
        assert_eq!(address("postgres://[::1]:5432/shop").unwrap().host, "::1");
        for wrong in [
            "http://db/shop",
            "postgres://db",
            "postgres://db/",
            "postgres://db/a/b",
            "postgres://hw:hunter2@db/shop",
            "postgres://db/shop?sslmode=disable",
            "db",
        ] {
            assert!(!address(wrong).unwrap_err().contains("hunter2"), "{wrong}");
        }
    }
}
