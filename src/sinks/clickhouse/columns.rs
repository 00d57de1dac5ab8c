//! Columns: which ClickHouse type holds every value of an Arrow type, and whether a given one can take some.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use headwater_engine::delivery::position_fields;
use operator_core::type_name;

use super::column_types::{takes, unheld_null};
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
        // Containers cannot be Nullable in ClickHouse: a row with a null list does not fit.
        List(item) | LargeList(item) | FixedSizeList(item, _) => return Ok(format!("Array({})", column_type(item)?)),
        Struct(fields) => {
            let member = |field: &Arc<Field>| Ok(format!("{} {}", identifier(field.name()), column_type(field)?));
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

/// Digits after the second.
pub(super) fn digits(unit: TimeUnit) -> i64 {
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

/// Whether values of an Arrow column can fit into a ClickHouse column. Which of them do is judged one by one, see [`super::Fit`].
///
/// # Errors
/// None can: what is wrong, and a type that would be right.
pub fn compatible(field: &Field, native: &str) -> Result<(), String> {
    let right = column_type(field)?;
    let found = Native::parse(native).map_err(|why| format!("can't parse its type `{native}`: {why}"))?;
    takes(field.data_type(), &found).map_err(|why| format!("its type is `{native}`, {why}; use `{right}`"))
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
            return Some(format!("column `{name}` is {} and can't be inserted into", column.kind));
        }
        compatible(field, &column.native).err().map(|why| format!("column `{name}`: {why}"))
    };
    schema.fields().iter().map(AsRef::as_ref).chain(&positions).filter_map(misfit).collect()
}

/// Columns of `schema` that may be NULL where the table's take none. Rows with such a NULL become dead letters.
pub fn unheld_nulls(schema: &Schema, columns: &[Column]) -> Vec<String> {
    let unheld = |field: &Arc<Field>| {
        let column = columns.iter().find(|column| column.name == *field.name())?;
        unheld_null(field, &Native::parse(&column.native).ok()?)
    };
    schema.fields().iter().filter_map(unheld).collect()
}

/// The columns of a table that is made for rows of `schema`, as far as ClickHouse has types for them, with the positions.
pub fn columns_for(schema: &Schema) -> Vec<Column> {
    let column = |field: &Field| {
        let native = column_type(field).ok()?;
        Some(Column { name: field.name().clone(), native, kind: String::new() })
    };
    schema.fields().iter().map(AsRef::as_ref).chain(&position_fields()).filter_map(column).collect()
}

#[cfg(test)]
mod tests {
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
    fn a_type_that_takes_none_of_the_values_is_told_with_the_right_one() {
        let list = |item| DataType::List(Arc::new(Field::new("item", item, true)));
        let cases = [
            (DataType::Utf8, "Int64", "which accepts integer, decimal, not string; use `String`"),
            (DataType::Int64, "String", "use `Int64`"),
            (DataType::Float64, "Decimal(12, 2)", "use `Float64`"),
            (DataType::Timestamp(TimeUnit::Millisecond, None), "Date", "`DateTime64(3, 'UTC')`"),
            (DataType::Utf8, "AggregateFunction(sum, Int64)", "can't be written"),
            (list(DataType::Int64), "Array(String)", "of its items"),
            (DataType::Struct(vec![Field::new("a", DataType::Int8, false)].into()), "Tuple(b Int8)", "`a` was expected"),
            (DataType::Struct(vec![Field::new("a", DataType::Int8, false)].into()), "Map(String, Int8)", ", not "),
        ];
        for (data_type, native, expected) in cases {
            let why = compatible(&field(data_type, false), native).unwrap_err();
            assert!(why.contains(expected), "{native}: {why}");
        }
    }

    /// As files may write them; a server shows one name only.
    #[test]
    fn types_are_known_by_all_their_names() {
        let at = |unit| DataType::Timestamp(unit, Some("UTC".into()));
        let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
        for (data_type, native) in [
            (at(TimeUnit::Second), "TIMESTAMP"),
            (at(TimeUnit::Microsecond), "DATETIME(6)"),
            (at(TimeUnit::Second), "DateTime32('UTC')"),
            (DataType::Date32, "DATE"),
            (DataType::Decimal128(18, 2), "Nullable(Decimal64(2))"),
            (DataType::Decimal128(10, 0), "NUMERIC(10)"),
            (list, "Array(Nullable(BIGINT))"),
            (DataType::UInt64, "LowCardinality(Nullable(BIGINT UNSIGNED))"),
            (DataType::Float64, "DOUBLE PRECISION"),
            (DataType::Float32, "single"),
            (DataType::Utf8, "ENUM('a' = 1)"),
            (DataType::Utf8, "NATIONAL CHARACTER VARYING(10)"),
            (DataType::Utf8, "Nullable(text)"),
            (DataType::Binary, "BINARY(3)"),
            (DataType::Utf8, "INET6"),
            (DataType::Int64, "SimpleAggregateFunction(sum, Int64)"),
            (DataType::Struct(vec![Field::new("a", DataType::Int32, false)].into()), "Tuple(a INTEGER)"),
        ] {
            compatible(&field(data_type, false), native).unwrap_or_else(|why| panic!("{native}: {why}"));
        }
        assert!(compatible(&field(DataType::Decimal128(18, 2), false), "Nullable(UUID)").is_err());
    }

    #[test]
    fn nulls_that_the_table_does_not_take_are_found_at_any_depth() {
        let inner = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        let unheld = |field: Field, native: &str| {
            let column = Column { name: "c".into(), native: native.into(), kind: String::new() };
            unheld_nulls(&Schema::new(vec![field]), &[column]).pop()
        };
        assert_eq!(unheld(field(DataType::Utf8, true), "LowCardinality(Nullable(String))"), None);
        assert_eq!(unheld(field(DataType::Utf8, false), "String"), None);
        assert_eq!(unheld(field(DataType::Utf8, true), "String").unwrap(), "`c` is nullable, but `String` is not");
        assert_eq!(unheld(field(inner.clone(), true), "Array(Nullable(String))").unwrap(), "`c` is nullable, but `Array` is not");
        assert_eq!(unheld(field(inner, false), "Array(String)").unwrap(), "in `c` `item` is nullable, but `String` is not");
    }
}
