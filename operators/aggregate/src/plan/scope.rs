//! What expressions read, and values of a wanted type.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use operator_core::batch::time_type;
use operator_core::{Diagnostic, StateError, type_name};
use operator_expr::{Expr, Predicate};

/// Where a column that expressions read comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The column of the input at this place.
    Input(usize),
    /// The columns of the state, as a record.
    State,
    /// The entry of this collection that a command or an event is about: a record, null if it is not there.
    Entry(usize),
    /// The columns of the event, as a record.
    Data,
    /// A column of the event, by its place.
    Member(usize),
    /// The time of the event.
    Time,
}

/// The columns that expressions read.
#[derive(Clone, Debug)]
pub struct Scope {
    pub schema: SchemaRef,
    pub parts: Vec<Part>,
}

impl Scope {
    pub fn new(columns: impl IntoIterator<Item = (Field, Part)>) -> Scope {
        let (fields, parts): (Vec<Field>, Vec<Part>) = columns.into_iter().unzip();
        Scope { schema: Arc::new(Schema::new(fields)), parts }
    }

    /// Those of the columns that are read.
    pub fn narrowed(&self, read: &BTreeSet<String>) -> Scope {
        let columns = self.schema.fields().iter().zip(&self.parts).filter(|(field, _)| read.contains(field.name()));
        Scope::new(columns.map(|(field, part)| (field.as_ref().clone(), *part)))
    }

    /// The collections whose entries are read.
    pub fn entries(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().filter_map(|part| if let Part::Entry(collection) = part { Some(*collection) } else { None })
    }

    /// A batch of these columns.
    ///
    /// # Errors
    /// They are not those of the scope: a bug.
    pub fn batch(&self, rows: usize, column: impl FnMut(Part) -> Result<ArrayRef, StateError>) -> Result<RecordBatch, StateError> {
        let columns = self.parts.iter().copied().map(column).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| StateError::new(format!("the columns that an expression reads: {e}")))
    }
}

/// An expression whose values have a certain type.
#[derive(Clone, Debug)]
pub struct Value {
    expr: Expr,
    /// Its values are converted to this type.
    cast: Option<DataType>,
}

/// Rows by their place, and why they failed.
pub type Failures = Vec<(usize, String)>;

impl Value {
    /// `wanted`: the type, if it is not that of the expression.
    ///
    /// # Errors
    /// The expression can't be compiled, or its values may not fit the type.
    pub fn compile(sql: &str, scope: &Scope, wanted: Option<&DataType>) -> Result<Value, Diagnostic> {
        let expr = Expr::compile(sql, &scope.schema).map_err(|e| e.diagnostic())?;
        let Some(wanted) = wanted.filter(|wanted| *wanted != expr.data_type()) else { return Ok(Value { expr, cast: None }) };
        if widens(expr.data_type(), wanted) || is_constant_of(&expr, wanted) {
            return Ok(Value { expr, cast: Some(wanted.clone()) });
        }
        let message = format!("this is {}, and {} is expected", type_name(expr.data_type()), type_name(wanted));
        let found = Diagnostic { sql: true, ..Diagnostic::error("type-mismatch", message) };
        Err(found.help("convert it: `CAST(x AS ..)`, or `TRY_CAST`, which gives null where it can't"))
    }

    /// The same for a scope that has the columns it reads.
    ///
    /// # Errors
    /// The scope lacks them: a bug.
    pub fn within(&self, scope: &Scope) -> Result<Value, Diagnostic> {
        let expr = self.expr.compile_again(&scope.schema).map_err(|e| e.diagnostic())?;
        Ok(Value { expr, cast: self.cast.clone() })
    }

    /// Converted to this type.
    pub fn to(self, wanted: &DataType) -> Value {
        let cast = (self.expr.data_type() != wanted).then(|| wanted.clone());
        Value { cast, ..self }
    }

    pub fn data_type(&self) -> &DataType {
        self.cast.as_ref().unwrap_or_else(|| self.expr.data_type())
    }

    pub fn nullable(&self) -> bool {
        self.expr.nullable()
    }

    /// The columns that it reads.
    pub fn columns(&self) -> &[String] {
        self.expr.columns()
    }

    pub fn expr(&self) -> &Expr {
        &self.expr
    }

    /// The values, null where a row fails, which is added to `failed`.
    ///
    /// # Errors
    /// The types can't be converted: a bug.
    pub fn evaluate(&self, rows: &RecordBatch, failed: &mut Failures) -> Result<ArrayRef, StateError> {
        let evaluated = self.expr.evaluate(rows);
        failed.extend(evaluated.failed);
        let values = evaluated.values;
        let Some(to) = &self.cast else { return Ok(values) };
        if let Some(converted) = strictly(&values, to) {
            return Ok(converted);
        }
        // A type can have all values of another one as a rule: of timestamps, milliseconds have less room than seconds.
        let converted = cast(&values, to).map_err(|e| StateError::new(format!("a value can't be converted: {e}: this is a bug")))?;
        let out = (0..values.len()).filter(|row| values.is_valid(*row) && converted.is_null(*row));
        failed.extend(out.map(|row| (row, format!("the value is out of the range of {}", type_name(to)))));
        Ok(converted)
    }
}

fn strictly(values: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    cast_with_options(values, to, &CastOptions { safe: false, ..CastOptions::default() }).ok()
}

/// Every value of one type is one of the other.
fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    let digits = |whole: u8| matches!(to, Decimal128(precision, scale) if i16::from(*precision) - i16::from(*scale) >= i16::from(whole));
    match (from, to) {
        (Int32, Int64 | Float64) | (Float32, Float64) => true,
        // Instants have milliseconds throughout.
        (Timestamp(_, _), to) => *to == time_type(),
        (Int32, _) => digits(10),
        (Int64, _) => digits(19),
        (Decimal128(p, s), Decimal128(_, scale)) => *s >= 0 && scale >= s && digits((i16::from(*p) - i16::from(*s)).max(0) as u8),
        _ => false,
    }
}

/// The expression reads nothing, and its value is one of the type.
fn is_constant_of(expr: &Expr, wanted: &DataType) -> bool {
    if !expr.columns().is_empty() {
        return false;
    }
    let Ok(one) = Scope::new([]).batch(1, |_| Err(StateError::new("no column"))) else { return false };
    let value = expr.evaluate(&one).values;
    let numbers = value.data_type().is_numeric() && wanted.is_numeric();
    let texts = *value.data_type() == DataType::Utf8;
    (numbers || texts) && strictly(&value, wanted).is_some_and(|cast| cast.null_count() == value.null_count() && same(&value, &cast))
}

/// Nothing was rounded.
fn same(value: &ArrayRef, cast: &ArrayRef) -> bool {
    !value.data_type().is_numeric() || strictly(cast, value.data_type()).is_some_and(|back| back.as_ref() == value.as_ref())
}

/// A condition with the text it was compiled from.
#[derive(Clone, Debug)]
pub struct Condition {
    sql: String,
    pub predicate: Predicate,
}

impl Condition {
    /// # Errors
    /// It can't be compiled, or is not a condition.
    pub fn compile(sql: &str, scope: &Scope) -> Result<Condition, Diagnostic> {
        let predicate = Predicate::compile(sql, &scope.schema).map_err(|e| e.diagnostic())?;
        Ok(Condition { sql: sql.to_string(), predicate })
    }

    /// The same for a scope that has the columns it reads.
    ///
    /// # Errors
    /// The scope lacks them: a bug.
    pub fn within(&self, scope: &Scope) -> Result<Condition, Diagnostic> {
        Condition::compile(&self.sql, scope)
    }
}
