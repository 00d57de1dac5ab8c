//! Lambdas that read columns beside their elements: `array_transform(l, x -> concat(s, x))` puts `s` beside each element of `l`.
//! A list of a million elements then needs `s` a million times, which counts like the result of a call
//! ([`charge`]).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion_common::Result;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::expressions::{Column, LambdaExpr, LambdaVariable};
use datafusion_physical_expr::{HigherOrderFunctionExpr, PhysicalExpr};
use operator_core::memory::bytes;

use crate::bounded::charge;

/// A call with lambdas.
pub(crate) fn is_call(node: &Arc<dyn PhysicalExpr>) -> bool {
    node.downcast_ref::<HigherOrderFunctionExpr>().is_some() || node.downcast_ref::<Spread>().is_some()
}

/// A call whose lambdas read columns says how much memory those need.
pub(crate) fn counted(node: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
    let call = node.downcast_ref::<HigherOrderFunctionExpr>()?;
    let mut columns = Vec::new();
    for lambda in call.args().iter().filter_map(|arg| arg.downcast_ref::<LambdaExpr>()) {
        let _ = lambda.body().apply(|node| {
            columns.extend(node.downcast_ref::<Column>().map(Column::index));
            columns.extend(node.downcast_ref::<LambdaVariable>().map(LambdaVariable::index));
            Ok(TreeNodeRecursion::Continue)
        });
    }
    columns.sort_unstable();
    columns.dedup();
    Some(Arc::new(Spread { call: node.clone(), name: call.name().to_string(), columns }))
}

#[derive(Debug)]
struct Spread {
    call: Arc<dyn PhysicalExpr>,
    name: String,
    /// What lambdas read: columns of the batch, and behind those their own elements.
    columns: Vec<usize>,
}

impl Spread {
    /// # Errors
    /// The columns would need too much beside the elements of `value`.
    fn check(&self, value: &ColumnarValue, batch: &RecordBatch) -> Result<()> {
        if !matches!(value.data_type(), DataType::List(_)) {
            return Ok(());
        }
        let read: Vec<_> = self.columns.iter().filter_map(|index| batch.columns().get(*index)).collect();
        if read.is_empty() {
            return Ok(());
        }
        let list = value.to_array(batch.num_rows())?;
        let lists = list.as_list::<i32>();
        let of = |row: usize| {
            let beside: usize = read.iter().map(|column| bytes(column.as_ref(), row, 1)).sum();
            i128::from(lists.value_length(row)) * beside as i128
        };
        charge(&self.name, (0..lists.len()).map(of).sum())
    }
}

impl PhysicalExpr for Spread {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        // Lists are evaluated once, here: calls nest.
        let arguments = self.call.children().into_iter().map(|argument| {
            if argument.downcast_ref::<LambdaExpr>().is_some() {
                return Ok(argument.clone());
            }
            let value = argument.evaluate(batch)?;
            self.check(&value, batch)?;
            Ok(Arc::new(Given { value, of: argument.clone() }) as Arc<dyn PhysicalExpr>)
        });
        let arguments = arguments.collect::<Result<Vec<_>>>()?;
        self.call.clone().with_new_children(arguments)?.evaluate(batch)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.call.return_field(schema)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.call.children()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let call = self.call.clone().with_new_children(children)?;
        Ok(counted(&call).unwrap_or(call))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt_sql(f)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.call, f)
    }
}

impl PartialEq for Spread {
    fn eq(&self, other: &Spread) -> bool {
        self.call.eq(&other.call)
    }
}

impl Eq for Spread {}

impl Hash for Spread {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.call.hash(state);
    }
}

/// An argument that is evaluated already, in the place of its expression.
#[derive(Debug)]
struct Given {
    value: ColumnarValue,
    of: Arc<dyn PhysicalExpr>,
}

impl PhysicalExpr for Given {
    fn evaluate(&self, _: &RecordBatch) -> Result<ColumnarValue> {
        Ok(self.value.clone())
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.of.return_field(schema)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(self)
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of.fmt_sql(f)
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.of, f)
    }
}

impl PartialEq for Given {
    fn eq(&self, other: &Given) -> bool {
        self.of.eq(&other.of)
    }
}

impl Eq for Given {}

impl Hash for Given {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.of.hash(state);
    }
}
