//! The types of a stream's events, and the columns that rows of them have.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use operator_core::batch::{system_fields, time_type};
use operator_core::type_name;

use crate::{CORRELATION_ID, DATA, EVENT_ID, EVENT_TYPE, METADATA, SEQUENCE};

/// A type of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventType {
    pub name: String,
    /// The columns of its `data`, at least one.
    pub columns: Fields,
}

/// Two types of events give a column of `data` different types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub column: String,
    /// Places of the types in the list.
    pub types: [usize; 2],
    message: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The events that a port of a step emits.
#[derive(Clone, Debug)]
pub struct Events {
    pub(crate) source: Arc<str>,
    pub(crate) types: Vec<EventType>,
    /// For each type, where its columns are in `data`.
    pub(crate) places: Vec<Vec<usize>>,
    pub(crate) data: Fields,
    pub(crate) metadata: Fields,
    schema: SchemaRef,
}

impl Events {
    /// `source`: the name of the step, which no other step has.
    ///
    /// # Errors
    /// Types disagree about a column.
    pub fn new(source: &str, types: Vec<EventType>) -> Result<Events, Vec<Conflict>> {
        let data = union(&types)?;
        let place = |column: &Arc<Field>| data.find(column.name()).map(|(place, _)| place);
        let places = types.iter().map(|of| of.columns.iter().filter_map(place).collect()).collect();
        let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
        let metadata =
            Fields::from(vec![text(CORRELATION_ID, false), text("causationId", false), Field::new(SEQUENCE, DataType::Int64, true)]);
        let envelope = [
            text(EVENT_ID, false),
            text(EVENT_TYPE, false),
            text("eventVersion", false),
            Field::new("timestamp", time_type(), false),
            text("source", false),
            Field::new(DATA, DataType::Struct(data.clone()), false),
            Field::new(METADATA, DataType::Struct(metadata.clone()), false),
        ];
        let schema = Arc::new(Schema::new(envelope.into_iter().chain(system_fields()).collect::<Vec<_>>()));
        Ok(Events { source: source.into(), types, places, data, metadata, schema })
    }

    /// The columns of its rows: the envelope, then the system columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn types(&self) -> &[EventType] {
        &self.types
    }

    /// The columns of `data`: those of all types, in the order in which they first appear.
    pub fn data(&self) -> &Fields {
        &self.data
    }
}

/// The columns that some of the types have: nullable unless each of them has it and never null.
fn union(types: &[EventType]) -> Result<Fields, Vec<Conflict>> {
    let (mut found, mut conflicts): (Vec<(Field, usize)>, Vec<Conflict>) = Default::default();
    for (at, column) in types.iter().enumerate().flat_map(|(at, of)| of.columns.iter().map(move |column| (at, column))) {
        match found.iter_mut().find(|(known, _)| known.name() == column.name()) {
            None => found.push((column.as_ref().clone(), at)),
            Some((known, _)) if known.data_type() == column.data_type() => known.set_nullable(known.is_nullable() || column.is_nullable()),
            Some((known, first)) => conflicts.push(conflict(types, (*first, at), known, column)),
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    let everywhere = |name: &str| types.iter().all(|of| of.columns.find(name).is_some());
    let nullable = |field: Field| {
        let nullable = field.is_nullable() || !everywhere(field.name());
        field.with_nullable(nullable)
    };
    Ok(found.into_iter().map(|(field, _)| nullable(field)).collect())
}

fn conflict(types: &[EventType], (first, second): (usize, usize), known: &Field, column: &Field) -> Conflict {
    let name = |at: usize| types.get(at).map_or("", |of| of.name.as_str());
    let (ours, theirs) = (type_name(column.data_type()), type_name(known.data_type()));
    let message = format!("`{}` is {ours} in `{}` and {theirs} in `{}`", column.name(), name(second), name(first));
    Conflict { column: column.name().clone(), types: [first, second], message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, columns: &[(&str, DataType, bool)]) -> EventType {
        let columns = columns.iter().map(|(name, data_type, nullable)| Field::new(*name, data_type.clone(), *nullable));
        EventType { name: name.into(), columns: columns.collect() }
    }

    #[test]
    fn data_has_the_columns_of_all_types() {
        let types = vec![
            of("a", &[("sku", DataType::Utf8, false), ("n", DataType::Int64, false)]),
            of("b", &[("sku", DataType::Utf8, false), ("why", DataType::Utf8, false)]),
        ];
        let events = Events::new("s", types).unwrap();
        let columns: Vec<(&str, bool)> = events.data().iter().map(|f| (f.name().as_str(), f.is_nullable())).collect();
        assert_eq!(columns, [("sku", false), ("n", true), ("why", true)]);
        assert_eq!(events.places, [vec![0, 1], vec![0, 2]]);
        assert_eq!((events.schema().fields().len(), events.types().len()), (11, 2));
    }

    #[test]
    fn types_that_disagree_are_reported_with_their_places() {
        let types = vec![
            of("a", &[("n", DataType::Int64, false)]),
            of("b", &[("m", DataType::Utf8, false)]),
            of("c", &[("n", DataType::Utf8, false)]),
        ];
        let found = Events::new("s", types).unwrap_err();
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["`n` is string in `c` and long in `a`"]);
        assert_eq!((found[0].column.as_str(), found[0].types), ("n", [0, 2]));
    }
}
