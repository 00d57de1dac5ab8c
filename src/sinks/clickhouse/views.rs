//! Materialized views that take rows from a table.

use super::connection::{Connection, Table, literal};
use super::failure::ClickHouseError;

/// The tables and views that read a table.
pub(super) async fn dependents(connection: &Connection, table: &Table) -> Result<Vec<Table>, ClickHouseError> {
    let sql = format!(
        "SELECT d, t FROM system.tables ARRAY JOIN dependencies_database AS d, dependencies_table AS t \
         WHERE database = {} AND name = {} ORDER BY d, t",
        literal(&table.database),
        literal(&table.name)
    );
    let rows = connection.rows(&sql).await?;
    Ok(rows.into_iter().filter_map(|row| Some(Table::new(row.first()?, row.get(1)?))).collect())
}

/// The table a materialized view writes to: named after `TO`, or its own hidden one.
pub(super) fn view_target(view: &Table, create: &str, uuid: &str) -> Option<Table> {
    let rest = create.strip_prefix("CREATE MATERIALIZED VIEW ")?;
    let (_, rest) = table_name(rest, &view.database)?;
    match rest.trim_start().strip_prefix("TO ") {
        Some(rest) if !rest.starts_with("INNER") => table_name(rest, &view.database).map(|(table, _)| table),
        _ => {
            let unnamed = uuid.chars().all(|c| matches!(c, '0' | '-'));
            let name = if unnamed { format!(".inner.{}", view.name) } else { format!(".inner_id.{uuid}") };
            Some(Table::new(view.database.as_str(), name))
        }
    }
}

/// Reads `db.name` with either part quoted.
fn table_name<'a>(text: &'a str, database: &str) -> Option<(Table, &'a str)> {
    let (first, rest) = name(text)?;
    match rest.strip_prefix('.') {
        Some(rest) => name(rest).map(|(second, rest)| (Table::new(first, second), rest)),
        None => Some((Table::new(database, first), rest)),
    }
}

fn name(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('`') {
        let (mut name, mut escaped) = (String::new(), false);
        for (at, c) in quoted.char_indices() {
            match c {
                _ if escaped => (escaped, _) = (false, name.push(c)),
                '\\' => escaped = true,
                '`' => return Some((name, quoted.get(at + 1..)?)),
                _ => name.push(c),
            }
        }
        return None;
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end)?;
    (!name.is_empty()).then(|| (name.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_a_view_is_found() {
        let target = |create: &str| view_target(&Table::new("d", "t"), create, "92872969-befa-47e4-bba8-7f4fcf6fa261");
        let to = "CREATE MATERIALIZED VIEW d.mv TO e.`u\\`x` (`a` Int64) AS SELECT a FROM d.t";
        assert_eq!(target(to), Some(Table::new("e", "u`x")));
        let to = "CREATE MATERIALIZED VIEW d.`TO x.y` TO u (`a` Int64) AS SELECT 1";
        assert_eq!(target(to), Some(Table::new("d", "u")));
        let own = "CREATE MATERIALIZED VIEW d.mv (`a` Int64) ENGINE = MergeTree ORDER BY a AS SELECT ' TO x'";
        assert_eq!(target(own), Some(Table::new("d", ".inner_id.92872969-befa-47e4-bba8-7f4fcf6fa261")));
        assert_eq!(target("CREATE MATERIALIZED VIEW d.`mv"), None);
    }
}
