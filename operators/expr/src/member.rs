//! Fields of records. DataFusion has them as calls of a function, `get_field`, whose arguments and their types are put together for each
//! batch: that takes longer than all else of an expression over a few rows.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion_common::Result;
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::expressions::Literal;
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};

/// The field that a call gives, if it is one of a record.
pub(crate) fn member(node: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<Arc<dyn PhysicalExpr>> {
    let call = node.downcast_ref::<ScalarFunctionExpr>().filter(|call| call.name() == "get_field")?;
    let (of, names) = call.args().split_first()?;
    let (mut data_type, mut places) = (of.data_type(schema).ok()?, Vec::with_capacity(names.len()));
    for name in names {
        let DataType::Struct(fields) = &data_type else { return None };
        let (place, field) = fields.find(name.downcast_ref::<Literal>()?.value().try_as_str()??)?;
        places.push(place);
        data_type = field.data_type().clone();
    }
    Some(Arc::new(Member { of: of.clone(), places, call: node.clone() }))
}

/// A field of a record, or of a record in it.
#[derive(Debug)]
struct Member {
    of: Arc<dyn PhysicalExpr>,
    /// Where it is in the record, and so on.
    places: Vec<usize>,
    call: Arc<dyn PhysicalExpr>,
}

impl PhysicalExpr for Member {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let ColumnarValue::Array(mut values) = self.of.evaluate(batch)? else { return self.call.evaluate(batch) };
        for place in &self.places {
            let Some(record) = values.as_struct_opt() else { return self.call.evaluate(batch) };
            let Some(column) = record.columns().get(*place) else { return self.call.evaluate(batch) };
            values = seen(column, record)?;
        }
        Ok(ColumnarValue::Array(values))
    }

    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.call.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.call.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.call.return_field(schema)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.call.children()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let of = children.first().unwrap_or(&self.of).clone();
        Ok(Arc::new(Member { of, places: self.places.clone(), call: self.call.clone().with_new_children(children)? }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt_sql(f)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Member) -> bool {
        self.call.eq(&other.call)
    }
}

impl Eq for Member {}

impl Hash for Member {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.call.hash(state);
    }
}

/// A column of a record as it is seen: null where the record is.
pub(crate) fn seen(column: &ArrayRef, record: &dyn Array) -> Result<ArrayRef> {
    match record.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => Ok(column.clone()),
        Some(nulls) => Ok(nullif(column, &BooleanArray::new(!nulls.inner(), None))?),
    }
}
