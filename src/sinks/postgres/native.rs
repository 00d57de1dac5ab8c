//! Types of PostgreSQL columns: which columns of rows go into which, and the type for a column of rows.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use operator_core::type_name;

/// A type as PostgreSQL names it, with what limits its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Native {
    Bool,
    /// Bytes: 2, 4 or 8.
    Int(u8),
    /// Bytes: 4 or 8.
    Float(u8),
    /// Precision and scale, where they are limited.
    Numeric(Option<(u32, i32)>),
    /// The most characters, where they are limited.
    Text(Option<usize>),
    Bytea,
    Date,
    /// The most digits after the second. With and without a zone are alike: an instant in UTC.
    Timestamp(u32),
    Uuid,
    Json,
    Jsonb,
    Array(Box<Native>),
}

impl Native {
    /// Reads a type as PostgreSQL or a CREATE TABLE statement writes it. `is_enum`: an enumeration, whose values are texts.
    ///
    /// # Errors
    /// A type that is not written to.
    pub fn parse(text: &str, is_enum: bool) -> Result<Native, String> {
        let lower = text.trim().to_ascii_lowercase();
        if let Some(item) = lower.strip_suffix("[]") {
            return Ok(Native::Array(Box::new(Native::parse(item, is_enum)?)));
        }
        if is_enum {
            return Ok(Native::Text(None));
        }
        let (name, arguments, rest) = match (lower.find('('), lower.find(')')) {
            (Some(open), Some(close)) if open < close => {
                (lower.get(..open).unwrap_or(""), lower.get(open + 1..close).unwrap_or(""), lower.get(close + 1..).unwrap_or(""))
            }
            _ => (lower.as_str(), "", ""),
        };
        let numbers: Vec<i64> = arguments.split(',').filter_map(|number| number.trim().parse().ok()).collect();
        let first = numbers.first().and_then(|n| usize::try_from(*n).ok());
        let digits = first.and_then(|n| u32::try_from(n).ok()).unwrap_or(6).min(6);
        Ok(match format!("{} {}", name.trim(), rest.trim()).trim() {
            "boolean" | "bool" => Native::Bool,
            "smallint" | "int2" | "smallserial" => Native::Int(2),
            "integer" | "int" | "int4" | "serial" => Native::Int(4),
            "bigint" | "int8" | "bigserial" => Native::Int(8),
            "real" | "float4" => Native::Float(4),
            "double precision" | "float8" | "float" | "double" => Native::Float(8),
            "numeric" | "decimal" | "dec" => {
                let number = |at: usize| numbers.get(at).copied();
                let precision = number(0).and_then(|n| u32::try_from(n).ok());
                Native::Numeric(precision.map(|precision| (precision, number(1).and_then(|n| i32::try_from(n).ok()).unwrap_or(0))))
            }
            "text" | "citext" | "name" => Native::Text(None),
            "character varying" | "varchar" => Native::Text(first),
            "character" | "char" => Native::Text(Some(first.unwrap_or(1))),
            "bpchar" => Native::Text(first),
            "bytea" => Native::Bytea,
            "date" => Native::Date,
            "timestamp with time zone" | "timestamptz" | "timestamp without time zone" | "timestamp" => Native::Timestamp(digits),
            "uuid" => Native::Uuid,
            "json" => Native::Json,
            "jsonb" => Native::Jsonb,
            _ => return Err(format!("the type `{text}` can't be written")),
        })
    }
}

/// The type that holds every value of a column.
///
/// # Errors
/// PostgreSQL has no such type, and why.
pub(super) fn column_type(data_type: &DataType) -> Result<String, String> {
    use DataType::*;
    Ok(match data_type {
        Boolean => "boolean".to_owned(),
        Int8 | Int16 | UInt8 => "smallint".to_owned(),
        Int32 | UInt16 => "integer".to_owned(),
        Int64 | UInt32 => "bigint".to_owned(),
        UInt64 => "numeric(20,0)".to_owned(),
        Float16 | Float32 => "real".to_owned(),
        Float64 => "double precision".to_owned(),
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) => format!("numeric({p},{s})"),
        Utf8 | LargeUtf8 | Utf8View => "text".to_owned(),
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => "bytea".to_owned(),
        Date32 | Date64 => "date".to_owned(),
        Timestamp(..) => "timestamp with time zone".to_owned(),
        Struct(_) | Map(..) => "jsonb".to_owned(),
        List(item) | LargeList(item) | FixedSizeList(item, _) => match item.data_type() {
            Struct(_) | Map(..) | List(_) | LargeList(_) | FixedSizeList(..) => "jsonb".to_owned(),
            scalar => format!("{}[]", column_type(scalar)?),
        },
        Dictionary(_, value) => column_type(value)?,
        other => return Err(format!("PostgreSQL has no type for {}", type_name(other))),
    })
}

/// Whether values of a type can go into a column at all. Which of them do is judged one by one ([`super::encode`]).
pub(super) fn takes(data_type: &DataType, native: &Native) -> bool {
    use DataType::*;
    match (data_type, native) {
        (Dictionary(_, value), native) => takes(value, native),
        (Boolean, Native::Bool) => true,
        (Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64, Native::Int(_) | Native::Numeric(_)) => true,
        (Float16 | Float32, Native::Float(_)) | (Float64, Native::Float(_)) => true,
        (Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..), Native::Numeric(_)) => true,
        (Utf8 | LargeUtf8 | Utf8View, Native::Text(_) | Native::Uuid | Native::Json | Native::Jsonb) => true,
        (Binary | LargeBinary | BinaryView | FixedSizeBinary(_), Native::Bytea) | (FixedSizeBinary(16), Native::Uuid) => true,
        (Date32 | Date64, Native::Date) | (Timestamp(..), Native::Timestamp(_)) => true,
        (Struct(_) | Map(..) | List(_) | LargeList(_) | FixedSizeList(..), Native::Json | Native::Jsonb) => true,
        (List(item) | LargeList(item) | FixedSizeList(item, _), Native::Array(native)) => {
            !matches!(**native, Native::Array(_)) && takes(item.data_type(), native)
        }
        _ => false,
    }
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub name: String,
    /// Its type as PostgreSQL writes it.
    pub text: String,
    pub is_enum: bool,
    /// It takes no NULL.
    pub required: bool,
    /// What is there if nothing is written.
    pub has_default: bool,
    /// It is computed, or an identity that takes no values.
    pub generated: bool,
    /// The number of the type of an array's items, as the server has it; 0: not known.
    pub item: u32,
}

impl Column {
    pub fn native(&self) -> Result<Native, String> {
        Native::parse(&self.text, self.is_enum)
    }
}

/// The columns of a table that is made for rows.
pub(super) fn columns_for<'a>(fields: impl Iterator<Item = &'a Arc<Field>>) -> Vec<Column> {
    let column = |field: &Arc<Field>| {
        let text = column_type(field.data_type()).ok()?;
        let (name, required) = (field.name().clone(), !field.is_nullable());
        Some(Column { name, text, is_enum: false, required, has_default: false, generated: false, item: 0 })
    };
    fields.filter_map(column).collect()
}

/// What stands between rows of these fields and a table of these columns.
pub(super) fn misfits<'a>(fields: impl Iterator<Item = &'a Arc<Field>> + Clone, columns: &[Column]) -> Vec<String> {
    let mut found = Vec::new();
    for field in fields.clone() {
        let (name, right) = (field.name(), column_type(field.data_type()).unwrap_or_else(|why| format!("<{why}>")));
        let Some(column) = columns.iter().find(|column| column.name == *name) else {
            found.push(format!("column `{name}` is missing: ALTER TABLE .. ADD COLUMN {} {right}", super::sql::identifier(name)));
            continue;
        };
        if column.generated {
            found.push(format!("column `{name}` is generated and can't be written"));
            continue;
        }
        match column.native() {
            Err(why) => found.push(format!("column `{name}`: {why}; use `{right}`")),
            Ok(native) if takes(field.data_type(), &native) => {}
            Ok(_) => {
                let shown = type_name(field.data_type());
                found.push(format!("column `{name}`: its type is `{}`, which takes no {shown}; use `{right}`", column.text));
            }
        }
    }
    for column in columns.iter().filter(|column| column.required && !column.has_default && !column.generated) {
        if fields.clone().all(|field| *field.name() != column.name) {
            found.push(format!("column `{}` is NOT NULL without a default, and the rows don't have it", column.name));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_as_the_server_and_as_files_write_them() {
        for (text, native) in [
            ("integer", Native::Int(4)),
            ("BIGINT", Native::Int(8)),
            ("numeric(12,2)", Native::Numeric(Some((12, 2)))),
            ("NUMERIC(12, 2)", Native::Numeric(Some((12, 2)))),
            ("numeric", Native::Numeric(None)),
            ("numeric(5)", Native::Numeric(Some((5, 0)))),
            ("character varying(20)", Native::Text(Some(20))),
            ("character(3)", Native::Text(Some(3))),
            ("char", Native::Text(Some(1))),
            ("bpchar", Native::Text(None)),
            ("timestamp(3) with time zone", Native::Timestamp(3)),
            ("timestamp without time zone", Native::Timestamp(6)),
            ("TIMESTAMPTZ", Native::Timestamp(6)),
            ("double precision", Native::Float(8)),
            ("text[]", Native::Array(Box::new(Native::Text(None)))),
            ("jsonb", Native::Jsonb),
        ] {
            assert_eq!(Native::parse(text, false), Ok(native), "{text}");
        }
        assert_eq!(Native::parse("public.mood", true), Ok(Native::Text(None)));
        assert!(Native::parse("point", false).unwrap_err().contains("`point`"));
    }

    #[test]
    fn the_type_for_a_column_takes_it() {
        let item = Arc::new(Field::new("item", DataType::Int64, true));
        for data_type in [
            DataType::Boolean,
            DataType::UInt64,
            DataType::Int8,
            DataType::Float32,
            DataType::Utf8,
            DataType::Binary,
            DataType::Date32,
            DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, Some("UTC".into())),
            DataType::Decimal128(12, 2),
            DataType::List(item.clone()),
            DataType::Struct(vec![item].into()),
        ] {
            let native = Native::parse(&column_type(&data_type).unwrap(), false).unwrap();
            assert!(takes(&data_type, &native), "{data_type} into {native:?}");
        }
        assert!(column_type(&DataType::Duration(arrow::datatypes::TimeUnit::Second)).is_err());
    }
}
