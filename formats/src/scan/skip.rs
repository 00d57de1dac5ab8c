//! Skipping values that no column needs, without recursion.

use super::{Cursor, MAX_DEPTH};
use crate::cause::Fail;

impl Cursor<'_> {
    /// Consumes the name of a member and the colon after it.
    fn member_name(&mut self) -> Result<(), Fail> {
        if self.peek_token() != Some(b'"') {
            return Err(self.expected("a member name"));
        }
        self.raw_string()?;
        self.colon()
    }

    /// Consumes any value, checking that it is JSON. `depth` is the number of containers around it.
    pub(crate) fn skip_value(&mut self, depth: u32) -> Result<(), Fail> {
        match self.peek_token() {
            Some(b'"') => self.raw_string().map(drop),
            Some(b'{' | b'[') => self.skip_container(depth),
            _ => self.skip_scalar(),
        }
    }

    #[inline]
    fn skip_scalar(&mut self) -> Result<(), Fail> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => Err(self.expected("a value")),
        }
    }

    /// The open containers are bits: one for an object, zero for an array; the lowest is the innermost.
    fn skip_container(&mut self, depth: u32) -> Result<(), Fail> {
        let (mut open, mut level) = (0u128, depth);
        loop {
            match self.peek_token() {
                Some(bracket @ (b'{' | b'[')) => {
                    if level >= MAX_DEPTH {
                        return Err(self.fail("nested deeper than 128 levels"));
                    }
                    self.pos += 1;
                    let object = bracket == b'{';
                    let close = if object { b'}' } else { b']' };
                    if self.peek_token() == Some(close) {
                        self.pos += 1;
                    } else {
                        level += 1;
                        open = open << 1 | u128::from(object);
                        if object {
                            self.member_name()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => drop(self.raw_string()?),
                _ => self.skip_scalar()?,
            }
            // A value has ended: continue in its container, or close containers.
            loop {
                if level == depth {
                    return Ok(());
                }
                let object = open & 1 == 1;
                match (self.peek_token(), object) {
                    (Some(b','), true) => {
                        self.pos += 1;
                        self.member_name()?;
                        break;
                    }
                    (Some(b','), false) => {
                        self.pos += 1;
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.pos += 1;
                        level -= 1;
                        open >>= 1;
                    }
                    (_, true) => return Err(self.expected("',' or '}'")),
                    (_, false) => return Err(self.expected("',' or ']'")),
                }
            }
        }
    }
}
