//! Columns that steps group, compare or join by.

use arrow::datatypes::SchemaRef;
use operator_core::{Diagnostic, Path};

use crate::compile::Expr;

/// The column, or field of one, that `text` names. Rows are brought together by columns that exist, so an expression is refused
/// here; `help` says what to do instead.
///
/// # Errors
/// `not-a-column` for an expression, else what is wrong with the name.
pub fn key_column(text: &str, schema: &SchemaRef, help: &str) -> Result<Path, Diagnostic> {
    Path::resolve(text, schema.fields()).map_err(|unknown| match Expr::compile(text, schema).map_err(|e| e.diagnostic()) {
        Ok(_) => Diagnostic::error("not-a-column", format!("`{text}` is not a column")).help(help),
        Err(found) if found.code == "syntax" => unknown,
        Err(found) => Diagnostic { sql: false, ..found },
    })
}
