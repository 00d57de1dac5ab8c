use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use rdkafka::bindings as sys;

use super::*;
use crate::deliveries::{self, Deliveries};
use crate::native::{self, Client};
use crate::{KafkaConfig, Role};

/// A client as librdkafka is, as far as queues go: of each partition what it was given, and what is under way.
#[derive(Default)]
struct Queues {
    given: BTreeMap<(u8, i32), Vec<(usize, Vec<u8>)>>,
    written: BTreeMap<(u8, i32), Vec<Vec<u8>>>,
    room: usize,
}

impl Queues {
    fn offer(&mut self, topic: u8, record: &Outgoing<'_>) -> Offered {
        if self.given.values().map(Vec::len).sum::<usize>() >= self.room {
            return Some(facts(codes::QUEUE_FULL));
        }
        let record = (size(record), record.value.unwrap_or_default().to_vec());
        self.given.entry((topic, 0)).or_default().push(record);
        None
    }

    /// Sends everything and has it acknowledged. The records that had to wait for another request of their partition.
    fn flush(&mut self, limits: Limits) -> usize {
        let mut waited = 0;
        for (partition, records) in std::mem::take(&mut self.given) {
            // Requests go out as long as fewer than five messages are under way; each takes what fits, and at least one.
            let (mut under_way, mut at) = (0, 0);
            while at < records.len() && under_way < IN_FLIGHT as usize {
                let mut bytes = 0;
                let rest = &records[at..];
                let fits = rest.iter().take(limits.records as usize).take_while(|(size, _)| {
                    bytes += size;
                    bytes <= limits.bytes
                });
                let taken = fits.count().max(1);
                (under_way, at) = (under_way + taken, at + taken);
            }
            waited += records.len() - at;
            self.written.entry(partition).or_default().extend(records.into_iter().map(|(_, value)| value));
        }
        waited
    }
}

fn facts(code: i32) -> ErrorFacts {
    ErrorFacts { code, fatal: false, retriable: false, requires_abort: false, text: "why".into() }
}

proptest! {
    /// Whatever is sent: all of it arrives, in the order of its partition, and nothing ever waits in the client.
    #[test]
    fn nothing_waits_behind_a_request_that_is_under_way(
        records in prop::collection::vec((0_u8..3, 0_usize..300), 0..200),
        bytes in 0_usize..2_000,
        most in 1_u32..40,
        room in 1_usize..100,
    ) {
        let limits = Limits { bytes, records: most };
        let names: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).to_vec();
        let mut client = Queues { room, ..Queues::default() };
        let mut rounds = Rounds::new(limits);
        let mut expected: BTreeMap<(u8, i32), Vec<Vec<u8>>> = BTreeMap::new();
        for (number, (topic, length)) in records.iter().enumerate() {
            let value = [&(number as u32).to_be_bytes()[..], &vec![0; *length]].concat();
            let record = Outgoing {
                topic: &names[*topic as usize], partition: 0, timestamp: None, key: None, value: Some(&value), headers: &[], tag: None,
            };
            let offered = rounds.send(&record, |_| Ok(*topic), |topic| client.offer(topic, &record)).unwrap();
            prop_assert_eq!(offered, None);
            expected.entry((*topic, 0)).or_default().push(value);
        }
        let mut held = rounds.end();
        loop {
            prop_assert_eq!(client.flush(limits), 0);
            if !held.round(|topic, record| client.offer(topic, record)).unwrap() {
                break;
            }
        }
        prop_assert_eq!(&client.written, &expected);
        prop_assert_eq!(rounds.held(), 0);
        prop_assert!(!rounds.end().round(|_, _| None).unwrap(), "the next transaction starts with nothing");
    }
}

fn send(rounds: &mut Rounds<()>, value: &[u8], offer: impl FnOnce(()) -> Offered) -> Offered {
    let topic: Arc<str> = "topic".into();
    let record = Outgoing { topic: &topic, partition: 2, timestamp: None, key: None, value: Some(value), headers: &[], tag: None };
    rounds.send(&record, |_| Ok(()), offer).unwrap()
}

#[test]
fn a_record_that_the_client_does_not_take_is_named() {
    let mut rounds = Rounds::new(Limits { bytes: 0, records: 1 });
    assert_eq!(send(&mut rounds, b"no", |()| Some(facts(codes::MSG_SIZE_TOO_LARGE))), Some(facts(codes::MSG_SIZE_TOO_LARGE)));
    for value in 0..IN_FLIGHT as u8 {
        assert_eq!(send(&mut rounds, &[value], |()| None), None);
    }
    assert_eq!(send(&mut rounds, b"held", |()| unreachable!("it would wait")), None);
    let mut held = rounds.end();
    let (refused, why) = held.round(|(), _| Some(facts(codes::MSG_SIZE_TOO_LARGE))).unwrap_err();
    assert_eq!((refused.cause.as_str(), why.code), ("record for topic-2: why", codes::MSG_SIZE_TOO_LARGE));
}

#[test]
fn a_client_without_room_for_a_single_record_is_an_error_and_no_endless_loop() {
    let mut rounds = Rounds::new(Limits { bytes: 1_000, records: 10 });
    assert_eq!(send(&mut rounds, b"held", |()| Some(facts(codes::QUEUE_FULL))), None);
    assert_eq!(rounds.held(), size_of_value(4));
    assert_eq!(rounds.end().round(|(), _| Some(facts(codes::QUEUE_FULL))).unwrap_err().1.code, codes::QUEUE_FULL);
}

fn size_of_value(length: usize) -> usize {
    OVERHEAD + length
}

/// librdkafka with a broker of its own, whose answers take 20 ms.
struct Mock {
    cluster: *mut sys::rd_kafka_mock_cluster_t,
    client: Arc<ProducerClient>,
    limits: Limits,
}

/// How often the threads of the last client that gave statistics looked for something to do: `wakeups` of its brokers.
static WAKEUPS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn on_statistics(_rk: *mut sys::rd_kafka_t, json: *mut c_char, length: usize, _opaque: *mut c_void) -> c_int {
    // SAFETY: `json` has `length` bytes.
    let json = unsafe { std::slice::from_raw_parts(json.cast::<u8>(), length) };
    let json: serde_json::Value = serde_json::from_slice(json).unwrap();
    let wakeups = json["brokers"].as_object().into_iter().flatten().filter_map(|(_, broker)| broker["wakeups"].as_u64());
    WAKEUPS.store(wakeups.sum(), Ordering::Relaxed);
    0
}

impl Mock {
    fn start() -> Mock {
        let unused = |settings| Client::new(true, settings, ("", false), Arc::new(Deliveries::default())).unwrap();
        let owner = unused(Settings::new());
        // SAFETY: the owner is valid and lives as long as the process; the cluster is destroyed once, by `Drop`.
        let (cluster, bootstrap) = unsafe {
            let cluster = sys::rd_kafka_mock_cluster_new(owner.ptr(), 1);
            sys::rd_kafka_mock_topic_create(cluster, c"out".as_ptr(), 2, 1);
            sys::rd_kafka_mock_broker_set_rtt(cluster, 1, 20);
            (cluster, native::string(sys::rd_kafka_mock_cluster_bootstraps(cluster)))
        };
        std::mem::forget(owner);
        let mut config = KafkaConfig::new(bootstrap.as_str());
        config.properties.insert("statistics.interval.ms".into(), "20".into());
        let mut settings = config.settings(Role::Producer { transactional_id: Some("id"), batch: 10_000 }).unwrap();
        deliveries::listen(&mut settings);
        // SAFETY: the settings are valid; the callback keeps no state of its own.
        unsafe { sys::rd_kafka_conf_set_stats_cb(settings.as_ptr(), Some(on_statistics)) };
        let limits = Limits::of(&settings);
        let client = Client::new(true, settings, (&bootstrap, false), Arc::new(Deliveries::default())).unwrap();
        // SAFETY: the client is valid.
        assert_eq!(ErrorFacts::take(unsafe { sys::rd_kafka_init_transactions(client.ptr(), -1) }), None);
        Mock { cluster, client, limits }
    }

    /// How often its threads have looked for something to do by now.
    fn wakeups(&self) -> u64 {
        WAKEUPS.store(0, Ordering::Relaxed);
        while WAKEUPS.load(Ordering::Relaxed) == 0 {
            // SAFETY: the client is valid.
            unsafe { sys::rd_kafka_poll(self.client.ptr(), 100) };
        }
        WAKEUPS.load(Ordering::Relaxed)
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        // SAFETY: made by `start`, destroyed once.
        unsafe { sys::rd_kafka_mock_cluster_destroy(self.cluster) };
    }
}

#[test]
fn no_thread_spins_while_a_slow_broker_answers() {
    let mock = Mock::start();
    let mut rounds = ClientRounds::new(mock.limits);
    // SAFETY: the client is valid.
    assert_eq!(ErrorFacts::take(unsafe { sys::rd_kafka_begin_transaction(mock.client.ptr()) }), None);
    let before = mock.wakeups();
    let topic: Arc<str> = "out".into();
    // Ten requests per partition.
    for number in 0..200 {
        let partition = number % 2;
        let record = Outgoing { topic: &topic, partition, timestamp: None, key: None, value: Some(&[b'x'; 700]), headers: &[], tag: None };
        assert_eq!(rounds.send_to(&mock.client, &record).unwrap(), None);
    }
    deliver(&mock.client, [rounds.end(), Rounds::holding(rounds.limits).end()], || true);
    assert_eq!(mock.client.context.failure(), None);
    let woken = mock.wakeups() - before;
    // SAFETY: the client is valid.
    assert_eq!(ErrorFacts::take(unsafe { sys::rd_kafka_commit_transaction(mock.client.ptr(), -1) }), None);
    // Each request takes a few; a thread that spins has tens of thousands of them.
    assert!(woken < 1_000, "{woken}");
}
