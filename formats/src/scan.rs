//! A strict scanner over JSON text (RFC 8259), without recursion.
//!
//! The caller has checked that the payload is UTF-8, so strings are handled as bytes: a string ends at a quote,
//! and no quote or backslash can be part of a longer UTF-8 sequence. What the RFC leaves open is refused: `NaN`,
//! `Infinity`, comments, leading zeros, a byte order mark, control characters in strings, lone surrogates.

mod number;
mod skip;

use crate::cause::Fail;

/// Levels of objects and arrays a document may have, counted from its root.
pub(crate) const MAX_DEPTH: u32 = 128;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// A position in a JSON text.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
}

/// A string as it stands in the text: without its quotes, escapes not decoded.
#[derive(Clone, Copy)]
pub(crate) struct RawString<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) escaped: bool,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, pos: 0 }
    }

    pub(crate) fn position(&self) -> usize {
        self.pos
    }

    /// The text between two positions.
    pub(crate) fn slice(&self, start: usize, end: usize) -> &'a [u8] {
        self.bytes.get(start..end).unwrap_or_default()
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn fail(&self, message: &str) -> Fail {
        Fail::at(message, self.pos)
    }

    /// "expected X, found a Y" for the value at this position.
    #[cold]
    #[inline(never)]
    pub(crate) fn expected(&self, what: &str) -> Fail {
        let found = match self.bytes.get(self.pos..).unwrap_or_default() {
            [] => "the end of the text",
            [b'"', ..] => "a string",
            [b'{', ..] => "an object",
            [b'[', ..] => "an array",
            [b'-' | b'0'..=b'9', ..] => "a number",
            rest if rest.starts_with(b"true") || rest.starts_with(b"false") => "a boolean",
            rest if rest.starts_with(b"null") => "null",
            _ => "something that is not JSON",
        };
        Fail::at(&format!("expected {what}, found {found}"), self.pos)
    }

    #[inline(always)]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.pos).copied()
    }

    #[inline(always)]
    pub(crate) fn advance(&mut self) {
        self.pos += 1;
    }

    #[inline(always)]
    pub(crate) fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.pos += 1;
        }
    }

    /// The next byte after white space, not consumed.
    #[inline(always)]
    pub(crate) fn peek_token(&mut self) -> Option<u8> {
        match self.peek() {
            Some(byte) if byte > b' ' => Some(byte),
            _ => {
                self.skip_space();
                self.peek()
            }
        }
    }

    /// Consumes `expected` if the text continues with exactly these bytes.
    #[inline(always)]
    pub(crate) fn eat_exact(&mut self, expected: &[u8]) -> bool {
        let Some(found) = self.bytes.get(self.pos..self.pos + expected.len()) else { return false };
        // Eight bytes at a time, the last eight overlapping; member names are too short for a call of memcmp.
        let same = match (found.last_chunk::<8>(), expected.last_chunk::<8>()) {
            (Some(a), Some(b)) => {
                let heads = found.chunks_exact(8).zip(expected.chunks_exact(8));
                a == b && heads.fold(true, |same, (x, y)| same & (x == y))
            }
            _ => found.iter().zip(expected).all(|(x, y)| x == y),
        };
        if same {
            self.pos += expected.len();
        }
        same
    }

    /// Consumes one of `true`, `false`, `null`.
    #[inline]
    pub(crate) fn literal(&mut self, word: &'static [u8]) -> Result<(), Fail> {
        match self.bytes.get(self.pos..self.pos + word.len()) {
            Some(found) if found == word => {
                self.pos += word.len();
                Ok(())
            }
            _ => Err(self.fail("not a JSON literal")),
        }
    }

    /// Position of the next quote or backslash; a control character before it is an error.
    #[inline(always)]
    fn find_special(&self, from: usize) -> Result<usize, Fail> {
        let mut at = from;
        // Eight bytes per step. Each of the three tests may flag a byte wrongly only above a byte it flags rightly,
        // so the lowest flag is exact.
        while let Some(chunk) = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*chunk);
            let quotes = word ^ (ONES * b'"' as u64);
            let slashes = word ^ (ONES * b'\\' as u64);
            let flags = ((quotes.wrapping_sub(ONES) & !quotes)
                | (slashes.wrapping_sub(ONES) & !slashes)
                | (word.wrapping_sub(ONES * 0x20) & !word))
                & HIGHS;
            if flags != 0 {
                at += (flags.trailing_zeros() / 8) as usize;
                return self.special_at(at);
            }
            at += 8;
        }
        while let Some(byte) = self.bytes.get(at) {
            if matches!(byte, b'"' | b'\\' | 0..=0x1f) {
                return self.special_at(at);
            }
            at += 1;
        }
        Err(Fail::at("unterminated string", from.saturating_sub(1)))
    }

    #[inline(always)]
    fn special_at(&self, at: usize) -> Result<usize, Fail> {
        match self.bytes.get(at) {
            Some(b'"' | b'\\') => Ok(at),
            _ => Err(Fail::at("control character in a string", at)),
        }
    }

    /// Consumes a string whose opening quote is the next byte, and checks its escapes.
    #[inline(always)]
    pub(crate) fn raw_string(&mut self) -> Result<RawString<'a>, Fail> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a string"));
        }
        let start = self.pos + 1;
        let end = self.find_special(start)?;
        if self.bytes.get(end) == Some(&b'"') {
            self.pos = end + 1;
            return Ok(RawString { text: self.slice(start, end), escaped: false });
        }
        self.raw_escaped(start, end)
    }

    #[inline(never)]
    fn raw_escaped(&mut self, start: usize, first: usize) -> Result<RawString<'a>, Fail> {
        self.pos = first;
        loop {
            if self.peek() == Some(b'"') {
                self.pos += 1;
                return Ok(RawString { text: self.slice(start, self.pos - 1), escaped: true });
            }
            self.escape()?;
            self.pos = self.find_special(self.pos)?;
        }
    }

    /// Consumes a string and appends its decoded bytes.
    #[inline(always)]
    pub(crate) fn string_into(&mut self, out: &mut Vec<u8>) -> Result<(), Fail> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a string"));
        }
        let start = self.pos + 1;
        let end = self.find_special(start)?;
        out.extend_from_slice(self.slice(start, end));
        if self.bytes.get(end) == Some(&b'"') {
            self.pos = end + 1;
            return Ok(());
        }
        self.pos = end;
        self.escapes_into(out)
    }

    #[inline(never)]
    fn escapes_into(&mut self, out: &mut Vec<u8>) -> Result<(), Fail> {
        loop {
            if self.peek() == Some(b'"') {
                self.pos += 1;
                return Ok(());
            }
            let decoded = self.escape()?;
            out.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
            let end = self.find_special(self.pos)?;
            out.extend_from_slice(self.slice(self.pos, end));
            self.pos = end;
        }
    }

    /// Consumes a string; decoded into `scratch` only if it has escapes.
    #[inline]
    pub(crate) fn string<'x>(&mut self, scratch: &'x mut Vec<u8>) -> Result<&'x [u8], Fail>
    where
        'a: 'x,
    {
        let start = self.pos;
        let raw = self.raw_string()?;
        if !raw.escaped {
            return Ok(raw.text);
        }
        self.pos = start;
        scratch.clear();
        self.string_into(scratch)?;
        Ok(scratch)
    }

    /// Consumes one escape, which begins at this position.
    fn escape(&mut self) -> Result<char, Fail> {
        let kind = self.bytes.get(self.pos + 1).copied();
        let decoded = match kind {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.fail("unknown escape in a string")),
        };
        self.pos += 2;
        Ok(decoded)
    }

    fn unicode_escape(&mut self) -> Result<char, Fail> {
        let Some(first) = self.hex4(self.pos + 2) else { return Err(self.fail("\\u needs four hexadecimal digits")) };
        if !(0xd800..=0xdfff).contains(&first) {
            self.pos += 6;
            return char::from_u32(first).ok_or_else(|| self.fail("lone surrogate"));
        }
        let second = match self.bytes.get(self.pos + 6..self.pos + 8) {
            Some(b"\\u") => self.hex4(self.pos + 8),
            _ => None,
        };
        match second {
            Some(second) if first <= 0xdbff && (0xdc00..=0xdfff).contains(&second) => {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                let decoded = char::from_u32(code).ok_or_else(|| self.fail("lone surrogate"))?;
                self.pos += 12;
                Ok(decoded)
            }
            _ => Err(self.fail("lone surrogate in a string")),
        }
    }

    fn hex4(&self, at: usize) -> Option<u32> {
        let digits = self.bytes.get(at..at + 4)?;
        digits.iter().try_fold(0, |value, byte| Some(value << 4 | char::from(*byte).to_digit(16)?))
    }

    #[inline]
    pub(crate) fn colon(&mut self) -> Result<(), Fail> {
        if self.peek_token() != Some(b':') {
            return Err(self.fail("expected ':'"));
        }
        self.pos += 1;
        Ok(())
    }

    /// After the document: only white space may follow.
    pub(crate) fn end(&mut self) -> Result<(), Fail> {
        match self.peek_token() {
            None => Ok(()),
            Some(_) => Err(self.fail("more text after the end of the document")),
        }
    }
}
