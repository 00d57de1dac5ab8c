//! Several streams read as one: their common columns, and how rows are brought into them.
//!
//! Columns are matched by name, in records too, and are in the order of the first stream. They may differ in whether they
//! can be null: the common column can be, if one of them can. Rows keep their arrays; only types and order are rewritten.

use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use operator_core::batch::{HEADERS, is_metadata};
use operator_core::{type_name, type_said};

/// The columns of two streams together, or all that differs. The streams' names are for the words.
pub fn united(a: (&str, &Schema), b: (&str, &Schema)) -> Result<SchemaRef, Vec<String>> {
    let mut wrong = Vec::new();
    // Columns about the record are there while nothing has dropped them: the rows of both have those that both have. Keys of two kinds
    // (a text, a record) have no common column; a step that reads `_key` behind this is refused for that.
    let kept = |own: &Schema, other: &Schema| -> Vec<FieldRef> {
        let alike = |field: &Field| other.field_with_name(field.name()).is_ok_and(|of| of.data_type() == field.data_type());
        let is_kept = |field: &&FieldRef| !is_metadata(field.name()) || alike(field);
        own.fields().iter().filter(is_kept).cloned().collect()
    };
    let mut fields = members(a.0, &kept(a.1, b.1), b.0, &kept(b.1, a.1), "", &mut wrong);
    // Only records have headers; window results have none.
    if let (Err(_), Ok(headers)) = (a.1.field_with_name(HEADERS), b.1.field_with_name(HEADERS)) {
        fields.push(Arc::new(headers.clone()));
    }
    if wrong.is_empty() { Ok(Arc::new(Schema::new(fields))) } else { Err(wrong) }
}

/// Those of `a`, each with what the field of this name in `b` allows.
fn members(left: &str, a: &[FieldRef], right: &str, b: &[FieldRef], inside: &str, wrong: &mut Vec<String>) -> Vec<FieldRef> {
    let named = |fields: &[FieldRef], name: &str| fields.iter().find(|field| field.name() == name).cloned();
    let mut lacks = |stream: &str, field: &Field| {
        if field.name() != HEADERS {
            wrong.push(format!("`{inside}{}` ({}) is missing in `{stream}`", field.name(), type_said(field.data_type())));
        }
    };
    b.iter().filter(|field| named(a, field.name()).is_none()).for_each(|field| lacks(left, field));
    a.iter().filter(|field| named(b, field.name()).is_none()).for_each(|field| lacks(right, field));
    let mut both = Vec::with_capacity(a.len());
    for field in a {
        let other = named(b, field.name()).unwrap_or_else(|| field.clone());
        both.push(member(left, field, right, &other, &format!("{inside}{}", field.name()), wrong));
    }
    both
}

fn member(left: &str, a: &FieldRef, right: &str, b: &FieldRef, path: &str, wrong: &mut Vec<String>) -> FieldRef {
    if a == b {
        return a.clone();
    }
    let data_type = match (a.data_type(), b.data_type()) {
        (one, other) if one == other => one.clone(),
        (DataType::Struct(these), DataType::Struct(those)) => {
            DataType::Struct(members(left, these, right, those, &format!("{path}."), wrong).into())
        }
        (DataType::List(one), DataType::List(other)) => DataType::List(member(left, one, right, other, &format!("{path}[]"), wrong)),
        (DataType::Map(one, sorted), DataType::Map(other, _)) => DataType::Map(member(left, one, right, other, path, wrong), *sorted),
        (one, other) => {
            wrong.push(format!("`{path}` is {} in `{left}`, {} in `{right}`", type_name(one), type_name(other)));
            one.clone()
        }
    };
    Arc::new(Field::new(a.name(), data_type, a.is_nullable() || b.is_nullable()))
}

/// Rows of one of the streams, in the common columns.
///
/// # Errors
/// The rows are not what [`united`] was asked about.
pub fn fit(rows: &RecordBatch, columns: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if rows.schema_ref().fields() == columns.fields() {
        return Ok(rows.clone());
    }
    let arrays = columns.fields().iter().map(|field| match rows.column_by_name(field.name()) {
        Some(array) => cast(array, field.data_type()),
        None if field.name() == HEADERS => Ok(new_null_array(field.data_type(), rows.num_rows())),
        None => Err(ArrowError::SchemaError(format!("the column `{}` is missing", field.name()))),
    });
    RecordBatch::try_new(columns.clone(), arrays.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, StringArray, StructArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn rows(columns: Vec<(&str, ArrayRef, bool)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    /// A list of records with one field, of which none is null.
    fn list(nullable: bool) -> ArrayRef {
        let field = Arc::new(Field::new("n", DataType::Int64, nullable));
        let records = StructArray::try_new(vec![field].into(), vec![Arc::new(Int64Array::from(vec![1, 2]))], None).unwrap();
        let item = Arc::new(Field::new("item", records.data_type().clone(), nullable));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([2]);
        Arc::new(ListArray::try_new(item, offsets, Arc::new(records), None).unwrap())
    }

    #[test]
    fn nullability_widens_inside_lists_and_records_and_order_is_that_of_the_first() {
        let id: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        let one = rows(vec![("id", id.clone(), false), ("items", list(false), false)]);
        let other = rows(vec![("items", list(true), true), ("id", id, true)]);
        let columns = united(("one", &one.schema()), ("other", &other.schema())).unwrap();
        assert_eq!(
            columns.fields().iter().map(|f| (f.name().as_str(), f.is_nullable())).collect::<Vec<_>>(),
            [("id", true), ("items", true)]
        );
        for rows in [one, other] {
            let rows = fit(&rows, &columns).unwrap();
            assert_eq!(rows.schema(), columns);
            assert_eq!(rows.column(1).as_list::<i32>().value(0).as_struct().column(0).as_primitive::<Int64Type>().values(), &[1, 2]);
        }
    }

    #[test]
    fn all_differences_are_named_with_both_streams() {
        let number = |name: &str, nullable| Field::new(name, DataType::Int64, nullable);
        let record = |fields: Vec<Field>| Field::new("data", DataType::Struct(fields.into()), false);
        let a = Schema::new(vec![number("n", false), record(vec![number("x", false)]), number("only_a", true)]);
        let b = Schema::new(vec![
            Field::new("n", DataType::Utf8, true),
            record(vec![Field::new("x", DataType::Float64, true), number("y", true)]),
        ]);
        let wrong = united(("web", &a), ("shop", &b)).unwrap_err();
        let expected = [
            "`only_a` (long) is missing in `shop`",
            "`n` is long in `web`, string in `shop`",
            "`data.y` (long) is missing in `web`",
            "`data.x` is long in `web`, double in `shop`",
        ];
        assert_eq!(wrong, expected);
    }

    #[test]
    fn columns_about_the_record_that_one_has_dropped_are_dropped() {
        let number = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
        let source = rows(vec![("n", number(1), false), ("_partition", number(7), false)]);
        let mapped = rows(vec![("n", number(2), false)]);
        for (first, second) in [(&source, &mapped), (&mapped, &source)] {
            let columns = united(("a", &first.schema()), ("b", &second.schema())).unwrap();
            assert_eq!(columns.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["n"]);
            assert_eq!(fit(&source, &columns).unwrap().num_columns(), 1);
        }
    }

    /// The `_key` of a topic whose keys are records is a record, that of others are bytes.
    #[test]
    fn keys_of_two_kinds_have_no_common_column() {
        let of = |key: DataType| Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("_key", key, true)]);
        let tenant = |of: DataType| DataType::Struct(vec![Field::new("tenant", of, false)].into());
        let kinds = [DataType::Binary, tenant(DataType::Utf8), tenant(DataType::Int64)];
        for (a, b) in [(0, 1), (1, 0), (1, 2)] {
            let columns = united(("a", &of(kinds[a].clone())), ("b", &of(kinds[b].clone()))).unwrap();
            assert_eq!(columns.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["n"]);
        }
        assert_eq!(united(("a", &of(kinds[1].clone())), ("b", &of(kinds[1].clone()))).unwrap().fields().len(), 2);
    }

    #[test]
    fn rows_without_headers_get_none() {
        let headers: ArrayRef = Arc::new(arrow::array::BinaryArray::from(vec![b"h".as_slice()]));
        let with = rows(vec![("n", Arc::new(Int64Array::from(vec![1])), false), (HEADERS, headers, true)]);
        let without = rows(vec![("n", Arc::new(Int64Array::from(vec![2])), false)]);
        for (first, second) in [(&with, &without), (&without, &with)] {
            let columns = united(("a", &first.schema()), ("b", &second.schema())).unwrap();
            assert_eq!(fit(&without, &columns).unwrap().column(1).null_count(), 1);
            assert_eq!(fit(&with, &columns).unwrap(), with);
        }
    }
}
