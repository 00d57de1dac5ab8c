//! What a worker shows: `/metrics` for Prometheus, `/health` (restart it or not), `/ready` (it processes its partitions), `/status` (for
//! `hw status`). Loopback
//! by default. The server answers before anything else of the worker works, and is bounded: half-open connections, long headers and
//! bodies cost it little, and the worker nothing.

mod families;
mod metrics;
mod pages;
mod process;
mod status;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

pub use metrics::render;
pub use pages::{EXPOSED, Pages, Shown};

/// Connections at once; one more ends the oldest. A scrape takes milliseconds, so that the oldest is one that does nothing.
const CONNECTIONS: usize = 64;
/// How long a connection may last, from its first byte to its end: it serves one request.
const LONGEST: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of its request.
const HEAD: Duration = Duration::from_secs(5);
/// Largest head of a request, bytes. Bodies are not read.
const HEAD_BYTES: usize = 16 << 10;
/// A pause after a connection could not be accepted: most likely the process has no file descriptor left.
const NO_DESCRIPTOR: Duration = Duration::from_millis(100);

/// Where the pages are unless `worker.http` says otherwise.
const USUAL: &str = "127.0.0.1:9644";

/// Listens where it was asked to. Without that, at `usual`, or on a free port: a second worker on this host is no mistake.
async fn listen(chosen: Option<&str>, usual: &str) -> Result<TcpListener, String> {
    let address = chosen.unwrap_or(usual);
    match (TcpListener::bind(address).await, chosen) {
        (Ok(listener), _) => Ok(listener),
        (Err(e), None) if e.kind() == ErrorKind::AddrInUse => {
            let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| format!("can't listen on 127.0.0.1: {e}"))?;
            let http = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
            tracing::warn!(%http, "{usual} is taken, by another worker perhaps: the pages are on a free port; `worker.http` chooses one");
            Ok(listener)
        }
        (Err(e), Some(_)) if e.kind() == ErrorKind::AddrInUse => Err(format!(
            "`worker.http`: another process listens on {address}: give each worker of this host an address of its own, or port 0, which \
             takes a free one"
        )),
        (Err(e), _) => Err(format!("`worker.http`: can't listen on {address}: {e}")),
    }
}

/// Serves the pages until the runtime ends, at the address that was chosen or the usual one. Returns the address.
pub async fn serve(address: Option<&str>, pages: Arc<Pages>) -> Result<SocketAddr, String> {
    let listener = listen(address, USUAL).await?;
    let bound = listener.local_addr().map_err(|e| e.to_string())?;
    tokio::spawn(accept(listener, pages));
    Ok(bound)
}

async fn accept(listener: TcpListener, pages: Arc<Pages>) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::debug!(cause = %e, "a connection to the HTTP server can't be accepted");
                tokio::time::sleep(NO_DESCRIPTOR).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tokio::spawn(tokio::time::timeout(LONGEST, answer(stream, pages.clone()))).abort_handle());
    }
}

async fn answer(stream: TcpStream, pages: Arc<Pages>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&pages, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false).max_buf_size(HEAD_BYTES);
    // A broken connection is the client's business.
    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
}

fn respond(pages: &Pages, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let text = "text/plain; charset=utf-8";
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => match render(pages) {
            Ok(text) => (StatusCode::OK, "text/plain; version=0.0.4", text),
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, text, e),
        },
        (&Method::GET | &Method::HEAD, "/health" | "/ready") => {
            let (good, body) = if path == "/health" { pages.health() } else { pages.ready() };
            (if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, "application/json", body)
        }
        (&Method::GET | &Method::HEAD, "/status") => (StatusCode::OK, "application/json", format!("{:#}\n", status::page(pages))),
        (_, "/metrics" | "/health" | "/ready" | "/status") => {
            (StatusCode::METHOD_NOT_ALLOWED, text, "these pages are read with GET\n".to_string())
        }
        _ => (StatusCode::NOT_FOUND, text, "pages: /metrics /health /ready /status\n".to_string()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::observe::outages::Outages;

    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may end the connection before all is sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn with_pages(test: impl AsyncFnOnce(SocketAddr)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let pages = Arc::new(Pages::new("p", 1, Duration::from_secs(20), Outages::default()));
            test(serve(Some("127.0.0.1:0"), pages).await.unwrap()).await;
        });
    }

    /// At 214 of them `/health` did not answer, and the worker's sockets to Kafka failed.
    #[test]
    fn half_open_connections_neither_block_the_pages_nor_pile_up() {
        with_pages(async |address| {
            let mut held = Vec::new();
            for _ in 0..4 * CONNECTIONS {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"GET /health HT").await.unwrap();
                held.push(stream);
            }
            let answer = get(address, "GET /health HTTP/1.1\r\nhost: h\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            // The oldest was ended for it: reading comes to an end without waiting for a timeout.
            let mut rest = Vec::new();
            let _ = held[0].read_to_end(&mut rest).await;
            assert_eq!(rest, b"");
        });
    }

    #[test]
    fn only_a_chosen_address_has_to_be_free() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let taken = first.local_addr().unwrap().to_string();
            let second = listen(None, &taken).await.unwrap().local_addr().unwrap();
            assert!(second.ip().is_loopback() && second.to_string() != taken);
            let refused = listen(Some(&taken), USUAL).await.unwrap_err();
            assert!(refused.contains("`worker.http`") && refused.contains(&taken), "{refused}");
        });
    }

    #[test]
    fn a_head_has_a_largest_size_and_bodies_are_not_read() {
        with_pages(async |address| {
            let long = format!("GET /health HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", "x".repeat(64 << 10));
            let answer = get(address, &long).await;
            assert!(!answer.contains("200 OK"), "{answer}");
            let posted = get(address, "POST /health HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000000\r\n\r\n").await;
            assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
            let none = get(address, "GET /pages HTTP/1.1\r\nhost: h\r\n\r\n").await;
            assert!(none.starts_with("HTTP/1.1 404") && none.contains("/metrics"), "{none}");
        });
    }
}
