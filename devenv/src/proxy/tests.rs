//! The proxy against small services in this process.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Serves every connection with `work` on its own thread, as long as the process lives.
fn service(work: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let work = Arc::new(work);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let work = work.clone();
            std::thread::spawn(move || work(stream.unwrap()));
        }
    });
    address
}

fn echo() -> SocketAddr {
    service(|mut stream| {
        let mut other = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut stream, &mut other);
        let _ = other.shutdown(Shutdown::Write);
    })
}

fn start(upstream: SocketAddr, protocol: Protocol) -> Proxy {
    Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), upstream, protocol).unwrap()
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether the other side has closed the connection, in order or not.
fn closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    }
}

#[test]
fn answers_can_be_late_and_stay_in_order() {
    let delay = Duration::from_millis(30);
    let proxy = start(echo(), Protocol::Tcp);
    proxy.delay(delay);
    let mut stream = connect(&proxy);
    let sent = std::time::Instant::now();
    stream.write_all(b"one").unwrap();
    stream.write_all(b"two").unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"onetwo");
    assert!(sent.elapsed() >= delay);
}

#[test]
fn bytes_and_ends_are_forwarded() {
    let proxy = start(echo(), Protocol::Tcp);
    let mut stream = connect(&proxy);
    let sent: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    std::thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == sent);
    assert_eq!((proxy.accepted(), proxy.lost()), (1, 0));
}

#[test]
fn a_black_hole_stalls_old_and_new_connections_and_ends() {
    let proxy = start(echo(), Protocol::Tcp);
    let mut old = connect(&proxy);
    old.write_all(b"a").unwrap();
    old.read_exact(&mut [0; 1]).unwrap();
    proxy.blackhole().unwrap();
    let mut new = connect(&proxy);
    for stream in [&mut old, &mut new] {
        stream.write_all(b"b").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let error = stream.read(&mut [0; 1]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    }
    proxy.pass().unwrap();
    for stream in [&mut old, &mut new] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b", "what was sent into the black hole arrives late, not never");
    }
}

#[test]
fn refusing_closes_and_passing_opens_again() {
    let proxy = start(echo(), Protocol::Tcp);
    let mut stream = connect(&proxy);
    stream.write_all(b"a").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    proxy.refuse().unwrap();
    assert!(closed(&mut stream));
    assert_eq!(TcpStream::connect(proxy.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    proxy.pass().unwrap();
    let mut stream = connect(&proxy);
    stream.write_all(b"a").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    proxy.disconnect();
    assert!(closed(&mut stream));
    connect(&proxy);
}

#[test]
fn a_cut_lets_exactly_the_given_bytes_through() {
    let (received, all) = answers::channel();
    let upstream = service(move |mut stream| {
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got);
        received.send(got).unwrap();
    });
    let proxy = start(upstream, Protocol::Tcp);
    proxy.cut_after(Direction::ToServer, 70_000);
    let mut stream = connect(&proxy);
    let _ = stream.write_all(&[1; 200_000]); // fails once the proxy has closed
    assert_eq!(all.recv_timeout(PATIENCE).unwrap().len(), 70_000);
    assert!(proxy.wait_lost(1, PATIENCE) && closed(&mut stream));
    let mut stream = connect(&proxy);
    stream.write_all(&[1; 200_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all.recv_timeout(PATIENCE).unwrap().len(), 200_000, "a cut happens once");
}

/// A service that answers every Kafka frame with its correlation id, and counts them.
fn fake_broker(seen: Arc<AtomicUsize>) -> SocketAddr {
    service(move |mut stream| {
        loop {
            let mut size = [0; 4];
            if stream.read_exact(&mut size).is_err() {
                return;
            }
            let mut frame = vec![0; i32::from_be_bytes(size) as usize];
            stream.read_exact(&mut frame).unwrap();
            seen.fetch_add(1, Ordering::SeqCst);
            let answer = [&[0, 0, 0, 6], &frame[4..8], b"ok"].concat();
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    })
}

fn kafka_request(api_key: i16, id: i32, body: &[u8]) -> Vec<u8> {
    let size = 8 + body.len() as i32;
    [&size.to_be_bytes()[..], &api_key.to_be_bytes(), &[0, 1], &id.to_be_bytes(), body].concat()
}

/// Reads one answer; its correlation id.
fn kafka_answer(stream: &mut TcpStream) -> std::io::Result<i32> {
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    Ok(i32::from_be_bytes(answer[4..8].try_into().unwrap()))
}

#[test]
fn the_answer_of_a_chosen_kafka_api_is_lost_after_the_broker_acted() {
    let seen = Arc::new(AtomicUsize::new(0));
    let proxy = start(fake_broker(seen.clone()), Protocol::Kafka);
    proxy.lose_kafka(&[26], Lose::Response, 1);
    let mut stream = connect(&proxy);
    // Two requests at once, the first one byte by byte across the header: only EndTxn's answer is lost.
    for byte in kafka_request(0, 41, b"records") {
        stream.write_all(&[byte]).unwrap();
    }
    stream.write_all(&kafka_request(26, 42, b"commit")).unwrap();
    assert_eq!(kafka_answer(&mut stream).unwrap(), 41);
    assert!(closed(&mut stream));
    assert_eq!((proxy.lost(), seen.load(Ordering::SeqCst)), (1, 2));
    let mut stream = connect(&proxy);
    stream.write_all(&kafka_request(26, 1, b"commit")).unwrap();
    assert_eq!(kafka_answer(&mut stream).unwrap(), 1, "a loss happens as often as asked for");
}

#[test]
fn a_chosen_kafka_request_is_lost_before_the_broker_sees_it() {
    let seen = Arc::new(AtomicUsize::new(0));
    let proxy = start(fake_broker(seen.clone()), Protocol::Kafka);
    proxy.lose_kafka(&[28, 26], Lose::Request, 1);
    let mut stream = connect(&proxy);
    stream.write_all(&kafka_request(28, 1, b"offsets")).unwrap();
    assert!(closed(&mut stream));
    assert_eq!((proxy.lost(), seen.load(Ordering::SeqCst)), (1, 0));
}

#[test]
fn bytes_that_are_no_kafka_frames_end_the_connection() {
    let proxy = start(fake_broker(Arc::default()), Protocol::Kafka);
    let mut stream = connect(&proxy);
    stream.write_all(&[0xff; 100]).unwrap();
    assert!(closed(&mut stream));
}

#[test]
fn the_answer_of_a_chosen_http_request_is_lost() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let upstream = service(move |mut stream| {
        let mut buffer = [0; 1000];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            count.fetch_add(1, Ordering::SeqCst);
            assert!(buffer[..read].ends_with(b"\r\n\r\n"));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = start(upstream, Protocol::Http);
    proxy.lose_http("POST /b", Lose::Response, 1);
    proxy.lose_http("POST /c", Lose::Request, 1);
    let ask = |stream: &mut TcpStream, path: &str| {
        stream.write_all(format!("POST {path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        let mut answer = [0; 40];
        stream.read_exact(&mut answer).is_ok()
    };
    let mut stream = connect(&proxy);
    assert!(ask(&mut stream, "/a"));
    assert!(!ask(&mut stream, "/b"), "on a connection that was used before");
    assert_eq!((seen.load(Ordering::SeqCst), proxy.lost()), (2, 1));
    assert!(ask(&mut connect(&proxy), "/b"));
    assert!(!ask(&mut connect(&proxy), "/c"));
    assert_eq!((seen.load(Ordering::SeqCst), proxy.lost()), (3, 2));
}
