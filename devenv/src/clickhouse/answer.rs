//! From request to response.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response, StatusCode};

use super::body::{self, Input};
use super::engine::{Engine, Output, Refusal};
use super::request::{Call, boundary};
use super::run::run;

/// Largest form that is read.
const MAX_FORM: usize = 16 << 20;
/// Statements without an id of their own so far.
static QUERIES: AtomicU64 = AtomicU64::new(0);
/// What the front says it is, in every answer.
const NAME: &str = "libchdb engine behind our HTTP front";

/// Answers one request.
pub async fn answer(engine: Arc<Engine>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let asks_for_nothing = request.method() == Method::GET && request.uri().query().is_none();
    if path == "/ping" || path == "/replicas_status" || (path == "/" && asks_for_nothing) {
        return Ok(plain(StatusCode::OK, "Ok.\n"));
    }
    if path != "/" && path != "/query" {
        return Ok(plain(StatusCode::NOT_FOUND, "There is no handle for this path: use /, /query or /ping\n"));
    }
    if request.method() != Method::GET && request.method() != Method::POST {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "Use GET or POST\n"));
    }
    let begun = Instant::now();
    let (head, body) = request.into_parts();
    let (call, input) = match prepare(&head, body).await {
        Ok(prepared) => prepared,
        Err(refusal) => return Ok(refused(&refusal, "")),
    };
    let call = Arc::new(call);
    let running = call.clone();
    let outcome = tokio::task::spawn_blocking(move || run(&engine, &running, input)).await;
    let outcome = outcome.unwrap_or_else(|error| Err(Refusal::new(49, "LOGICAL_ERROR", error)));
    Ok(match outcome {
        Ok(output) => done(output, &call, begun),
        Err(refusal) => refused(&refusal, &call.query_id),
    })
}

/// Reads the head, and the body if it is a form; otherwise the body is read while the statement runs.
async fn prepare(head: &hyper::http::request::Parts, body: Incoming) -> Result<(Call, Input), Refusal> {
    let mut call = Call::read(head)?;
    if call.query_id.is_empty() {
        // As the server does: every statement has an id, and the answer names it.
        call.query_id = format!("front-{}-{}", std::process::id(), QUERIES.fetch_add(1, Ordering::Relaxed));
    }
    let Some(boundary) = boundary(head) else {
        let framed = call.decompress;
        return Ok((call, body::read(body, framed)));
    };
    let form = Limited::new(body, MAX_FORM).collect().await;
    let form = form.map_err(|error| Refusal::new(210, "NETWORK_ERROR", format!("cannot read the form: {error}")))?;
    call.take_form(&boundary, &form.to_bytes())?;
    Ok((call, Input::none()))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// A response with a header whose value may turn out not to be one; it is left out then.
fn respond(status: StatusCode, body: Vec<u8>, headers: &[(&'static str, String)]) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(*name, value);
        }
    }
    response
}

fn done(output: Output, call: &Call, begun: Instant) -> Response<Full<Bytes>> {
    let format = call.format.as_deref().unwrap_or("TabSeparated");
    let summary = format!(
        r#"{{"read_rows":"{}","read_bytes":"{}","written_rows":"{}","written_bytes":"{}","total_rows_to_read":"0","result_rows":"{}","result_bytes":"{}","elapsed_ns":"{}"}}"#,
        output.read_rows,
        output.read_bytes,
        output.written_rows,
        output.written_bytes,
        output.result_rows,
        output.body.len(),
        begun.elapsed().as_nanos()
    );
    let media = match format {
        "JSON" | "JSONCompact" | "JSONEachRow" => "application/json; charset=UTF-8",
        "TabSeparated" | "TSV" => "text/tab-separated-values; charset=UTF-8",
        _ => "application/octet-stream",
    };
    respond(
        StatusCode::OK,
        output.body,
        &[
            (CONTENT_TYPE.as_str(), media.to_owned()),
            ("x-clickhouse-format", format.to_owned()),
            ("x-clickhouse-summary", summary),
            ("x-clickhouse-query-id", call.query_id.clone()),
            ("x-clickhouse-server-display-name", NAME.to_owned()),
            ("x-clickhouse-timezone", "UTC".to_owned()),
        ],
    )
}

fn refused(refusal: &Refusal, query_id: &str) -> Response<Full<Bytes>> {
    respond(
        status(refusal.code),
        format!("{}\n", refusal.message).into_bytes(),
        &[
            (CONTENT_TYPE.as_str(), "text/plain; charset=UTF-8".to_owned()),
            ("x-clickhouse-exception-code", refusal.code.to_string()),
            ("x-clickhouse-query-id", query_id.to_owned()),
            ("x-clickhouse-server-display-name", NAME.to_owned()),
        ],
    )
}

/// The HTTP status of an error code, after `exceptionCodeToHTTPStatus` of ClickHouse's server.
fn status(code: u32) -> StatusCode {
    match code {
        // CANNOT_PARSE_*, malformed or mistyped data, TOO_*_AST, SYNTAX_ERROR
        6 | 25..=27 | 32 | 33 | 36 | 38 | 41 | 53 | 62 | 72 | 117 | 130 | 131 | 167 | 168 | 271 => StatusCode::BAD_REQUEST,
        // UNKNOWN_FUNCTION, _IDENTIFIER, _TYPE, _STORAGE, _TABLE, _AGGREGATE_FUNCTION, _FORMAT, _DATABASE, _SETTING,
        // _TYPE_OF_QUERY, _DATABASE_ENGINE
        46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 336 => StatusCode::NOT_FOUND,
        48 => StatusCode::NOT_IMPLEMENTED,
        159 => StatusCode::REQUEST_TIMEOUT,
        229 => StatusCode::PAYLOAD_TOO_LARGE,
        497 | 516 => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
