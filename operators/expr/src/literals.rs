//! Numbers with a point: doubles, except beside decimals.
//!
//! SQL engines disagree on what `0.5` is. As a double it spoils the exactness of a decimal column; as a decimal it
//! drags double columns into decimals (`coalesce(price, 0.0)`) and fails for large values. So literals are read as
//! decimals, which keeps all their digits, and become doubles unless something next to them is a decimal that comes
//! from data or from a cast: `amount * 1.19` and `amount * (1 + 0.19)` are exact, `quantity * 1.19` is a double.

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, Result, ScalarValue};
use datafusion_expr::{BinaryExpr, Cast, Expr as Logical, ExprSchemable, Operator, TryCast};

/// True if nothing in `logical` depends on a row (or on a lambda's argument).
pub(crate) fn is_constant(logical: &Logical) -> bool {
    let mut constant = true;
    let visited = logical.apply(|node| {
        constant &= !matches!(node, Logical::Column(_) | Logical::LambdaVariable(_) | Logical::Lambda(_) | Logical::Placeholder(_));
        Ok(if constant { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    constant && visited.is_ok()
}

/// Gives every decimal literal its final type.
pub(crate) fn settle(logical: Logical, schema: &DFSchema) -> Result<Logical> {
    walk(logical, false, schema)
}

/// `exact`: something this value is computed with is a decimal. The parser bounds the depth.
fn walk(node: Logical, exact: bool, schema: &DFSchema) -> Result<Logical> {
    if matches!(node, Logical::Cast(_) | Logical::TryCast(_)) && is_constant(&node) {
        return Ok(node);
    }
    if is_constant(&node) {
        return if exact { Ok(node) } else { double(node) };
    }
    let inherited = exact && is_arithmetic(&node);
    let exact = inherited || matches!(node, Logical::Cast(_) | Logical::TryCast(_)) || meets_decimal(&node, schema)?;
    node.map_children(|child| Ok(Transformed::yes(walk(child, exact, schema)?))).data()
}

fn is_arithmetic(node: &Logical) -> bool {
    use Operator::{Divide, Minus, Modulo, Multiply, Plus};
    match node {
        Logical::Negative(_) => true,
        Logical::BinaryExpr(BinaryExpr { op, .. }) => matches!(op, Plus | Minus | Multiply | Divide | Modulo),
        _ => false,
    }
}

/// True if an operand is a decimal by itself, not by the way its literals are written.
fn meets_decimal(node: &Logical, schema: &DFSchema) -> Result<bool> {
    let mut found = false;
    node.apply_children(|child| {
        let cast = matches!(child, Logical::Cast(Cast { .. }) | Logical::TryCast(TryCast { .. }));
        if cast || !is_constant(child) {
            found |=
                matches!(child.get_type(schema), Ok(DataType::Decimal128(_, _) | DataType::Decimal256(_, _))) && from_data(child, schema);
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// `n * 0.5` has a decimal type only because of the literal in it.
fn from_data(node: &Logical, schema: &DFSchema) -> bool {
    !is_arithmetic(node) || meets_decimal(node, schema).unwrap_or(false)
}

/// The decimal literals in a constant as doubles, except inside casts.
fn double(node: Logical) -> Result<Logical> {
    node.transform_down(|node| {
        Ok(match node {
            Logical::Cast(_) | Logical::TryCast(_) => Transformed::new(node, false, TreeNodeRecursion::Jump),
            Logical::Literal(ref value, _) if matches!(value.data_type(), DataType::Decimal128(..) | DataType::Decimal256(..)) => {
                // Through text: dividing digits by a power of ten is not correctly rounded.
                match value.to_string().parse::<f64>() {
                    Ok(number) => Transformed::yes(Logical::Literal(ScalarValue::Float64(Some(number)), None)),
                    Err(_) => Transformed::no(node),
                }
            }
            node => Transformed::no(node),
        })
    })
    .data()
}
