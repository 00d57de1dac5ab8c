//! The ClickHouse engine as an HTTP service.
//!
//! This is the libchdb engine behind an HTTP front of our own, not a ClickHouse server. The front implements what
//! the official Rust client and plain HTTP clients use: `/ping`, queries in the URL, the body or a form, settings as
//! URL parameters, query parameters, LZ4 request frames, streamed inserts, summaries and error codes.
//!
//! **Invariant: a row is acknowledged only if the engine has committed the whole request.** Two things threaten it.
//! The engine's query function parses text, and inline insert data ends at the first blank line without an error; so
//! the data of an insert never goes through it but through the engine's insert stream, byte for byte. And a body that
//! stops early looks like a shorter body; so the body reader has to say that the end was reached, and anything else
//! cancels the insert.
//!
//! Not implemented, and refused rather than ignored where a caller would notice: sessions (`session_id`), compressed
//! answers (`compress=1`), other encodings of the request body. Not implemented and ignored: users, passwords and
//! quotas. Answers are collected in memory before they are sent. The checksum of LZ4 frames is not verified.

mod answer;
mod body;
mod engine;
mod insert;
mod request;
mod run;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::LocalError;
use engine::Engine;

/// Time given to requests that are in progress when the front is told to end.
const GRACE: Duration = Duration::from_secs(10);

/// Loads the engine library `lib`, opens the database in `data`, and serves it at `addr` until SIGTERM or SIGINT.
///
/// Blocks, and builds its own runtime: call it from a plain `main`. One process can open one database, and a
/// database can be opened by one process. The address accepts connections once the engine is ready.
///
/// # Errors
/// The library is not a libchdb of version 26.7 or newer, the database cannot be opened, or the address cannot be
/// bound.
pub fn serve_clickhouse(lib: &Path, data: &Path, addr: SocketAddr) -> Result<(), LocalError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(LocalError::io("cannot start the runtime"))?;
    let (lib, data) = (lib.to_owned(), data.to_owned());
    let outcome = runtime.block_on(async move {
        let mut terminate = signal(SignalKind::terminate()).map_err(LocalError::io("cannot watch for SIGTERM"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(LocalError::io("cannot watch for SIGINT"))?;
        let opened = tokio::task::spawn_blocking(move || Engine::open(&lib, &data)).await;
        let engine = opened.map_err(|error| LocalError::Engine(error.to_string()))??;
        let listener = TcpListener::bind(addr).await.map_err(LocalError::io(format!("cannot bind {addr}")))?;
        eprintln!("libchdb engine {} behind our HTTP front, listening on {addr}", engine.version());
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => { connections.spawn(serve(stream, engine.clone(), stopped.clone())); }
                    Err(error) => pause_after(&error).await,
                },
                Some(_) = connections.join_next() => {}
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        let _ = stop.send(true);
        let _ = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
        Ok(())
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Accepting fails for good reasons only when descriptors run out, and then it fails again at once.
async fn pause_after(error: &io::Error) {
    eprintln!("cannot accept a connection: {error}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Serves one connection; when the front is to end, the request in progress is answered first.
async fn serve(stream: TcpStream, engine: Arc<Engine>, mut stopped: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer::answer(engine.clone(), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let told = async { stopped.wait_for(|stopped| *stopped).await.is_ok() };
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = told => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await; // a client that goes away is its own business
}
