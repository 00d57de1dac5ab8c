//! Names of column types.

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
