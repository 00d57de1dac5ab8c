//! Numbers of JSON text.

use super::Cursor;
use crate::cause::Fail;
use crate::number::{NotDecimal, parse_decimal};

impl<'a> Cursor<'a> {
    #[inline(always)]
    fn digits(&mut self) -> usize {
        let start = self.pos;
        while let Some(b'0'..=b'9') = self.peek() {
            self.pos += 1;
        }
        self.pos - start
    }

    /// Consumes a number and returns its text.
    #[inline]
    pub(crate) fn number(&mut self) -> Result<&'a [u8], Fail> {
        let start = self.pos;
        if self.peek() == Some(b'-') {
            self.pos += 1;
        }
        match self.peek() {
            Some(b'0') => {
                self.pos += 1;
                if let Some(b'0'..=b'9') = self.peek() {
                    return Err(self.fail("a number with a leading zero"));
                }
            }
            Some(b'1'..=b'9') => {
                self.digits();
            }
            _ => return Err(self.expected("a number")),
        }
        if self.peek() == Some(b'.') {
            self.pos += 1;
            if self.digits() == 0 {
                return Err(self.fail("a number needs a digit after its point"));
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.pos += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.pos += 1;
            }
            if self.digits() == 0 {
                return Err(self.fail("a number needs a digit in its exponent"));
            }
        }
        Ok(self.slice(start, self.pos))
    }

    /// Consumes a whole number: whether it is negative, and its absolute value.
    ///
    /// `3.0`, `3e0` and `30e-1` are whole, too: JSON has one kind of number, and producers in JavaScript, Python or
    /// from a column of doubles write whole ones with a fraction. They are read exactly, not through a double.
    #[inline]
    pub(crate) fn integer(&mut self) -> Result<(bool, u64), Fail> {
        let begin = self.pos;
        let negative = self.peek() == Some(b'-');
        if negative {
            self.pos += 1;
        }
        let start = self.pos;
        let mut value = 0u64;
        while let Some(byte @ b'0'..=b'9') = self.peek() {
            let digit = u64::from(byte - b'0');
            value = match value.checked_mul(10).and_then(|v| v.checked_add(digit)) {
                Some(value) => value,
                None => return self.exact_integer(begin),
            };
            self.pos += 1;
        }
        let digits = self.pos - start;
        if digits == 0 {
            return Err(self.expected("an integer"));
        }
        if digits > 1 && self.bytes.get(start) == Some(&b'0') {
            return Err(self.fail("a number with a leading zero"));
        }
        if let Some(b'.' | b'e' | b'E') = self.peek() {
            return self.exact_integer(begin);
        }
        Ok((negative, value))
    }

    /// The whole number at `begin` that is not written as digits alone, or has more than 64 bits hold.
    #[cold]
    #[inline(never)]
    fn exact_integer(&mut self, begin: usize) -> Result<(bool, u64), Fail> {
        self.pos = begin;
        let text = self.number()?;
        let value = parse_decimal(text, 38, 0).map_err(|cause| match cause {
            NotDecimal::Fraction => Fail::at("expected an integer, found a number with a fraction", begin),
            _ => Fail::at("integer out of range", begin),
        })?;
        let magnitude = u64::try_from(value.unsigned_abs()).map_err(|_| Fail::at("integer out of range", begin))?;
        Ok((value < 0, magnitude))
    }

    /// Consumes a number as the nearest `f64`.
    #[inline]
    pub(crate) fn float(&mut self) -> Result<f64, Fail> {
        let start = self.pos;
        let text = self.number()?;
        if let Some(value) = small_float(text) {
            return Ok(value);
        }
        match lexical_core::parse::<f64>(text) {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(Fail::at("number out of the range of a double", start)),
        }
    }

    /// Consumes a number as the nearest `f32`.
    pub(crate) fn float32(&mut self) -> Result<f32, Fail> {
        let start = self.pos;
        match lexical_core::parse::<f32>(self.number()?) {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(Fail::at("number out of the range of a float", start)),
        }
    }
}

/// Numbers of at most 15 digits and no exponent: both the digits and the power of ten are exact doubles, so one
/// division rounds correctly (W. Clinger, "How to read floating point numbers accurately", 1990).
#[inline]
fn small_float(text: &[u8]) -> Option<f64> {
    const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    if digits.len() > 16 {
        return None;
    }
    let (mut mantissa, mut count, mut point) = (0u64, 0usize, None);
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                mantissa = mantissa * 10 + u64::from(byte - b'0');
                count += 1;
            }
            b'.' => point = Some(count),
            _ => return None,
        }
    }
    if count > 15 {
        return None;
    }
    let value = mantissa as f64 / POWERS.get(count - point.unwrap_or(count))?;
    Some(if negative { -value } else { value })
}
