//! Values without parts: which of the writer's are read as which of the reader's.

use apache_avro::Schema;
use arrow::datatypes::TimeUnit;

use super::decode_plan::Read;
use super::schema::{Layout, is_fixed_uuid, layout, type_name};

/// The promotions of the specification.
pub(super) fn promotes(writer: Layout, reader: Layout) -> bool {
    use Layout::*;
    writer == reader
        || matches!(
            (writer, reader),
            (Int, Long | Float | Double) | (Long, Float | Double) | (Float, Double) | (Bytes, Text) | (Text, Bytes)
        )
}

pub(crate) fn unit_of(schema: &Schema) -> Option<TimeUnit> {
    match schema {
        Schema::TimestampMillis | Schema::LocalTimestampMillis => Some(TimeUnit::Millisecond),
        Schema::TimestampMicros | Schema::LocalTimestampMicros => Some(TimeUnit::Microsecond),
        Schema::TimestampNanos | Schema::LocalTimestampNanos => Some(TimeUnit::Nanosecond),
        _ => None,
    }
}

/// How a value without parts is read.
pub(super) fn scalar(writer: &Schema, reader: &Schema) -> Result<Read, String> {
    let (from, to) = (layout(writer), layout(reader));
    if is_fixed_uuid(reader) {
        return match (from, is_fixed_uuid(writer)) {
            (Layout::Fixed(16), _) => Ok(Read::FixedUuid),
            (Layout::Text, _) => Ok(Read::Text),
            _ => Err(format!("{} cannot be read as uuid", type_name(writer))),
        };
    }
    if let Schema::Decimal(wanted) = reader {
        return match (writer, from) {
            (Schema::Decimal(written), _) if written.scale != wanted.scale => {
                Err(format!("a decimal of scale {} cannot be read with scale {}", written.scale, wanted.scale))
            }
            (_, Layout::Fixed(size)) => Ok(Read::Decimal(Some(size))),
            (_, Layout::Bytes) => Ok(Read::Decimal(None)),
            _ => Err(format!("{} cannot be read as decimal", type_name(writer))),
        };
    }
    if let (Some(from), Some(to)) = (unit_of(writer), unit_of(reader))
        && from != to
    {
        return Ok(Read::Scaled(from, to));
    }
    // Numbers that mean times of different kinds must not be read as if they meant the same.
    let temporal = |schema: &Schema| unit_of(schema).is_some() || matches!(schema, Schema::Date | Schema::TimeMillis | Schema::TimeMicros);
    if temporal(writer) && temporal(reader) && type_name(writer) != type_name(reader) {
        return Err(format!("{} cannot be read as {}", type_name(writer), type_name(reader)));
    }
    // A UUID of 16 bytes written, text read: both are texts to everyone but the encoding.
    if is_fixed_uuid(writer) && to == Layout::Text {
        return Ok(Read::FixedUuid);
    }
    if !promotes(from, to) {
        return Err(format!("{} cannot be read as {}", type_name(writer), type_name(reader)));
    }
    Ok(match from {
        Layout::Null => Read::Null,
        Layout::Bool => Read::Bool,
        Layout::Int => Read::Int,
        Layout::Long => Read::Long,
        Layout::Float => Read::Float,
        Layout::Double => Read::Double,
        Layout::Fixed(size) => Read::Fixed(size),
        Layout::Bytes | Layout::Text if to == Layout::Text => Read::Text,
        Layout::Bytes | Layout::Text => Read::Bytes,
        _ => return Err(format!("{} cannot be read as {}", type_name(writer), type_name(reader))),
    })
}
