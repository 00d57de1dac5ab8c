//! Whether the values of rows fit into the columns of a table.
//!
//! ClickHouse converts values on insert, and not every conversion keeps the value: a date in 2200 becomes 2149-06-06 in a `Date`,
//! 300 becomes 44 in a `UInt8`. So every value is checked here before it is sent. A row with a value that does not fit becomes
//! a dead letter. Cases use the same check.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, max, min};
use arrow::datatypes::{DataType, Decimal256Type, Field, Float64Type, Int64Type, Schema, UInt64Type, i256};
use headwater_formats::JsonEncoder;
use operator_core::type_name;
use uuid::Uuid;

use super::column_types::{Kind, rule, takes, takes_null};
use super::columns::{Column, digits};
use super::native::Native;

/// The columns of a table, to fit rows to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fit {
    columns: BTreeMap<String, Native>,
}

impl Fit {
    /// Columns whose types can't be read are left to the server.
    pub fn new(columns: &[Column]) -> Fit {
        let native = |column: &Column| Some((column.name.clone(), Native::parse(&column.native).ok()?));
        Fit { columns: columns.iter().filter_map(native).collect() }
    }

    /// The rows as they are sent: every value fits, and is in a form that ClickHouse reads as that value.
    ///
    /// # Errors
    /// The first column with a value that does not fit, and why. The value itself is not shown.
    pub fn apply(&self, rows: &RecordBatch) -> Result<RecordBatch, String> {
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        for (field, array) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            let Some(native) = self.columns.get(field.name()) else {
                fields.push(field.clone());
                arrays.push(array.clone());
                continue;
            };
            let fitted = fit(array, native).map_err(|why| format!("column `{}`: {why}", field.name()))?;
            fields.push(field_of(field.name(), &fitted, native));
            arrays.push(fitted);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|e| e.to_string())
    }
}

fn field_of(name: &str, array: &ArrayRef, native: &Native) -> Arc<Field> {
    Arc::new(Field::new(name, array.data_type().clone(), takes_null(native)))
}

fn fit(array: &ArrayRef, native: &Native) -> Result<ArrayRef, String> {
    let bare = native.bare().0;
    if let DataType::Dictionary(_, value) = array.data_type() {
        return fit(&to(array, value)?, native);
    }
    // Rows from before the pipeline or the table was changed may have other columns.
    takes(array.data_type(), native).map_err(|why| format!("its type is `{}`, {why}", bare.name))?;
    if !takes_null(native) && array.logical_null_count() > 0 {
        return Err(format!("NULL, which `{}` does not accept", bare.name));
    }
    let kind = Kind::of(array.data_type()).ok_or_else(|| format!("{} can't be written", type_name(array.data_type())))?;
    match kind {
        Kind::List => list(array, bare),
        Kind::Record if bare.name == "Tuple" => record(array, bare),
        Kind::Record => json_of_records(array),
        Kind::Map => map(array, bare),
        _ => scalar(array, kind, bare),
    }
}

fn to(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, String> {
    cast(array, data_type).map_err(|e| e.to_string())
}

fn list(array: &ArrayRef, native: &Native) -> Result<ArrayRef, String> {
    let array = match array.data_type() {
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) => to(array, &DataType::List(item.clone()))?,
        _ => array.clone(),
    };
    let list = array.as_list_opt::<i32>().ok_or("not a list")?;
    let inner = native.inner().next().ok_or("an Array of nothing")?.1;
    let items = fit(&reached(list.values(), list.offsets()), inner).map_err(|why| format!("an item: {why}"))?;
    let offsets = OffsetBuffer::from_lengths(list.offsets().lengths());
    let list = ListArray::try_new(field_of("item", &items, inner), offsets, items, None);
    list.map(|list| Arc::new(list) as ArrayRef).map_err(|e| e.to_string())
}

/// The items that belong to some list: nothing before the first or behind the last.
fn reached(items: &ArrayRef, offsets: &OffsetBuffer<i32>) -> ArrayRef {
    let (first, last) = (offsets.first().copied().unwrap_or(0) as usize, offsets.last().copied().unwrap_or(0) as usize);
    items.slice(first, last - first)
}

fn record(array: &ArrayRef, native: &Native) -> Result<ArrayRef, String> {
    let record = array.as_struct_opt().ok_or("not a record")?;
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for ((field, member), (_, native)) in record.fields().iter().zip(record.columns()).zip(native.inner()) {
        let fitted = fit(member, native).map_err(|why| format!("member `{}`: {why}", field.name()))?;
        fields.push(field_of(field.name(), &fitted, native));
        arrays.push(fitted);
    }
    StructArray::try_new(fields.into(), arrays, None).map(|record| Arc::new(record) as ArrayRef).map_err(|e| e.to_string())
}

fn map(array: &ArrayRef, native: &Native) -> Result<ArrayRef, String> {
    let map = array.as_map_opt().ok_or("not a map")?;
    let inner: Vec<&Native> = native.inner().map(|(_, native)| native).collect();
    let [of_keys, of_values] = inner.as_slice() else { return Err("a Map of neither keys nor values".to_owned()) };
    let keys = fit(&reached(map.keys(), map.offsets()), of_keys).map_err(|why| format!("a key: {why}"))?;
    let values = fit(&reached(map.values(), map.offsets()), of_values).map_err(|why| format!("a value: {why}"))?;
    let fields = vec![field_of("keys", &keys, of_keys), field_of("values", &values, of_values)];
    let entries = StructArray::try_new(fields.clone().into(), vec![keys, values], None).map_err(|e| e.to_string())?;
    let field = Arc::new(Field::new("entries", DataType::Struct(fields.into()), false));
    let map = MapArray::try_new(field, OffsetBuffer::from_lengths(map.offsets().lengths()), entries, None, false);
    map.map(|map| Arc::new(map) as ArrayRef).map_err(|e| e.to_string())
}

fn scalar(array: &ArrayRef, kind: Kind, native: &Native) -> Result<ArrayRef, String> {
    match (native.name.as_str(), kind) {
        ("Bool", _) | ("UInt8", Kind::Bool) | ("String", _) => plain(array),
        ("Float32" | "Float64" | "BFloat16", Kind::Float) => float(array, native),
        ("Float32" | "Float64" | "BFloat16", _) => {
            let bits = match native.name.as_str() {
                "Float64" => 53,
                "Float32" => 24,
                _ => 8,
            };
            exact(array, bits, native).map(|()| array.clone())
        }
        ("Decimal", Kind::Whole) => {
            let places = native.number(0).unwrap_or(0) - native.number(1).unwrap_or(0);
            let most = 10i128.checked_pow(u32::try_from(places).unwrap_or(0)).unwrap_or(i128::MAX) - 1;
            within(array, (-most, most), native).map(|()| array.clone())
        }
        ("Decimal", _) => decimal(array, native),
        ("FixedString", _) => {
            let most = native.number(0).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            let short = bytes(array)?.as_binary::<i32>().iter().flatten().all(|value| value.len() <= most);
            if short { plain(array) } else { Err(format!("more than the {most} bytes of `FixedString({most})`")) }
        }
        ("UUID", Kind::Text) => texts(array, native, |text| matches!(text.len(), 32 | 36).then(|| Uuid::try_parse(text).ok())?),
        ("UUID", _) => sixteen(array, native, |bytes| Uuid::from_bytes(bytes).to_string()),
        ("IPv4", Kind::Text) => texts(array, native, |text| text.parse::<Ipv4Addr>().ok()),
        ("IPv6", Kind::Text) => texts(array, native, |text| text.parse::<IpAddr>().ok()),
        ("IPv6", _) => sixteen(array, native, |bytes| Ipv6Addr::from(bytes).to_string()),
        ("Enum8" | "Enum16" | "Enum", Kind::Text) => {
            let members = members(native);
            texts(array, native, |text| members.iter().any(|(name, _)| name == text).then(|| text.to_owned()))
        }
        ("Enum8" | "Enum16" | "Enum", _) => {
            let members = members(native);
            let numbers = to(array, &DataType::Int64)?;
            within(array, (i64::MIN.into(), i64::MAX.into()), native)?;
            let name = |number: i64| members.iter().find(|(_, n)| *n == number).map(|(name, _)| name.clone()).ok_or_else(|| unfit(native));
            collect(numbers.as_primitive::<Int64Type>().iter().map(|number| number.map(name).transpose()))
        }
        ("Date", _) => days(array, (0, 65_535), native),
        ("Date32", _) => days(array, (-25_567, 120_529), native),
        ("DateTime", Kind::Timestamp) => time(array, 0, (0, u32::MAX.into()), native),
        ("DateTime64", _) => {
            let places = native.number(0).unwrap_or(3);
            let range = if places >= 9 { (-9_223_372_036, 9_223_372_035) } else { (-2_208_988_800, 10_413_791_999) };
            time(array, places, range, native)
        }
        ("DateTime" | "IPv4", _) => {
            within(array, (0, u32::MAX.into()), native)?;
            to(array, &DataType::UInt32)
        }
        ("JSON" | "Object", _) => {
            let object = |text: &str| {
                let whole = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
                (whole && text.trim_start().starts_with('{')).then(|| text.to_owned())
            };
            texts(array, native, object)
        }
        (_, Kind::Whole) => within(array, integers(native)?, native).map(|()| array.clone()),
        (_, Kind::Decimal) => whole_decimal(array, native),
        _ => Err(format!("{} into `{}`", type_name(array.data_type()), native.name)),
    }
}

fn unfit(native: &Native) -> String {
    let takes = rule(native).map_or("", |rule| rule.fits);
    format!("a value that does not fit into `{}` ({takes})", native.name)
}

/// As ClickHouse reads it: without views and the longer offsets, and nothing of fixed length, whose zeros at the end it cuts.
fn plain(array: &ArrayRef) -> Result<ArrayRef, String> {
    match array.data_type() {
        DataType::Utf8View | DataType::LargeUtf8 => to(array, &DataType::Utf8),
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => to(array, &DataType::Binary),
        _ => Ok(array.clone()),
    }
}

fn bytes(array: &ArrayRef) -> Result<ArrayRef, String> {
    to(array, &DataType::Binary)
}

fn collect(values: impl Iterator<Item = Result<Option<String>, String>>) -> Result<ArrayRef, String> {
    Ok(Arc::new(values.collect::<Result<StringArray, String>>()?))
}

/// Texts as `read` understands them.
fn texts<T: ToString>(array: &ArrayRef, native: &Native, read: impl Fn(&str) -> Option<T>) -> Result<ArrayRef, String> {
    let texts = to(array, &DataType::Utf8)?;
    let one = |text: &str| read(text).map(|value| value.to_string()).ok_or_else(|| unfit(native));
    collect(texts.as_string::<i32>().iter().map(|text| text.map(one).transpose()))
}

/// Values of 16 bytes as texts.
fn sixteen(array: &ArrayRef, native: &Native, show: impl Fn([u8; 16]) -> String) -> Result<ArrayRef, String> {
    let bytes = bytes(array)?;
    let one = |bytes: &[u8]| bytes.try_into().map(&show).map_err(|_| unfit(native));
    collect(bytes.as_binary::<i32>().iter().map(|bytes| bytes.map(one).transpose()))
}

/// The smallest and the largest of whole numbers; `None` if there are none.
fn bounds(array: &ArrayRef) -> Result<Option<(i128, i128)>, String> {
    if array.data_type() == &DataType::UInt64 {
        let numbers = array.as_primitive::<UInt64Type>();
        return Ok(min(numbers).zip(max(numbers)).map(|(least, most)| (least.into(), most.into())));
    }
    let numbers = to(array, &DataType::Int64)?;
    let numbers = numbers.as_primitive::<Int64Type>();
    Ok(min(numbers).zip(max(numbers)).map(|(least, most)| (least.into(), most.into())))
}

fn within(array: &ArrayRef, (least, most): (i128, i128), native: &Native) -> Result<(), String> {
    match bounds(array)? {
        Some((low, high)) if low < least || high > most => Err(unfit(native)),
        _ => Ok(()),
    }
}

/// Whole numbers of at most so many binary digits, zeros at the end not counted.
fn exact(array: &ArrayRef, bits: u32, native: &Native) -> Result<(), String> {
    if within(array, (-(1 << bits), 1 << bits), native).is_ok() {
        return Ok(());
    }
    let short = |magnitude: u64| magnitude == 0 || 64 - magnitude.leading_zeros() - magnitude.trailing_zeros() <= bits;
    let all = match array.data_type() {
        DataType::UInt64 => array.as_primitive::<UInt64Type>().iter().flatten().all(short),
        _ => to(array, &DataType::Int64)?.as_primitive::<Int64Type>().iter().flatten().all(|value| short(value.unsigned_abs())),
    };
    if all { Ok(()) } else { Err(unfit(native)) }
}

/// The range of an integer type; for those above 128 bits, as far as 128 bits go.
fn integers(native: &Native) -> Result<(i128, i128), String> {
    let (signed, bits) = match native.name.strip_prefix('U') {
        Some(rest) => (false, rest),
        None => (true, native.name.as_str()),
    };
    let bits: u32 = bits.strip_prefix("Int").and_then(|bits| bits.parse().ok()).ok_or_else(|| format!("`{}` is unknown", native.name))?;
    let most = |bits: u32| if bits >= 127 { i128::MAX } else { (1 << bits) - 1 };
    Ok(if signed { (-most(bits - 1) - 1, most(bits - 1)) } else { (0, most(bits)) })
}

fn float(array: &ArrayRef, native: &Native) -> Result<ArrayRef, String> {
    if native.name == "Float64" || array.data_type() != &DataType::Float64 {
        return if array.data_type() == &DataType::Float16 { to(array, &DataType::Float32) } else { Ok(array.clone()) };
    }
    let fits = |value: f64| !value.is_finite() || (value as f32).is_finite();
    let all = array.as_primitive::<Float64Type>().iter().flatten().all(fits);
    if all { Ok(array.clone()) } else { Err(unfit(native)) }
}

/// Decimals as numbers of 256 bits, and their scale.
fn unscaled(array: &ArrayRef) -> Result<(ArrayRef, u32), String> {
    let scale = match array.data_type() {
        DataType::Decimal32(_, s) | DataType::Decimal64(_, s) | DataType::Decimal128(_, s) | DataType::Decimal256(_, s) => *s,
        other => return Err(format!("{} is not a decimal", type_name(other))),
    };
    let scale = u32::try_from(scale).map_err(|_| "a decimal of negative scale".to_owned())?;
    Ok((to(array, &DataType::Decimal256(76, scale as i8))?, scale))
}

fn power(of_ten: u32) -> i256 {
    i256::from_i128(10).checked_pow(of_ten).unwrap_or(i256::MAX)
}

fn decimal(array: &ArrayRef, native: &Native) -> Result<ArrayRef, String> {
    let number = |at: usize| native.number(at).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let (precision, places) = (number(0), number(1));
    if let DataType::Decimal128(p, s) = array.data_type()
        && i64::from(places) >= i64::from(*s)
        && i64::from(precision) - i64::from(places) >= i64::from(*p) - i64::from(*s)
    {
        return Ok(array.clone()); // Every value fits.
    }
    let (numbers, scale) = unscaled(array)?;
    let lost = power(scale.saturating_sub(places));
    let most = power(precision.saturating_sub(places).saturating_add(scale));
    let fits = |value: i256| value.checked_rem(lost) == Some(i256::ZERO) && value < most && value > -most;
    if numbers.as_primitive::<Decimal256Type>().iter().flatten().all(fits) { Ok(array.clone()) } else { Err(unfit(native)) }
}

/// Decimals into an integer type: nothing after the point, and in its range.
fn whole_decimal(array: &ArrayRef, native: &Native) -> Result<ArrayRef, String> {
    let (least, most) = integers(native)?;
    let (numbers, scale) = unscaled(array)?;
    let one = power(scale);
    let fits = |value: i256| {
        value.checked_rem(one) == Some(i256::ZERO)
            && value.checked_div(one).and_then(i256::to_i128).is_some_and(|value| (least..=most).contains(&value))
    };
    if numbers.as_primitive::<Decimal256Type>().iter().flatten().all(fits) { Ok(array.clone()) } else { Err(unfit(native)) }
}

fn days(array: &ArrayRef, range: (i128, i128), native: &Native) -> Result<ArrayRef, String> {
    let days = to(array, &DataType::Date32)?;
    within(&to(&days, &DataType::Int32)?, range, native)?;
    Ok(days)
}

/// Timestamps with at most `places` digits after the second, between two seconds (both included).
fn time(array: &ArrayRef, places: i64, (first, last): (i128, i128), native: &Native) -> Result<ArrayRef, String> {
    let DataType::Timestamp(unit, _) = array.data_type() else { return Err(unfit(native)) };
    let per_second = 10i64.pow(digits(*unit) as u32);
    let numbers = to(array, &DataType::Int64)?;
    within(&numbers, (first * i128::from(per_second), (last + 1) * i128::from(per_second) - 1), native)?;
    let step = 10i64.checked_pow(u32::try_from(digits(*unit) - places).unwrap_or(0)).unwrap_or(1);
    let whole = step == 1 || numbers.as_primitive::<Int64Type>().iter().flatten().all(|value| value % step == 0);
    if whole { Ok(array.clone()) } else { Err(unfit(native)) }
}

/// Records as JSON objects.
fn json_of_records(array: &ArrayRef) -> Result<ArrayRef, String> {
    let record = array.as_struct_opt().ok_or("not a record")?;
    let schema = Arc::new(Schema::new(record.fields().clone()));
    let rows = RecordBatch::try_new(schema.clone(), record.columns().to_vec()).map_err(|e| e.to_string())?;
    let encoder = JsonEncoder::new(&schema);
    let rows = encoder.batch(&rows)?;
    let one = |row: usize| {
        let mut text = Vec::new();
        rows.write(row, &mut text)?;
        String::from_utf8(text).map(Some).map_err(|e| e.to_string())
    };
    collect((0..record.len()).map(|row| if record.is_null(row) { Ok(None) } else { one(row) }))
}

/// The members of an enumeration with their numbers: one without a number follows the previous one.
fn members(native: &Native) -> Vec<(String, i64)> {
    let mut next = 1;
    let member = |text: &str| {
        let (name, rest) = unquoted(text)?;
        let number = rest.trim_start().strip_prefix('=').and_then(|number| number.trim().parse().ok()).unwrap_or(next);
        next = i64::saturating_add(number, 1);
        Some((name, number))
    };
    native.texts().filter_map(member).collect()
}

/// The text between the quotes at the beginning, and what follows.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix('\'')?;
    let mut name = String::new();
    let mut chars = inside.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next().map_or('\\', |(_, escaped)| meant(escaped))),
            '\'' if chars.next_if(|(_, next)| *next == '\'').is_none() => return Some((name, inside.get(at + 1..)?)),
            _ => name.push(c),
        }
    }
    None
}

/// The character that stands behind a backslash in a literal of ClickHouse.
fn meant(escaped: char) -> char {
    match escaped {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'e' => '\u{1b}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '0' => '\0',
        other => other,
    }
}

#[cfg(test)]
mod tests;
