//! Finds the brokers again for clients that have lost all of them.
//!
//! librdkafka 2.12 forgets brokers that a metadata answer no longer names. A broker that was stopped for longer than its
//! session (a paused virtual machine, a laptop asleep) is fenced by its controller when it wakes, and for a moment
//! answers with the topics and no broker at all. The client then has none left, so that it never asks again: not for
//! metadata, hence not for new brokers either (`rd_kafka_metadata_decommission_unavailable_brokers`; its re-bootstrap
//! starts only from a request or from a connection that breaks). With one broker that is forever.
//!
//! So one thread of the process asks every client, now and then, for something small. A client that cannot get an answer
//! several times gets the bootstrap servers again, which is harmless if brokers are merely away.

use std::sync::{Once, Weak};
use std::time::Duration;

use parking_lot::Mutex;

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(5);
/// Rounds without an answer before the bootstrap servers are set again.
const PATIENCE: u32 = 2;

/// What is asked of a client.
pub(super) trait Probe: Send + Sync {
    /// A broker answers within about a second.
    fn answers(&self) -> bool;
    /// Start again from the bootstrap servers.
    fn bootstrap(&self);
}

struct Watched {
    client: Weak<dyn Probe>,
    unanswered: u32,
}

static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());
static STARTED: Once = Once::new();

/// Looks after a client until it is dropped.
pub(super) fn watch(client: Weak<dyn Probe>) {
    WATCHED.lock().push(Watched { client, unanswered: 0 });
    STARTED.call_once(|| {
        let started = std::thread::Builder::new().name("kafka-watch".into()).spawn(|| {
            loop {
                std::thread::sleep(EVERY);
                // Clients that come while this continues are there in the next round.
                let mut round = std::mem::take(&mut *WATCHED.lock());
                look_after(&mut round);
                WATCHED.lock().append(&mut round);
            }
        });
        if started.is_err() {
            tracing::error!("can't start the thread that watches Kafka clients");
        }
    });
}

/// One round: forgets clients that are gone, and sets the bootstrap servers of those without brokers again.
fn look_after(watched: &mut Vec<Watched>) {
    watched.retain_mut(|watched| {
        let Some(client) = watched.client.upgrade() else { return false };
        if client.answers() {
            watched.unanswered = 0;
            return true;
        }
        watched.unanswered += 1;
        if watched.unanswered >= PATIENCE {
            watched.unanswered = 0;
            client.bootstrap();
        }
        true
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

    use super::*;

    #[derive(Default)]
    struct Client {
        up: AtomicBool,
        bootstrapped: AtomicU32,
    }

    impl Probe for Client {
        fn answers(&self) -> bool {
            self.up.load(Relaxed)
        }

        fn bootstrap(&self) {
            self.bootstrapped.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_client_without_brokers_is_told_again_and_a_healthy_one_is_not() {
        let (lost, healthy) = (Arc::new(Client::default()), Arc::new(Client::default()));
        healthy.up.store(true, Relaxed);
        let clients = [&lost, &healthy].map(|client| Arc::downgrade(client) as Weak<dyn Probe>);
        let mut watched: Vec<_> = clients.into_iter().map(|client| Watched { client, unanswered: 0 }).collect();
        let counts = |watched: &mut Vec<Watched>| {
            look_after(watched);
            [&lost, &healthy].map(|client| client.bootstrapped.load(Relaxed))
        };
        assert_eq!(counts(&mut watched), [0, 0]);
        assert_eq!(counts(&mut watched), [1, 0]);
        assert_eq!(counts(&mut watched), [1, 0]);
        assert_eq!(counts(&mut watched), [2, 0]);
        lost.up.store(true, Relaxed);
        assert_eq!(counts(&mut watched), [2, 0]);
        assert_eq!(counts(&mut watched), [2, 0]);
    }

    #[test]
    fn clients_that_are_gone_are_forgotten() {
        let client: Arc<dyn Probe> = Arc::new(Client::default());
        let mut watched = vec![Watched { client: Arc::downgrade(&client), unanswered: 0 }];
        look_after(&mut watched);
        assert_eq!(watched.len(), 1);
        drop(client);
        look_after(&mut watched);
        assert_eq!(watched.len(), 0);
    }
}
