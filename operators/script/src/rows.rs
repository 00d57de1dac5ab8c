//! Tables drawn as text to record batches.

use std::sync::Arc;

use arrow::array::{BooleanArray, Int8Array, Int64Array, RecordBatch, RecordBatchOptions, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use super::{show, type_syntax};
use operator_core::batch::{FUTURE, Millis, NO_WATERMARK, OFFSET, TIME, WATERMARK, system_fields};
use operator_core::changes::{self, ADDED, GONE};

/// A table as drawn: names and types of the header, cells of the rows.
pub(super) struct Drawn {
    pub columns: Vec<(String, Option<DataType>)>,
    pub rows: Vec<Vec<String>>,
}

/// Takes the lines of a table apart.
pub(super) fn drawn(lines: &[&str]) -> Result<Drawn, String> {
    let (header, rows) = lines.split_first().ok_or("a table needs a header line, indented")?;
    let columns = header
        .split('|')
        .map(|cell| match cell.split_once(':') {
            Some((name, data_type)) => Ok((name.trim().to_string(), Some(type_syntax::data_type(data_type.trim())?))),
            None => Ok((cell.trim().to_string(), None)),
        })
        .collect::<Result<Vec<_>, String>>()?;
    let rows: Vec<Vec<String>> = rows.iter().map(|line| cells(line)).collect();
    match rows.iter().find(|row| row.len() != columns.len()) {
        Some(row) => Err(format!("`{}` has {} cells, the header has {}", row.join(" | "), row.len(), columns.len())),
        None => Ok(Drawn { columns, rows }),
    }
}

/// Takes the signs off the rows of a table of changes.
pub(super) fn signed<'a>(lines: &[&'a str]) -> Result<(Vec<&'a str>, Vec<i8>), String> {
    let (mut rest, mut signs) = (lines.get(..1).unwrap_or_default().to_vec(), Vec::new());
    for line in lines.iter().skip(1) {
        let row = line.trim_start();
        let (sign, row) = match (row.strip_prefix('+'), row.strip_prefix('-')) {
            (Some(row), _) => (ADDED, row),
            (_, Some(row)) => (GONE, row),
            _ => return Err(format!("`{row}` is a change: start it with + or -")),
        };
        signs.push(sign);
        rest.push(row);
    }
    Ok((rest, signs))
}

/// Splits at `|` outside of quotes.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for c in line.chars() {
        if c == '|' && !quoted {
            cells.push(String::new());
            continue;
        }
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        if let Some(last) = cells.last_mut() {
            last.push(c);
        }
    }
    cells.into_iter().map(|cell| cell.trim().to_string()).collect()
}

impl Drawn {
    /// The user columns of the header, which must all have types.
    pub fn schema(&self) -> Result<Schema, String> {
        let user = self.columns.iter().filter(|(name, _)| !name.starts_with('_'));
        let fields = user.map(|(name, data_type)| {
            let data_type = data_type.clone().ok_or_else(|| format!("column `{name}` has no type: write `{name}:string`"))?;
            Ok(Field::new(name, data_type, true))
        });
        Ok(Schema::new(fields.collect::<Result<Vec<_>, String>>()?))
    }

    /// The rows with the columns of `schema`; columns that are not drawn are null.
    pub fn batch(&self, schema: &SchemaRef) -> Result<RecordBatch, String> {
        if let Some((name, _)) = self.columns.iter().find(|(name, _)| !name.starts_with('_') && schema.field_with_name(name).is_err()) {
            return Err(format!("the input has no column `{name}`"));
        }
        let mut objects = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            let mut object = Map::new();
            for ((name, _), cell) in self.columns.iter().zip(row) {
                if let Ok(field) = schema.field_with_name(name) {
                    object.insert(name.clone(), json(cell, field.data_type())?);
                }
            }
            objects.push(Value::Object(object));
        }
        if objects.is_empty() || schema.fields().is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(objects.len()));
            let empty = schema.fields().iter().map(|f| arrow::array::new_empty_array(f.data_type())).collect();
            return RecordBatch::try_new_with_options(schema.clone(), empty, &options).map_err(|e| e.to_string());
        }
        let mut decoder =
            arrow_json::ReaderBuilder::new(schema.clone()).with_batch_size(objects.len()).build_decoder().map_err(|e| e.to_string())?;
        // As text: numbers keep every digit, so they are not plain numbers for another serializer.
        let text: String = objects.iter().map(|object| format!("{object}\n")).collect();
        decoder.decode(text.as_bytes()).map_err(|e| e.to_string())?;
        decoder.flush().map_err(|e| e.to_string())?.ok_or_else(|| "the rows are gone".to_string())
    }

    /// The times in a column, for rows that have one.
    pub fn times(&self, column: &str) -> Result<Vec<Option<Millis>>, String> {
        let Some(at) = self.columns.iter().position(|(name, _)| name == column) else {
            return Ok(vec![None; self.rows.len()]);
        };
        let cells = self.rows.iter().filter_map(|row| row.get(at));
        cells.map(|cell| if cell.is_empty() { Ok(None) } else { show::read_time(cell).map(Some) }).collect()
    }

    /// Where a column says `true`.
    pub fn flags(&self, column: &str) -> Vec<bool> {
        let at = self.columns.iter().position(|(name, _)| name == column);
        self.rows.iter().map(|row| at.and_then(|at| row.get(at)).is_some_and(|cell| cell == "true")).collect()
    }

    /// The numbers in a column, for rows that have one.
    pub fn numbers(&self, column: &str) -> Result<Vec<Option<i64>>, String> {
        let Some(at) = self.columns.iter().position(|(name, _)| name == column) else {
            return Ok(vec![None; self.rows.len()]);
        };
        let cells = self.rows.iter().filter_map(|row| row.get(at));
        cells
            .map(|cell| if cell.is_empty() { Ok(None) } else { cell.parse().map(Some).map_err(|_| format!("`{cell}` is not a number")) })
            .collect()
    }
}

/// A cell as the JSON that Arrow's reader takes for the type.
fn json(cell: &str, data_type: &DataType) -> Result<Value, String> {
    if cell.is_empty() || cell == "null" {
        return Ok(Value::Null);
    }
    let quoted = cell.starts_with('"');
    match data_type {
        DataType::Utf8 if !quoted => Ok(cell.into()),
        DataType::Decimal128(_, _) | DataType::Date32 | DataType::Binary => Ok(cell.trim_matches('"').into()),
        DataType::Float32 | DataType::Float64 if cell.parse::<f64>().is_ok_and(|f| !f.is_finite()) => Ok(cell.into()),
        _ if show::is_time(data_type) => whole_time(cell),
        _ => {
            let value = serde_json::from_str(cell).map_err(|e| format!("`{cell}`: {e}"))?;
            adapt(value, data_type)
        }
    }
}

fn whole_time(text: &str) -> Result<Value, String> {
    let text = text.trim_matches('"');
    let millis = show::read_time(text)?;
    let array = TimestampMillisecondArray::from(vec![millis]).with_timezone("UTC");
    let array: arrow::array::ArrayRef = Arc::new(array);
    arrow::util::display::array_value_to_string(&array, 0).map(Value::from).map_err(|e| e.to_string())
}

/// Times and decimals inside of lists and structs.
fn adapt(value: Value, data_type: &DataType) -> Result<Value, String> {
    Ok(match (value, data_type) {
        (Value::String(text), data_type) if show::is_time(data_type) => whole_time(&text)?,
        (Value::Number(number), DataType::Decimal128(_, _)) => number.to_string().into(),
        (Value::Array(items), DataType::List(item)) => {
            Value::Array(items.into_iter().map(|v| adapt(v, item.data_type())).collect::<Result<_, _>>()?)
        }
        (Value::Object(object), DataType::Struct(fields)) => {
            let mut out = Map::new();
            for (name, value) in object {
                let (_, field) = fields.find(&name).ok_or_else(|| format!("the struct has no field `{name}`"))?;
                let value = adapt(value, field.data_type())?;
                out.insert(name, value);
            }
            Value::Object(out)
        }
        (value, _) => value,
    })
}

/// `user` columns with the system columns after them; `changing`: of a stream of changes.
pub(super) fn with_system(user: &Schema, changing: bool) -> SchemaRef {
    let system = system_fields().into_iter().chain(changing.then(changes::field)).map(Arc::new);
    Arc::new(Schema::new(user.fields().iter().cloned().chain(system).collect::<Vec<_>>()))
}

/// Time, watermark and offset as a source partition would give them to its rows.
pub(super) struct Clock {
    newest: Millis,
    pub next_offset: i64,
    rows: i64,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock { newest: NO_WATERMARK, next_offset: 0, rows: 0 }
    }
}

impl Clock {
    /// The newest time minus the disorder that is waited for.
    pub fn watermark(&self, out_of_order: Millis) -> Millis {
        if self.newest == NO_WATERMARK { NO_WATERMARK } else { self.newest.saturating_sub(out_of_order) }
    }

    /// Adds the system columns to the rows of a table. `times`: event times that come from a user column. `signs`: whether each row
    /// is there or gone, of changes: a row that is there is of the same record as one above it that is gone.
    pub fn stamp(
        &mut self,
        user: &RecordBatch,
        drawn: &Drawn,
        times: Option<Vec<Millis>>,
        out_of_order: Millis,
        signs: Option<Vec<i8>>,
    ) -> Result<RecordBatch, String> {
        let (given, marks, numbers) = (drawn.times(TIME)?, drawn.times(WATERMARK)?, drawn.numbers(OFFSET)?);
        let futures = drawn.flags(FUTURE);
        let mut system: [Vec<i64>; 3] = Default::default();
        let [all_times, all_marks, all_offsets] = &mut system;
        for (row, (((time, mark), offset), future)) in given.into_iter().zip(marks).zip(numbers).zip(&futures).enumerate() {
            let from_column = times.as_ref().and_then(|t| t.get(row)).copied();
            let time = time.or(from_column).unwrap_or(self.rows * 1000);
            all_times.push(time);
            all_marks.push(mark.unwrap_or(self.watermark(out_of_order)));
            let pair = row > 0 && signs.as_ref().is_some_and(|signs| signs.get(row - 1..=row) == Some(&[changes::GONE, changes::ADDED]));
            let offset = offset.unwrap_or(self.next_offset - i64::from(pair));
            all_offsets.push(offset);
            self.next_offset = offset + 1;
            self.newest = if *future { self.newest } else { self.newest.max(time) };
            self.rows += 1;
        }
        let [times, marks, offsets] = system;
        let mut columns = user.columns().to_vec();
        columns.push(Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")));
        columns.push(Arc::new(Int64Array::from(marks)));
        columns.push(Arc::new(Int64Array::from(offsets)));
        columns.push(Arc::new(BooleanArray::from(futures)));
        let schema = with_system(&user.schema(), signs.is_some());
        columns.extend(signs.map(|signs| Arc::new(Int8Array::from(signs)) as arrow::array::ArrayRef));
        RecordBatch::try_new(schema, columns).map_err(|e| e.to_string())
    }
}
