//! Which casts can fail for a value of their type. The author of a pipeline decides what happens to such rows; a cast
//! that always works needs no decision.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_physical_expr::expressions::CastExpr;
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion_sql::sqlparser::ast::{CastKind, Expr as Ast, Visit, Visitor};

use operator_core::type_name;

use crate::syntax::Parsed;

/// Functions that read a text as something else, and fail where it is not.
pub(crate) const READERS: [&str; 9] = [
    "to_timestamp",
    "to_timestamp_seconds",
    "to_timestamp_millis",
    "to_timestamp_micros",
    "to_timestamp_nanos",
    "to_date",
    "to_time",
    "to_unixtime",
    "decode",
];

/// What can fail in an expression.
#[derive(Clone, Debug)]
pub(crate) struct Fallible {
    pub message: String,
    /// From one kind of number to another: an implicit cast is arithmetic, like an overflow.
    pub numeric: bool,
}

/// What in an expression can fail by the types alone, if anything does.
pub(crate) fn find(physical: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<Fallible> {
    let mut found: Option<Fallible> = None;
    let _ = physical.apply(|node| {
        let here = cast(node, schema).or_else(|| reader(node, schema).map(|message| Fallible { message, numeric: false }));
        // What is not arithmetic is reported first.
        if let Some(here) = here.filter(|here| found.is_none() || !here.numeric) {
            found = Some(here);
        }
        let stop = found.as_ref().is_some_and(|found| !found.numeric);
        Ok(if stop { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

fn cast(node: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<Fallible> {
    let cast = node.downcast_ref::<CastExpr>()?;
    let from = cast.expr().data_type(schema).ok()?;
    let to = cast.cast_type();
    (!always_works(&from, to)).then(|| Fallible {
        message: format!("not every {} is of type {}", type_name(&from), type_name(to)),
        numeric: from.is_numeric() && to.is_numeric(),
    })
}

fn reader(node: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<String> {
    let function = node.downcast_ref::<ScalarFunctionExpr>()?;
    let of_text = function.args().iter().any(|arg| arg.data_type(schema).is_ok_and(|t| is_text(&t) && !is_literal(arg)));
    let reads = READERS.contains(&function.name()) && of_text;
    reads.then(|| format!("`{}` fails for a text it can't read", function.name()))
}

fn is_literal(arg: &Arc<dyn PhysicalExpr>) -> bool {
    arg.downcast_ref::<datafusion_physical_expr::expressions::Literal>().is_some()
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Every value of `from` has one in `to`. Rounding is not a failure.
fn always_works(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    match (from, to) {
        (a, b) if a == b => true,
        (Null, _) | (Boolean, Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float32 | Float64) => true,
        (Binary | LargeBinary | BinaryView, b) => matches!(b, Binary | LargeBinary | BinaryView),
        (a, b) if is_text(b) => !matches!(a, Struct(_)),
        // Lengths are unsigned, and never that long.
        (UInt64, Int64) => true,
        (Decimal128(p, s), b) if b.is_signed_integer() => i32::from(*p) - i32::from(*s) < digits(b),
        (Timestamp(..), Time32(_) | Time64(_)) => true,
        (Int32, Date32) | (Date32, Int32 | Int64) => true,
        (a, Boolean) => a.is_integer(),
        (a, Binary | LargeBinary | BinaryView) if is_text(a) => true,
        (Dictionary(_, a), b) => always_works(a, b),
        (a, Float32 | Float64) => a.is_numeric(),
        (a, Decimal128(p, s)) if a.is_integer() => i32::from(*p) - i32::from(*s) >= digits(a),
        (Decimal128(p, s), Decimal128(to_p, to_s)) => {
            // Fewer digits after the point round, which may carry into one more before it.
            let whole = i32::from(*p) - i32::from(*s) + i32::from(to_s < s);
            i32::from(*to_p) - i32::from(*to_s) >= whole
        }
        (a, b) if a.is_integer() && b.is_integer() => {
            let (from, to) = (a.primitive_width().unwrap_or(8), b.primitive_width().unwrap_or(8));
            match (a.is_signed_integer(), b.is_signed_integer()) {
                (true, false) => false,
                (false, true) => to > from,
                _ => to >= from,
            }
        }
        // Times of another precision: only those centuries away have no value in nanoseconds.
        (Timestamp(..), Timestamp(..) | Date32 | Date64 | Int64)
        | (Int64, Timestamp(..))
        | (Date32 | Date64, Timestamp(..) | Date32 | Date64) => true,
        (Int64, Duration(_)) | (Duration(_), Int64 | Duration(_)) | (Interval(_), Interval(_)) => true,
        (List(a), List(b)) => always_works(a.data_type(), b.data_type()),
        (Struct(a), Struct(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| always_works(a.data_type(), b.data_type())),
        _ => false,
    }
}

/// Decimal digits of the largest value of a whole-number type.
fn digits(data_type: &DataType) -> i32 {
    match data_type {
        DataType::Int8 | DataType::UInt8 => 3,
        DataType::Int16 | DataType::UInt16 => 5,
        DataType::Int32 | DataType::UInt32 => 10,
        DataType::Int64 => 19,
        _ => 20,
    }
}

/// A part of an expression as SQL, and where it stands.
pub(crate) type Written = (String, Option<Range<usize>>);

/// The first cast or call, innermost first, that `fails` holds for.
pub(crate) fn written(parsed: &Parsed, fails: impl FnMut(&Ast) -> bool) -> Option<Written> {
    struct First<'a, F> {
        parsed: &'a Parsed,
        fails: F,
    }
    impl<F: FnMut(&Ast) -> bool> Visitor for First<'_, F> {
        type Break = Written;

        fn post_visit_expr(&mut self, ast: &Ast) -> ControlFlow<Self::Break> {
            let candidate = match ast {
                Ast::Function(call) => READERS.contains(&call.name.to_string().to_ascii_lowercase().as_str()),
                other => matches!(other, Ast::Cast { kind: CastKind::Cast | CastKind::DoubleColon, .. }),
            };
            if candidate && (self.fails)(ast) { ControlFlow::Break((ast.to_string(), self.range(ast))) } else { ControlFlow::Continue(()) }
        }
    }
    impl<F> First<'_, F> {
        /// The parser knows only where the value of a cast stands: the cast around it is looked for in the text.
        fn range(&self, ast: &Ast) -> Option<Range<usize>> {
            let inner = self.parsed.range_of(ast)?;
            let sql = self.parsed.sql();
            let start = match ast {
                Ast::Cast { kind: CastKind::Cast, .. } => sql.get(..inner.start)?.to_ascii_lowercase().rfind("cast")?,
                Ast::Function(_) => inner.start,
                _ => return Some(inner),
            };
            let mut depth = 0;
            for (at, c) in sql.get(start..)?.char_indices() {
                depth += i32::from(c == '(') - i32::from(c == ')');
                if depth == 0 && c == ')' {
                    return Some(start..start + at + 1);
                }
            }
            Some(inner)
        }
    }
    match Visit::visit(&parsed.ast, &mut First { parsed, fails }) {
        ControlFlow::Break(found) => Some(found),
        ControlFlow::Continue(()) => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use crate::Expr;

    use super::*;

    /// What the finding points at, if there is one.
    fn points_at(sql: &str) -> Option<String> {
        let fields = [
            ("text", DataType::Utf8),
            ("int", DataType::Int32),
            ("long", DataType::Int64),
            ("double", DataType::Float64),
            ("price", DataType::Decimal128(12, 2)),
            ("at", DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, Some("UTC".into()))),
            ("flag", DataType::Boolean),
        ];
        let schema = Arc::new(Schema::new(fields.map(|(name, t)| Field::new(name, t, true)).to_vec()));
        let finding = Expr::compile(sql, &schema).unwrap().fallible()?;
        assert_eq!((finding.code, finding.help.is_some()), ("fallible-cast", true));
        Some(finding.within.map_or_else(|| "all".to_string(), |range| sql[range].to_string()))
    }

    #[test]
    fn casts_that_can_fail_are_found_where_they_stand() {
        for (sql, part) in [
            ("1 + CAST(text AS INT)", "CAST(text AS INT)"),
            ("text::BIGINT > 3", "text::BIGINT"),
            ("CAST(long AS INT)", "CAST(long AS INT)"),
            ("CAST(double AS BIGINT)", "CAST(double AS BIGINT)"),
            ("CAST(price AS DECIMAL(8, 2))", "CAST(price AS DECIMAL(8, 2))"),
            ("CAST(price AS INT)", "CAST(price AS INT)"),
            ("CAST(text AS TIMESTAMP)", "CAST(text AS TIMESTAMP)"),
            ("to_timestamp(text)", "to_timestamp(text)"),
            ("coalesce(CAST(text AS DATE), CAST('2026-01-01' AS DATE))", "CAST(text AS DATE)"),
        ] {
            assert!(points_at(sql).is_some_and(|found| found.len() > 3 && part.starts_with(&found)), "{sql}: {:?}", points_at(sql));
        }
    }

    #[test]
    fn what_always_works_needs_no_decision() {
        for sql in [
            "TRY_CAST(text AS INT)",
            "CAST(int AS BIGINT) + long",
            "int * price",
            "long * price",
            "CAST(price AS DECIMAL(14, 4))",
            "CAST(long AS VARCHAR)",
            "CAST(double AS VARCHAR)",
            "CAST(at AS DATE)",
            "CAST(at AS TIME)",
            "CAST(price AS BIGINT)",
            "CAST(long AS BOOLEAN)",
            "CAST(CAST(at AS DATE) AS INT)",
            "CAST(array_length(make_array(long)) AS BIGINT)",
            "double > price",
            "coalesce(double, price)",
            "CAST(int AS DOUBLE) / 3",
            "CAST('12' AS INT)",
            "at > '2026-01-01T00:00:00Z'",
            "at + INTERVAL '1 hour'",
            "to_timestamp_millis(long)",
            "double > 1 AND flag",
            "round(double, 2)",
            "date_trunc('hour', at)",
            "substr(text, 2) || upper(text)",
        ] {
            assert_eq!(points_at(sql), None, "{sql}");
        }
    }
}
