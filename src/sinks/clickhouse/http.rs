//! One request over HTTP, and the proof that ClickHouse itself answered.
//!
//! A proxy between this process and the server may answer in its place: with a maintenance page with status 200, an empty
//! body, a cached response. None of that proves what happened to an insert. So every request has a
//! query id that was never used before, and a response counts only if it carries that id (`X-ClickHouse-Query-Id`, which the
//! server adds to every statement it ran). An insert needs more: the summary (`X-ClickHouse-Summary`) must count at least the
//! rows that were sent (views behind the table add theirs, and rows under a known token are counted too), and the body must be
//! empty, for an exception after the headers would be there. An exception counts if its code is in a header
//! (`X-ClickHouse-Exception-Code`). With anything else the outcome is unknown.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use headwater_engine::printable::printable;
use http_body_util::StreamBody;
use hyper::body::Frame;
use reqwest::header::HeaderMap;
use reqwest::{Body, Method, StatusCode};
use serde::Deserialize;

use super::connection::Config;
use super::failure::ClickHouseError;
use crate::observe::outages::Service;
use crate::web::Web;

/// Longest answer that is read, bytes.
const MAX_ANSWER: usize = 64 << 20;
/// How much of an answer that is not ClickHouse's is shown, bytes.
const SHOWN: usize = 200;
const QUERY_ID: &str = "x-clickhouse-query-id";
const SUMMARY: &str = "x-clickhouse-summary";
const EXCEPTION_CODE: &str = "x-clickhouse-exception-code";

/// A statement to be run.
pub(super) struct Request<'a> {
    pub sql: &'a str,
    /// Settings of the server or of its HTTP interface.
    pub settings: Vec<(&'a str, &'a str)>,
    /// The data of an insert.
    pub data: Option<Bytes>,
    /// From the first byte sent to the last one received.
    pub limit: Duration,
}

/// An answer that ClickHouse gave to this request.
pub(super) struct Reply {
    pub body: Vec<u8>,
    /// Rows that the statement has written, if the answer says so.
    pub written: Option<u64>,
}

impl Reply {
    /// The beginning of the body, to be shown.
    pub fn text(&self) -> String {
        shown(&self.body)
    }
}

fn shown(body: &[u8]) -> String {
    printable(&String::from_utf8_lossy(body), SHOWN)
}

/// HTTP connections to one server.
#[derive(Clone)]
pub(super) struct Http {
    web: Web,
    credentials: Vec<(&'static str, String)>,
}

impl Http {
    pub fn new(config: &Config) -> Result<Http, ClickHouseError> {
        let web = Web::new(&config.url, &config.tls).map_err(|why| ClickHouseError::Unexpected(format!("`clickhouse`: {why}")))?;
        let user = config.user.clone().map(|user| ("X-ClickHouse-User", user));
        let password = config.password.as_ref().map(|password| ("X-ClickHouse-Key", password.reveal().to_owned()));
        Ok(Http { web, credentials: user.into_iter().chain(password).collect() })
    }

    pub fn reporting(self, service: Service) -> Http {
        Http { web: self.web.reporting(service), ..self }
    }

    pub fn verifies(&self) -> Option<String> {
        self.web.verifies()
    }

    /// Runs a statement.
    ///
    /// # Errors
    /// ClickHouse's exception; no connection; an answer that does not prove to be ClickHouse's.
    pub async fn run(&self, request: Request<'_>) -> Result<Reply, ClickHouseError> {
        let result = self.exchange(request).await;
        self.web.report(match &result {
            Err(e @ (ClickHouseError::Connect(_) | ClickHouseError::Tls(_) | ClickHouseError::Lost(_))) => Err(e.to_string()),
            _ => Ok(()),
        });
        result
    }

    async fn exchange(&self, request: Request<'_>) -> Result<Reply, ClickHouseError> {
        let id = uuid::Uuid::new_v4().to_string();
        let mut url = self.web.url().clone();
        {
            let mut pairs = url.query_pairs_mut();
            // The server sends headers when the statement has ended, so that they show its outcome.
            pairs.extend_pairs([("query_id", id.as_str()), ("wait_end_of_query", "1")]).extend_pairs(&request.settings);
            if request.data.is_some() {
                pairs.append_pair("query", request.sql);
            }
        }
        let mut post = self.web.request(Method::POST, url);
        for (name, value) in &self.credentials {
            post = post.header(*name, value);
        }
        let post = match request.data {
            // A stream of unknown length is sent in chunks, whose missing end shows the server that it was cut.
            Some(data) => post.body(Body::wrap(StreamBody::new(stream::iter([Ok::<_, std::convert::Infallible>(Frame::data(data))])))),
            None => post.body(request.sql.to_owned()),
        };
        let answer = self.web.send(post, request.limit, MAX_ANSWER).await?;
        judge(answer.status, &answer.headers, answer.body, &id)
    }
}

/// Takes an answer for ClickHouse's if it proves to be.
fn judge(status: StatusCode, headers: &HeaderMap, body: Vec<u8>, id: &str) -> Result<Reply, ClickHouseError> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(code) = header(EXCEPTION_CODE).and_then(|code| code.parse().ok()) {
        return Err(ClickHouseError::exception(code, &String::from_utf8_lossy(&body)));
    }
    let foreign = |why: &str| ClickHouseError::Lost(format!("{status} {why}, so it did not come from ClickHouse: {}", shown(&body)));
    if status != StatusCode::OK {
        return Err(foreign("without X-ClickHouse-Exception-Code"));
    }
    match header(QUERY_ID) {
        Some(found) if found == id => {}
        Some(found) if !found.is_empty() => {
            return Err(ClickHouseError::Unexpected(format!(
                "the response belongs to the query {} instead of {id}: a proxy in between (chproxy, for example) replaces \
                 URL parameters, and with them the settings that deduplication needs. Connect to ClickHouse directly, or through \
                 a proxy that passes URLs and headers unchanged",
                printable(found, SHOWN)
            )));
        }
        _ => return Err(foreign("without X-ClickHouse-Query-Id")),
    }
    let written = header(SUMMARY).and_then(|summary| serde_json::from_str::<Summary>(summary).ok()?.written_rows.parse().ok());
    Ok(Reply { body, written })
}

/// `X-ClickHouse-Summary`: numbers as texts.
#[derive(Deserialize)]
struct Summary {
    written_rows: String,
}
