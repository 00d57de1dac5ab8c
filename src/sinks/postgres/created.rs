//! Tables as `CREATE TABLE` statements define them, for checks without a server.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sqlparser::ast::{ColumnOption, CreateTable, Ident, ObjectName, Statement, TableConstraint};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::native::Column;
use crate::sinks::sql_files;

/// A table and the file that creates it.
#[derive(Clone, Debug)]
pub(super) struct Created {
    pub columns: Vec<Column>,
    /// The columns of each primary key and unique constraint, sorted.
    pub keys: Vec<Vec<String>>,
    pub file: String,
    /// All statements of the file.
    pub statements: Arc<[String]>,
}

impl Created {
    /// Whether the file can be run to create what is missing.
    ///
    /// # Errors
    /// A statement that does something else.
    pub fn only_creates(&self) -> Result<(), String> {
        let creates = |statement: &&String| {
            let upper = statement.to_ascii_uppercase();
            upper.starts_with("CREATE ") && !upper.starts_with("CREATE OR REPLACE")
        };
        let Some(other) = self.statements.iter().find(|statement| !creates(statement)) else { return Ok(()) };
        let shown: String = other.chars().take(60).collect();
        Err(format!(
            "{} also has `{shown}`: `create_tables` runs files that only create. Move the statement into another file, or run the file yourself",
            self.file
        ))
    }

    /// Some unique constraint is exactly over these columns.
    pub fn has_key(&self, key: &[String]) -> bool {
        let mut wanted = key.to_vec();
        wanted.sort_unstable();
        self.keys.contains(&wanted)
    }
}

/// The tables that the `*.sql` files of a folder create, by `schema.table`.
///
/// # Errors
/// A file that can't be read as SQL, by name.
pub(super) fn tables_in(dir: &Path) -> Result<BTreeMap<String, Created>, String> {
    let mut tables = BTreeMap::new();
    for (file, text) in sql_files(dir)? {
        let at = |e: &dyn std::fmt::Display| format!("{file}: {e}");
        let parsed = Parser::parse_sql(&PostgreSqlDialect {}, &text).map_err(|e| at(&e))?;
        let statements: Arc<[String]> = parsed.iter().map(ToString::to_string).collect();
        let enums: Vec<String> = statements.iter().filter_map(|statement| enumeration(statement)).collect();
        for statement in &parsed {
            let Statement::CreateTable(created) = statement else { continue };
            let (columns, keys) = shape(created, &enums);
            let (file, statements) = (file.clone(), statements.clone());
            tables.insert(name(&created.name), Created { columns, keys, file, statements });
        }
    }
    Ok(tables)
}

/// `CREATE TYPE mood AS ENUM (..)` makes `mood`.
fn enumeration(statement: &str) -> Option<String> {
    let rest = statement.strip_prefix("CREATE TYPE ")?;
    let (name, _) = rest.split_once(" AS ENUM")?;
    Some(name.to_ascii_lowercase())
}

/// As PostgreSQL understands a name: without quotes in lower case.
fn plain(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

/// `schema.table`; without a schema that of the search path.
fn name(name: &ObjectName) -> String {
    let parts: Vec<String> = name.0.iter().filter_map(|part| part.as_ident()).map(plain).collect();
    if parts.len() == 1 { format!("public.{}", parts.concat()) } else { parts.join(".") }
}

fn shape(created: &CreateTable, enums: &[String]) -> (Vec<Column>, Vec<Vec<String>>) {
    let (mut columns, mut keys) = (Vec::new(), Vec::new());
    for column in &created.columns {
        let text = column.data_type.to_string();
        let lower = text.to_ascii_lowercase();
        let serial = lower.contains("serial");
        let mut found = Column {
            name: plain(&column.name),
            is_enum: enums.contains(&lower),
            text,
            required: serial,
            has_default: serial,
            generated: false,
            item: 0,
        };
        for option in &column.options {
            match &option.option {
                ColumnOption::NotNull => found.required = true,
                ColumnOption::PrimaryKey(_) => {
                    found.required = true;
                    keys.push(vec![found.name.clone()]);
                }
                ColumnOption::Unique(_) => keys.push(vec![found.name.clone()]),
                ColumnOption::Default(_) => found.has_default = true,
                ColumnOption::Generated { generated_as, .. } => {
                    let by_default = matches!(generated_as, sqlparser::ast::GeneratedAs::ByDefault);
                    (found.has_default, found.generated) = (by_default, !by_default);
                }
                _ => {}
            }
        }
        columns.push(found);
    }
    for constraint in &created.constraints {
        let (of, primary) = match constraint {
            TableConstraint::PrimaryKey(key) => (&key.columns, true),
            TableConstraint::Unique(key) => (&key.columns, false),
            _ => continue,
        };
        let mut names: Vec<String> = of.iter().map(|column| column.column.expr.to_string()).collect();
        names
            .iter_mut()
            .for_each(|name| *name = if name.starts_with('"') { name.trim_matches('"').to_owned() } else { name.to_ascii_lowercase() });
        if primary {
            columns.iter_mut().filter(|column| names.contains(&column.name)).for_each(|column| column.required = true);
        }
        names.sort_unstable();
        keys.push(names);
    }
    (columns, keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::postgres::native::Native;

    #[test]
    fn tables_are_read_with_their_keys() {
        let dir = tempfile::tempdir().unwrap();
        let text = "CREATE SCHEMA IF NOT EXISTS shop;
            CREATE TYPE mood AS ENUM ('good', 'bad');
            CREATE TABLE shop.orders (
                Id bigint PRIMARY KEY, \"Total\" numeric(12, 2) NOT NULL, at timestamptz DEFAULT now(), tags text[],
                feeling mood, n integer GENERATED ALWAYS AS IDENTITY, UNIQUE (at, \"Total\")
            ); -- comment
            CREATE INDEX ON shop.orders (at);";
        std::fs::write(dir.path().join("orders.sql"), text).unwrap();
        let tables = tables_in(dir.path()).unwrap();
        let created = tables.get("shop.orders").unwrap();
        created.only_creates().unwrap();
        let names: Vec<&str> = created.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["id", "Total", "at", "tags", "feeling", "n"]);
        let natives: Vec<Native> = created.columns.iter().map(|column| column.native().unwrap()).collect();
        assert_eq!(natives[1], Native::Numeric(Some((12, 2))));
        assert_eq!(natives[3], Native::Array(Box::new(Native::Text(None))));
        assert_eq!(natives[4], Native::Text(None));
        let flags = |at: usize| (created.columns[at].required, created.columns[at].has_default, created.columns[at].generated);
        assert_eq!(
            (flags(0), flags(1), flags(2), flags(5)),
            ((true, false, false), (true, false, false), (false, true, false), (false, false, true))
        );
        assert!(created.has_key(&["id".into()]) && created.has_key(&["Total".into(), "at".into()]) && !created.has_key(&["at".into()]));
    }
}
