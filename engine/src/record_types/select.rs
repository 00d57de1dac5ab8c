//! Which type a record has.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use headwater_formats::{Decoder, JsonDecoder, RowBuilder, avro_record_name};
use operator_core::Path;

use super::{By, Types};
use crate::broker::RecordSet;
use crate::schemas::{self, SchemaSource, Unread};

/// Finds the type of a record.
pub(super) enum Select {
    Field {
        decoder: JsonDecoder,
        rows: RowBuilder,
    },
    Header(Vec<u8>),
    /// The type of each known schema, and the last one: most records are written with the same schema.
    RecordName {
        by_id: HashMap<u32, Option<usize>>,
        last: Option<(u32, Option<usize>)>,
    },
}

impl Select {
    pub fn new(types: &Types) -> Result<Select, String> {
        Ok(match &types.by {
            By::Field(path) => {
                let schema = nested(path);
                Select::Field { decoder: JsonDecoder::new(&schema), rows: RowBuilder::new(&schema, 1)? }
            }
            By::Header(name) => Select::Header(name.clone().into_bytes()),
            By::RecordName => Select::RecordName { by_id: HashMap::new(), last: None },
        })
    }

    /// The place of the record's type among `types`; `None`: it is another one.
    ///
    /// # Errors
    /// It has no type, or its schema is not known yet.
    pub fn of(
        &mut self,
        types: &Types,
        (records, index): (&dyn RecordSet, usize),
        value: &[u8],
        schemas: &dyn SchemaSource,
    ) -> Result<Option<usize>, Unread> {
        let named = |is: &[u8]| types.types.iter().position(|of| of.is.as_bytes() == is);
        match self {
            Select::Field { decoder, rows } => {
                rows.truncate(0);
                Decoder::decode(decoder, value, rows).map_err(|e| Unread::Bad(e.to_string()))?;
                rows.text(0).map(named).ok_or_else(|| Unread::Bad(format!("it has no type: {} is missing or null", types.described())))
            }
            Select::Header(name) => {
                let mut found = None;
                let mut is_there = false;
                records.headers(index, &mut |header, value| {
                    if header == name.as_slice() {
                        is_there = true;
                        found = value.and_then(named);
                    }
                });
                if is_there { Ok(found) } else { Err(Unread::Bad(format!("it has no type: {} is missing", types.described()))) }
            }
            Select::RecordName { by_id, last } => {
                let [0, a, b, c, d, ..] = value else { return Err(Unread::Bad("it names no registered schema".into())) };
                let id = u32::from_be_bytes([*a, *b, *c, *d]);
                if let Some((_, of)) = last.filter(|(known, _)| *known == id) {
                    return Ok(of);
                }
                let of = match by_id.get(&id) {
                    Some(of) => *of,
                    None => {
                        let name = avro_record_name(&schemas::known(id, schemas)?).map_err(|e| Unread::Bad(format!("schema {id}: {e}")))?;
                        let of = types.types.iter().position(|of| is_named(&of.is, &name));
                        by_id.insert(id, of);
                        of
                    }
                };
                *last = Some((id, of));
                Ok(of)
            }
        }
    }
}

/// A name without a namespace stands for any.
pub fn is_named(is: &str, full: &str) -> bool {
    is == full || !is.contains('.') && full.rsplit('.').next() == Some(is)
}

/// The columns of a value of which only the text at `path` is wanted.
fn nested(path: &Path) -> SchemaRef {
    let names: Vec<&str> = path.names().collect();
    let mut of = DataType::Utf8;
    let mut fields: Option<Field> = None;
    for name in names.into_iter().rev() {
        if let Some(inner) = fields.take() {
            of = DataType::Struct(Fields::from(vec![inner]));
        }
        fields = Some(Field::new(name, of.clone(), true));
    }
    Arc::new(Schema::new(fields.into_iter().collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_namespace_stand_for_any() {
        assert!(is_named("OrderPlaced", "shop.OrderPlaced") && is_named("shop.OrderPlaced", "shop.OrderPlaced"));
        assert!(is_named("OrderPlaced", "OrderPlaced") && !is_named("other.OrderPlaced", "shop.OrderPlaced"));
        assert!(!is_named("Placed", "shop.OrderPlaced"));
    }

    #[test]
    fn the_type_is_at_its_path() {
        let schema = nested(&Path::column("metadata").child("type"));
        let mut rows = RowBuilder::new(&schema, 1).unwrap();
        let mut decoder = JsonDecoder::new(&schema);
        for (value, expected) in [
            (r#"{"a":[1],"metadata":{"x":{},"type":"placed"}}"#, Some(&b"placed"[..])),
            (r#"{"metadata":{"type":null}}"#, None),
            (r#"{"metadata":null}"#, None),
            ("{}", None),
            (r#"{"metadata":{"type":""}}"#, Some(b"")),
        ] {
            rows.truncate(0);
            decoder.decode(value.as_bytes(), &mut rows).unwrap();
            assert_eq!(rows.text(0), expected, "{value}");
        }
        assert!(decoder.decode(br#"{"metadata":{"type":7}}"#, &mut rows).is_err());
    }
}
