//! One-shot requests that ask a service whether it is ready: each of the kind that its clients send, since a port that
//! accepts connections, or a health page, may come before the service itself.
//!
//! Written on the standard library alone: [`Environment::up`](crate::Environment::up) is a blocking call that is
//! also made from inside asynchronous programs, where a blocking HTTP client with its own runtime would panic.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// More of an answer than this is never needed here.
const LIMIT: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks a Kafka node for the brokers of its cluster (Metadata, version 1, without topics) and returns their ids.
/// A node that is not yet registered, or fenced, is not among them.
pub fn kafka_brokers(address: SocketAddr) -> io::Result<Vec<i32>> {
    const CORRELATION: i32 = 7;
    let mut request = Vec::new();
    request.extend(3i16.to_be_bytes()); // Metadata
    request.extend(1i16.to_be_bytes());
    request.extend(CORRELATION.to_be_bytes());
    request.extend((-1i16).to_be_bytes()); // no client id
    request.extend(0i32.to_be_bytes()); // no topics
    let mut stream = connect(address)?;
    stream.write_all(&(request.len() as i32).to_be_bytes())?;
    stream.write_all(&request)?;
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let size = u64::from(u32::from_be_bytes(size)).min(LIMIT);
    let mut answer = Vec::new();
    stream.take(size).read_to_end(&mut answer)?;
    broker_ids(&answer, CORRELATION).ok_or_else(|| io::Error::other("the answer is not Kafka's"))
}

/// The broker ids of a Metadata answer of version 1.
fn broker_ids(answer: &[u8], correlation: i32) -> Option<Vec<i32>> {
    let mut rest = answer;
    if int(&mut rest)? != correlation {
        return None;
    }
    let mut ids = Vec::new();
    for _ in 0..int(&mut rest)? {
        ids.push(int(&mut rest)?);
        skip_text(&mut rest)?; // host
        int(&mut rest)?; // port
        skip_text(&mut rest)?; // rack
    }
    Some(ids)
}

fn int(rest: &mut &[u8]) -> Option<i32> {
    let (value, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(i32::from_be_bytes(*value))
}

/// Skips a text: its length in two bytes, -1 for none, and its bytes.
fn skip_text(rest: &mut &[u8]) -> Option<()> {
    let (length, after) = rest.split_first_chunk::<2>()?;
    *rest = after.get(usize::try_from(i16::from_be_bytes(*length)).unwrap_or(0)..)?;
    Some(())
}

/// Sends one HTTP/1.1 request and returns the status and the raw body (transfer coding not removed).
pub fn http(address: SocketAddr, method: &str, path: &str, json: Option<&str>) -> io::Result<(u16, String)> {
    let mut stream = connect(address)?;
    let body = json.unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAccept: */*\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LIMIT).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("the answer is not HTTP"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_of_an_answer_are_read() {
        let broker = |id: u8| [&[0, 0, 0, id, 0, 2][..], b"ab", &[0, 0, 0x23, 0x84, 0xff, 0xff]].concat();
        let answer = [&[0, 0, 0, 7, 0, 0, 0, 2][..], &broker(1), &broker(3), &[0, 0, 0, 1, 0, 0, 0, 0]].concat();
        assert_eq!(broker_ids(&answer, 7), Some(vec![1, 3]));
        assert_eq!(broker_ids(&answer, 8), None);
        assert_eq!(broker_ids(&answer[..20], 7), None, "an answer that ends early proves nothing");
    }
}
