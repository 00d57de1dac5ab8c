//! Rows, findings and plans as lines of text.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMillisecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, Schema, TimestampMillisecondType};
use arrow::util::display::array_value_to_string;

use super::type_syntax;
use operator_core::batch::{Millis, NO_WATERMARK, OFFSET, TIME, WATERMARK, is_system, time_type, user_fields};
use operator_core::changes;
use operator_core::diagnostic::{Diagnostic, Severity};
use operator_core::operator::{Input, Ledger};
use operator_core::path::Path;
use operator_core::spec::{KeyEffect, Planned};

const DAY: Millis = 86_400_000;

/// A point in time: only the clock on the first day of 1970, which is where scripts live.
pub(super) fn time(at: Millis) -> String {
    if at == NO_WATERMARK {
        return "none".into();
    }
    if !(0..DAY).contains(&at) {
        let array: ArrayRef = std::sync::Arc::new(TimestampMillisecondArray::from(vec![at]).with_timezone("UTC"));
        return array_value_to_string(&array, 0).unwrap_or_else(|_| at.to_string());
    }
    let (seconds, millis) = (at / 1000, at % 1000);
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if millis > 0 {
        let _ = write!(text, ".{millis:03}");
    }
    text
}

/// One value. Texts are quoted where they could be mistaken for something else.
pub(super) fn value(array: &ArrayRef, row: usize) -> String {
    if array.is_null(row) {
        return "null".into();
    }
    match array.data_type() {
        DataType::Utf8 => {
            let text = array.as_string::<i32>().value(row);
            let plain = !text.is_empty()
                && text != "null"
                && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "|=\"{}[],:()".contains(c));
            if plain { text.into() } else { serde_json::Value::from(text).to_string() }
        }
        DataType::Timestamp(_, zone) => {
            let millis = cast(array, &DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, zone.clone()));
            match millis {
                Ok(millis) => time(millis.as_primitive::<TimestampMillisecondType>().value(row)),
                Err(e) => e.to_string(),
            }
        }
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            let items: Vec<String> = (0..items.len()).map(|i| value(&items, i)).collect();
            format!("[{}]", items.join(", "))
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let fields: Vec<String> = fields.iter().zip(columns).map(|(f, c)| format!("{}: {}", f.name(), value(c, row))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        _ => array_value_to_string(array, row).unwrap_or_else(|e| e.to_string()),
    }
}

/// `a=1 b=x | time=12:00:00 offset=3`; the offset only of rows that have one. Of changes, with `+` or `-` before it.
pub(super) fn row(rows: &RecordBatch, row: usize, watermark: bool) -> String {
    let schema = rows.schema();
    let user = schema.fields().iter().zip(rows.columns()).filter(|(f, _)| !is_system(f.name()));
    let mut line = match changes::of(rows).map(|signs| signs.value(row)) {
        Some(sign) if sign < 0 => "- ".to_string(),
        Some(_) => "+ ".to_string(),
        None => String::new(),
    };
    line.extend(user.map(|(f, c)| format!("{}={} ", f.name(), value(c, row))));
    line.push('|');
    if let Some(times) = rows.column_by_name(TIME) {
        let _ = write!(line, " time={}", value(times, row));
    }
    let number = |name| rows.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>()).map(|c| c.value(row));
    if let Some(mark) = number(WATERMARK).filter(|_| watermark) {
        let _ = write!(line, " watermark={}", time(mark));
    }
    if let Some(offset) = number(OFFSET).filter(|offset| *offset >= 0) {
        let _ = write!(line, " offset={offset}");
    }
    line
}

/// `ledger: in=3 passed=2 filtered=1`, zeros left out.
pub(super) fn ledger(rows_in: u64, ledger: &Ledger) -> Option<String> {
    let Ledger { passed, filtered, late, rejected, held } = *ledger;
    let counts =
        [("passed", passed as i64), ("filtered", filtered as i64), ("late", late as i64), ("rejected", rejected as i64), ("held", held)];
    let counts: String = counts.iter().filter(|(_, n)| *n != 0).map(|(name, n)| format!(" {name}={n}")).collect();
    match rows_in {
        0 if counts.is_empty() => None,
        0 => Some(format!("ledger:{counts}")),
        n => Some(format!("ledger: in={n}{counts}")),
    }
}

/// `error[unknown-column] select.revenue 0..3: message (help)`.
pub(super) fn diagnostic(found: &Diagnostic) -> String {
    let severity = match found.severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let mut line = format!("{severity}[{}]", found.code);
    if !found.path.is_empty() {
        let _ = write!(line, " {}", found.path.join("."));
    }
    if let Some(within) = &found.within {
        let _ = write!(line, " {}..{}", within.start, within.end);
    }
    let _ = write!(line, ": {}", found.message);
    if let Some(help) = &found.help {
        let _ = write!(line, " ({help})");
    }
    line
}

fn columns(schema: &Schema) -> String {
    let columns: Vec<String> = user_fields(schema)
        .map(|f| format!("{}: {}{}", f.name(), type_syntax::name(f.data_type()), if f.is_nullable() { "" } else { " not null" }))
        .collect();
    columns.join(", ")
}

/// What planning made of a step.
pub(super) fn plan(planned: &Planned) -> Vec<String> {
    let mut lines = Vec::new();
    for port in &planned.outputs {
        let name = if port.name.is_empty() { "out" } else { &port.name };
        let key = match &port.key {
            KeyEffect::Unchanged => "unchanged".to_string(),
            KeyEffect::Columns(columns) => format!("by {}", columns.join(", ")),
            KeyEffect::Renamed(names) => {
                let names: Vec<String> = names.iter().map(|(old, new)| format!("{old} as {new}")).collect();
                format!("renamed {}", names.join(", "))
            }
        };
        let lossy = if port.lossy_if_unread { "; lossy if unread" } else { "" };
        let of = if port.key_of == Input::ONLY { String::new() } else { format!(" of input {}", port.key_of.0 + 1) };
        let mode = if port.mode.is_changes() { format!("; {}", port.mode) } else { String::new() };
        lines.push(format!("output {name}: {} [key {key}{of}{lossy}{mode}]", columns(&port.schema)));
    }
    if let Some(keys) = &planned.needs_key {
        let keys: Vec<String> = keys.iter().map(|key| key.iter().map(Path::to_string).collect::<Vec<_>>().join(", ")).collect();
        lines.push(format!("needs key: {}", keys.join(" | ")));
    }
    if planned.state.is_some() {
        lines.push("stateful".into());
    }
    if planned.delay != 0 {
        lines.push(format!("delay: {}", operator_core::Interval(planned.delay)));
    }
    if !planned.tables.is_empty() {
        let tables: Vec<&str> = planned.tables.iter().map(|used| used.name.as_str()).collect();
        lines.push(format!("tables: {}", tables.join(", ")));
    }
    lines.extend(planned.details.iter().map(|(name, value)| format!("detail {name}: {value}")));
    lines.extend(planned.warnings.iter().map(diagnostic));
    lines
}

/// Reads `12:00:05`, `12:00:05.250`, `none` or a full timestamp.
pub(super) fn read_time(text: &str) -> Result<Millis, String> {
    if text == "none" {
        return Ok(NO_WATERMARK);
    }
    let full = if text.get(2..3) == Some(":") { format!("1970-01-01T{text}Z") } else { text.to_string() };
    let read = chrono::DateTime::parse_from_rfc3339(&full).map(|time| time.timestamp_millis());
    read.map_err(|_| format!("`{text}` is not a time: write 12:00:05 or 2026-01-31T12:00:05Z"))
}

/// True for the type that `read_time` is for.
pub(super) fn is_time(data_type: &DataType) -> bool {
    *data_type == time_type() || matches!(data_type, DataType::Timestamp(_, _))
}
