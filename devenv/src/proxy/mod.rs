//! A TCP proxy that breaks connections on demand, for fault tests.
//!
//! The interesting failure of a distributed system is not the connection that is refused. It is the request that
//! was carried out and whose answer was lost: the client cannot tell it from one that never arrived, and has to
//! repeat it. A proxy that knows where requests and answers begin can produce exactly that, again and again, which
//! killing processes at random moments cannot. So beside the plain faults (stall, refuse, disconnect, cut after a
//! number of bytes) it can lose the answers, or the requests, of chosen Kafka APIs and HTTP calls.
//!
//! A proxy runs on its own thread; its handle may be used from synchronous and asynchronous code. Faults with a
//! count take effect that often and are then used up. Clients of Kafka must be told the proxy's address by the
//! broker: see [`Options::proxied`](crate::Options::proxied). TLS is not understood.

mod connection;
mod http;
mod kafka;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc as answers;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// What the proxy understands of the bytes it forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Nothing.
    Tcp,
    /// The frames of the Kafka protocol, without TLS.
    Kafka,
    /// HTTP/1.1 without pipelining.
    Http,
}

/// The direction of a flow of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the service: requests.
    ToServer,
    /// From the service to the client: answers.
    ToClient,
}

/// What is lost when a connection breaks around a request. The connection is closed in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lose {
    /// The request: the service never sees it.
    Request,
    /// The answer: the service has carried the request out, and the client does not learn of it.
    Response,
}

/// How connections are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Blackhole,
    Refuse,
}

/// Followed by every connection. One that was accepted in an earlier epoch must end.
#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    epoch: u64,
    /// Of answers.
    delay: Duration,
}

/// Requests or answers that are still to be lost.
#[derive(Debug)]
struct KafkaLoss {
    api_keys: Vec<i16>,
    lose: Lose,
    times: u32,
}

#[derive(Debug)]
struct HttpLoss {
    needle: Vec<u8>,
    lose: Lose,
    times: u32,
}

#[derive(Debug, Default)]
struct Faults {
    cut: Option<(Direction, u64)>,
    kafka: Vec<KafkaLoss>,
    http: Vec<HttpLoss>,
    lost: u64,
    accepted: u64,
}

impl Faults {
    /// Uses up one loss for this Kafka request or answer, if there is one.
    fn lose_kafka(&mut self, api_key: i16, lose: Lose) -> bool {
        let fits = |loss: &&mut KafkaLoss| loss.times > 0 && loss.lose == lose && loss.api_keys.contains(&api_key);
        let Some(loss) = self.kafka.iter_mut().find(fits) else {
            return false;
        };
        loss.times -= 1;
        self.lost += 1;
        true
    }

    /// Uses up one loss for this HTTP request (its first bytes) or its answer, if there is one.
    fn lose_http(&mut self, request: &[u8], lose: Lose) -> bool {
        let named = |needle: &[u8]| needle.is_empty() || request.windows(needle.len()).any(|window| window == needle);
        let fits = |loss: &&mut HttpLoss| loss.times > 0 && loss.lose == lose && named(&loss.needle);
        let Some(loss) = self.http.iter_mut().find(fits) else {
            return false;
        };
        loss.times -= 1;
        self.lost += 1;
        true
    }
}

/// What the handle and the connections share.
#[derive(Debug)]
struct Shared {
    faults: Mutex<Faults>,
    changed: Condvar,
    state: watch::Sender<State>,
}

impl Shared {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the proxy is to listen, and where to say that it is done.
struct Command {
    listen: bool,
    done: answers::Sender<io::Result<()>>,
}

/// A running proxy. Ends, with all its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy at `listen` (port 0: any) in front of `upstream`, which need not run yet.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start(listen: SocketAddr, upstream: SocketAddr, protocol: Protocol) -> io::Result<Proxy> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (state, _) = watch::channel(State { mode: Mode::Pass, epoch: 0, delay: Duration::ZERO });
        let shared = Arc::new(Shared { faults: Mutex::default(), changed: Condvar::new(), state });
        let (commands, received) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ours = shared.clone();
        let thread = std::thread::Builder::new().name("fault-proxy".to_owned()).spawn(move || {
            runtime.block_on(serve(listener, address, upstream, protocol, ours, received));
        })?;
        Ok(Proxy { address, shared, commands: Some(commands), thread: Some(thread) })
    }

    /// Where the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards again, after [`Proxy::blackhole`] or [`Proxy::refuse`]. Stalled connections continue where they were.
    ///
    /// # Errors
    /// The address cannot be bound again.
    pub fn pass(&self) -> io::Result<()> {
        self.set(Mode::Pass, false);
        self.listen(true)
    }

    /// Accepts connections and lets all of them stall: nothing arrives, nothing is closed.
    ///
    /// # Errors
    /// The address cannot be bound again.
    pub fn blackhole(&self) -> io::Result<()> {
        self.set(Mode::Blackhole, false);
        self.listen(true)
    }

    /// Closes all connections and refuses new ones. On return, connecting fails.
    ///
    /// # Errors
    /// The proxy has ended.
    pub fn refuse(&self) -> io::Result<()> {
        self.listen(false)?;
        self.set(Mode::Refuse, true);
        Ok(())
    }

    /// Holds every answer back for this long from now on, as a distant service would.
    pub fn delay(&self, delay: Duration) {
        self.shared.state.send_modify(|state| state.delay = delay);
    }

    /// Closes all connections; new ones are treated as before.
    pub fn disconnect(&self) {
        let mode = self.shared.state.borrow().mode;
        self.set(mode, true);
    }

    /// Closes a connection, once, after `bytes` more bytes have gone in this direction, over all connections.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.shared.faults().cut = Some((direction, bytes));
    }

    /// Loses the next `times` requests, or answers, of these Kafka APIs, and closes the connection each time.
    ///
    /// Keys: 0 Produce, 1 Fetch, 9 `OffsetFetch`, 22 `InitProducerId`, 24 `AddPartitionsToTxn`, 26 `EndTxn`,
    /// 28 `TxnOffsetCommit`. Needs [`Protocol::Kafka`].
    pub fn lose_kafka(&self, api_keys: &[i16], lose: Lose, times: u32) {
        self.shared.faults().kafka.push(KafkaLoss { api_keys: api_keys.to_vec(), lose, times });
    }

    /// Loses the next `times` HTTP requests, or their answers, whose first 16 KiB (request line, headers, beginning
    /// of the body) contain `needle`, and closes the connection each time. An empty needle fits every request.
    /// Needs [`Protocol::Http`].
    pub fn lose_http(&self, needle: &str, lose: Lose, times: u32) {
        self.shared.faults().http.push(HttpLoss { needle: needle.as_bytes().to_vec(), lose, times });
    }

    /// How many requests and answers were lost, and connections cut, so far.
    pub fn lost(&self) -> u64 {
        self.shared.faults().lost
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.faults().accepted
    }

    /// Waits (blocking the thread) until [`Proxy::lost`] is at least `count`; false when `patience` ran out first.
    pub fn wait_lost(&self, count: u64, patience: Duration) -> bool {
        self.wait(patience, |faults| faults.lost >= count)
    }

    fn wait(&self, patience: Duration, reached: impl Fn(&Faults) -> bool) -> bool {
        let faults = self.shared.faults();
        let waited = self.shared.changed.wait_timeout_while(faults, patience, |faults| !reached(faults));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn set(&self, mode: Mode, cut: bool) {
        self.shared.state.send_modify(|state| {
            state.mode = mode;
            state.epoch += u64::from(cut);
        });
    }

    fn listen(&self, listen: bool) -> io::Result<()> {
        let ended = || io::Error::other("the proxy has ended");
        let (done, answer) = answers::channel();
        let commands = self.commands.as_ref().ok_or_else(ended)?;
        commands.send(Command { listen, done }).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Accepts connections and obeys commands until the handle is gone.
async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    upstream: SocketAddr,
    protocol: Protocol,
    shared: Arc<Shared>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut listener = tokio::net::TcpListener::from_std(listener).ok();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            command = commands.recv() => {
                let Some(command) = command else { return };
                let mut outcome = Ok(());
                if !command.listen {
                    // Closing alone is not enough: until a program that is being started runs, it has the listener, too.
                    if let Some(listener) = listener.take() {
                        let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
                    }
                } else if listener.is_none() {
                    match tokio::net::TcpListener::bind(address).await {
                        Ok(bound) => listener = Some(bound),
                        Err(error) => outcome = Err(error),
                    }
                }
                let _ = command.done.send(outcome);
            }
            accepted = accept(listener.as_ref()) => if let Ok((client, _)) = accepted {
                shared.faults().accepted += 1;
                shared.changed.notify_all();
                connections.spawn(connection::run(client, upstream, protocol, shared.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(listener: Option<&tokio::net::TcpListener>) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}
