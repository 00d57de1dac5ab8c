//! What caused a row: the envelope of the input, if it has one, else where the row came from.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::{DataType, Fields, Schema};
use operator_core::{Batch, Diagnostic, Path, StateError, type_said};

use crate::{CORRELATION_ID, EVENT_ID, METADATA};

/// The columns of an input that say what a row is and what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CauseColumns {
    /// The row's id: a text.
    pub id: Option<Path>,
    /// The id of the conversation that it belongs to: a text.
    pub correlation: Option<Path>,
}

impl CauseColumns {
    /// `id`: the column of the row's id, if it is named; else `eventId`, if the input has that.
    ///
    /// # Errors
    /// The column is missing, or not a text.
    pub fn plan(id: Option<&str>, schema: &Schema) -> Result<CauseColumns, Diagnostic> {
        let fields = schema.fields();
        let id = match id {
            Some(named) => Some(Path::resolve(named, fields)?),
            None => Some(Path::column(EVENT_ID)).filter(|path| path.field(fields).is_some()),
        };
        if let Some(field) = id.as_ref().and_then(|path| path.field(fields)).filter(|field| *field.data_type() != DataType::Utf8) {
            let message = format!("`{}` is {}, but an id is a text", field.name(), type_said(field.data_type()));
            return Err(Diagnostic::error("type-mismatch", message).help("name a text column, or cast it in a `map` step before this one"));
        }
        let correlation = Path::column(METADATA).child(CORRELATION_ID);
        let is_text = correlation.field(fields).is_some_and(|field| *field.data_type() == DataType::Utf8);
        Ok(CauseColumns { id, correlation: is_text.then_some(correlation) })
    }

    /// The columns that it reads.
    pub fn reads(&self) -> impl Iterator<Item = String> {
        self.id.iter().chain(&self.correlation).map(|path| path.first().to_string())
    }

    /// The causes of a batch's rows. `schema`: that of the input.
    ///
    /// # Errors
    /// The batch lacks a column: a bug.
    pub fn of(&self, schema: &Fields, batch: &Batch) -> Result<Causes, StateError> {
        let missing = || StateError::new("the batch lacks a column: this is a bug");
        let texts = |path: &Path| {
            let values = path.values(schema, batch.rows.columns()).ok_or_else(missing)?;
            values.as_string_opt::<i32>().map(without_empty).ok_or_else(missing)
        };
        let given = self.id.as_ref().map(texts).transpose()?;
        let correlations = self.correlation.as_ref().map(texts).transpose()?;
        let offsets = batch.offsets().ok_or_else(missing)?.values();
        let place = |row: usize| {
            let origin = &batch.origin;
            format!("{}-{}-{}", origin.topic, origin.partition, offsets.get(row).copied().unwrap_or(-1))
        };
        let ids = match &given {
            Some(ids) if ids.null_count() == 0 => ids.clone(),
            Some(ids) => ids.iter().enumerate().map(|(row, id)| Some(id.map_or_else(|| place(row), str::to_string))).collect(),
            None => (0..batch.num_rows()).map(|row| Some(place(row))).collect(),
        };
        let correlations = match correlations {
            None => ids.clone(),
            Some(texts) if texts.null_count() == 0 => texts,
            Some(texts) => texts.iter().zip(&ids).map(|(text, id)| text.or(id)).collect(),
        };
        Ok(Causes { ids, correlations, given })
    }
}

/// What caused events, row by row.
#[derive(Clone, Debug)]
pub struct Causes {
    ids: StringArray,
    correlations: StringArray,
    given: Option<StringArray>,
}

impl Causes {
    /// Of events that something else than a row of the input causes: a timer. Both as long as there are causes, without nulls.
    pub fn new(ids: StringArray, correlations: StringArray) -> Causes {
        Causes { given: Some(ids.clone()), ids, correlations }
    }

    /// The id of the cause in `row`.
    pub fn id(&self, row: usize) -> &str {
        value(&self.ids, row)
    }

    /// The correlation id of what `row` causes.
    pub fn correlation(&self, row: usize) -> &str {
        value(&self.correlations, row)
    }

    /// The id that the row has by itself; `None` if its place stands for one.
    pub fn own_id(&self, row: usize) -> Option<&str> {
        let given = self.given.as_ref().filter(|given| row < given.len() && given.is_valid(row));
        given.map(|given| given.value(row))
    }

    /// The ids that rows have by themselves, if the input has a column of them.
    pub fn own_ids(&self) -> Option<&StringArray> {
        self.given.as_ref()
    }

    pub(crate) fn columns(&self) -> [ArrayRef; 2] {
        [Arc::new(self.correlations.clone()), Arc::new(self.ids.clone())]
    }
}

/// An empty text is no id: rows that have it have nothing in common.
fn without_empty(texts: &StringArray) -> StringArray {
    if texts.iter().flatten().all(|text| !text.is_empty()) {
        return texts.clone();
    }
    texts.iter().map(|text| text.filter(|text| !text.is_empty())).collect()
}

fn value(texts: &StringArray, row: usize) -> &str {
    if row < texts.len() { texts.value(row) } else { "" }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch, StructArray};
    use arrow::datatypes::Field;
    use operator_core::Origin;
    use operator_core::batch::OFFSET;

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> (Schema, Batch) {
        let offsets: ArrayRef = Arc::new(Int64Array::from(vec![7, 8, 9]));
        let rows =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().chain([(OFFSET, offsets)]).map(|(n, c)| (n, c, true))).unwrap();
        let origin = Origin { topic: "t".into(), partition: 2, from: 6, to: 9 };
        (rows.schema().as_ref().clone(), Batch::new(rows, origin))
    }

    fn found(id: Option<&str>, columns: Vec<(&str, ArrayRef)>) -> Vec<(String, String, Option<String>)> {
        let (schema, batch) = batch(columns);
        let causes = CauseColumns::plan(id, &schema).unwrap().of(schema.fields(), &batch).unwrap();
        (0..3).map(|row| (causes.id(row).into(), causes.correlation(row).into(), causes.own_id(row).map(str::to_string))).collect()
    }

    #[test]
    fn the_envelope_says_what_caused_a_row_and_else_its_place() {
        let ids: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None]));
        let correlations: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None, None]));
        let metadata: ArrayRef =
            Arc::new(StructArray::from(vec![(Arc::new(Field::new(CORRELATION_ID, DataType::Utf8, true)), correlations)]));
        let of = |id: &str, correlation: &str, own: Option<&str>| (id.to_string(), correlation.to_string(), own.map(str::to_string));
        let places = [of("t-2-7", "t-2-7", None), of("t-2-8", "t-2-8", None), of("t-2-9", "t-2-9", None)];
        assert_eq!(found(None, vec![]), places);
        assert_eq!(
            found(None, vec![(EVENT_ID, ids.clone()), (METADATA, metadata)]),
            [of("a", "x", Some("a")), of("b", "b", Some("b")), of("t-2-9", "t-2-9", None)]
        );
        assert_eq!(found(Some("id"), vec![("id", ids)])[1], of("b", "b", Some("b")));
        let empty: ArrayRef = Arc::new(StringArray::from(vec!["", "", ""]));
        assert_eq!(found(Some("id"), vec![("id", empty)]), places);
    }

    #[test]
    fn an_id_is_a_text() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let (schema, _) = batch(vec![(EVENT_ID, numbers)]);
        assert_eq!(CauseColumns::plan(None, &schema).unwrap_err().code, "type-mismatch");
        assert_eq!(CauseColumns::plan(Some("id"), &schema).unwrap_err().code, "unknown-column");
        let columns = CauseColumns::plan(None, &Schema::empty()).unwrap();
        assert_eq!((&columns.id, columns.reads().count()), (&None, 0));
    }
}
