//! HTTP to the schema registry and ClickHouse: how to connect, and what a server may do.
//!
//! - Requests go to the configured address only: redirects are not followed and `http_proxy` is ignored, because credentials and rows
//!   would go elsewhere.
//! - `https://` verifies the server's certificate and its name, always ([`tls`]).
//! - Every request has a time limit, every response a size limit. Responses are not decompressed.
//! - Text from a server passes through [`printable`](headwater_engine::printable::printable) before it is shown.

mod tls;
mod trouble;

#[cfg(test)]
mod hostile;

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode, Url};

use crate::observe::outages::Service;

pub use self::tls::{Files, Tls, is_name};
pub use self::trouble::Trouble;

/// How long a connection may take to be made, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// After this long without a response, a small request that every server answers at once is sent, again and again: it distinguishes a
/// slow request from a hung server.
const DOUBT: Duration = Duration::from_secs(3);
/// How much of a response with an error status is read, bytes: enough for every message, little enough for a hostile server.
const MAX_REFUSAL: usize = 64 << 10;

/// A client of one service.
#[derive(Clone)]
pub struct Web {
    client: reqwest::Client,
    url: Url,
    tls: Tls,
    /// Where it is reported whether the server responds.
    service: Option<Service>,
}

/// A complete response; the body of an error may be truncated.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Reads the address of a service.
///
/// # Errors
/// Why it can't be used. The text doesn't repeat the address, which may contain a password.
pub fn address(url: &str) -> Result<Url, String> {
    let parsed = Url::parse(url).map_err(|e| format!("it is not a URL ({e}), such as `https://host:port`"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(format!("it starts with `{}:` instead of `https://` or `http://`", parsed.scheme()));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err("it contains a user or a password, which have their own keys, since addresses are printed".to_string());
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err("it contains `?` or `#`: only host, port and path are allowed".to_string());
    }
    Ok(parsed)
}

impl Web {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// The address or the TLS material can't be used.
    pub fn new(url: &str, tls: &Tls) -> Result<Web, String> {
        let mut url = address(url)?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .tcp_keepalive(Duration::from_secs(60))
            // Idle connections are closed before the server does it: ClickHouse's default was 3 s for long.
            .pool_idle_timeout(Duration::from_millis(2_500))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if url.scheme() == "https" {
            builder = tls.apply(builder, &mut url)?;
        } else if !tls.is_default() {
            return Err("`tls` is set, but the address starts with `http://`".to_string());
        }
        let client = builder.build().map_err(|e| trouble::deepest(&e))?;
        Ok(Web { client, url, tls: tls.clone(), service: None })
    }

    /// Reports a hung server to `service`, and what [`Web::report`] is called with.
    pub fn reporting(self, service: Service) -> Web {
        Web { service: Some(service), ..self }
    }

    /// Reports that the server responds, or why it does not.
    pub fn report(&self, answered: Result<(), String>) {
        if let Some(service) = &self.service {
            service.report(answered);
        }
    }

    /// The base address. Its host is the name that the certificate must have.
    pub fn url(&self) -> &Url {
        &self.url
    }

    pub fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// How the server is verified, in words; `None`: not at all, the address is `http://`.
    pub fn verifies(&self) -> Option<String> {
        (self.url.scheme() == "https").then(|| self.tls.verifies(self.url.host_str().unwrap_or_default()))
    }

    /// Sends a request and reads the response: within `limit` from the first byte sent to the last one received, at most `most`
    /// bytes. A hung server is reported before the limit has passed.
    ///
    /// # Errors
    /// No response, or one that is too long.
    pub async fn send(&self, request: RequestBuilder, limit: Duration, most: usize) -> Result<Answer, Trouble> {
        tokio::select! {
            answer = self.exchange(request, limit, most) => answer,
            never = self.doubt() => match never {},
        }
    }

    /// While a request takes long: whether the server responds at all.
    async fn doubt(&self) -> std::convert::Infallible {
        let mut hangs = false;
        loop {
            tokio::time::sleep(DOUBT).await;
            if self.service.is_none() {
                continue;
            }
            let question = self.client.request(Method::GET, self.url.clone()).timeout(DOUBT);
            match question.send().await {
                Err(_) => {
                    hangs = true;
                    self.report(Err(format!("no response within {} s, not even to a small request", 2 * DOUBT.as_secs())));
                }
                // Of other outages only a real request knows the end.
                Ok(_) if hangs => {
                    hangs = false;
                    self.report(Ok(()));
                }
                Ok(_) => {}
            }
        }
    }

    async fn exchange(&self, request: RequestBuilder, limit: Duration, most: usize) -> Result<Answer, Trouble> {
        let failed = |answered| move |e: reqwest::Error| Trouble::of(&e, answered, limit, &self.url, &self.tls);
        let mut answer = request.timeout(limit).send().await.map_err(failed(false))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed(true))? {
            body.extend_from_slice(&piece);
            if !status.is_success() && body.len() > MAX_REFUSAL {
                body.truncate(MAX_REFUSAL);
                break;
            }
            if body.len() > most {
                return Err(Trouble::Lost(format!("a response of more than {} MiB", most >> 20)));
            }
        }
        Ok(Answer { status, headers, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_refused_without_being_shown() {
        for (url, why) in [
            ("https://user:hunter2@host", "a user or a password"),
            ("http://hunter2@host:1", "a user or a password"),
            ("tcp://hunter2:9000", "`tcp:`"),
            ("hunter2", "not a URL"),
            ("https://host/?password=hunter2", "`?`"),
        ] {
            let refused = address(url).unwrap_err();
            assert!(refused.contains(why) && !refused.contains("hunter2"), "{refused}");
        }
        assert_eq!(address("https://host:8443/path").unwrap().path(), "/path");
        let tls = Tls::read(Files::default(), None, Some("x".into())).unwrap();
        assert!(Web::new("http://host", &tls).err().unwrap().contains("`tls` is set"));
    }
}
