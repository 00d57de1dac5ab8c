//! The frames of the Kafka protocol: a size, a header, a body that is passed through unread.
//!
//! A request's header begins with API key, version and correlation id; an answer's begins with the correlation id.
//! A broker answers the requests of one connection in their order, so a queue of what was asked tells which API an
//! answer belongs to.

use std::collections::VecDeque;

use super::{Direction, Faults, Lose};

/// API key (2), version (2), correlation id (4).
const REQUEST_HEADER: usize = 8;
/// Correlation id.
const RESPONSE_HEADER: usize = 4;
/// Requests without an answer (`acks=0`) stay in the queue until the next answer; beyond this the oldest go.
const MAX_PENDING: usize = 100_000;

/// The requests in progress on one connection.
#[derive(Default)]
pub(super) struct KafkaFlow {
    requests: Frames,
    responses: Frames,
    /// Correlation id and API key.
    pending: VecDeque<(i32, i16)>,
}

impl KafkaFlow {
    /// Appends to `out` what is to be forwarded; false when the connection is to be closed after that.
    pub fn pass(&mut self, direction: Direction, bytes: &[u8], out: &mut Vec<u8>, faults: &mut Faults) -> bool {
        let pending = &mut self.pending;
        match direction {
            Direction::ToServer => self.requests.pass(REQUEST_HEADER, bytes, out, |header| {
                let (Some(api_key), Some(id)) = (int16(header, 0), int32(header, 4)) else {
                    return false;
                };
                if pending.len() >= MAX_PENDING {
                    pending.pop_front();
                }
                pending.push_back((id, api_key));
                !faults.lose_kafka(api_key, Lose::Request)
            }),
            Direction::ToClient => self.responses.pass(RESPONSE_HEADER, bytes, out, |header| {
                let Some(id) = int32(header, 0) else {
                    return false;
                };
                while let Some((asked, api_key)) = pending.pop_front() {
                    if asked == id {
                        return !faults.lose_kafka(api_key, Lose::Response);
                    }
                }
                true
            }),
        }
    }
}

fn int16(bytes: &[u8], at: usize) -> Option<i16> {
    Some(i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn int32(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Finds the beginnings of frames in a flow of bytes. A header is held back until it is whole.
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    /// Bytes of the current frame's body that are still to come.
    rest: usize,
}

impl Frames {
    fn pass(&mut self, header: usize, mut bytes: &[u8], out: &mut Vec<u8>, mut keep: impl FnMut(&[u8]) -> bool) -> bool {
        let whole = 4 + header;
        while !bytes.is_empty() {
            let wanted = if self.rest > 0 { self.rest } else { whole - self.header.len() };
            let (part, later) = bytes.split_at(wanted.min(bytes.len()));
            bytes = later;
            if self.rest > 0 {
                out.extend_from_slice(part);
                self.rest -= part.len();
                continue;
            }
            self.header.extend_from_slice(part);
            if self.header.len() < whole {
                return true;
            }
            let size = int32(&self.header, 0).and_then(|size| usize::try_from(size).ok());
            let Some(rest) = size.and_then(|size| size.checked_sub(header)) else {
                return false;
            }; // not Kafka
            if !keep(self.header.get(4..).unwrap_or_default()) {
                return false;
            }
            out.append(&mut self.header);
            self.rest = rest;
        }
        true
    }
}
