//! Type names for schemas that are declared in a pipeline's YAML.

use arrow::datatypes::{DataType, TimeUnit};

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
pub fn parse_type(name: &str) -> Result<DataType, String> {
    Ok(match name.trim() {
        "string" | "uuid" => DataType::Utf8,
        "bool" => DataType::Boolean,
        "int" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "timestamp" => timestamp_millis(),
        "date" => DataType::Date32,
        "bytes" => DataType::Binary,
        other => return decimal(other),
    })
}

/// The type of an instant throughout the product.
pub(crate) fn timestamp_millis() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
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
        assert_eq!(parse_type("long"), Ok(DataType::Int64));
        assert_eq!(parse_type(" decimal( 12 , 2 ) "), Ok(DataType::Decimal128(12, 2)));
        assert_eq!(parse_type("timestamp"), Ok(DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))));
    }

    #[test]
    fn mistakes_name_what_is_valid() {
        let unknown = parse_type("integer").unwrap_err();
        assert!(unknown.contains("`integer`") && unknown.contains("decimal(precision,scale)") && unknown.contains("uuid"), "{unknown}");
        for wrong in ["decimal", "decimal(0,0)", "decimal(39,2)", "decimal(5,6)", "decimal(5,-1)", "decimal(a,b)", "decimal(5)"] {
            assert!(parse_type(wrong).unwrap_err().contains("such as decimal(12,2)"), "{wrong}");
        }
    }
}
