//! Why a request failed, and what to do about it.

use std::error::Error;
use std::time::Duration;

use headwater_engine::printable::printable;
use reqwest::Url;

use super::Tls;

/// Longest cause that is shown, bytes.
const SHOWN: usize = 300;

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// No connection: the request was not sent.
    #[error("{0}")]
    Connect(String),
    /// Server and client don't agree on TLS, for this reason: the request was not sent. It does not pass by itself.
    #[error("{0}")]
    Tls(String),
    /// The connection broke or timed out, or the response is not HTTP: the outcome of the request is unknown.
    #[error("{0}")]
    Lost(String),
}

/// Messages of OpenSSL, and what they mean.
const CAUSES: [(&[&str], Meaning); 9] = [
    (&["certificate has expired"], Meaning::Expired),
    (&["certificate is not yet valid"], Meaning::Early),
    (&["hostname mismatch", "ip address mismatch"], Meaning::Name),
    (&["alert certificate required", "alert handshake failure", "alert bad certificate", "alert no certificate"], Meaning::Asked),
    (
        &["alert unknown ca", "alert certificate unknown", "alert certificate expired", "alert certificate revoked", "alert access denied"],
        Meaning::Own,
    ),
    (&["alert protocol version", "unsupported protocol"], Meaning::Version),
    (&["wrong version number", "packet length too long", "http request", "record layer failure"], Meaning::Plain),
    (
        &[
            "self-signed certificate",
            "unable to get local issuer certificate",
            "unable to get issuer certificate",
            "unable to verify the first certificate",
        ],
        Meaning::Issuer,
    ),
    (&["certificate verify failed"], Meaning::Other),
];

#[derive(Clone, Copy)]
enum Meaning {
    Expired,
    Early,
    Name,
    /// The server requires a client certificate, or refuses the one it received.
    Asked,
    /// The server refuses the client's certificate.
    Own,
    Version,
    /// The server does not use TLS.
    Plain,
    Issuer,
    Other,
}

impl Trouble {
    /// `answered`: the headers of the response have arrived.
    pub(super) fn of(error: &reqwest::Error, answered: bool, limit: Duration, url: &Url, tls: &Tls) -> Trouble {
        let cause = deepest(error);
        if url.scheme() == "https"
            && let Some((words, meaning)) = in_words(&chain(error), url.host_str().unwrap_or_default(), tls)
        {
            // With TLS 1.3 the alert about the client's certificate arrives with the first read only; the server has read no request
            // before its handshake ended. Every other failure of a connection that was established leaves the outcome unknown.
            let not_sent = error.is_connect() || !answered && matches!(meaning, Meaning::Asked | Meaning::Own);
            return if not_sent { Trouble::Tls(words) } else { Trouble::Lost(words) };
        }
        match (error.is_connect(), error.is_timeout()) {
            (true, true) => Trouble::Connect(format!("no connection within {} s", super::CONNECT.as_secs())),
            (true, false) => Trouble::Connect(cause),
            (false, true) => Trouble::Lost(format!("no response within {} s", limit.as_secs())),
            (false, false) if url.scheme() == "http" && is_no_http(error) => {
                Trouble::Lost(format!("{cause}: if the server expects TLS on this port, use `https://`"))
            }
            // The alert of a server that refuses the client is lost if the server closes the connection while the request is written.
            (false, false) if url.scheme() == "https" && !answered && is_closed(error) => Trouble::Lost(format!(
                "the server closed the connection without a response; if it always does, {}",
                if tls.has_certificate() {
                    "it may not accept the client certificate of `tls.certificate`"
                } else {
                    "it may ask for a client certificate: set `tls.certificate` and `tls.key`"
                }
            )),
            (false, false) => Trouble::Lost(cause),
        }
    }
}

/// The connection was closed while the request was written, or before a response.
fn is_closed(error: &reqwest::Error) -> bool {
    let text = chain(error);
    let closed =
        ["tls_retry_write_records", "broken pipe", "connection reset", "connection closed", "connection was not ready", "unexpected eof"];
    closed.iter().any(|part| text.contains(part))
}

/// The response is not HTTP, or the connection was closed without one.
fn is_no_http(error: &reqwest::Error) -> bool {
    let text = chain(error);
    text.contains("invalid http") || text.contains("connection closed before message completed") || text.contains("connection reset")
}

fn in_words(chain: &str, host: &str, tls: &Tls) -> Option<(String, Meaning)> {
    let found =
        |(parts, meaning): &(&'static [&'static str], Meaning)| Some((*parts.iter().find(|part| chain.contains(**part))?, *meaning));
    let (detail, meaning) = CAUSES.iter().find_map(found)?;
    let words = match meaning {
        Meaning::Expired => format!("the certificate of {host} has expired: renew it on the server"),
        Meaning::Early => format!("the certificate of {host} is not valid yet: compare the clocks of this machine and of the server"),
        Meaning::Name => format!(
            "the certificate is not for {host}: `tls.server_name` is the name to verify where it is not the host of `url` (a tunnel, an IP address)"
        ),
        Meaning::Asked | Meaning::Own if tls.has_certificate() => {
            format!("the server does not accept the client certificate of `tls.certificate` ({detail})")
        }
        Meaning::Asked | Meaning::Own => {
            format!("the server asks for a client certificate: set `tls.certificate` and `tls.key` ({detail})")
        }
        Meaning::Version => format!("server and client have no TLS version in common ({detail})"),
        Meaning::Plain => "the server does not use TLS on this port: check the port, or use `http://`".to_string(),
        Meaning::Issuer if tls.has_ca() => format!("the certificate of {host} is not signed by a CA of `tls.ca` ({detail})"),
        Meaning::Issuer => {
            format!(
                "the certificate of {host} is not signed by a CA that this system trusts: set `tls.ca` to the file of its CA ({detail})"
            )
        }
        Meaning::Other => format!("the certificate of {host} can't be verified ({detail})"),
    };
    Some((words, meaning))
}

/// All causes in one text, in lower case.
fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.to_ascii_lowercase()
}

/// The innermost cause. The outer ones repeat the address.
pub(super) fn deepest(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    if text.is_empty() { "the request failed".to_string() } else { printable(&text, SHOWN) }
}
