//! The YAML of `map`.

use operator_core::{Diagnostic, PlanCx, Planned, Spec};
use operator_expr::NamedSql;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Computes columns and unnests lists. Give `select`, or `add` and `drop`; with `unnest` they see one row per element.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Map {
    /// A list and a name: makes one row per element, with the element as a column of that name.
    #[serde(default)]
    #[schemars(example = "data.items AS item")]
    pub unnest: Option<String>,
    /// What happens to rows whose list is empty or null.
    #[serde(default)]
    pub unnest_empty: Empty,
    /// The columns of the output, each a SQL expression, in this order. An expression that is just a column or a field
    /// renames it, and keeps the partitioning if that column is the key.
    #[serde(default)]
    pub select: Option<NamedSql>,
    /// Columns to compute in addition to those of the input. An existing name replaces that column.
    #[serde(default)]
    pub add: Option<NamedSql>,
    /// Columns of the input to remove. `add` can still use them.
    #[serde(default)]
    pub drop: Vec<String>,
}

/// What happens to a row without elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Empty {
    /// The row is filtered.
    #[default]
    Drop,
    /// The row is kept once, with a null element.
    Keep,
}

impl Spec for Map {
    const KIND: &'static str = "map";
    const SUMMARY: &'static str = "Computes columns with SQL; unnests a list into one row per element.";
    const EXAMPLE: &'static str = "\
steps:
  lines:
    from: orders
    map:
      unnest: data.items AS item
      select:
        order_id: data.orderId
        customer_id: data.customerId
        product_id: item.productId
        revenue: item.quantity * item.unitPrice
";
    const EXAMPLE_INPUT: &'static str = "\
eventId: string
data: struct<orderId: string, customerId: string, items: list<struct<productId: string, quantity: int, unitPrice: double>>>
";

    const REFUSES_CHANGES: Option<&'static str> = None;

    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        crate::plan::plan(self, cx)
    }
}
