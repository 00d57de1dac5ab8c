//! Events on their way into a batch.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, StringBuilder, StructArray, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::{Field, Fields};
use arrow::error::ArrowError;
use operator_core::StateError;
use operator_core::batch::{SystemRow, system_columns};
use uuid::Uuid;

use crate::cause::Causes;
use crate::kind::Events;

/// The form of the envelope's events.
const VERSION: &str = "1.0";

/// An event beside its data.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Events come out in the order of their places; those of one place in the order in which they were added.
    pub place: u64,
    pub id: Uuid,
    /// The row of the causes ([`EventRows::causes`]) that it was added with.
    pub cause: usize,
    /// Where it is in the history of what it is about.
    pub sequence: Option<i64>,
    /// Its event time is the event's timestamp.
    pub system: SystemRow,
}

/// Collects events of the types of an [`Events`], and makes one batch of them.
#[derive(Debug)]
pub struct EventRows<'e> {
    events: &'e Events,
    causes: Vec<Causes>,
    pieces: Vec<Piece>,
    heads: Vec<Collected>,
}

/// Events of one type.
#[derive(Debug)]
struct Piece {
    kind: usize,
    columns: Vec<ArrayRef>,
}

#[derive(Clone, Copy, Debug)]
struct Collected {
    head: Head,
    causes: usize,
    piece: usize,
    row: usize,
}

fn broken(e: &ArrowError) -> StateError {
    StateError::new(format!("events can't be put together: {e}"))
}

impl<'e> EventRows<'e> {
    pub fn new(events: &'e Events) -> EventRows<'e> {
        EventRows { events, causes: Vec::new(), pieces: Vec::new(), heads: Vec::new() }
    }

    /// What causes the events that are added from now on.
    pub fn causes(&mut self, causes: Causes) {
        self.causes.push(causes);
    }

    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Adds events of one type: the place of the type, and for each event what it has beside its data, and its row of `columns`, which
    /// are those of the type.
    ///
    /// # Errors
    /// The columns are not those of the type, or there are no causes: a bug.
    pub fn push(&mut self, kind: usize, columns: Vec<ArrayRef>, heads: impl IntoIterator<Item = (Head, usize)>) -> Result<(), StateError> {
        let wanted = self.events.types.get(kind).map(|of| &of.columns);
        let same = |wanted: &Fields| {
            wanted.len() == columns.len() && wanted.iter().zip(&columns).all(|(field, column)| field.data_type() == column.data_type())
        };
        let causes = self.causes.len().checked_sub(1).filter(|_| wanted.is_some_and(same));
        let causes = causes.ok_or_else(|| StateError::new("an event has not the columns of its type: this is a bug"))?;
        let piece = self.pieces.len();
        self.pieces.push(Piece { kind, columns });
        self.heads.extend(heads.into_iter().map(|(head, row)| Collected { head, causes, piece, row }));
        Ok(())
    }

    /// All events, in order.
    ///
    /// # Errors
    /// They don't fit into one batch: a bug.
    pub fn finish(mut self) -> Result<RecordBatch, StateError> {
        if self.heads.is_empty() {
            return Ok(RecordBatch::new_empty(self.events.schema().clone()));
        }
        if !self.heads.is_sorted_by_key(|of| of.head.place) {
            self.heads.sort_by_key(|of| of.head.place);
        }
        let data = StructArray::try_new(self.events.data.clone(), self.data().map_err(|e| broken(&e))?, None);
        let columns =
            [self.ids(), self.texts(|of| self.events.types.get(self.kind(of)).map_or("", |kind| kind.name.as_str())), self.same(VERSION)];
        let [times, watermarks, offsets, futures] = system_columns(self.heads.iter().map(|of| &of.head.system));
        let columns = columns.into_iter().chain([
            times.clone(),
            self.same(&self.events.source),
            Arc::new(data.map_err(|e| broken(&e))?) as ArrayRef,
            self.metadata().map_err(|e| broken(&e))?,
            times,
            watermarks,
            offsets,
            futures,
        ]);
        RecordBatch::try_new(self.events.schema().clone(), columns.collect()).map_err(|e| broken(&e))
    }

    fn kind(&self, of: &Collected) -> usize {
        self.pieces.get(of.piece).map_or(0, |piece| piece.kind)
    }

    fn ids(&self) -> ArrayRef {
        let mut ids = StringBuilder::with_capacity(self.heads.len(), 36 * self.heads.len());
        let mut text = [0; 36];
        self.heads.iter().for_each(|of| ids.append_value(of.head.id.hyphenated().encode_lower(&mut text)));
        Arc::new(ids.finish())
    }

    fn texts<'a>(&'a self, text: impl Fn(&'a Collected) -> &'a str) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(self.heads.iter().map(text)))
    }

    /// The same text for each event.
    fn same(&self, text: &str) -> ArrayRef {
        Arc::new(StringArray::new_repeated(text, self.heads.len()))
    }

    /// The columns of `data`: of each event those of its type.
    fn data(&self) -> Result<Vec<ArrayRef>, ArrowError> {
        let column = |(place, field): (usize, &Arc<Field>)| {
            // Of types that have not the column.
            let null = new_null_array(field.data_type(), 1);
            let of_piece: Vec<Option<&ArrayRef>> = self.pieces.iter().map(|piece| self.column(piece, place)).collect();
            let arrays: Vec<&dyn Array> = of_piece.iter().map(|column| column.map_or(null.as_ref(), AsRef::as_ref)).collect();
            let there = |piece: usize| of_piece.get(piece).copied().flatten().is_some();
            let rows: Vec<(usize, usize)> = self.heads.iter().map(|of| (of.piece, if there(of.piece) { of.row } else { 0 })).collect();
            interleave(&arrays, &rows)
        };
        self.events.data.iter().enumerate().map(column).collect()
    }

    /// The column of a piece that is at `place` in `data`.
    fn column<'a>(&self, piece: &'a Piece, place: usize) -> Option<&'a ArrayRef> {
        let places = self.events.places.get(piece.kind)?;
        piece.columns.get(places.iter().position(|of| *of == place)?)
    }

    fn metadata(&self) -> Result<ArrayRef, ArrowError> {
        let causes: Vec<[ArrayRef; 2]> = self.causes.iter().map(Causes::columns).collect();
        let rows: Vec<(usize, usize)> = self.heads.iter().map(|of| (of.causes, of.head.cause)).collect();
        let column = |which: usize| match causes.as_slice() {
            [one] => take(&one[which], &UInt32Array::from_iter_values(rows.iter().map(|(_, row)| *row as u32)), None),
            several => interleave(&several.iter().map(|columns| columns[which].as_ref()).collect::<Vec<_>>(), &rows),
        };
        let sequences: Int64Array = self.heads.iter().map(|of| of.head.sequence).collect();
        let columns = vec![column(0)?, column(1)?, Arc::new(sequences) as ArrayRef];
        Ok(Arc::new(StructArray::try_new(self.events.metadata.clone(), columns, None)?))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Int64Type};

    use super::*;
    use crate::kind::EventType;
    use crate::{DATA, EVENT_TYPE, METADATA};

    fn head(place: u64, cause: usize, sequence: Option<i64>) -> Head {
        let system = SystemRow { time: 1_000 + place as i64, watermark: 5, offset: place as i64, future: false, change: 1 };
        Head { place, id: Uuid::from_u128(place.into()), cause, sequence, system }
    }

    fn texts(values: &[&str]) -> StringArray {
        StringArray::from(values.to_vec())
    }

    #[test]
    fn events_come_out_in_the_order_of_their_places() {
        let field = |name: &str, data_type| Field::new(name, data_type, false);
        let types = vec![
            EventType { name: "received".into(), columns: vec![field("sku", DataType::Utf8), field("n", DataType::Int64)].into() },
            EventType { name: "closed".into(), columns: vec![field("sku", DataType::Utf8)].into() },
        ];
        let events = Events::new("shop.stock", types).unwrap();
        let mut rows = EventRows::new(&events);
        let nothing: Vec<(Head, usize)> = Vec::new();
        assert!(rows.push(0, vec![], nothing.clone()).is_err(), "no causes");
        rows.causes(Causes::new(texts(&["c0", "c1"]), texts(&["k0", "k1"])));
        assert!(rows.push(0, vec![], nothing.clone()).is_err() && rows.push(9, vec![], nothing).is_err(), "not the type's columns");
        let (skus, counts): (ArrayRef, ArrayRef) = (Arc::new(texts(&["a", "b"])), Arc::new(Int64Array::from(vec![1, 2])));
        rows.push(0, vec![skus, counts], [(head(4, 1, Some(8)), 1), (head(1, 0, Some(7)), 0)]).unwrap();
        rows.causes(Causes::new(texts(&["timer"]), texts(&["k9"])));
        rows.push(1, vec![Arc::new(texts(&["c"]))], [(head(2, 0, None), 0)]).unwrap();
        let batch = rows.finish().unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap().clone();
        let all = |texts: &ArrayRef| texts.as_string::<i32>().iter().map(|text| text.unwrap().to_string()).collect::<Vec<_>>();
        let of = |record: &str, name: &str| column(record).as_struct().column_by_name(name).unwrap().clone();
        assert_eq!(all(&column(EVENT_TYPE)), ["received", "closed", "received"]);
        assert_eq!(all(&of(DATA, "sku")), ["a", "c", "b"]);
        assert_eq!(of(DATA, "n").as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(1), None, Some(2)]));
        assert_eq!(all(&of(METADATA, "causationId")), ["c0", "timer", "c1"]);
        assert_eq!(all(&of(METADATA, "correlationId")), ["k0", "k9", "k1"]);
        assert_eq!(of(METADATA, "sequence").as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(7), None, Some(8)]));
        assert_eq!(all(&column("eventId"))[0], "00000000-0000-0000-0000-000000000001");
        assert_eq!(column("_offset").as_primitive::<Int64Type>().values(), &[1, 2, 4]);
        assert_eq!(EventRows::new(&events).finish().unwrap().num_rows(), 0);
    }
}
