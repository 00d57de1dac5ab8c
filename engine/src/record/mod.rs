//! Records: decoding them into columns, and columns into records that wait to be sent.

pub mod buffer;
pub(crate) mod dead_letter;
pub mod decode;
pub mod headers;
pub mod output;
pub mod send_buffer;
mod units;
