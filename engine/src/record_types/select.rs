//! Which type a record has.

use std::collections::HashMap;

use headwater_formats::{Decoder, RowBuilder};

use super::{By, Types};
use crate::broker::RecordSet;
use crate::format::Format;
use crate::schemas::{self, SchemaSource, Unread};

/// Finds the type of a record.
pub(super) enum Select {
    Field {
        decoder: Box<dyn Decoder>,
        rows: RowBuilder,
    },
    Header(Vec<u8>),
    /// The type of each known schema, and the last one: most records are written with the same schema.
    RecordName {
        format: Format,
        by_id: HashMap<u32, Option<usize>>,
        last: Option<(u32, Option<usize>)>,
    },
}

impl Select {
    pub fn new(format: &Format, types: &Types) -> Result<Select, String> {
        Ok(match &types.by {
            By::Field(path) => {
                let (decoder, columns) = format.text_at(path, &types.layouts())?;
                Select::Field { decoder, rows: RowBuilder::new(&columns, 1)? }
            }
            By::Header(name) => Select::Header(name.clone().into_bytes()),
            By::RecordName => Select::RecordName { format: format.clone(), by_id: HashMap::new(), last: None },
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
                decoder.decode(value, rows).map_err(|e| Unread::Bad(e.to_string()))?;
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
            Select::RecordName { format, by_id, last } => {
                let [0, a, b, c, d, ..] = value else { return Err(Unread::Bad("it names no registered schema".into())) };
                let id = u32::from_be_bytes([*a, *b, *c, *d]);
                if let Some((_, of)) = last.filter(|(known, _)| *known == id) {
                    return Ok(of);
                }
                let of = match by_id.get(&id) {
                    Some(of) => *of,
                    None => {
                        let name =
                            format.record_name(&schemas::known(id, schemas)?).map_err(|e| Unread::Bad(format!("schema {id}: {e}")))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_namespace_stand_for_any() {
        assert!(is_named("OrderPlaced", "shop.OrderPlaced") && is_named("shop.OrderPlaced", "shop.OrderPlaced"));
        assert!(is_named("OrderPlaced", "OrderPlaced") && !is_named("other.OrderPlaced", "shop.OrderPlaced"));
        assert!(!is_named("Placed", "shop.OrderPlaced"));
    }
}
