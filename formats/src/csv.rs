//! Records that are one line of CSV (RFC 4180): the place of a field says which column it is.
//!
//! # What is accepted
//! - One line, with or without the end of it: LF, CR LF, or the CR that is left of a file with CR LF split at LF. A line break within
//!   quotes is part of a text.
//! - Every declared field in the declared order, no fewer and no more, and no byte order mark.
//! - A field in quotes is what is between them, a quote in it doubled. Nothing may be beside the quotes, and no quote may be in a
//!   field without them.
//! - A field without quotes that is the null text is null. Where that is empty and the column is a text that can't be null, the field
//!   is an empty text.
//! - Single values as in JSON, without its quotes: numbers, `true` and `false`, ISO 8601, base64. They may be in quotes. A timestamp of
//!   digits alone is refused: `20260101` may be a day as well as milliseconds, and quotes don't tell them apart as in JSON.
//!
//! What is written is quoted only where it would be read otherwise: an empty text is `""`, null is nothing.

mod value;

use std::fmt;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};

use crate::builder::RowBuilder;
use crate::calendar;
use crate::cause::{DecodeError, Fail};
use crate::codec::{Decoder, Encoded, Encoder};
use crate::column::{Column, Data};
use crate::json_encode::{write_base64, write_number};
use crate::number::write_decimal;
use crate::view::{self, Values, View, at};

/// What files begin with, and records don't.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The characters that are not values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvDialect {
    delimiter: u8,
    quote: u8,
    null: Vec<u8>,
    /// Bytes that a field without quotes can't have.
    special: [bool; 256],
}

impl Default for CsvDialect {
    /// Commas, double quotes, and nothing for null.
    fn default() -> CsvDialect {
        CsvDialect::of(b',', b'"', &[])
    }
}

impl fmt::Display for CsvDialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (delimiter, quote) = (char::from(self.delimiter), char::from(self.quote));
        write!(f, "`delimiter` {delimiter:?}, `quote` {quote:?} and `null_text` {:?}", String::from_utf8_lossy(&self.null))
    }
}

impl CsvDialect {
    fn of(delimiter: u8, quote: u8, null: &[u8]) -> CsvDialect {
        let special = std::array::from_fn(|byte| [delimiter, quote, b'\n', b'\r'].map(usize::from).contains(&byte));
        CsvDialect { delimiter, quote, null: null.to_vec(), special }
    }

    /// `null`: what stands for null, without quotes.
    ///
    /// # Errors
    /// Which of them can't be told from values, and what it can be.
    pub fn new(delimiter: &str, quote: &str, null: &str) -> Result<CsvDialect, String> {
        let dialect = CsvDialect::default().with_delimiter(delimiter)?.with_quote(quote)?.with_null_text(null)?;
        dialect.check()?;
        Ok(dialect)
    }

    /// # Errors
    /// It is not one character, or values have it.
    pub fn with_delimiter(self, text: &str) -> Result<CsvDialect, String> {
        let separates = |byte: &u8| byte.is_ascii() && !byte.is_ascii_alphanumeric() && !b"\r\n".contains(byte);
        let delimiter = one(text).filter(separates).ok_or_else(|| {
            format!("`delimiter` is one ASCII character, no letter, digit or line break, such as `,`, `;` or `\\t`; found {text:?}")
        })?;
        Ok(CsvDialect::of(delimiter, self.quote, &self.null))
    }

    /// # Errors
    /// It is not one character, or values have it.
    pub fn with_quote(self, text: &str) -> Result<CsvDialect, String> {
        // No number, time or base64 has one of these: they need no doubling.
        let quotes = |byte: &u8| byte.is_ascii_punctuation() && !b"+-./:=".contains(byte);
        let quote = one(text).filter(quotes).ok_or_else(|| {
            format!("`quote` is one punctuation character that no number, time or base64 has, such as `\"` or `'`; found {text:?}")
        })?;
        Ok(CsvDialect::of(self.delimiter, quote, &self.null))
    }

    /// # Errors
    /// The text has what no field without quotes can have.
    pub fn with_null_text(self, text: &str) -> Result<CsvDialect, String> {
        if text.as_bytes().starts_with(BYTE_ORDER_MARK) {
            return Err("`null_text` can't begin with a byte order mark (U+FEFF)".into());
        }
        Ok(CsvDialect::of(self.delimiter, self.quote, text.as_bytes()))
    }

    /// # Errors
    /// Which of its characters can't be told apart.
    pub fn check(&self) -> Result<(), String> {
        if self.delimiter == self.quote {
            return Err(format!("`delimiter` and `quote` are different characters; found {:?} for both", char::from(self.quote)));
        }
        if self.null.iter().any(|byte| self.is_special(*byte)) {
            return Err(format!("`null_text` has no delimiter, quote or line break; found {:?}", String::from_utf8_lossy(&self.null)));
        }
        Ok(())
    }

    #[inline]
    fn is_special(&self, byte: u8) -> bool {
        self.special.get(usize::from(byte)).copied().unwrap_or(false)
    }

    /// The field that begins at `start`: what it has, whether that was in quotes, and where it ends. `scratch` takes what had doubled
    /// quotes.
    fn field<'x>(&self, line: &'x [u8], start: usize, scratch: &'x mut Vec<u8>) -> Result<(&'x [u8], bool, usize), Fail> {
        let rest = line.get(start..).unwrap_or_default();
        if rest.first() != Some(&self.quote) {
            let length = rest.iter().position(|byte| self.is_special(*byte)).unwrap_or(rest.len());
            return match rest.get(length) {
                Some(byte) if *byte == self.quote => Err(wrong("a quote in a field that does not begin with one", line, start + length)),
                Some(b'\r' | b'\n') => Err(wrong("the record goes on after the end of the line", line, start + length)),
                _ => Ok((rest.get(..length).unwrap_or_default(), false, start + length)),
            };
        }
        scratch.clear();
        let mut from = start + 1;
        loop {
            let rest = line.get(from..).unwrap_or_default();
            let Some(length) = rest.iter().position(|byte| *byte == self.quote) else {
                return Err(wrong("the quote has no end", line, start));
            };
            let end = from + length + 1;
            let part = rest.get(..length).unwrap_or_default();
            match line.get(end) {
                Some(byte) if *byte == self.quote => {
                    scratch.extend_from_slice(part);
                    scratch.push(self.quote);
                    from = end + 1;
                }
                Some(byte) if *byte != self.delimiter => return Err(wrong("more after the end of the quote", line, end)),
                _ if scratch.is_empty() => return Ok((part, true, end)),
                _ => {
                    scratch.extend_from_slice(part);
                    return Ok((scratch, true, end));
                }
            }
        }
    }
}

/// The only byte of a text.
fn one(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] => Some(*byte),
        _ => None,
    }
}

/// Where something is: lines and columns count from 1, columns in characters.
#[cold]
fn place(line: &[u8], at: usize) -> String {
    let before = line.get(..at).unwrap_or(line);
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = before.iter().filter(|byte| **byte == b'\n').count();
    let column = String::from_utf8_lossy(before.get(start..).unwrap_or_default()).chars().count();
    format!("line {}, column {}", lines + 1, column + 1)
}

#[cold]
fn wrong(what: &str, line: &[u8], at: usize) -> Fail {
    Fail::new(format!("{what} at {}", place(line, at)))
}

/// Reads lines into columns.
pub struct CsvDecoder {
    dialect: CsvDialect,
    schema: SchemaRef,
    /// By field: its name, and its column if it has one.
    fields: Vec<(String, Option<usize>)>,
    /// The last of them is the last of the line.
    whole: bool,
    scratch: Vec<u8>,
}

impl CsvDecoder {
    /// `columns`: some of the fields that lines have, which `layout` says.
    pub fn new(dialect: CsvDialect, layout: &Schema, columns: &SchemaRef) -> CsvDecoder {
        let fields = layout.fields().iter().map(|field| (field.name().clone(), columns.index_of(field.name()).ok())).collect();
        CsvDecoder { dialect, schema: SchemaRef::clone(columns), fields, whole: true, scratch: Vec::new() }
    }

    /// The only column is the field at a place, counted from 0; what follows it may be anything.
    pub fn of_field(dialect: CsvDialect, place: usize, column: &SchemaRef) -> CsvDecoder {
        let name = column.fields().first().map_or(String::new(), |field| field.name().clone());
        let mut fields = vec![(String::new(), None); place];
        fields.push((name, Some(0)));
        CsvDecoder { dialect, schema: SchemaRef::clone(column), fields, whole: false, scratch: Vec::new() }
    }
}

impl Decoder for CsvDecoder {
    fn decode(&mut self, value: &[u8], rows: &mut RowBuilder) -> Result<(), DecodeError> {
        let CsvDecoder { dialect, schema, fields, whole, scratch } = self;
        rows.attempt(schema, |root| record(value, dialect, (fields, *whole), root, scratch))?;
        Ok(())
    }
}

fn record(
    value: &[u8],
    dialect: &CsvDialect,
    (fields, whole): (&[(String, Option<usize>)], bool),
    root: &mut Column,
    scratch: &mut Vec<u8>,
) -> Result<(), Fail> {
    if value.starts_with(BYTE_ORDER_MARK) {
        return Err(Fail::new("the line begins with a byte order mark"));
    }
    if simdutf8::basic::from_utf8(value).is_err() {
        let valid = std::str::from_utf8(value).map_or_else(|e| e.valid_up_to(), str::len);
        return Err(wrong("not UTF-8", value, valid));
    }
    let line = value.strip_suffix(b"\n").unwrap_or(value);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let Data::Struct(columns) = &mut root.data else { return Err(Fail::new("there are no columns")) };
    // Where the next field begins; `None` after the last one.
    let mut next = Some(0);
    for (number, (name, column)) in fields.iter().enumerate() {
        let Some(start) = next else {
            let end = format!("missing: the line ends after field {number} of {}", fields.len());
            return Err(Fail::new(end).in_field(name));
        };
        let (text, quoted, end) = dialect.field(line, start, scratch)?;
        next = (end < line.len()).then_some(end + 1);
        if let Some(column) = column.and_then(|column| columns.get_mut(column)) {
            value::append(column, text, quoted, &dialect.null).map_err(|fail| {
                let cause = format!("{} (field {}, {})", fail.into_text(), number + 1, place(line, start));
                Fail::new(cause).in_field(name)
            })?;
        }
    }
    if let Some(start) = next.filter(|_| whole) {
        return Err(wrong(&format!("field {} is one too many", fields.len() + 1), line, start));
    }
    root.rows.valid();
    Ok(())
}

/// Writes rows as lines, without the end of the line.
pub struct CsvEncoder {
    dialect: CsvDialect,
    schema: SchemaRef,
}

impl CsvEncoder {
    /// Lines with the columns of `schema`, in their order.
    pub fn new(dialect: CsvDialect, schema: &SchemaRef) -> CsvEncoder {
        CsvEncoder { dialect, schema: SchemaRef::clone(schema) }
    }

    /// Whether rows of a schema are lines.
    ///
    /// # Errors
    /// The column whose type is not one value, and why.
    pub fn check(schema: &Schema) -> Result<(), (String, String)> {
        for field in schema.fields() {
            let why = match field.data_type() {
                DataType::Struct(_) | DataType::List(_) | DataType::Map(..) => "a field of CSV is one value".to_string(),
                of => match View::new(arrow::array::new_empty_array(of).as_ref()) {
                    Ok(_) => continue,
                    Err(why) => why,
                },
            };
            return Err((field.name().clone(), why));
        }
        Ok(())
    }
}

impl Encoder for CsvEncoder {
    fn batch<'a>(&'a self, rows: &'a RecordBatch) -> Result<Box<dyn Encoded + 'a>, String> {
        let names = self.schema.fields().iter().map(|field| field.name().as_str());
        let columns = view::columns(rows, &self.schema)?.into_iter().zip(names).collect();
        Ok(Box::new(CsvRows { dialect: &self.dialect, columns, rows: rows.num_rows() }))
    }
}

/// The rows of one batch, ready to be written.
struct CsvRows<'a> {
    dialect: &'a CsvDialect,
    columns: Vec<(View<'a>, &'a str)>,
    rows: usize,
}

impl Encoded for CsvRows<'_> {
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<bool, String> {
        if row >= self.rows {
            return Err(format!("row {row} of {}", self.rows));
        }
        let begin = out.len();
        for (number, (column, name)) in self.columns.iter().enumerate() {
            if number > 0 {
                out.push(self.dialect.delimiter);
            }
            if let Err(fail) = self.dialect.write(column, row, out) {
                out.truncate(begin);
                return Err(fail.in_field(name).into_text());
            }
        }
        Ok(true)
    }
}

impl CsvDialect {
    fn write(&self, column: &View<'_>, row: usize, out: &mut Vec<u8>) -> Result<(), Fail> {
        if column.is_null(row) {
            out.extend_from_slice(&self.null);
            return Ok(());
        }
        let start = out.len();
        match &column.values {
            Values::Text(texts) => {
                self.text(texts.get(row).as_bytes(), out);
                return Ok(());
            }
            Values::Bool(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
            Values::I8(v) => write_number(at(v, row), out),
            Values::I16(v) => write_number(at(v, row), out),
            Values::I32(v) => write_number(at(v, row), out),
            Values::I64(v) => write_number(at(v, row), out),
            Values::U8(v) => write_number(at(v, row), out),
            Values::U16(v) => write_number(at(v, row), out),
            Values::U32(v) => write_number(at(v, row), out),
            Values::U64(v) => write_number(at(v, row), out),
            Values::F32(v) if at(v, row).is_finite() => write_number(at(v, row), out),
            Values::F64(v) if at(v, row).is_finite() => write_number(at(v, row), out),
            Values::F32(_) | Values::F64(_) => return Err(Fail::new("NaN and infinities have no form in CSV")),
            Values::Decimal(v, scale) => write_decimal(at(v, row), *scale, out),
            Values::Date(v) => within_years(calendar::write_date(at(v, row), out))?,
            Values::Time32(v, unit) => within_years(calendar::write_time(at(v, row).into(), *unit, out))?,
            Values::Time64(v, unit) => within_years(calendar::write_time(at(v, row), *unit, out))?,
            Values::Timestamp(v, unit, zoned) => within_years(calendar::write_timestamp(at(v, row), *unit, *zoned, out))?,
            Values::Bytes(blobs) => write_base64(blobs.get(row), out)?,
            Values::Null | Values::Struct(_) | Values::List(..) | Values::Map(..) => {
                return Err(Fail::new("a field of CSV is one value"));
            }
        }
        // Times may have the delimiter, but no value here has a quote.
        if self.is_ambiguous(out.get(start..).unwrap_or_default()) {
            out.insert(start, self.quote);
            out.push(self.quote);
        }
        Ok(())
    }

    /// Without quotes it would be read as something else.
    fn is_ambiguous(&self, field: &[u8]) -> bool {
        field == self.null || field.starts_with(BYTE_ORDER_MARK) || field.iter().any(|byte| self.is_special(*byte))
    }

    fn text(&self, text: &[u8], out: &mut Vec<u8>) {
        if !self.is_ambiguous(text) {
            out.extend_from_slice(text);
            return;
        }
        out.push(self.quote);
        for (number, part) in text.split(|byte| *byte == self.quote).enumerate() {
            if number > 0 {
                out.extend_from_slice(&[self.quote, self.quote]);
            }
            out.extend_from_slice(part);
        }
        out.push(self.quote);
    }
}

fn within_years(written: bool) -> Result<(), Fail> {
    if written { Ok(()) } else { Err(Fail::new("date or time out of range")) }
}
