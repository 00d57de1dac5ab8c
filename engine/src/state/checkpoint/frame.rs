//! The frames of a checkpoint file. Format: see the file's module.

use std::io::{self, Read, Write};

use operator_core::Millis;

use crate::state::Store;

/// A frame is ended at this many bytes.
pub(super) const FRAME: usize = 1 << 20;
/// Largest frame that is believed: one entry may be larger than [`FRAME`].
const MAX_FRAME: u32 = 1 << 28;
/// Stands for the position in frames that others follow.
pub(super) const PART: i64 = -1;

/// What was found on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The changelog offset to read on from.
    pub next: i64,
    /// Wall clock when the last frame was written.
    pub written: Millis,
}

/// Writes entries as frames of about [`FRAME`] bytes, the last of which has the position. Returns how many bytes that were.
pub(super) fn frames<'a>(
    entries: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    next: i64,
    wall: Millis,
    out: &mut impl Write,
) -> io::Result<u64> {
    let (mut body, mut written) = (Vec::new(), 0);
    for (key, value) in entries {
        if body.len() >= FRAME {
            written += put(PART, wall, &body, out)?;
            body.clear();
        }
        body.extend_from_slice(&(key.len() as u32).to_be_bytes());
        body.extend_from_slice(key);
        match value {
            None => body.extend_from_slice(&u32::MAX.to_be_bytes()),
            Some(value) => {
                body.extend_from_slice(&(value.len() as u32).to_be_bytes());
                body.extend_from_slice(value);
            }
        }
    }
    Ok(written + put(next, wall, &body, out)?)
}

fn put(next: i64, wall: Millis, entries: &[u8], out: &mut impl Write) -> io::Result<u64> {
    let (next, wall) = (next.to_be_bytes(), wall.to_be_bytes());
    let mut checksum = crc32fast::Hasher::new();
    [&next[..], &wall, entries].into_iter().for_each(|part| checksum.update(part));
    let mut frame = Vec::with_capacity(24 + entries.len());
    frame.extend_from_slice(&(16 + entries.len() as u32).to_be_bytes());
    frame.extend_from_slice(&checksum.finalize().to_be_bytes());
    [&next[..], &wall, entries].into_iter().for_each(|part| frame.extend_from_slice(part));
    out.write_all(&frame)?;
    Ok(frame.len() as u64)
}

/// Reads one frame into `store`; `None` at the end or at the first damage. The answer within is a position, unless more
/// frames belong to it.
pub(super) fn frame(reader: &mut impl Read, left: u64, body: &mut Vec<u8>, store: &mut Store) -> io::Result<Option<Option<Loaded>>> {
    let (mut length, mut checksum) = ([0; 4], [0; 4]);
    if left < 8 {
        return Ok(None);
    }
    reader.read_exact(&mut length)?;
    reader.read_exact(&mut checksum)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME || u64::from(length) > left - 8 || length < 16 {
        return Ok(None);
    }
    body.resize(length as usize, 0);
    reader.read_exact(body)?;
    if crc32fast::hash(body).to_be_bytes() != checksum {
        return Ok(None);
    }
    let mut rest = body.as_slice();
    let mut number = || -> Option<i64> {
        let (bytes, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some(i64::from_be_bytes(*bytes))
    };
    let (Some(next), Some(written)) = (number(), number()) else { return Ok(None) };
    while !rest.is_empty() {
        let Some((key, after)) = sized(rest).and_then(|(k, r)| k.map(|k| (k, r))) else { return Ok(None) };
        let Some((value, after)) = sized(after) else { return Ok(None) };
        store.load(key, value);
        rest = after;
    }
    Ok(Some((next != PART).then_some(Loaded { next, written })))
}

type Sized<'a> = (Option<&'a [u8]>, &'a [u8]);

fn sized(bytes: &[u8]) -> Option<Sized<'_>> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    match u32::from_be_bytes(*length) {
        u32::MAX => Some((None, rest)),
        n => rest.split_at_checked(n as usize).map(|(v, r)| (Some(v), r)),
    }
}
