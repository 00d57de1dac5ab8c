//! Several record types in one topic: each is a stream of its own, with its own columns.
//!
//! The topic is read and decoded once. Of a record the type is found first ([`select`]), then its value goes to the decoder of that
//! type. A batch has all rows in the order of their offsets: one column, [`RECORDS`], is a union of the types' rows ([`read`]), the
//! others are those of any source. So event time, watermarks and positions are those of the partition, whatever the types of its
//! records. The first step behind the source takes the union apart ([`split`]): a port for each type. From there on rows of different
//! types are rows in different branches, which are merged back in source order where a step reads several of them.

pub mod changes;
mod read;
mod select;
mod split;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UnionArray, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, UnionFields, UnionMode};
use operator_core::Path;

use crate::format::Layout;
use crate::pipeline::{OtherTypes, TypeFrom};

pub use read::{Reading, Took};
pub use select::is_named;
pub use split::split;

/// The column of a source with several types: a union of their rows.
pub const RECORDS: &str = "_records";
/// What the step that takes the union apart is called in `hw explain`.
pub const KIND: &str = "types";
/// The port of records of other types.
pub const OTHER: &str = "other";
/// More types don't fit a union.
pub const MOST: usize = 100;

/// The types of a source.
#[derive(Clone, Debug)]
pub struct Types {
    pub by: By,
    /// In the order of their ports; [`OTHER`] comes last where it is kept.
    pub types: Vec<RecordType>,
    pub other: OtherTypes,
}

/// What says which type a record has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The text at this path of the value.
    Field(Path),
    Header(String),
    /// The name of the schema that it was written with.
    RecordName,
}

/// One type.
#[derive(Clone, Debug)]
pub struct RecordType {
    /// The port.
    pub name: String,
    /// What the record says.
    pub is: String,
    /// What its values look like, and the subject of their schema.
    pub layout: Layout,
    pub subject: String,
}

impl Types {
    /// The columns of each port.
    pub fn ports(&self) -> impl Iterator<Item = (&str, SchemaRef)> {
        let other = (self.other == OtherTypes::Keep).then(|| (OTHER, other_columns()));
        self.types.iter().map(|of| (of.name.as_str(), of.layout.columns.clone())).chain(other)
    }

    /// What values of each type look like.
    pub(crate) fn layouts(&self) -> Vec<&Layout> {
        self.types.iter().map(|of| &of.layout).collect()
    }

    /// The columns of the source's values: the union alone.
    pub fn value(&self) -> SchemaRef {
        let fields = self.ports().enumerate().map(|(id, (name, columns))| {
            let of = Field::new(name, DataType::Struct(columns.fields().clone()), false);
            (id as i8, Arc::new(of))
        });
        let union = DataType::Union(fields.collect::<UnionFields>(), UnionMode::Dense);
        Arc::new(Schema::new(vec![Field::new(RECORDS, union, false)]))
    }

    /// What says the type, for messages and `hw explain`.
    pub fn described(&self) -> String {
        match &self.by {
            By::Field(path) => format!("`{path}`"),
            By::Header(name) => format!("the header `{name}`"),
            By::RecordName => "the name of the record's schema".to_string(),
        }
    }
}

/// Records of other types are kept as they are.
fn other_columns() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("value", DataType::Binary, true)]))
}

/// The values at `path`, in rows of a source: of each row those of its type, null where the type has no such column.
pub fn values(path: &Path, fields: &Fields, columns: &[ArrayRef]) -> Option<ArrayRef> {
    let (Some(field), Some(column)) = (fields.first(), columns.first()) else { return None };
    let union = column.as_any().downcast_ref::<UnionArray>().filter(|_| field.name() == RECORDS);
    // Columns about the record are beside the union.
    let is_beside = fields.iter().any(|field| field.name() == path.first());
    let Some(union) = union.filter(|_| !is_beside) else { return path.values(fields, columns) };
    let DataType::Union(types, _) = field.data_type() else { return None };
    // By type: its values at the path.
    let of_types: Vec<(i8, Option<ArrayRef>)> = types
        .iter()
        .map(|(id, of)| {
            let DataType::Struct(fields) = of.data_type() else { return (id, None) };
            let rows = union.child(id).as_any().downcast_ref::<arrow::array::StructArray>();
            (id, rows.and_then(|rows| path.values(fields, rows.columns())))
        })
        .collect();
    let null = new_null_array(of_types.iter().find_map(|(_, values)| values.as_ref())?.data_type(), 1);
    let mut arrays: Vec<&dyn Array> = vec![null.as_ref()];
    let mut place = vec![0; MOST + 1];
    for (id, values) in &of_types {
        if let (Some(values), Some(place)) = (values, place.get_mut(*id as usize)) {
            *place = arrays.len();
            arrays.push(values.as_ref());
        }
    }
    let indices: Vec<(usize, usize)> = (0..union.len())
        .map(|row| match place.get(union.type_id(row) as usize).copied().unwrap_or(0) {
            0 => (0, 0),
            array => (array, union.value_offset(row)),
        })
        .collect();
    interleave(&arrays, &indices).ok()
}

/// Whether a source says its types like this by itself.
pub(crate) fn by_default(event: bool, registered: bool) -> Option<TypeFrom> {
    match (registered, event) {
        (true, _) => Some(TypeFrom::RecordName),
        // The envelope has a type.
        (false, true) => Some(TypeFrom::Field("eventType".to_string())),
        (false, false) => None,
    }
}
