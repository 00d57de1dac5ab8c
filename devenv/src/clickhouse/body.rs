//! The body of a request, as it arrives.
//!
//! A task reads the body and hands pieces to the thread that runs the statement. The channel between them is short,
//! so a fast client is slowed down to the engine's pace. The last piece says whether the body was complete: a
//! channel that just ends means that the request was given up.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::sync::mpsc;

use super::engine::Refusal;

/// Pieces in progress between the network and the engine.
const IN_FLIGHT: usize = 8;
/// Largest block of compressed data that is accepted, compressed or not. The usual block is 1 MiB.
const MAX_BLOCK: usize = 256 << 20;
/// Checksum, method, and the two sizes that begin a compressed block.
const HEADER: usize = 25;
/// The part of the header that counts into the compressed size.
const COUNTED: usize = 9;

enum Piece {
    Data(Bytes),
    End,
    Broken(Refusal),
}

/// The receiving end, for the thread that runs the statement.
pub struct Input {
    pieces: mpsc::Receiver<Piece>,
    ended: bool,
}

impl Input {
    /// The next piece; `None` at the proper end of the body. Blocks.
    pub fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        if self.ended {
            return Ok(None);
        }
        match self.pieces.blocking_recv() {
            Some(Piece::Data(bytes)) => Ok(Some(bytes)),
            Some(Piece::End) => {
                self.ended = true;
                Ok(None)
            }
            Some(Piece::Broken(refusal)) => Err(refusal),
            None => Err(aborted("the front is ending")),
        }
    }

    /// Reads until the end or until `limit` bytes were read (the last piece may go beyond).
    pub fn read_up_to(&mut self, limit: usize) -> Result<Vec<u8>, Refusal> {
        let mut all = Vec::new();
        while all.len() < limit {
            match self.next()? {
                Some(bytes) => all.extend_from_slice(&bytes),
                None => break,
            }
        }
        Ok(all)
    }

    /// An input that has ended.
    pub fn none() -> Input {
        Input { pieces: mpsc::channel(1).1, ended: true }
    }
}

fn aborted(reason: impl std::fmt::Display) -> Refusal {
    Refusal::new(210, "NETWORK_ERROR", format!("the request body was aborted: {reason}"))
}

/// Starts reading a body; `framed` when it consists of compressed blocks (`decompress=1`).
pub fn read<B>(body: B, framed: bool) -> Input
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    let (sender, pieces) = mpsc::channel(IN_FLIGHT);
    tokio::spawn(pump(body, framed, sender));
    Input { pieces, ended: false }
}

/// Passes the body on. If it is no longer needed, it is still read to its end: a client that is still
/// sending would otherwise see its connection reset instead of the answer.
async fn pump<B>(mut body: B, framed: bool, sender: mpsc::Sender<Piece>)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut frames = Frames::default();
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => data,
                Err(_) => continue, // trailers
            },
            Err(error) => {
                let _ = sender.send(Piece::Broken(aborted(error))).await;
                return;
            }
        };
        if sender.is_closed() {
            continue;
        }
        if !framed {
            let _ = sender.send(Piece::Data(piece)).await;
            continue;
        }
        frames.push(&piece);
        loop {
            match frames.next() {
                Ok(Some(block)) => drop(sender.send(Piece::Data(block)).await),
                Ok(None) => break,
                Err(refusal) => {
                    let _ = sender.send(Piece::Broken(refusal)).await;
                    return;
                }
            }
        }
    }
    let last = match frames.rest() {
        0 => Piece::End,
        rest => Piece::Broken(Refusal::new(33, "CANNOT_READ_ALL_DATA", format!("{rest} bytes of a compressed block at the end"))),
    };
    let _ = sender.send(last).await;
}

/// Takes compressed blocks apart: 16 bytes of checksum, one of method, compressed size (with this 9-byte part of the
/// header), size, data. Methods are 0x82 LZ4 and 0x02 none.
#[derive(Default)]
struct Frames {
    buffer: BytesMut,
}

impl Frames {
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn rest(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole block, decompressed.
    fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let Some(mut header) = self.buffer.get(16..HEADER) else {
            return Ok(None);
        };
        let method = header.get_u8();
        let (compressed, size) = (header.get_u32_le() as usize, header.get_u32_le() as usize);
        let refuse = |text: String| Err(Refusal::new(271, "CANNOT_DECOMPRESS", text));
        if !(COUNTED..=MAX_BLOCK).contains(&compressed) || size > MAX_BLOCK {
            return refuse(format!("a block of {compressed} bytes for {size}"));
        }
        if self.buffer.len() < 16 + compressed {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let data = self.buffer.split_to(compressed - COUNTED).freeze();
        let block = match method {
            0x02 => data,
            0x82 => match lz4_flex::block::decompress(&data, size) {
                Ok(block) => block.into(),
                Err(error) => return refuse(error.to_string()),
            },
            _ => {
                return Err(Refusal::new(432, "UNKNOWN_CODEC", format!("compression method {method:#x}")));
            }
        };
        if block.len() != size {
            return refuse(format!("a block has {} bytes instead of {size}", block.len()));
        }
        Ok(Some(block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use hyper::body::Frame;

    fn framed(method: u8, data: &[u8], size: usize) -> Vec<u8> {
        let mut frame = vec![0; 16];
        frame.push(method);
        frame.extend((data.len() as u32 + 9).to_le_bytes());
        frame.extend((size as u32).to_le_bytes());
        frame.extend(data);
        frame
    }

    fn lz4(data: &[u8]) -> Vec<u8> {
        framed(0x82, &lz4_flex::block::compress(data), data.len())
    }

    /// Reads a whole input as the engine's thread does.
    async fn all(mut input: Input) -> Result<Vec<u8>, u32> {
        let read = move || input.read_up_to(usize::MAX).map_err(|refusal| refusal.code);
        tokio::task::spawn_blocking(read).await.unwrap()
    }

    #[tokio::test]
    async fn blocks_are_joined_whatever_their_pieces() {
        let bytes = [lz4(b"hello "), framed(0x02, b"plain ", 6), lz4(&[7; 100_000])].concat();
        let expected = [b"hello plain ".as_slice(), &[7; 100_000]].concat();
        for piece in [1, 7, 1000, bytes.len()] {
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for part in bytes.chunks(piece) {
                frames.push(part);
                while let Some(block) = frames.next().unwrap() {
                    got.extend_from_slice(&block);
                }
            }
            assert_eq!((got.len(), frames.rest()), (expected.len(), 0));
            assert_eq!(got, expected);
        }
    }

    #[tokio::test]
    async fn a_body_that_ends_inside_a_block_is_refused() {
        let bytes = lz4(b"hello");
        let whole = Full::new(Bytes::from(bytes.clone()));
        assert_eq!(all(read(whole, true)).await, Ok(b"hello".to_vec()));
        let short = Full::new(Bytes::from(bytes[..bytes.len() - 1].to_vec()));
        assert_eq!(all(read(short, true)).await, Err(33));
    }

    #[tokio::test]
    async fn an_aborted_body_is_not_an_end() {
        let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(4);
        sender.send(Ok(Frame::data(Bytes::from_static(b"half")))).await.unwrap();
        sender.send(Err(std::io::Error::other("reset"))).await.unwrap();
        assert_eq!(all(read(Received(receiver), false)).await, Err(210));
    }

    #[test]
    fn false_sizes_and_methods_are_refused() {
        let code = |bytes: &[u8]| {
            let mut frames = Frames::default();
            frames.push(bytes);
            frames.next().unwrap_err().code
        };
        assert_eq!(code(&framed(0x82, &[1, 2, 3], usize::MAX)), 271);
        assert_eq!(code(&framed(0x02, b"abc", 4)), 271);
        assert_eq!(code(&framed(0x99, b"abc", 3)), 432);
        let mut tiny = framed(0x02, b"abc", 3);
        tiny[17..21].copy_from_slice(&3_u32.to_le_bytes());
        assert_eq!(code(&tiny), 271);
    }

    /// A channel as a body.
    struct Received(mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>);

    impl Body for Received {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            self.0.poll_recv(context)
        }
    }
}
