//! Servers that misbehave: what a client accepts from them, and what it reports.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Method;

use super::{MAX_REFUSAL, Tls, Trouble, Web};
use crate::observe::outages::Outages;
use crate::schema_registry::{Registry, RegistryConfig};
use crate::sinks::clickhouse;

/// A server: what it was asked, and how many bytes of its answers were taken.
#[derive(Clone, Default)]
struct Hostile {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    taken: Arc<AtomicUsize>,
}

impl Hostile {
    /// Gives every request to `answer`, which writes what it wants; then the connection is closed.
    fn serve(answer: impl Fn(&mut Answering<'_>) + Send + Sync + 'static) -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Hostile { url: format!("http://{}", listener.local_addr().unwrap()), ..Hostile::default() };
        let (answer, this) = (Arc::new(answer), server.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, this) = (answer.clone(), this.clone());
                std::thread::spawn(move || this.one(stream, answer.as_ref()));
            }
        });
        server
    }

    fn one(&self, mut stream: TcpStream, answer: &(dyn Fn(&mut Answering<'_>) + Send + Sync)) {
        let (mut head, mut buffer) = (String::new(), [0; 4096]);
        while !head.contains("\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(read) if read > 0 => head.push_str(&String::from_utf8_lossy(&buffer[..read])),
                _ => return,
            }
        }
        self.asked.lock().push(head);
        answer(&mut Answering { stream, taken: &self.taken });
    }

    fn web(&self) -> Web {
        Web::new(&self.url, &Tls::default()).unwrap()
    }
}

struct Answering<'a> {
    stream: TcpStream,
    taken: &'a AtomicUsize,
}

impl Answering<'_> {
    /// False: the client has gone.
    fn write(&mut self, bytes: &[u8]) -> bool {
        let written = self.stream.write_all(bytes).is_ok();
        self.taken.fetch_add(if written { bytes.len() } else { 0 }, Ordering::Relaxed);
        written
    }

    fn whole(&mut self, status: u16, headers: &str, body: &str) {
        self.write(format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).as_bytes());
    }

    /// A body without an end.
    fn endless(&mut self, status: u16) {
        self.write(format!("HTTP/1.1 {status} x\r\nconnection: close\r\n\r\n").as_bytes());
        while self.write(&[b'x'; 64 << 10]) {}
    }

    /// Nothing, until the client goes.
    fn never(&mut self) {
        while self.stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {}
    }
}

const LIMIT: Duration = Duration::from_secs(30);

async fn get(web: &Web, most: usize) -> Result<super::Answer, Trouble> {
    web.send(web.request(Method::GET, web.url().clone()), LIMIT, most).await
}

#[tokio::test]
async fn an_answer_without_an_end_is_read_up_to_a_limit() {
    let refusing = Hostile::serve(|answer| answer.endless(500));
    let answer = get(&refusing.web(), 1 << 20).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.len()), (500, MAX_REFUSAL));
    let answering = Hostile::serve(|answer| answer.endless(200));
    let trouble = get(&answering.web(), 1 << 20).await.err().unwrap();
    assert_eq!(trouble, Trouble::Lost("a response of more than 1 MiB".into()));
    // What is beyond is in buffers of the system.
    for server in [refusing, answering] {
        assert!(server.taken.load(Ordering::Relaxed) < 32 << 20);
    }
}

#[tokio::test]
async fn credentials_go_nowhere_else() {
    let elsewhere = Hostile::serve(|answer| answer.whole(200, "", "{}"));
    let location = format!("location: {}/\r\n", elsewhere.url);
    let server = Hostile::serve(move |answer| answer.whole(307, &location, ""));
    let config = RegistryConfig { username: Some("hw".into()), password: Some("hunter2".into()), ..RegistryConfig::new(&server.url) };
    let refused = Registry::new(config).unwrap().latest("x").await.unwrap_err().to_string();
    assert!(refused.contains("307"), "{refused}");
    assert!(server.asked.lock()[0].contains("Basic") || server.asked.lock()[0].contains("basic"), "{:?}", server.asked.lock());
    assert!(elsewhere.asked.lock().is_empty());
}

/// A token in place of user and password.
#[tokio::test]
async fn a_token_is_sent_as_one() {
    let server = Hostile::serve(|answer| answer.whole(200, "", r#"{"id":1,"schema":"\"int\""}"#));
    let config = RegistryConfig { token: Some("t0ken".into()), ..RegistryConfig::new(&server.url) };
    Registry::new(config).unwrap().latest("x").await.unwrap();
    assert!(server.asked.lock()[0].contains("Bearer t0ken"), "{:?}", server.asked.lock());
}

/// Nobody unpacks what was not asked for: a small body could become a large one.
#[tokio::test]
async fn compressed_answers_are_not_asked_for_nor_unpacked() {
    let server = Hostile::serve(|answer| answer.whole(200, "content-encoding: gzip\r\n", "not gzip"));
    assert_eq!(get(&server.web(), 100).await.unwrap().body, b"not gzip");
    assert!(!server.asked.lock()[0].to_lowercase().contains("accept-encoding"), "{:?}", server.asked.lock());
}

/// What repaints a terminal or forges a line of the log.
const PAINT: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}no\r\n{\"level\":\"INFO\"}";

#[tokio::test]
async fn what_a_server_says_is_shown_on_one_line_without_escapes() {
    let refusal = format!(r#"{{"error_code":1,"message":"{PAINT}"}}"#);
    let registry = Hostile::serve(move |answer| answer.whole(422, "", &refusal));
    let registry = Registry::new(RegistryConfig::new(&registry.url)).unwrap();
    let page = Hostile::serve(|answer| answer.whole(503, "", PAINT));
    let ill = Registry::new(RegistryConfig::new(&page.url)).unwrap();
    let exception = Hostile::serve(|answer| answer.whole(500, "x-clickhouse-exception-code: 60\r\n", PAINT));
    let connect = |server: &Hostile| clickhouse::Connection::new(clickhouse::Config::new(&server.url)).unwrap();
    for said in [
        registry.register("s", "{}").await.unwrap_err().to_string(),
        ill.latest("s").await.unwrap_err().to_string(),
        connect(&exception).ping().await.unwrap_err().to_string(),
        connect(&page).ping().await.unwrap_err().to_string(),
    ] {
        assert!(said.contains("no {") && !said.contains("owned") && !said.chars().any(char::is_control), "{said:?}");
    }
}

/// A server that takes requests and never answers is reported while the request may still be answered.
#[tokio::test]
async fn a_server_that_hangs_is_reported_before_the_limit() {
    let server = Hostile::serve(|answer| answer.never());
    let outages = Outages::default();
    let web = server.web().reporting(outages.service("clickhouse", "ClickHouse", "orders"));
    let reported = async {
        while outages.seen()[0].outage.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = reported => {}
        answer = get(&web, 100) => panic!("{:?}", answer.err()),
    }
    let (cause, _) = outages.seen()[0].outage.clone().unwrap();
    assert!(cause.contains("no response within 6 s"), "{cause}");
    assert_eq!(server.asked.lock().len(), 2, "a small question beside the request");
}

/// One that responds again is reported as such while the request that found it hanging still waits.
#[tokio::test]
async fn a_server_that_hung_and_responds_again_is_up() {
    let seen = Arc::new(AtomicUsize::new(0));
    let server = Hostile::serve(move |answer| match seen.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => answer.never(),
        _ => answer.whole(200, "", "Ok."),
    });
    let outages = Outages::default();
    let web = server.web().reporting(outages.service("clickhouse", "ClickHouse", "orders"));
    let reported = async {
        for up in [Some(false), Some(true)] {
            while outages.seen()[0].up != up {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::select! {
        () = reported => {}
        answer = get(&web, 100) => panic!("{:?}", answer.err()),
    }
}

/// A slow server is not reported as hung.
#[tokio::test]
async fn a_server_that_is_slow_is_not_reported() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (wait, seen) = (Mutex::new(wait), Arc::new(AtomicUsize::new(0)));
    let questions = seen.clone();
    let server = Hostile::serve(move |answer| {
        if questions.fetch_add(1, Ordering::SeqCst) == 0 {
            let _ = wait.lock().recv();
        }
        answer.whole(200, "", "Ok.");
    });
    let outages = Outages::default();
    let web = server.web().reporting(outages.service("clickhouse", "ClickHouse", "orders"));
    let answered = async {
        while seen.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        go.send(()).unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = answered => {}
        answer = get(&web, 100) => assert_eq!(answer.unwrap().body, b"Ok."),
    }
    assert!(outages.seen()[0].outage.is_none());
}

/// What arrives on a connection whose handshake is over says nothing about the request that was sent: an insert of unknown outcome
/// counted as one that was never sent.
#[tokio::test]
async fn a_request_that_was_sent_over_tls_may_have_been_processed() {
    use openssl::ssl::{SslAcceptor, SslMethod};
    let key = openssl::pkey::PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
    let mut builder = openssl::x509::X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&openssl::asn1::Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&openssl::asn1::Asn1Time::days_from_now(1).unwrap()).unwrap();
    let mut names = openssl::x509::extension::SubjectAlternativeName::new();
    builder.append_extension(names.dns("localhost").build(&builder.x509v3_context(None, None)).unwrap()).unwrap();
    builder.sign(&key, openssl::hash::MessageDigest::sha256()).unwrap();
    let certificate = builder.build();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, certificate.to_pem().unwrap()).unwrap();
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_private_key(&key).unwrap();
    acceptor.set_certificate(&certificate).unwrap();
    let (acceptor, listener) = (acceptor.build(), TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("https://{}", listener.local_addr().unwrap());
    let read = std::thread::spawn(move || {
        let mut tls = acceptor.accept(listener.accept().unwrap().0).unwrap();
        let read = tls.read(&mut [0; 4096]).unwrap();
        tls.get_mut().write_all(b"HTTP/1.1 502 x\r\ncontent-length: 0\r\n\r\n").unwrap();
        read
    });
    let files = super::Files { ca: Some(&ca), ..super::Files::default() };
    let tls = Tls::read(files, None, Some("localhost".into())).unwrap();
    let trouble = get(&Web::new(&url, &tls).unwrap(), 100).await.err().unwrap();
    assert!(read.join().unwrap() > 0);
    assert!(matches!(trouble, Trouble::Lost(_)), "{trouble:?}");
}
