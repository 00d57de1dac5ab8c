//! A cluster that denies whatever no rule allows, and a client with a password: what a worker needs there, and what it says of
//! what is missing.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use headwater_devenv::{Ephemeral, Options, Protocol, Proxy};

use crate::environment::{HW, exclusive, oracle_dir, page, python, wait_until};
use crate::log::{create, produce, read};
use crate::worker::Worker;

/// The one of the documentation's list of rights: it reads `orders`, keeps state under another key than its records', and writes
/// `totals`.
const PIPELINE: &str = "apiVersion: headwater/v1
name: totals
sources: { orders: { topic: orders, schema: { id: string, customer: string } } }
steps:
  totals: { from: orders, window: { tumbling: 1h, by: [customer], compute: { n: count(*) }, emit: on_update } }
sinks: { totals: { from: totals, topic: totals } }
";

/// Brokers with access rules. The tests' own clients come by the plain listener and may do everything; workers come as `hw` by the
/// other one.
struct Secured {
    environment: Ephemeral,
    proxies: Vec<Proxy>,
    dir: tempfile::TempDir,
}

impl Secured {
    fn up() -> Secured {
        let settings = [
            ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
            ("super.users", "User:ANONYMOUS"),
            ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,PROXIED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"),
            ("sasl.enabled.mechanisms", "PLAIN"),
            (
                "listener.name.proxied.plain.sasl.jaas.config",
                "org.apache.kafka.common.security.plain.PlainLoginModule required user_hw=\"right\";",
            ),
        ];
        let kafka_settings = settings.map(|(name, value)| (name.to_string(), value.to_string())).to_vec();
        let options = Options { kafka_settings, proxied: true, registry: false, clickhouse: false, ..Options::new("") };
        let environment = Ephemeral::up(&options).unwrap_or_else(|e| panic!("the local environment does not start: {e}"));
        let proxies = environment.proxied.iter().map(|route| Proxy::start(route.listen, route.upstream, Protocol::Tcp).unwrap()).collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pipeline.yaml"), PIPELINE).unwrap();
        Secured { environment, proxies, dir }
    }

    fn pipeline(&self) -> PathBuf {
        self.dir.path().join("pipeline.yaml")
    }

    /// The configuration of a client with this password.
    fn config(&self, password: &str) -> PathBuf {
        let file = self.dir.path().join(format!("{password}.yaml"));
        std::fs::write(self.dir.path().join(password), password).unwrap();
        let text = format!(
            "kafka:\n  bootstrap: {}\n  session_timeout: 3s\n  transaction_timeout: 12s\n  properties: {{ security.protocol: SASL_PLAINTEXT, \
             sasl.mechanisms: PLAIN, sasl.username: hw, sasl.password: {{ file: {} }} }}\n\
             worker: {{ state_dir: {}, http: \"127.0.0.1:0\" }}\n",
            self.environment.proxied_bootstrap().unwrap(),
            self.dir.path().join(password).display(),
            self.dir.path().join("state").display(),
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    fn acls(&self, commands: &str) {
        let mut python = Command::new(python());
        python.arg(oracle_dir().join("acl.py")).arg(&self.environment.bootstrap).stdin(Stdio::piped());
        let mut child = python.spawn().unwrap();
        child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{commands}");
    }

    /// All rights that are documented.
    fn allow_all(&self) {
        let (always, create) = documented();
        self.acls(&(always + "\n" + &create));
    }

    fn cut_off(&self) {
        self.proxies.iter().for_each(|proxy| proxy.refuse().unwrap());
        self.proxies.iter().for_each(Proxy::disconnect);
    }

    /// `hw run` with these options, which is expected to end by itself: exit code, and what it said.
    fn run(&self, options: &[&str]) -> (Option<i32>, String) {
        self.run_with(&self.config("right"), options)
    }

    /// Commands to be copied are lines of their own; all else is wrapped, and made one line here.
    fn run_with(&self, config: &Path, options: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new("timeout");
        command.args(["60", HW.as_str(), "run", "--plain-logs"]).arg(self.pipeline()).arg("--config").arg(config).args(options);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let (commands, texts): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with("kafka-acls "));
        let words: Vec<&str> = texts.iter().flat_map(|line| line.split_whitespace()).filter(|word| *word != "│").collect();
        (output.status.code(), words.join(" ") + "\n" + &commands.join("\n"))
    }

    fn worker(&self, password: &str) -> Worker {
        Worker::start_configured(&self.config(password), &self.pipeline(), self.dir.path())
    }
}

/// The rights that the documentation asks for: those that are always needed, and those that create topics.
fn documented() -> (String, String) {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/yaml.md")).unwrap();
    let lines = page.lines().filter(|line| line.starts_with("kafka-acls "));
    let (create, always): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.contains(" Create "));
    assert!(create.len() >= 2 && always.len() >= 6, "{create:?} {always:?}");
    (always.join("\n"), create.join("\n"))
}

/// CREATE was asked for topics that exist, so that only a worker that may create topics could start; and the dry run, which asked for
/// missing ones only, said that all was well.
#[test]
fn a_worker_runs_with_the_documented_rights_and_says_which_are_missing() {
    let _alone = exclusive();
    let cluster = Secured::up();
    create(&cluster.environment, "orders", 2);
    create(&cluster.environment, "totals", 2);
    let (always, to_create) = documented();
    cluster.acls(&always);

    // The topics are missing, and may not be created: both say so, and what grants it.
    for options in [&["--dry-run"][..], &[]] {
        let (code, said) = cluster.run(options);
        assert_eq!(code, Some(2), "{said}");
        for topic in ["hw.totals.manifest", "orders.dlq"] {
            assert!(said.contains(&format!("topic {topic}: it is missing, and this client is not permitted to CREATE it")), "{said}");
        }
        let grant = "--operation Create --topic hw.totals. --resource-pattern-type prefixed";
        assert!(said.lines().any(|line| line.starts_with("kafka-acls ") && line.contains(grant)), "{said}");
    }
    cluster.acls(&to_create);
    let (code, said) = cluster.run(&["--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
    let totals = |n: usize| {
        let order = |n: usize| format!(r#"{{"id":"{n}","customer":"{}"}}"#, n % 7).into_bytes();
        let orders: Vec<Vec<u8>> = (0..50).map(order).collect();
        let orders: Vec<_> = orders.iter().enumerate().map(|(n, order)| ((n % 2) as i32, None, Some(order.as_slice()))).collect();
        produce(&cluster.environment, "orders", &orders);
        wait_until("totals", Duration::from_secs(60), || match read(&cluster.environment, "totals").len() {
            found if found >= n => Ok(()),
            found => Err(format!("{found}")),
        });
    };
    let worker = cluster.worker("right");
    totals(7);
    assert!(worker.stop().success());

    // They exist now: nobody needs the right to create them.
    cluster.acls(&to_create.replace("--add", "--remove"));
    let (code, said) = cluster.run(&["--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
    let worker = cluster.worker("right");
    totals(14);
    assert!(worker.stop().success());

    // One right less each time.
    for (missing, what) in [
        // Nothing can be planned without these: they are refused at their places in the file.
        ("--operation Write --topic totals", "not permitted to DESCRIBE the topic `totals`"),
        ("--operation Read --topic orders", "not permitted to DESCRIBE the topic `orders`"),
        ("--operation Read --group hw.totals", "group hw.totals: not permitted to READ it"),
    ] {
        let rule = always.lines().find(|line| line.trim_end().ends_with(missing)).unwrap_or_else(|| panic!("no {missing} in\n{always}"));
        cluster.acls(&rule.replace("--add", "--remove"));
        for options in [&["--dry-run"][..], &[]] {
            let (code, said) = cluster.run(options);
            assert!(code == Some(2) && said.contains(what), "without {missing}: {code:?}\n{said}");
            let granted = |line: &str| line.starts_with("kafka-acls ") && line.ends_with(missing);
            assert!(said.lines().any(granted), "without {missing}\n{said}");
        }
        cluster.acls(rule);
    }
    // Lanes that could not open transactions were started again without end.
    let rule = always.lines().find(|line| line.contains("--transactional-id")).unwrap();
    cluster.acls(&rule.replace("--add", "--remove"));
    for options in [&[][..], &["--dry-run"]] {
        let (code, said) = cluster.run(options);
        assert!(code == Some(2) && said.contains("transactional ids hw.totals.*: transactions can't be opened"), "{code:?}\n{said}");
        let granted: Vec<&str> = said.lines().filter(|line| line.starts_with("kafka-acls ")).collect();
        assert!(
            granted.len() == 1 && granted[0].ends_with("--operation Write --transactional-id hw.totals. --resource-pattern-type prefixed"),
            "{said}"
        );
    }
    cluster.acls(rule);
    assert_eq!(cluster.run(&["--dry-run"]).0, Some(0));
    drop(cluster.proxies);
}

/// Passes connections on to `upstream`, and counts them: its address, and the count.
fn counted(upstream: String) -> (SocketAddr, Arc<AtomicUsize>) {
    let (listener, count) = (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(AtomicUsize::new(0)));
    let (address, counting) = (listener.local_addr().unwrap(), count.clone());
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            counting.fetch_add(1, Ordering::Relaxed);
            let server = TcpStream::connect(&upstream).unwrap();
            for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    (address, count)
}

/// A worker with a wrong password tried again without end, and a dry run said that no broker answered. Then each topic was asked about with
/// logins of its own, which may lock an account.
#[test]
fn a_login_that_is_refused_ends_the_start() {
    let _alone = exclusive();
    let cluster = Secured::up();
    cluster.allow_all();
    create(&cluster.environment, "orders", 2);
    create(&cluster.environment, "totals", 2);
    let bootstrap = cluster.environment.proxied_bootstrap().unwrap();
    let (address, logins) = counted(bootstrap.clone());
    let config = cluster.config("wrong");
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap().replace(&bootstrap, &address.to_string())).unwrap();
    for options in [&[][..], &["--dry-run"]] {
        let (code, said) = cluster.run_with(&config, options);
        assert!(code == Some(2) && said.matches("refuse the login of this client").count() == 1, "{code:?}\n{said}");
        let logins = logins.swap(0, Ordering::Relaxed);
        assert!(logins < 5, "{logins} logins");
    }
}

/// With Kafka away a worker said nothing but that lanes had no assignment, and before it had reached Kafka it had no pages at all.
#[test]
fn an_outage_of_kafka_is_named_and_waited_for() {
    let _alone = exclusive();
    let cluster = Secured::up();
    cluster.allow_all();
    create(&cluster.environment, "orders", 2);
    create(&cluster.environment, "totals", 2);
    let named = |worker: &Worker| {
        wait_until("the outage is named", Duration::from_secs(30), || {
            let ready = page(&worker.address(), "/ready").err().unwrap_or_default();
            let (health, up) = (page(&worker.address(), "/health")?, worker.metric("headwater_service_up", &["kafka"])?);
            let says = |page: &str| page.contains("Kafka does not answer");
            match says(&ready) && says(&health) && health.contains(r#""status": "waiting""#) && up == 0.0 {
                true => Ok(()),
                false => Err(format!("{ready}\n{health}\n{up}")),
            }
        });
    };
    // From the start on: it can be stopped, too.
    cluster.cut_off();
    let mut worker = cluster.worker("right");
    named(&worker);
    worker.ask_to_stop();
    let status = worker.wait(Duration::from_secs(10)).unwrap_or_else(|| panic!("it does not stop:\n{}", worker.log_tail()));
    assert!(status.success(), "{}", worker.log_tail());

    cluster.proxies.iter().for_each(|proxy| proxy.pass().unwrap());
    let worker = cluster.worker("right");
    let is_ready = |worker: &Worker| {
        wait_until("the worker is ready", Duration::from_secs(60), || page(&worker.address(), "/ready").map(drop));
    };
    is_ready(&worker);
    // Brokers that stand still, and brokers that are gone.
    for frozen in [true, false] {
        match frozen {
            true => cluster.proxies.iter().for_each(|proxy| proxy.blackhole().unwrap()),
            false => cluster.cut_off(),
        }
        named(&worker);
        cluster.proxies.iter().for_each(|proxy| proxy.pass().unwrap());
        is_ready(&worker);
    }
    let (away, back) = (worker.said("Kafka does not answer"), worker.said("Kafka answers again"));
    assert!(away >= 2 && away == back, "{away} {back}\n{}", worker.log_tail());
    // Every client lost every connection several times: that is not a line each.
    let lines = worker.said("[thrd:") + worker.said("Kafka: ") + worker.said("a Kafka client");
    assert!(lines <= 5, "{lines}\n{}", worker.log_tail());
    assert!(worker.stop().success());
}
