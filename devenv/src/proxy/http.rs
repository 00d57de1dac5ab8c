//! HTTP/1.1 without pipelining: a request is what goes to the server until something comes back.

use super::{Direction, Faults, Lose};

/// How much of a request is kept to recognise it.
const KEPT: usize = 16 << 10;

/// The request in progress on one connection.
#[derive(Default)]
pub(super) struct HttpFlow {
    request: Vec<u8>,
    /// Whether the answer has begun: what goes to the server next begins another request.
    answered: bool,
}

impl HttpFlow {
    /// Appends to `out` what is to be forwarded; false when the connection is to be closed after that.
    pub fn pass(&mut self, direction: Direction, bytes: &[u8], out: &mut Vec<u8>, faults: &mut Faults) -> bool {
        match direction {
            Direction::ToServer => {
                if self.answered {
                    self.request.clear();
                    self.answered = false;
                }
                let room = KEPT.saturating_sub(self.request.len()).min(bytes.len());
                self.request.extend_from_slice(bytes.get(..room).unwrap_or_default());
                if room > 0 && faults.lose_http(&self.request, Lose::Request) {
                    return false;
                }
            }
            Direction::ToClient => {
                // 100 Continue asks for the body; the answer is still to come.
                if !self.answered && !bytes.starts_with(b"HTTP/1.1 100") {
                    self.answered = true;
                    if faults.lose_http(&self.request, Lose::Response) {
                        return false;
                    }
                }
            }
        }
        out.extend_from_slice(bytes);
        true
    }
}
