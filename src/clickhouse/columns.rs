//! Columns: which ClickHouse type holds an Arrow type, and which would lose something.

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use headwater_engine::delivery::position_fields;
use operator_core::type_name;

use super::connection::{Table, identifier};
use super::native::Native;

/// The ClickHouse type for a column, lossless.
///
/// # Errors
/// The Arrow type has none, and why.
pub fn column_type(field: &Field) -> Result<String, String> {
    typed(field.data_type(), field.is_nullable())
}

fn typed(data_type: &DataType, nullable: bool) -> Result<String, String> {
    use DataType::{Dictionary, FixedSizeList, LargeList, List, Map, Struct};
    let scalar = match data_type {
        // Containers cannot be Nullable in ClickHouse: a null list is empty there.
        List(item) | LargeList(item) | FixedSizeList(item, _) => return Ok(format!("Array({})", column_type(item)?)),
        Struct(fields) => {
            let member = |field: &std::sync::Arc<Field>| Ok(format!("{} {}", identifier(field.name()), column_type(field)?));
            return Ok(format!("Tuple({})", fields.iter().map(member).collect::<Result<Vec<_>, String>>()?.join(", ")));
        }
        Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else { return Err("a map without entries".to_owned()) };
            let (Some(key), Some(value)) = (pair.first(), pair.get(1)) else { return Err("a map without entries".to_owned()) };
            return Ok(format!("Map({}, {})", typed(key.data_type(), false)?, column_type(value)?));
        }
        Dictionary(_, value) => {
            let inner = typed(value, nullable)?;
            return Ok(if inner.contains("String") { format!("LowCardinality({inner})") } else { inner });
        }
        other => scalar(other)?,
    };
    Ok(if nullable { format!("Nullable({scalar})") } else { scalar })
}

fn scalar(data_type: &DataType) -> Result<String, String> {
    use DataType::*;
    Ok(match data_type {
        Boolean => "Bool".to_owned(),
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float32 | Float64 => format!("{data_type}"),
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => "String".to_owned(),
        FixedSizeBinary(length) => format!("FixedString({length})"),
        Date32 | Date64 => "Date32".to_owned(),
        Timestamp(unit, zone) => format!("DateTime64({}, '{}')", digits(*unit), zone_of(zone.as_deref())),
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) if *s >= 0 => format!("Decimal({p}, {s})"),
        other => return Err(format!("ClickHouse has no type for {}", type_name(other))),
    })
}

fn digits(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

/// Zone names are letters, digits and a few signs; anything else is shown as UTC, which changes only how it is shown.
fn zone_of(zone: Option<&str>) -> &str {
    let fine = |zone: &&str| {
        !zone.is_empty() && zone.chars().all(|c| c.is_ascii_alphanumeric() || "/_+-".contains(c)) && !zone.starts_with(['+', '-'])
    };
    zone.filter(fine).unwrap_or("UTC")
}

/// Whether a ClickHouse column takes every value of an Arrow column unchanged.
///
/// # Errors
/// What is wrong, and a type that would be right.
pub fn compatible(field: &Field, native: &str) -> Result<(), String> {
    let right = column_type(field)?;
    let found = Native::parse(native).map_err(|why| format!("its type `{native}` cannot be read: {why}"))?;
    match holds(field.data_type(), field.is_nullable(), &found) {
        Ok(()) => Ok(()),
        Err(why) => Err(format!("its type is `{native}`, {why}; `{right}` would be right")),
    }
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    /// Its type, as ClickHouse writes it.
    pub native: String,
    /// `DEFAULT`, `MATERIALIZED` or `ALIAS`, and other words that say nothing of inserts.
    pub kind: String,
}

/// What stands between rows of `schema`, with their positions, and a table of these columns.
pub fn misfits(table: &Table, schema: &Schema, columns: &[Column]) -> Vec<String> {
    let positions = position_fields();
    let misfit = |field: &Field| {
        let name = field.name();
        let Some(column) = columns.iter().find(|column| column.name == *name) else {
            let native = column_type(field).unwrap_or_else(|why| format!("<{why}>"));
            return Some(format!("column `{name}` is missing: ALTER TABLE {} ADD COLUMN {} {native}", table.quoted(), identifier(name)));
        };
        if matches!(column.kind.as_str(), "MATERIALIZED" | "ALIAS") {
            return Some(format!("column `{name}` is {} and cannot be inserted into", column.kind));
        }
        compatible(field, &column.native).err().map(|why| format!("column `{name}`: {why}"))
    };
    schema.fields().iter().map(AsRef::as_ref).chain(&positions).filter_map(misfit).collect()
}

fn holds(data_type: &DataType, nullable: bool, native: &Native) -> Result<(), String> {
    use DataType::{Dictionary, FixedSizeList, LargeList, List, Map, Struct};
    let (bare, takes_null) = native.bare();
    let is = |name: &str| bare.name == name;
    match data_type {
        Dictionary(_, value) => return holds(value, nullable, native),
        List(item) | LargeList(item) | FixedSizeList(item, _) => {
            let inner = bare.inner().next().filter(|_| is("Array")).ok_or("the column is a list")?.1;
            return holds(item.data_type(), item.is_nullable(), inner).map_err(|why| format!("and of its items {why}"));
        }
        Struct(fields) => {
            let members: Vec<_> = bare.inner().collect();
            if !is("Tuple") || members.len() != fields.len() {
                return Err(format!("the column has {} members", fields.len()));
            }
            for (field, (name, member)) in fields.iter().zip(members) {
                if name.is_some_and(|name| name != field.name()) {
                    return Err(format!("where the member `{}` was expected", field.name()));
                }
                holds(field.data_type(), field.is_nullable(), member).map_err(|why| format!("and of `{}` {why}", field.name()))?;
            }
            return Ok(());
        }
        Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else { return Err("the column is a map".to_owned()) };
            let inner: Vec<_> = bare.inner().collect();
            if !is("Map") || inner.len() != 2 || pair.len() != 2 {
                return Err("the column is a map".to_owned());
            }
            let parts = pair.iter().zip(inner).enumerate();
            return parts
                .into_iter()
                .try_for_each(|(at, (field, (_, native)))| holds(field.data_type(), at == 1 && field.is_nullable(), native));
        }
        _ => {}
    }
    if nullable && !takes_null {
        return Err("which takes no NULL, and the column may be null".to_owned());
    }
    if scalar_holds(data_type, bare) { Ok(()) } else { Err(format!("which does not hold every value of {}", type_name(data_type))) }
}

fn scalar_holds(data_type: &DataType, native: &Native) -> bool {
    use DataType::*;
    let name = native.name.as_str();
    let integer =
        |signed: bool, bits: u32| match name.strip_prefix("UInt").map(|b| (false, b)).or(name.strip_prefix("Int").map(|b| (true, b))) {
            Some((to_signed, to_bits)) => to_bits.parse::<u32>().is_ok_and(|to| match (signed, to_signed) {
                (true, false) => false,
                (false, true) => to > bits,
                _ => to >= bits,
            }),
            None => false,
        };
    match data_type {
        Boolean => matches!(name, "Bool" | "UInt8"),
        Int8 => integer(true, 8),
        Int16 => integer(true, 16),
        Int32 => integer(true, 32),
        Int64 => integer(true, 64),
        UInt8 => integer(false, 8),
        UInt16 => integer(false, 16),
        UInt32 => integer(false, 32),
        UInt64 => integer(false, 64),
        Float32 => matches!(name, "Float32" | "Float64"),
        Float64 => name == "Float64",
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => name == "String",
        FixedSizeBinary(length) => name == "String" || (name == "FixedString" && native.number(0) == Some(i64::from(*length))),
        Date32 | Date64 => name == "Date32",
        Timestamp(unit, _) => name == "DateTime64" && native.number(0).is_some_and(|p| p >= digits(*unit)),
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) => {
            let (p, s) = (i64::from(*p), i64::from(*s));
            let scale = native.number(1).unwrap_or(0);
            name == "Decimal" && scale >= s && native.number(0).is_some_and(|precision| precision - scale >= p - s)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn field(data_type: DataType, nullable: bool) -> Field {
        Field::new("c", data_type, nullable)
    }

    fn samples() -> Vec<(DataType, &'static str)> {
        let item = |data_type| Arc::new(Field::new("item", data_type, true));
        let members = vec![Field::new("sku", DataType::Utf8, false), Field::new("n", DataType::Int32, true)];
        vec![
            (DataType::Boolean, "Bool"),
            (DataType::Int64, "Int64"),
            (DataType::UInt16, "UInt16"),
            (DataType::Float64, "Float64"),
            (DataType::Utf8, "String"),
            (DataType::Binary, "String"),
            (DataType::Date32, "Date32"),
            (DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), "DateTime64(3, 'UTC')"),
            (DataType::Timestamp(TimeUnit::Nanosecond, None), "DateTime64(9, 'UTC')"),
            (DataType::Decimal128(12, 2), "Decimal(12, 2)"),
            (DataType::FixedSizeBinary(16), "FixedString(16)"),
            (DataType::List(item(DataType::Int64)), "Array(Nullable(Int64))"),
            (DataType::Struct(members.into()), "Tuple(`sku` String, `n` Nullable(Int32))"),
            (DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), "LowCardinality(String)"),
        ]
    }

    #[test]
    fn every_type_has_a_counterpart_that_holds_it() {
        for (data_type, native) in samples() {
            assert_eq!(column_type(&field(data_type.clone(), false)).unwrap(), native);
            for nullable in [false, true] {
                let field = field(data_type.clone(), nullable);
                compatible(&field, &column_type(&field).unwrap()).unwrap();
            }
        }
        assert!(column_type(&field(DataType::Null, true)).is_err());
    }

    #[test]
    fn wider_types_hold_narrower_ones() {
        let fits = |data_type: DataType, native: &str| compatible(&field(data_type, false), native);
        for (data_type, native) in [
            (DataType::Int32, "Int64"),
            (DataType::UInt32, "Int64"),
            (DataType::Float32, "Float64"),
            (DataType::Utf8, "LowCardinality(Nullable(String))"),
            (DataType::Decimal128(12, 2), "Nullable(Decimal(18, 4))"),
            (DataType::Timestamp(TimeUnit::Millisecond, None), "DateTime64(6)"),
        ] {
            fits(data_type, native).unwrap();
        }
    }

    #[test]
    fn what_would_be_lost_is_said_with_the_right_type() {
        let cases = [
            (DataType::Int64, false, "Int32", "`Int64` would be right"),
            (DataType::Int64, false, "UInt64", "does not hold every value"),
            (DataType::UInt64, false, "Int64", "`UInt64` would be right"),
            (DataType::Float64, false, "Float32", "does not hold"),
            (DataType::Utf8, true, "String", "`Nullable(String)` would be right"),
            (DataType::Utf8, false, "FixedString(3)", "`String` would be right"),
            (DataType::Decimal128(12, 4), false, "Decimal(12, 2)", "`Decimal(12, 4)`"),
            (DataType::Decimal128(18, 2), false, "Decimal(18, 4)", "`Decimal(18, 2)`"),
            (DataType::Timestamp(TimeUnit::Millisecond, None), false, "DateTime", "`DateTime64(3, 'UTC')`"),
            (DataType::List(Arc::new(Field::new("item", DataType::Int64, true))), false, "Array(Int64)", "of its items"),
            (DataType::Struct(vec![Field::new("a", DataType::Int8, false)].into()), false, "Tuple(b Int8)", "`a` was expected"),
        ];
        for (data_type, nullable, native, expected) in cases {
            let why = compatible(&field(data_type, nullable), native).unwrap_err();
            assert!(why.contains(expected), "{native}: {why}");
        }
    }
}
