//! Single values: integers by width, and the types that JSON has no notation for.

use arrow::datatypes::TimeUnit;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::mismatch;
use crate::calendar;
use crate::cause::Fail;
use crate::column::Data;
use crate::number::parse_decimal;
use crate::scan::Cursor;

/// Types that JSON has no notation for and that are written as strings (some also as numbers).
pub(super) fn text_value(cursor: &mut Cursor<'_>, first: u8, data: &mut Data, scratch: &mut Vec<u8>) -> Result<(), Fail> {
    let quoted = first == b'"';
    let start = cursor.position();
    match data {
        Data::Timestamp(v, unit, zoned) => v.push(timestamp(cursor, quoted, *unit, *zoned, scratch)?),
        Data::Decimal(v, precision, scale) => {
            let text = if quoted { cursor.string(scratch)? } else { cursor.number()? };
            v.push(parse_decimal(text, *precision, *scale).map_err(|cause| Fail::at(cause.cause(), start))?);
        }
        Data::Date(v) => match calendar::parse_date(cursor.string(scratch)?) {
            Some(days) => v.push(days),
            None => return Err(Fail::at("expected a date as YYYY-MM-DD", start)),
        },
        Data::Time32(v, unit) => match calendar::parse_time(cursor.string(scratch)?, *unit).and_then(|t| i32::try_from(t).ok()) {
            Some(time) => v.push(time),
            None => return Err(Fail::at("expected a time as HH:MM:SS", start)),
        },
        Data::Time64(v, unit) => match calendar::parse_time(cursor.string(scratch)?, *unit) {
            Some(time) => v.push(time),
            None => return Err(Fail::at("expected a time as HH:MM:SS", start)),
        },
        Data::Binary(v) => {
            base64_into(cursor.string(scratch)?, &mut v.bytes).map_err(|cause| Fail::at(cause, start))?;
            v.end()?;
        }
        Data::Fixed(v, size) => {
            let before = v.len();
            base64_into(cursor.string(scratch)?, v).map_err(|cause| Fail::at(cause, start))?;
            if v.len() - before != *size {
                return Err(Fail::at(&format!("expected {size} bytes as base64, found {}", v.len() - before), start));
            }
        }
        _ => return Err(mismatch()),
    }
    Ok(())
}

pub(crate) fn base64_into(text: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    STANDARD.decode_vec(text, out).map_err(|_| "expected bytes as base64")
}

fn timestamp(cursor: &mut Cursor<'_>, quoted: bool, unit: TimeUnit, zoned: bool, scratch: &mut Vec<u8>) -> Result<i64, Fail> {
    let start = cursor.position();
    if !quoted {
        let millis: i64 = signed(cursor, "epoch milliseconds or an ISO 8601 string")?;
        return calendar::from_millis(millis, unit).map_err(|cause| Fail::at(&cause, start));
    }
    calendar::timestamp(cursor.string(scratch)?, unit, zoned).map_err(|cause| Fail::at(cause, start))
}

#[inline]
pub(super) fn signed<T: TryFrom<i64>>(cursor: &mut Cursor<'_>, what: &str) -> Result<T, Fail> {
    if !matches!(cursor.peek(), Some(b'-' | b'0'..=b'9')) {
        return Err(cursor.expected(what));
    }
    let start = cursor.position();
    let (negative, magnitude) = cursor.integer()?;
    let value = if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() };
    value.and_then(|v| T::try_from(v).ok()).ok_or_else(|| out_of_range(what, start))
}

#[inline]
pub(super) fn unsigned<T: TryFrom<u64>>(cursor: &mut Cursor<'_>, what: &str) -> Result<T, Fail> {
    if !matches!(cursor.peek(), Some(b'-' | b'0'..=b'9')) {
        return Err(cursor.expected(what));
    }
    let start = cursor.position();
    let (negative, magnitude) = cursor.integer()?;
    let value = if negative && magnitude > 0 { None } else { T::try_from(magnitude).ok() };
    value.ok_or_else(|| out_of_range(what, start))
}

#[cold]
#[inline(never)]
fn out_of_range(what: &str, start: usize) -> Fail {
    Fail::at(&format!("out of range for {what}"), start)
}
