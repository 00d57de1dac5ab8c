//! One connection through the proxy: two flows of bytes and what may happen to them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::http::HttpFlow;
use super::kafka::KafkaFlow;
use super::{Direction, Mode, Protocol, Shared, State};

/// The connection is to be closed at once, in both directions.
struct Cut;

/// What is known about the requests in progress on a connection.
enum Flow {
    Plain,
    Kafka(KafkaFlow),
    Http(HttpFlow),
}

/// Runs a connection until it ends or is cut; closing is done by dropping both sockets.
pub(super) async fn run(client: TcpStream, upstream: SocketAddr, protocol: Protocol, shared: Arc<Shared>) {
    let mut gate = Gate::new(&shared);
    if gate.open().await.is_err() {
        return;
    }
    let server = tokio::select! {
        () = gate.closed() => return,
        connected = TcpStream::connect(upstream) => connected,
    };
    let Ok(server) = server else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let flow = Arc::new(Mutex::new(match protocol {
        Protocol::Tcp => Flow::Plain,
        Protocol::Kafka => Flow::Kafka(KafkaFlow::default()),
        Protocol::Http => Flow::Http(HttpFlow::default()),
    }));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let inspect = |direction| Inspect { direction, flow: flow.clone(), shared: shared.clone() };
    let requests = pump(client_read, server_write, gate.clone(), inspect(Direction::ToServer));
    let answers = pump(server_read, client_write, gate, inspect(Direction::ToClient));
    let _ = tokio::try_join!(requests, answers);
}

/// Follows the proxy's state on behalf of one connection.
#[derive(Clone)]
struct Gate {
    state: watch::Receiver<State>,
    epoch: u64,
}

impl Gate {
    fn new(shared: &Shared) -> Gate {
        let state = shared.state.subscribe();
        let epoch = state.borrow().epoch;
        Gate { state, epoch }
    }

    /// Waits while the proxy lets everything stall.
    async fn open(&mut self) -> Result<(), Cut> {
        let epoch = self.epoch;
        let state = self.state.wait_for(|state| state.mode != Mode::Blackhole || state.epoch != epoch).await;
        if state.is_ok_and(|state| state.epoch == epoch) { Ok(()) } else { Err(Cut) }
    }

    /// How long bytes in this direction are on their way.
    fn delay(&self, direction: Direction) -> Duration {
        if direction == Direction::ToClient { self.state.borrow().delay } else { Duration::ZERO }
    }

    /// Waits until this connection is to be closed.
    async fn closed(&mut self) {
        let epoch = self.epoch;
        let _ = self.state.wait_for(|state| state.epoch != epoch).await;
    }
}

/// Decides what happens to bytes that were read.
struct Inspect {
    direction: Direction,
    flow: Arc<Mutex<Flow>>,
    shared: Arc<Shared>,
}

impl Inspect {
    /// Appends to `out` what is to be forwarded; an error means that the connection is to be closed after that.
    fn decide(&self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Cut> {
        let mut faults = self.shared.faults();
        let lost = faults.lost;
        let mut keep = true;
        if let Some((direction, left)) = &mut faults.cut
            && *direction == self.direction
        {
            let length = bytes.len() as u64;
            if length >= *left {
                bytes = bytes.get(..usize::try_from(*left).unwrap_or(usize::MAX)).unwrap_or(bytes);
                faults.cut = None;
                faults.lost += 1;
                keep = false;
            } else {
                *left -= length;
            }
        }
        let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
        keep &= match &mut *flow {
            Flow::Plain => {
                out.extend_from_slice(bytes);
                true
            }
            Flow::Kafka(flow) => flow.pass(self.direction, bytes, out, &mut faults),
            Flow::Http(flow) => flow.pass(self.direction, bytes, out, &mut faults),
        };
        if faults.lost != lost {
            self.shared.changed.notify_all();
        }
        if keep { Ok(()) } else { Err(Cut) }
    }
}

/// Chunks on their way that were read and not written yet.
const ON_THE_WAY: usize = 64;

/// Bytes on their way through the proxy.
struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
    /// The connection is to be closed behind them.
    cut: bool,
}

/// Forwards one direction until its end. The end of one direction is forwarded and leaves the other open.
async fn pump(from: OwnedReadHalf, to: OwnedWriteHalf, gate: Gate, inspect: Inspect) -> Result<(), Cut> {
    let (line, chunks) = mpsc::channel(ON_THE_WAY);
    tokio::try_join!(read(from, line, gate.clone(), inspect), write(to, chunks, gate)).map(drop)
}

async fn read(mut from: OwnedReadHalf, line: mpsc::Sender<Chunk>, mut gate: Gate, inspect: Inspect) -> Result<(), Cut> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut closed = gate.clone();
        let read = tokio::select! {
            () = closed.closed() => return Err(Cut),
            read = from.read(&mut buffer) => read.map_err(|_| Cut)?,
        };
        gate.open().await?;
        if read == 0 {
            return Ok(());
        }
        let due = Instant::now() + gate.delay(inspect.direction);
        let mut bytes = Vec::with_capacity(read);
        let cut = inspect.decide(buffer.get(..read).unwrap_or_default(), &mut bytes).is_err();
        line.send(Chunk { due, bytes, cut }).await.map_err(|_| Cut)?;
        if cut {
            return Ok(());
        }
    }
}

async fn write(mut to: OwnedWriteHalf, mut chunks: mpsc::Receiver<Chunk>, mut gate: Gate) -> Result<(), Cut> {
    while let Some(Chunk { due, bytes, cut }) = chunks.recv().await {
        let written = async {
            tokio::time::sleep_until(due).await;
            to.write_all(&bytes).await
        };
        tokio::select! {
            () = gate.closed() => return Err(Cut),
            written = written => written.map_err(|_| Cut)?,
        }
        if cut {
            return Err(Cut);
        }
    }
    to.shutdown().await.map_err(|_| Cut)
}
