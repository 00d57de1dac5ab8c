//! Reading Avro's binary encoding. Every length is checked against the bytes that remain.

use crate::cause::Fail;

/// Items without width, and bytes of defaults, that one record may produce beyond its own length.
const FREE_UNITS: usize = 1 << 16;
/// How much more of them each byte of the payload allows.
const UNITS_PER_BYTE: usize = 64;
/// Levels that skipping may descend.
const MAX_SKIP_DEPTH: u32 = 64;

/// A position in the body of one record, with what the record may still consume.
pub(crate) struct Wire<'a> {
    bytes: &'a [u8],
    pos: usize,
    units: usize,
    depth: u32,
    pub(crate) order: Vec<usize>,
}

impl<'a> Wire<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Wire<'a> {
        let units = FREE_UNITS + bytes.len().saturating_mul(UNITS_PER_BYTE);
        Wire { bytes, pos: 0, units, depth: 0, order: Vec::new() }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.pos)
    }

    pub(crate) fn position(&self) -> usize {
        self.pos
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn fail(&self, message: &str) -> Fail {
        Fail::at(message, self.pos)
    }

    /// Accounts for output that costs no input.
    pub(crate) fn spend(&mut self, units: usize) -> Result<(), Fail> {
        match self.units.checked_sub(units) {
            Some(rest) => {
                self.units = rest;
                Ok(())
            }
            None => Err(self.fail("the record expands to far more than its size")),
        }
    }

    /// Enters a named type that is being skipped.
    pub(crate) fn descend(&mut self) -> Result<(), Fail> {
        if self.depth >= MAX_SKIP_DEPTH {
            return Err(self.fail("nested deeper than 64 levels"));
        }
        self.depth += 1;
        Ok(())
    }

    pub(crate) fn ascend(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    #[inline(always)]
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Fail> {
        match self.bytes.get(self.pos..).and_then(|rest| rest.get(..length)) {
            Some(taken) => {
                self.pos += length;
                Ok(taken)
            }
            None => Err(self.fail("truncated")),
        }
    }

    /// A zigzag integer of 64 bits.
    #[inline(always)]
    pub(crate) fn long(&mut self) -> Result<i64, Fail> {
        match self.bytes.get(self.pos) {
            Some(&byte) if byte < 0x80 => {
                self.pos += 1;
                Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1))
            }
            _ => self.long_of_several_bytes(),
        }
    }

    #[inline]
    fn long_of_several_bytes(&mut self) -> Result<i64, Fail> {
        let mut value = 0u64;
        for index in 0..10u32 {
            let Some(&byte) = self.bytes.get(self.pos + index as usize) else { return Err(self.fail("truncated")) };
            // The tenth byte holds the 64th bit and nothing more.
            if index == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.pos += index as usize + 1;
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(self.fail("integer of more than 64 bits"))
    }

    #[inline]
    pub(crate) fn int(&mut self) -> Result<i32, Fail> {
        let start = self.pos;
        let value = self.long()?;
        i32::try_from(value).map_err(|_| Fail::at("integer of more than 32 bits", start))
    }

    /// A length-prefixed run of bytes.
    #[inline(always)]
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Fail> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| self.fail("negative length"))?;
        self.take(length)
    }

    #[inline(always)]
    pub(crate) fn text(&mut self) -> Result<&'a [u8], Fail> {
        let bytes = self.bytes()?;
        match simdutf8::basic::from_utf8(bytes) {
            Ok(_) => Ok(bytes),
            Err(_) => Err(self.fail("a string is not UTF-8")),
        }
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Fail> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.fail("a boolean that is neither 0 nor 1")),
        }
    }

    #[inline(always)]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fail> {
        match self.bytes.get(self.pos..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(chunk) => {
                self.pos += N;
                Ok(*chunk)
            }
            None => Err(self.fail("truncated")),
        }
    }

    /// The header of a block of an array or map: the number of items, zero at the end, and for blocks that state it
    /// the number of bytes.
    #[inline]
    pub(crate) fn block(&mut self, zero_width: bool) -> Result<(usize, Option<usize>), Fail> {
        let count = self.long()?;
        let mut size = None;
        if count < 0 {
            let bytes = self.long()?;
            let bytes = usize::try_from(bytes).ok().filter(|b| *b <= self.remaining());
            size = Some(bytes.ok_or_else(|| self.fail("a block longer than the record"))?);
        }
        let count = usize::try_from(count.unsigned_abs()).map_err(|_| self.fail("more items than the record can hold"))?;
        if zero_width {
            self.spend(count)?;
        } else if count > self.remaining() {
            return Err(self.fail("more items than the record can hold"));
        }
        Ok((count, size))
    }
}

/// Appends a zigzag integer.
#[inline]
pub(crate) fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
