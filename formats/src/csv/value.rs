//! Fields of CSV as values.

use arrow::datatypes::TimeUnit;

use crate::calendar;
use crate::cause::Fail;
use crate::column::{Column, Data};
use crate::json::base64_into;
use crate::number::{NotDecimal, parse_decimal};
use crate::scan::Cursor;

/// Appends the text of a field. `null`: what stands for null without quotes.
pub(super) fn append(column: &mut Column, text: &[u8], quoted: bool, null: &[u8]) -> Result<(), Fail> {
    if !quoted && text == null {
        let is_empty_text = text.is_empty() && !column.field.is_nullable() && matches!(column.data, Data::Utf8(_));
        if !is_empty_text {
            return column.append_null();
        }
    }
    let Column { rows, data, .. } = column;
    if text.is_empty() && !matches!(data, Data::Utf8(_) | Data::Binary(_)) {
        return Err(Fail::new("an empty text, which is not null where it is in quotes or `null_text` is something else"));
    }
    match data {
        Data::Utf8(v) => v.push(text)?,
        Data::I64(v) => v.push(integer(text, "a 64-bit integer")?),
        Data::F64(v) => v.push(float(text)?),
        Data::Decimal(v, precision, scale) => v.push(parse_decimal(text, *precision, *scale).map_err(|cause| Fail::new(cause.cause()))?),
        Data::Bool(v) => match text {
            b"true" => v.append(true),
            b"false" => v.append(false),
            _ => return Err(Fail::new("expected `true` or `false`")),
        },
        Data::Timestamp(v, unit, zoned) => v.push(calendar::timestamp(text, *unit, *zoned).map_err(|cause| not_a_time(text, cause))?),
        Data::Date(v) => v.push(calendar::parse_date(text).ok_or_else(|| Fail::new("expected a date as YYYY-MM-DD"))?),
        Data::Time32(v, unit) => v.push(time(text, *unit)?),
        Data::Time64(v, unit) => v.push(time(text, *unit)?),
        Data::Binary(v) => {
            base64_into(text, &mut v.bytes).map_err(Fail::new)?;
            v.end()?;
        }
        Data::Fixed(v, size) => {
            let before = v.len();
            base64_into(text, v).map_err(Fail::new)?;
            if v.len() - before != *size {
                return Err(Fail::new(format!("expected {size} bytes as base64, found {}", v.len() - before)));
            }
        }
        Data::I32(v) => v.push(integer(text, "a 32-bit integer")?),
        Data::I16(v) => v.push(integer(text, "a 16-bit integer")?),
        Data::I8(v) => v.push(integer(text, "an 8-bit integer")?),
        Data::U64(v) => v.push(integer(text, "an unsigned 64-bit integer")?),
        Data::U32(v) => v.push(integer(text, "an unsigned 32-bit integer")?),
        Data::U16(v) => v.push(integer(text, "an unsigned 16-bit integer")?),
        Data::U8(v) => v.push(integer(text, "an unsigned 8-bit integer")?),
        Data::F32(v) => {
            let value: f32 = lexical_core::parse(number(text)?).map_err(|_| Fail::new("expected a number"))?;
            v.push(if value.is_finite() { value } else { return Err(Fail::new("number out of the range of a float")) });
        }
        Data::Null => return Err(Fail::new("expected null")),
        Data::Struct(_) | Data::List(..) | Data::Map(..) => return Err(Fail::new("a field of CSV is one value")),
    }
    rows.valid();
    Ok(())
}

/// Digits alone are what a producer may mean as milliseconds, or as a day without hyphens.
#[cold]
fn not_a_time(text: &[u8], cause: &str) -> Fail {
    let digits = text.strip_prefix(b"-").unwrap_or(text).iter().all(u8::is_ascii_digit);
    let remedy = if digits { ", found digits alone (declare epoch milliseconds as `long`)" } else { "" };
    Fail::new(format!("{cause}{remedy}"))
}

/// A whole number, as JSON may write it: `3.0` and `30e-1`, too.
#[inline]
fn integer<T: TryFrom<i128>>(text: &[u8], what: &str) -> Result<T, Fail> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    // No sign, no zero in front, no overflow: what nearly all numbers are.
    let plain = matches!(digits, [b'1'..=b'9', rest @ ..] if rest.len() < 18 && rest.iter().all(u8::is_ascii_digit));
    let value = match plain {
        true => lexical_core::parse::<i64>(text).map(i128::from).map_err(|_| NotDecimal::Syntax),
        false => parse_decimal(text, 38, 0),
    };
    let value = value.map_err(|cause| match cause {
        NotDecimal::Syntax => Fail::new(format!("expected {what}")),
        NotDecimal::Fraction => Fail::new(format!("expected {what}, found a number with a fraction")),
        NotDecimal::LeadingZero => Fail::new(cause.cause()),
        NotDecimal::TooLarge => Fail::new(format!("out of range for {what}")),
    })?;
    T::try_from(value).map_err(|_| Fail::new(format!("out of range for {what}")))
}

/// The text, if it is a number in JSON's notation.
fn number(text: &[u8]) -> Result<&[u8], Fail> {
    match Cursor::new(text).number() {
        Ok(found) if found.len() == text.len() => Ok(text),
        _ => Err(Fail::new("expected a number")),
    }
}

fn float(text: &[u8]) -> Result<f64, Fail> {
    number(text)?;
    Cursor::new(text).float().map_err(|_| Fail::new("number out of the range of a double"))
}

fn time<T: TryFrom<i64>>(text: &[u8], unit: TimeUnit) -> Result<T, Fail> {
    let ticks = calendar::parse_time(text, unit).and_then(|ticks| T::try_from(ticks).ok());
    ticks.ok_or_else(|| Fail::new("expected a time as HH:MM:SS"))
}
