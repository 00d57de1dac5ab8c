//! TLS to the schema registry and ClickHouse, with valid and invalid certificates on both sides.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use headwater::schema_registry::{Registry, RegistryConfig};
use headwater::sinks::clickhouse::{Config, Connection};
use headwater::web::{Files, Tls, Trouble, Web};

use crate::certificates::{Authority, DAY, Terminator};
use crate::environment::{HW, clickhouse, exclusive, page, wait_until};
use crate::log::{avro_long, create, produce, register};
use crate::worker::Worker;

const NAME: &str = "services.test";
const VALID: (i64, i64) = (-3_600, DAY);

/// What both clients say of a server.
fn said(runtime: &tokio::runtime::Runtime, registry: &str, clickhouse: &str, tls: &Tls) -> [String; 2] {
    let config = RegistryConfig { tls: tls.clone(), ..RegistryConfig::new(registry) };
    let registry = Registry::new(config).unwrap();
    let registry = runtime.block_on(registry.latest("nothing-of-this-name"));
    let connection = Connection::new(Config { tls: tls.clone(), ..Config::new(clickhouse) }).unwrap();
    let clickhouse = runtime.block_on(connection.ping());
    [registry.map_or_else(|e| e.to_string(), |_| "fine".into()), clickhouse.map_or_else(|e| e.to_string(), |_| "fine".into())]
}

#[test]
fn a_wrong_certificate_is_named_with_what_to_set() {
    let environment = exclusive();
    let (registry, clickhouse) = (environment.registry.clone().unwrap(), environment.clickhouse.clone().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let (ca, other_ca) = (ours.file(dir.path()), others.file(dir.path()));
    let own = ours.issue(&[], VALID).files(dir.path(), "own", Some("sesame"));
    let foreign = others.issue(&[], VALID).files(dir.path(), "foreign", None);
    let server = ours.issue(&[NAME], VALID);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tls = |ca: Option<&PathBuf>, identity: Option<&(PathBuf, PathBuf)>, name: &str| {
        let files = Files {
            ca: ca.map(PathBuf::as_path),
            certificate: identity.map(|(certificate, _)| certificate.as_path()),
            key: identity.map(|(_, key)| key.as_path()),
        };
        Tls::read(files, Some("sesame"), Some(name.to_string()).filter(|name| !name.is_empty())).unwrap()
    };
    let plain = server.acceptor(None);
    let demanding = server.acceptor(Some(&ours));
    let terminators = [&registry, &clickhouse].map(|upstream| Terminator::start(upstream, plain.clone()));
    let asked = |acceptor: &openssl::ssl::SslAcceptor, scheme: &str, tls: &Tls| {
        terminators.iter().for_each(|terminator| terminator.present(acceptor.clone()));
        said(&runtime, &terminators[0].url(scheme, &registry), &terminators[1].url(scheme, &clickhouse), tls)
    };
    let mut wrong = Vec::new();
    let mut expect = |what: &str, said: [String; 2], part: &str| {
        println!("{what}: {said:?}");
        wrong.extend(said.iter().filter(|said| !said.contains(part)).map(|said| format!("{what}: not {part:?}: {said}")));
    };
    expect("right", asked(&plain, "https", &tls(Some(&ca), None, NAME)), "fine");
    expect("right, on both sides", asked(&demanding, "https", &tls(Some(&ca), Some(&own), NAME)), "fine");
    expect("another CA", asked(&plain, "https", &tls(Some(&other_ca), None, NAME)), "is not signed by a CA of `tls.ca`");
    expect("no CA", asked(&plain, "https", &tls(None, None, NAME)), "that this system trusts: set `tls.ca`");
    expect("another name", asked(&plain, "https", &tls(Some(&ca), None, "other.test")), "is not for other.test: `tls.server_name`");
    expect("an address", asked(&plain, "https", &tls(Some(&ca), None, "")), "is not for 127.0.0.1: `tls.server_name`");
    let expired = ours.issue(&[NAME], (-DAY, -60)).acceptor(None);
    expect("expired", asked(&expired, "https", &tls(Some(&ca), None, NAME)), "has expired");
    let early = ours.issue(&[NAME], (3_600, DAY)).acceptor(None);
    expect("too early", asked(&early, "https", &tls(Some(&ca), None, NAME)), "is not valid yet");
    expect("no client certificate", asked(&demanding, "https", &tls(Some(&ca), None, NAME)), "set `tls.certificate` and `tls.key`");
    let refused = asked(&demanding, "https", &tls(Some(&ca), Some(&foreign), NAME));
    // The server's alert may be lost when it closes the connection.
    expect("a foreign client certificate", refused, "accept the client certificate of `tls.certificate`");
    expect("plain HTTP to TLS", asked(&plain, "http", &Tls::default()), "use `https://`");
    let secure = |url: &str| url.replace("http://", "https://");
    let plain_port = said(&runtime, &secure(&registry), &secure(&clickhouse), &tls(Some(&ca), None, NAME));
    expect("TLS to plain HTTP", plain_port, "does not use TLS on this port");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An insert whose response breaks off may have happened: counting the rows decides, not another insert.
#[test]
fn a_connection_that_breaks_after_the_request_leaves_the_outcome_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new("ours");
    let acceptor = ours.issue(&[NAME], VALID).acceptor(None);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut stream = acceptor.accept(listener.accept().unwrap().0).unwrap();
        let mut head = [0; 4096];
        let read = stream.read(&mut head).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of it").unwrap();
        stream.get_mut().write_all(b"HTTP/1.1 500 what a broken proxy writes into the encrypted stream\r\n\r\n").unwrap();
        head.get(..read).is_some_and(|head| head.starts_with(b"GET /"))
    });
    let ca = ours.file(dir.path());
    let tls = Tls::read(Files { ca: Some(&ca), certificate: None, key: None }, None, Some(NAME.to_string())).unwrap();
    let web = Web::new(&url, &tls).unwrap();
    let request = web.request(reqwest::Method::GET, web.url().clone());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let said = runtime.block_on(web.send(request, Duration::from_secs(20), 1 << 20)).map(|answer| answer.status).unwrap_err();
    assert!(matches!(&said, Trouble::Lost(_)), "{said:?}");
    assert!(server.join().unwrap(), "the request had arrived");
}

const PIPELINE: &str = "apiVersion: headwater/v1\nname: over-tls\nsources: { s: { topic: tls.avro, format: avro } }\n\
    sinks: { table: { from: s, clickhouse: tls.numbers, flush_interval: 100ms } }\n";

/// Runs the dry run; exit code and what it printed.
fn dry_run(pipeline: &Path, config: &Path, variables: &[(&str, &Path)]) -> (Option<i32>, String) {
    let mut command = Command::new(&*HW);
    command.arg("run").arg(pipeline).arg("--dry-run").arg("--config").arg(config).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // Reports are wrapped.
    (output.status.code(), text.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" "))
}

/// It was reported like brokers that are away, with exit code 1.
#[test]
fn a_dry_run_refuses_a_certificate_of_kafka_that_can_not_be_verified() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let acceptor = ours.issue(&[NAME], VALID).acceptor(None);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(|stream| drop(acceptor.accept(stream))));
    let (pipeline, config) = (dir.path().join("pipeline.yaml"), dir.path().join("config.yaml"));
    std::fs::write(&pipeline, PIPELINE).unwrap();
    let ca = others.file(dir.path());
    let text =
        format!("kafka: {{ bootstrap: \"{address}\", properties: {{ security.protocol: SSL, ssl.ca.location: {} }} }}\n", ca.display());
    std::fs::write(&config, text).unwrap();
    let (code, said) = dry_run(&pipeline, &config, &[]);
    assert!(code == Some(2) && said.contains("certificate"), "{code:?} {said}");
}

#[test]
fn a_pipeline_runs_over_tls_and_waits_while_a_certificate_is_wrong() {
    let environment = exclusive();
    create(&environment, "tls.avro", 1);
    let id = register(&environment, "tls.avro-value", r#"{"type":"record","name":"R","fields":[{"name":"n","type":"long"}]}"#);
    let dir = tempfile::tempdir().unwrap();
    let (registry, table) = (environment.registry.clone().unwrap(), environment.clickhouse.clone().unwrap());
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let right = ours.issue(&[NAME], VALID).acceptor(Some(&ours));
    let (before_registry, before_clickhouse) = (Terminator::start(&registry, right.clone()), Terminator::start(&table, right.clone()));
    let (certificate, key) = ours.issue(&[], VALID).files(dir.path(), "client", Some("sesame"));
    let password = dir.path().join("password");
    std::fs::write(&password, "sesame\n").unwrap();
    let config = |ca: &Path| {
        let tls = format!(
            "tls: {{ {}certificate: {}, key: {}, key_password: {{ file: {} }}, server_name: {NAME} }}",
            if ca.as_os_str().is_empty() { String::new() } else { format!("ca: {}, ", ca.display()) },
            certificate.display(),
            key.display(),
            password.display()
        );
        let path = dir.path().join("environment.yaml");
        let text = format!(
            "kafka: {{ bootstrap: \"{}\" }}\nschema_registry: {{ url: \"{}\", {tls} }}\nclickhouse: {{ url: \"{}\", create_tables: true, {tls} }}\n\
             worker: {{ lanes: 1, state_dir: {}, http: \"127.0.0.1:0\" }}\n",
            environment.bootstrap,
            before_registry.url("https", &registry),
            before_clickhouse.url("https", &table),
            dir.path().join("state").display()
        );
        std::fs::write(&path, text).unwrap();
        path
    };
    let pipeline = dir.path().join("pipeline.yaml");
    std::fs::write(&pipeline, PIPELINE).unwrap();

    let (code, text) = dry_run(&pipeline, &config(&others.file(dir.path())), &[]);
    assert!(code != Some(0) && text.contains("is not signed by a CA of `tls.ca`"), "{text}");
    let (code, text) = dry_run(&pipeline, &config(&dir.path().join("none.pem")), &[]);
    assert!(code != Some(0) && text.contains("none.pem can't be read") && text.contains("environment.yaml:2:"), "{text}");
    // The CAs of the system, where OpenSSL looks for them.
    let (code, text) = dry_run(&pipeline, &config(Path::new("")), &[("SSL_CERT_FILE", &ours.file(dir.path()))]);
    assert_eq!(code, Some(0), "{text}");
    let config = config(&ours.file(dir.path()));
    // What the environment says of proxies is for others: nobody answers there.
    let dead = Path::new("http://127.0.0.1:1");
    let proxies = ["http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name, dead));
    let (code, text) = dry_run(&pipeline, &config, &proxies);
    assert_eq!(code, Some(0), "{text}");
    let verified = format!("certificate of {NAME} verified against the CAs of {}", dir.path().join("ours.pem").display());
    assert!(text.contains(&format!("schema registry {verified}")) && text.matches(&verified).count() == 2, "{text}");
    // Of ClickHouse alone a wrong certificate is a finding, too: it does not become right by waiting.
    before_clickhouse.present(others.issue(&[NAME], VALID).acceptor(Some(&ours)));
    let (code, text) = dry_run(&pipeline, &config, &[]);
    assert!(code == Some(2) && text.contains("is not signed by a CA of `tls.ca`"), "{text}");
    before_clickhouse.present(right.clone());

    let worker = Worker::start_configured(&config, &pipeline, dir.path());
    let sent = std::cell::Cell::new(0);
    let send = |rows: i64| {
        let values: Vec<Vec<u8>> = (sent.get()..sent.get() + rows).map(|n| avro_long(id, n)).collect();
        produce(&environment, "tls.avro", &values.iter().map(|value| (0, None, Some(value.as_slice()))).collect::<Vec<_>>());
        sent.set(sent.get() + rows);
    };
    let in_table = |rows: &str| {
        wait_until("rows in the table", Duration::from_secs(90), || match clickhouse(&environment, "SELECT count() FROM tls.numbers") {
            Ok(found) if found == rows => Ok(()),
            other => Err(format!("{other:?}\n{}", worker.log_tail())),
        });
    };
    send(100);
    in_table("100");
    // An outage like any other: it is named, rows wait, nothing is lost.
    before_clickhouse.present(ours.issue(&[NAME], (-DAY, -60)).acceptor(Some(&ours)));
    wait_until("the sink says what is wrong", Duration::from_secs(60), || {
        send(1);
        match page(&worker.address(), "/ready") {
            Err(text) if text.contains("the certificate of services.test has expired") => Ok(()),
            other => Err(format!("{other:?}\n{}", worker.log_tail())),
        }
    });
    assert!(worker.log_tail().contains("has expired"), "{}", worker.log_tail());
    before_clickhouse.present(right);
    send(100);
    in_table(&sent.get().to_string());
    let exact = clickhouse(&environment, "SELECT uniqExact(n), uniqExact(_partition, _offset, _row) FROM tls.numbers");
    assert_eq!(exact, Ok(format!("{0}\t{0}", sent.get())));
    assert!(worker.stop().success());
}
