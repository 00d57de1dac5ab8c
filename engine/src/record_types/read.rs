//! Values of a source as columns: of one type, or the union of several.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StructArray, UnionArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, SchemaRef};
use headwater_formats::{Decoder, RawDecoder, RowBuilder};

use super::changes::Changes;
use super::select::Select;
use super::{OTHER, Types};
use crate::broker::RecordSet;
use crate::format::{Content, Format, Layout};
use crate::pipeline::OtherTypes;
use crate::schemas::{self, SchemaSource, Unread};

/// What became of a record's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Took {
    /// Rows that were appended. None: the source leaves records of its type out, or it says that nothing changed.
    pub rows: usize,
    /// Why a row of it is missing.
    pub bad: Option<String>,
}

impl Took {
    pub const ROW: Took = Took { rows: 1, bad: None };
    pub const NOTHING: Took = Took { rows: 0, bad: None };
}

/// Reads the values of one topic.
pub enum Reading {
    One(Box<dyn Decoder>, RowBuilder),
    Changes(Box<Changes>),
    Several(Box<Several>),
}

/// Values of several types, while a batch is decoded.
pub struct Several {
    types: Types,
    select: Select,
    /// A decoder for each type and, where they are kept, for records of other types.
    rows: Vec<(Box<dyn Decoder>, RowBuilder)>,
    /// By row: its type, and its place among the rows of that type.
    ids: Vec<i8>,
    places: Vec<i32>,
    union: DataType,
}

impl Reading {
    /// Values of one type. `capacity`: rows of a batch.
    ///
    /// # Errors
    /// The columns can't be decoded into.
    pub fn one(format: &Format, layout: &Layout, columns: &SchemaRef, capacity: usize) -> Result<Reading, String> {
        if format.content() == Content::Change {
            return Ok(Reading::Changes(Box::new(Changes::new(format, layout, columns, capacity)?)));
        }
        let (decoder, columns) = format.decoder(layout, columns)?;
        Ok(Reading::One(decoder, RowBuilder::new(&columns, capacity)?))
    }

    /// Values of several types.
    ///
    /// # Errors
    /// The columns of one can't be decoded into.
    pub fn several(format: &Format, types: &Types, capacity: usize) -> Result<Reading, String> {
        let mut rows: Vec<(Box<dyn Decoder>, RowBuilder)> = Vec::new();
        for of in &types.types {
            let (decoder, columns) = format.decoder(&of.layout, &of.layout.columns)?;
            rows.push((decoder, RowBuilder::new(&columns, capacity)?));
        }
        for (_, columns) in types.ports().filter(|(name, _)| *name == OTHER && types.other == OtherTypes::Keep) {
            rows.push((Box::new(RawDecoder::new(&columns)), RowBuilder::new(&columns, capacity)?));
        }
        let union = types.value().fields().first().map_or(DataType::Null, |field| field.data_type().clone());
        let select = Select::new(format, types)?;
        Ok(Reading::Several(Box::new(Several { types: types.clone(), select, rows, ids: Vec::new(), places: Vec::new(), union })))
    }

    /// Appends the value of a record.
    ///
    /// # Errors
    /// Nothing was appended.
    #[inline]
    pub fn read(&mut self, record: (&dyn RecordSet, usize), value: &[u8], schemas: &dyn SchemaSource) -> Result<Took, Unread> {
        match self {
            Reading::One(decoder, rows) => schemas::read(decoder.as_mut(), value, rows, schemas).map(|()| Took::ROW),
            Reading::Changes(changes) => changes.read(value, schemas),
            Reading::Several(several) => several.read(record, value, schemas),
        }
    }

    /// Takes the row of the last record back.
    pub fn take_back(&mut self) {
        match self {
            // Their record keys are not read.
            Reading::Changes(_) => {}
            Reading::One(_, rows) => rows.truncate(rows.len().saturating_sub(1)),
            Reading::Several(several) => {
                several.places.pop();
                let rows = several.ids.pop().and_then(|id| several.rows.get_mut(id as usize));
                rows.into_iter().for_each(|(_, rows)| rows.truncate(rows.len().saturating_sub(1)));
            }
        }
    }

    /// What is known of the rows of the last batch, of a stream of changes.
    pub fn changes(&mut self) -> Option<&mut Changes> {
        if let Reading::Changes(changes) = self { Some(changes) } else { None }
    }

    /// Bytes of the columns so far.
    pub fn bytes(&self) -> usize {
        match self {
            Reading::One(_, rows) => rows.estimated_bytes(),
            Reading::Changes(changes) => changes.bytes(),
            Reading::Several(several) => several.rows.iter().map(|(_, rows)| rows.estimated_bytes()).sum(),
        }
    }

    /// The rows so far. `conform`: brings the columns of a topic to those of the source.
    ///
    /// # Errors
    /// An invariant is broken.
    pub fn finish(&mut self, conform: impl Fn(&RecordBatch) -> Vec<ArrayRef>) -> Result<Vec<ArrayRef>, String> {
        match self {
            Reading::One(_, rows) => Ok(conform(&rows.finish()?)),
            Reading::Changes(changes) => Ok(conform(&changes.finish()?)),
            Reading::Several(several) => Ok(vec![Arc::new(several.finish()?)]),
        }
    }
}

impl Several {
    fn read(&mut self, record: (&dyn RecordSet, usize), value: &[u8], schemas: &dyn SchemaSource) -> Result<Took, Unread> {
        let known = self.select.of(&self.types, record, value, schemas)?;
        let id = match (known, self.types.other) {
            (Some(known), _) => known,
            (None, OtherTypes::Keep) => self.types.types.len(),
            (None, OtherTypes::Drop) => return Ok(Took::NOTHING),
            (None, OtherTypes::DeadLetter) => {
                return Err(Unread::Bad(format!("its type, {}, is not one of the source's `types`", self.types.described())));
            }
        };
        let Some((decoder, rows)) = self.rows.get_mut(id) else { return Err(Unread::Bad("there is no such type".into())) };
        let place = rows.len() as i32;
        let read = schemas::read(decoder.as_mut(), value, rows, schemas);
        read.map_err(|e| match (e, self.types.types.get(id)) {
            (Unread::Bad(cause), Some(of)) => Unread::Bad(format!("as `{}`: {cause}", of.name)),
            (other, _) => other,
        })?;
        self.ids.push(id as i8);
        self.places.push(place);
        Ok(Took::ROW)
    }

    fn finish(&mut self) -> Result<UnionArray, String> {
        let DataType::Union(fields, _) = &self.union else { return Err("not a union".into()) };
        let mut children = Vec::new();
        for ((_, rows), (_, field)) in self.rows.iter_mut().zip(fields.iter()) {
            let DataType::Struct(columns) = field.data_type() else { return Err("not a row".into()) };
            let rows = rows.finish()?;
            let rows = StructArray::try_new_with_length(columns.clone(), rows.columns().to_vec(), None, rows.num_rows());
            children.push(Arc::new(rows.map_err(|e| e.to_string())?) as ArrayRef);
        }
        let ids: ScalarBuffer<i8> = std::mem::take(&mut self.ids).into();
        let places: ScalarBuffer<i32> = std::mem::take(&mut self.places).into();
        UnionArray::try_new(fields.clone(), ids, Some(places), children).map_err(|e| e.to_string())
    }
}
