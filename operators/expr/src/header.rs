//! `_headers['name']`: a header of the source record, as text, or as bytes where it is cast to BYTEA.
//!
//! The column has all headers of a record in one value ([`operator_core::headers`]); a function of ours takes one out.
//! Of several headers with the name the last one counts, as with Kafka's `Headers.lastHeader`.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StringArray};
use arrow::datatypes::DataType;
use datafusion_common::{Result, exec_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use datafusion_sql::sqlparser::ast::{
    AccessExpr, DataType as SqlType, Expr as Ast, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName, Subscript, Value, ValueWithSpan,
};
use operator_core::batch::HEADERS;
use operator_core::headers;
use std::sync::Arc;

/// The functions' names: nobody can write them, because of the space.
const TEXT: &str = "header text";
const BYTES: &str = "header bytes";

/// Rewrites `_headers['name']`, and a cast of it to bytes, as a call. False if it is something else.
pub(crate) fn rewrite(ast: &mut Ast) -> bool {
    let call = match &*ast {
        Ast::Cast { expr, data_type: SqlType::Bytea | SqlType::Varbinary(_) | SqlType::Binary(_), .. } => {
            access(expr).map(|(column, name)| call(BYTES, column, name))
        }
        other => access(other).map(|(column, name)| call(TEXT, column, name)),
    };
    call.map(|call| *ast = call).is_some()
}

/// The column and the name in `_headers['name']`.
fn access(ast: &Ast) -> Option<(Ident, ValueWithSpan)> {
    let Ast::CompoundFieldAccess { root, access_chain } = ast else { return None };
    let (Ast::Identifier(column), [AccessExpr::Subscript(Subscript::Index { index: Ast::Value(name) })]) =
        (root.as_ref(), access_chain.as_slice())
    else {
        return None;
    };
    let named = matches!(name.value, Value::SingleQuotedString(_));
    (column.value == HEADERS && named).then(|| (column.clone(), name.clone()))
}

fn call(function: &str, column: Ident, name: ValueWithSpan) -> Ast {
    let argument = |ast| FunctionArg::Unnamed(FunctionArgExpr::Expr(ast));
    let args = vec![argument(Ast::Identifier(column)), argument(Ast::Value(name))];
    Ast::Function(Function {
        name: ObjectName::from(vec![Ident::with_quote('"', function)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// The argument of a call that is the column with all headers.
pub(crate) fn column_of(call: &Function) -> Option<&Ast> {
    let [name] = call.name.0.as_slice() else { return None };
    let ours = name.as_ident().is_some_and(|name| [TEXT, BYTES].contains(&name.value.as_str()));
    match &call.args {
        FunctionArguments::List(list) if ours => match list.args.first()? {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(column)) => Some(column),
            _ => None,
        },
        _ => None,
    }
}

/// Takes one header out of the column.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct HeaderOf {
    signature: Signature,
    bytes: bool,
}

impl HeaderOf {
    /// Both forms: as text, and as bytes.
    pub fn both() -> [HeaderOf; 2] {
        let signature = Signature::exact(vec![DataType::Binary, DataType::Utf8], Volatility::Immutable);
        [HeaderOf { signature: signature.clone(), bytes: false }, HeaderOf { signature, bytes: true }]
    }
}

impl ScalarUDFImpl for HeaderOf {
    fn name(&self) -> &str {
        if self.bytes { BYTES } else { TEXT }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.bytes { DataType::Binary } else { DataType::Utf8 })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (column, name) = match args.args.as_slice() {
            [column, ColumnarValue::Scalar(name)] => (column.to_array(args.number_rows)?, name),
            _ => return exec_err!("the name of a header must be a constant"),
        };
        let (Some(column), Some(Some(name))) = (column.as_binary_opt::<i32>(), name.try_as_str()) else {
            return exec_err!("headers are read as `{HEADERS}['name']`");
        };
        let values =
            (0..column.len()).map(|row| column.is_valid(row).then(|| headers::value(column.value(row), name.as_bytes())).flatten());
        let values: ArrayRef = match self.bytes {
            true => Arc::new(values.collect::<BinaryArray>()),
            false => Arc::new(values.map(|value| std::str::from_utf8(value?).ok()).collect::<StringArray>()),
        };
        Ok(ColumnarValue::Array(values))
    }
}
