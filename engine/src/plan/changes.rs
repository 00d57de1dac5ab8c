//! Planning streams of changes: their keys, and what is not possible with them.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use operator_core::keys::is_groupable;
use operator_core::path::{in_sql, unknown_column};
use operator_core::{Diagnostic, Mode, Path, type_said};

use super::SinkKey;
use crate::pipeline::{Key, Source};

/// The columns that say which row of the table a change is about: the `key` of the source.
pub(super) fn key_of(source: &Source, value: &Schema) -> Result<Vec<Path>, Diagnostic> {
    let columns = match &source.key {
        Some(Key::Column(_) | Key::Columns(_)) => source.key.iter().flat_map(Key::columns),
        Some(Key::Record(_)) => {
            let found = Diagnostic::error("key-format", "rows of change records have their key among their columns").at(["key"]);
            return Err(found.help("name the columns: `key: sku`, or `key: [tenant, sku]`"));
        }
        None => {
            let found = Diagnostic::error("changes-key", "change records need a `key`: it says which row a change is about").at(["format"]);
            return Err(found.help("name the primary key of the table: `key: id`, or `key: [tenant, id]`"));
        }
    };
    let column = |text: &String| {
        let found = Path::resolve_column(text, value.fields());
        let field = found.ok_or_else(|| unknown_column(text, value.fields()).at(["key"]))?;
        if !is_groupable(field.data_type()) {
            let found = Diagnostic::error("key-type", format!("`{text}` is {}, which can't be a key", type_said(field.data_type())));
            return Err(found.at(["key"]).help("name the columns of the table's primary key"));
        }
        Ok(Path::column(field.name()))
    };
    columns.map(column).collect()
}

/// The columns of the rows: those of the key are never null.
pub(super) fn with_key(value: &SchemaRef, key: &[Path]) -> SchemaRef {
    let required = |field: &Arc<Field>| match key.iter().any(|path| path.first() == field.name()) {
        true => Arc::new(field.as_ref().clone().with_nullable(false)),
        false => field.clone(),
    };
    Arc::new(Schema::new(value.fields().iter().map(required).collect::<Vec<_>>()))
}

/// Why a topic can't take the changes of a stream: its records are kept by another key.
pub(super) fn topic_by(key: Option<&SinkKey>, mode: &Mode) -> Option<Diagnostic> {
    if !mode.is_changes() {
        return None;
    }
    let Some(by) = mode.key() else {
        let message = "these are changes without a key, so a topic can't keep the rows that are there";
        let help = "keep the key's columns in every step, repartition only by columns of the key, and read a source whose producers put all \
                    changes of a row into one partition (no `partitioner: unknown`). For a total over all rows, add a constant column and \
                    group by it: `map: { add: { total_of: \"'all'\" } }`, `by: [total_of]`";
        return Some(Diagnostic::error("changes-key", message).at(["topic"]).help(help));
    };
    let own: Vec<&Path> = key.iter().flat_map(|key| &key.columns).collect();
    let same = own.len() == by.len() && own.iter().all(|path| by.contains(path));
    let names = by.iter().map(Path::to_string).collect::<Vec<_>>().join(", ");
    let help = match by {
        [one] => format!("write `key: {one}`: a record is then the row as it is, and one without a value says that the row is gone"),
        _ => format!("write `key: [{names}]`: a record is then the row as it is, and one without a value says that the row is gone"),
    };
    let place = if key.is_some() { "key" } else { "topic" };
    (!same).then(|| Diagnostic::error("changes-key", format!("the rows are {mode}, and the topic has another key")).at([place]).help(help))
}

/// The columns by which a table finds the row that a change is about; `None`: rows are only added.
pub(super) fn table_by(mode: &Mode, columns: &Schema) -> Result<Option<Vec<String>>, Diagnostic> {
    if !mode.is_changes() {
        return Ok(None);
    }
    let wrong = |message: String| Diagnostic::error("changes-sink", message).at(["from"]);
    let Some(key) = mode.key() else {
        let found = wrong("these are changes without a key, so nothing says which row of the table a change is about".to_string());
        return Err(found.help("keep the key's columns in every step, and repartition only by columns of the key"));
    };
    let is_column = |path: &&Path| path.names().count() == 1 && columns.field_with_name(path.first()).is_ok();
    if let Some(other) = key.iter().find(|path| !is_column(path)) {
        let sql = other.names().map(in_sql).collect::<Vec<_>>().join(".");
        let found = wrong(format!("these are {mode}, and `{other}` is not a column that a table gets"));
        return Err(found.help(format!("make it one in a `map` step: `add: {{ {}: {sql} }}`", other.last())));
    }
    Ok(Some(key.iter().map(|path| path.first().to_string()).collect()))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;

    #[test]
    fn a_table_takes_changes_by_columns_that_it_gets() {
        let column = Path::column;
        let fields = [("id", DataType::Int64), ("tenant", DataType::Utf8)].map(|(name, of)| Field::new(name, of, false));
        let columns = Schema::new(fields.to_vec());
        let by = |key: &[Path]| table_by(&Mode::Changes { key: key.to_vec(), row_time: true }, &columns);
        assert_eq!(table_by(&Mode::Append, &columns).unwrap(), None);
        assert_eq!(by(&[column("tenant"), column("id")]).unwrap(), Some(vec!["tenant".to_string(), "id".to_string()]));
        for (key, said) in [
            (vec![], "changes without a key"),
            (vec![column("data").child("id")], "`data.id` is not a column"),
            (vec![column("_key")], "`_key` is not a column"),
        ] {
            let found = by(&key).unwrap_err();
            assert!(found.code == "changes-sink" && found.message.contains(said), "{}", found.message);
        }
    }
}
