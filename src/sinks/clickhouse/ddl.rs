//! A table that fits a schema.

use arrow::datatypes::DataType;
use headwater_engine::delivery::position_fields;
use headwater_engine::sinks::Incoming;

use super::changes::{self, engine};
use super::columns::column_type;
use super::connection::{Connection, Table, identifier};
use super::created::Created;
use super::failure::ClickHouseError;

/// How a table is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableOptions {
    /// Columns of the sorting key. Empty: the positions.
    pub order_by: Vec<String>,
    /// An expression; none is best for exactly once, see the limits in the module's text.
    pub partition_by: Option<String>,
    /// Text columns with few different values.
    pub low_cardinality: Vec<String>,
    /// Blocks that the table remembers: more than all its writers insert during the longest doubt.
    pub window: u64,
}

impl Default for TableOptions {
    fn default() -> TableOptions {
        TableOptions { order_by: Vec::new(), partition_by: None, low_cardinality: Vec::new(), window: 10_000 }
    }
}

/// `CREATE TABLE IF NOT EXISTS` for `rows`. Columns for positions are added, and those that changes need.
///
/// # Errors
/// A column whose type ClickHouse does not have; a sorting key that is not a column, may be null, or is not that of the changes.
pub fn ddl(table: &Table, rows: &Incoming, options: &TableOptions) -> Result<String, String> {
    let (positions, added) = (position_fields(), changes::fields(rows));
    let fields = || rows.columns.fields().iter().map(AsRef::as_ref).chain(&positions).chain(&added);
    let mut columns = Vec::new();
    for field in fields() {
        let mut native = column_type(field).map_err(|why| format!("column `{}`: {why}", field.name()))?;
        let text = matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        if text && options.low_cardinality.iter().any(|name| name == field.name()) {
            native = format!("LowCardinality({native})");
        }
        columns.push(format!("    {} {native}", identifier(field.name())));
    }
    let sorting = match &rows.changes {
        Some(key) if !options.order_by.is_empty() && options.order_by != *key => {
            return Err(format!("the rows are changes by {0}, so the table is sorted by {0}", key.join(", ")));
        }
        Some(key) => key,
        None => &options.order_by,
    };
    for name in sorting {
        match fields().find(|field| field.name() == name) {
            None => return Err(format!("the sorting key `{name}` is not a column")),
            Some(field) if field.is_nullable() => return Err(format!("the sorting key `{name}` is nullable")),
            Some(_) => {}
        }
    }
    let default_key: Vec<String> = positions.iter().map(|field| field.name().clone()).collect();
    let key = if sorting.is_empty() { &default_key } else { sorting };
    let engine = match rows.changes {
        Some(_) => engine(),
        None => "MergeTree".to_owned(),
    };
    let key: Vec<String> = key.iter().map(|name| identifier(name)).collect();
    let partition = options.partition_by.as_ref().map(|by| format!("PARTITION BY {by}\n")).unwrap_or_default();
    Ok(format!(
        "CREATE TABLE IF NOT EXISTS {} (\n{}\n)\nENGINE = {engine}\n{partition}ORDER BY ({})\n\
         SETTINGS non_replicated_deduplication_window = {}",
        table.quoted(),
        columns.join(",\n"),
        key.join(", "),
        options.window
    ))
}

/// Codes of what exists already: tables and views, databases, dictionaries.
const EXISTS: [i32; 3] = [57, 82, 387];

/// Runs the file that creates a table: whatever it creates and is missing is there afterwards, what exists stays as it is.
///
/// # Errors
/// The file does more than create; the server's.
pub async fn run_file(connection: &Connection, created: &Created) -> Result<(), ClickHouseError> {
    created.only_creates().map_err(ClickHouseError::Unexpected)?;
    connection.execute(&format!("CREATE DATABASE IF NOT EXISTS {}", identifier(&created.table.database))).await?;
    for statement in created.statements.iter() {
        match connection.execute(statement).await {
            Err(ClickHouseError::Exception { code, .. }) if EXISTS.contains(&code) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Creates database and table where they don't exist. An existing table is left as it is: the gate says whether it fits.
///
/// # Errors
/// Those of [`ddl`] and of the server.
pub async fn ensure_table(connection: &Connection, table: &Table, rows: &Incoming, options: &TableOptions) -> Result<(), ClickHouseError> {
    let statement = ddl(table, rows, options).map_err(ClickHouseError::Unexpected)?;
    connection.execute(&format!("CREATE DATABASE IF NOT EXISTS {}", identifier(&table.database))).await?;
    connection.execute(&statement).await
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema, TimeUnit};

    use super::*;

    fn rows() -> Incoming {
        Incoming::added(Schema::new(vec![
            Field::new("order_id", DataType::Utf8, false),
            Field::new("status", DataType::Utf8, true),
            Field::new("total", DataType::Decimal128(12, 2), false),
            Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
        ]))
    }

    #[test]
    fn a_table_has_the_columns_the_positions_and_a_window() {
        let options = TableOptions {
            order_by: vec!["order_id".into()],
            low_cardinality: vec!["status".into(), "total".into()],
            ..TableOptions::default()
        };
        let expected = "CREATE TABLE IF NOT EXISTS `shop`.`orders` (
    `order_id` String,
    `status` LowCardinality(Nullable(String)),
    `total` Decimal(12, 2),
    `at` DateTime64(3, 'UTC'),
    `_partition` Int32,
    `_offset` Int64,
    `_row` Int32
)
ENGINE = MergeTree
ORDER BY (`order_id`)
SETTINGS non_replicated_deduplication_window = 10000";
        assert_eq!(ddl(&Table::new("shop", "orders"), &rows(), &options).unwrap(), expected);
    }

    #[test]
    fn keys_that_cannot_be_are_refused() {
        let with = |key: &str| {
            let options = TableOptions { order_by: vec![key.into()], ..TableOptions::default() };
            ddl(&Table::new("d", "t"), &rows(), &options)
        };
        assert!(with("status").unwrap_err().contains("is nullable"));
        assert!(with("missing").unwrap_err().contains("not a column"));
        assert!(
            ddl(&Table::new("d", "t"), &rows(), &TableOptions::default()).unwrap().contains("ORDER BY (`_partition`, `_offset`, `_row`)")
        );
    }

    #[test]
    fn a_table_of_changes_replaces_rows_by_their_key() {
        let by = |key: &str| Incoming { changes: Some(vec![key.to_owned()]), ..rows() };
        let made = ddl(&Table::new("d", "t"), &by("order_id"), &TableOptions::default()).unwrap();
        let expected = "    `_row` Int32,\n    `_version` UInt64,\n    `_deleted` UInt8\n)\nENGINE = ReplacingMergeTree(_version, _deleted)\n\
                        ORDER BY (`order_id`)\n";
        assert!(made.contains(expected), "{made}");
        let options = TableOptions { order_by: vec!["at".into()], ..TableOptions::default() };
        assert!(ddl(&Table::new("d", "t"), &by("order_id"), &options).unwrap_err().contains("sorted by order_id"));
        assert!(ddl(&Table::new("d", "t"), &by("status"), &TableOptions::default()).unwrap_err().contains("is nullable"));
    }
}
