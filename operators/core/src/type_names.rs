//! Names of column types, as pipeline files write them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};

use crate::batch::time_type;

/// The type in a sentence: what is made of parts is `a record`, `a list`.
pub fn said(data_type: &DataType) -> String {
    match data_type {
        DataType::Struct(_) => "a record".into(),
        DataType::List(_) => "a list".into(),
        DataType::Map(..) => "a map".into(),
        other => name(other),
    }
}

/// The type as pipeline files spell it: `string`, `long`, `decimal(12,2)`, `list<string>`; Arrow's name for any other.
pub fn name(data_type: &DataType) -> String {
    let field = |f: &Arc<Field>| format!("{}{}", name(f.data_type()), if f.is_nullable() { "" } else { " not null" });
    match data_type {
        DataType::Utf8 => "string".into(),
        DataType::Int32 => "int".into(),
        DataType::Int64 => "long".into(),
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Boolean => "bool".into(),
        DataType::Date32 => "date".into(),
        DataType::Binary => "bytes".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::List(item) => format!("list<{}>", field(item)),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields.iter().map(|f| format!("{}: {}", f.name(), field(f))).collect();
            format!("struct<{}>", fields.join(", "))
        }
        other if *other == time_type() => "timestamp".into(),
        other => other.to_string(),
    }
}

/// The Arrow type of a declared type name.
///
/// | name | Arrow type |
/// |---|---|
/// | `string`, `uuid` | Utf8 |
/// | `bool` | Boolean |
/// | `int`, `long` | Int32, Int64 |
/// | `float`, `double` | Float32, Float64 |
/// | `decimal(p,s)` | Decimal128, `p` from 1 to 38, `s` from 0 to `p` |
/// | `timestamp` | Timestamp(Millisecond, "UTC") |
/// | `date` | Date32 |
/// | `bytes` | Binary |
///
/// # Errors
/// An unknown name or wrong decimal; the text lists what is valid.
pub fn parse(name: &str) -> Result<DataType, String> {
    Ok(match name.trim() {
        "string" | "uuid" => DataType::Utf8,
        "bool" => DataType::Boolean,
        "int" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "timestamp" => time_type(),
        "date" => DataType::Date32,
        "bytes" => DataType::Binary,
        other => return decimal(other),
    })
}

fn decimal(name: &str) -> Result<DataType, String> {
    let unknown = || {
        format!(
            "unknown type `{}`; valid types: string, bool, int, long, float, double, decimal(precision,scale), timestamp, date, bytes, uuid",
            name.escape_debug()
        )
    };
    let rest = name.strip_prefix("decimal").ok_or_else(unknown)?.trim();
    let range = || {
        format!(
            "`{}`: write decimal(precision,scale) with precision 1 to 38 and scale 0 to precision, such as decimal(12,2)",
            name.escape_debug()
        )
    };
    let inner = rest.strip_prefix('(').and_then(|r| r.strip_suffix(')')).ok_or_else(range)?;
    let (precision, scale) = inner.split_once(',').ok_or_else(range)?;
    let precision: u8 = precision.trim().parse().map_err(|_| range())?;
    let scale: i8 = scale.trim().parse().map_err(|_| range())?;
    if !(1..=38).contains(&precision) || scale < 0 || i16::from(scale) > i16::from(precision) {
        return Err(range());
    }
    Ok(DataType::Decimal128(precision, scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_types() {
        assert_eq!(parse("long"), Ok(DataType::Int64));
        assert_eq!(parse(" decimal( 12 , 2 ) "), Ok(DataType::Decimal128(12, 2)));
        assert_eq!(parse("timestamp"), Ok(time_type()));
    }

    #[test]
    fn mistakes_name_what_is_valid() {
        let unknown = parse("integer").unwrap_err();
        assert!(unknown.contains("`integer`") && unknown.contains("decimal(precision,scale)") && unknown.contains("uuid"), "{unknown}");
        for wrong in ["decimal", "decimal(0,0)", "decimal(39,2)", "decimal(5,6)", "decimal(5,-1)", "decimal(a,b)", "decimal(5)"] {
            assert!(parse(wrong).unwrap_err().contains("such as decimal(12,2)"), "{wrong}");
        }
    }
}
