//! The table as the server describes it: whether it takes the rows of a sink, and what is missing.

use arrow::datatypes::Schema;
use tokio_postgres::Client;

use super::connection::Trouble;
use super::native::{Column, columns_for, misfits};
use super::sql::{POSITIONS, Table, create_positions, extend_positions, identifier, identifiers};

/// What a sink needs of its table.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub table: Table,
    /// The columns of the rows.
    pub rows: Schema,
    /// The columns whose values identify a row, for upserts and changes.
    pub key: Option<Vec<String>>,
    /// Its rows are changes.
    pub changes: bool,
}

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Inspection {
    pub version: String,
    /// What [`shape`] was before anything else was read.
    pub shape: String,
    /// The columns that are written, in the order of the rows.
    pub columns: Vec<Column>,
}

/// What creates the table for the rows.
pub(super) fn create_table(wanted: &Wanted) -> String {
    let column = |column: &Column| {
        let required = column.required || wanted.key.iter().flatten().any(|key| *key == column.name);
        format!("    {} {}{}", identifier(&column.name), column.text, if required { " NOT NULL" } else { "" })
    };
    let mut lines: Vec<String> = columns_for(wanted.rows.fields().iter()).iter().map(column).collect();
    if let Some(key) = &wanted.key {
        lines.push(format!("    PRIMARY KEY ({})", identifiers(key.iter().map(String::as_str))));
    }
    format!("CREATE TABLE IF NOT EXISTS {} (\n{}\n)", wanted.table.quoted(), lines.join(",\n"))
}

/// The advisory lock of a session that creates tables ("headwate"): workers that start at once do it one after the other.
const CREATING: i64 = 0x6865_6164_7761_7465;

/// Creates what is missing, all of it or nothing: the table by the statements of a file, or else for the rows; and the table of positions.
pub(super) async fn create(client: &Client, wanted: &Wanted, file: Option<&[String]>) -> Result<(), Trouble> {
    client.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({CREATING})")).await?;
    if !exists(client, "to_regclass", &wanted.table.quoted()).await? {
        let schema = format!("CREATE SCHEMA {}", identifier(&wanted.table.schema));
        let statements: Vec<String> = file.map_or_else(|| vec![create_table(wanted)], <[String]>::to_vec);
        for statement in std::iter::once(schema).chain(statements) {
            run(client, &statement).await?;
        }
    }
    match lacking_positions(client, &wanted.table).await? {
        Some(Lacking::Table) => run(client, &create_positions(&wanted.table)).await?,
        Some(Lacking::Topic) => run(client, &extend_positions(&wanted.table)).await?,
        None => {}
    }
    Ok(client.batch_execute("COMMIT").await?)
}

async fn exists(client: &Client, function: &str, name: &str) -> Result<bool, Trouble> {
    Ok(client.query_one(&format!("SELECT {function}($1) IS NOT NULL"), &[&name]).await?.get(0))
}

/// Codes of what exists already: duplicate schema, table, object, and the unique index of the catalog.
const EXISTS: [&str; 4] = ["42P06", "42P07", "42710", "23505"];

/// Executes a statement in the open transaction, unless what it creates is there.
async fn run(client: &Client, statement: &str) -> Result<(), Trouble> {
    // Even with IF NOT EXISTS it needs the right to create schemas.
    if let Some(schema) = created_schema(statement)
        && exists(client, "to_regnamespace", schema).await?
    {
        return Ok(());
    }
    client.batch_execute("SAVEPOINT headwater").await?;
    match client.batch_execute(statement).await {
        Err(error) if error.code().is_some_and(|code| EXISTS.contains(&code.code())) => {
            Ok(client.batch_execute("ROLLBACK TO SAVEPOINT headwater").await?)
        }
        result => Ok(result?),
    }
}

/// The name in `CREATE SCHEMA [IF NOT EXISTS] name`, as it is written.
fn created_schema(statement: &str) -> Option<&str> {
    let rest = statement.strip_prefix("CREATE SCHEMA ")?;
    rest.strip_prefix("IF NOT EXISTS ").unwrap_or(rest).split_whitespace().next()
}

const COLUMNS: &str = "SELECT a.attname::text, \
    CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) ELSE format_type(a.atttypid, a.atttypmod) END, \
    t.typtype = 'e', a.attnotnull OR t.typnotnull, a.atthasdef OR a.attidentity = 'd' OR t.typdefault IS NOT NULL, \
    a.attgenerated <> '' OR a.attidentity = 'a', CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0::oid END \
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
    WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// The columns of the table; empty if it does not exist.
pub(super) async fn columns(client: &Client, table: &Table) -> Result<Vec<Column>, Trouble> {
    let rows = client.query(COLUMNS, &[&table.quoted()]).await?;
    let column = |row: &tokio_postgres::Row| Column {
        name: row.get(0),
        text: row.get(1),
        is_enum: row.get(2),
        required: row.get(3),
        has_default: row.get(4),
        generated: row.get(5),
        item: row.get(6),
    };
    Ok(rows.iter().map(column).collect())
}

/// The columns of the table `$9` with their types, in a form that only serves to be compared.
pub(super) const SHAPE: &str = "SELECT coalesce(string_agg(concat_ws(' ', attrelid, attname, atttypid, atttypmod, attnotnull, atthasdef), ',' \
    ORDER BY attnum), '') FROM pg_attribute WHERE attrelid = to_regclass($9) AND attnum > 0 AND NOT attisdropped";

/// [`SHAPE`] of a table.
pub(super) async fn shape(client: &Client, table: &Table) -> Result<String, Trouble> {
    Ok(client.query_one(&SHAPE.replace("$9", "$1"), &[&table.quoted()]).await?.get(0))
}

/// What stands in the server for a sink.
pub(super) enum Seen {
    /// Delivery may begin.
    Ready(Inspection),
    /// There is no such table.
    NoTable,
    /// The table fits, and the table of positions is missing or of an older version: what to execute.
    NoPositions(String),
}

/// What delivery needs.
///
/// # Errors
/// The list of what is wrong, as [`Trouble::Wrong`]; the server's.
pub(super) async fn inspect(client: &Client, wanted: &Wanted) -> Result<Inspection, Trouble> {
    match look(client, wanted).await? {
        Seen::Ready(inspection) => Ok(inspection),
        Seen::NoTable => Err(missing(wanted)),
        Seen::NoPositions(what) => Err(unfit(&wanted.table, &[what])),
    }
}

/// Looks at everything that delivery depends on.
///
/// # Errors
/// The list of what is wrong with a table that is there, as [`Trouble::Wrong`]; the server's.
pub(super) async fn look(client: &Client, wanted: &Wanted) -> Result<Seen, Trouble> {
    let version: String = client.query_one("SHOW server_version", &[]).await?.get(0);
    let table = &wanted.table;
    // First: what is altered meanwhile shows in the first transaction.
    let shape = shape(client, table).await?;
    let all = columns(client, table).await?;
    let sql = "SELECT relkind::text, relpersistence::text FROM pg_class WHERE oid = to_regclass($1)";
    let Some(found) = client.query_opt(sql, &[&table.quoted()]).await? else {
        return Ok(Seen::NoTable);
    };
    let (kind, persistence): (String, String) = (found.get(0), found.get(1));
    let mut problems = misfits(wanted.rows.fields().iter(), &all);
    if !matches!(kind.as_str(), "r" | "p") {
        problems.push("it is no ordinary or partitioned table: what is written to a view or a foreign table is not known".to_owned());
    }
    if persistence != "p" {
        problems.push(format!("it does not survive a crash of the server, the position does: ALTER TABLE {} SET LOGGED", table.quoted()));
    }
    if let Some(key) = &wanted.key {
        problems.extend(no_unique_index(client, table, key).await?);
    }
    let lacking = lacking_positions(client, table).await?.map(|lacking| lacking.remedy(table));
    if problems.is_empty() {
        match lacking {
            Some(what) => return Ok(Seen::NoPositions(what)),
            None => problems.extend(no_rights(client, wanted).await?),
        }
    } else {
        problems.extend(lacking);
    }
    if !problems.is_empty() {
        return Err(unfit(table, &problems));
    }
    let written = wanted.rows.fields().iter().filter_map(|field| all.iter().find(|column| column.name == *field.name()).cloned());
    Ok(Seen::Ready(Inspection { version, shape, columns: written.collect() }))
}

fn unfit(table: &Table, problems: &[String]) -> Trouble {
    let list: String = problems.iter().map(|problem| format!("\n  - {problem}")).collect();
    Trouble::Wrong(format!("the table {table} does not fit:{list}"))
}

pub(super) fn missing(wanted: &Wanted) -> Trouble {
    let statement = create_table(wanted);
    Trouble::Wrong(format!(
        "the table {} does not exist: create it (`hw ddl` prints the statements), or set `postgres.create_tables`\n{statement}",
        wanted.table
    ))
}

/// `ON CONFLICT` needs a unique index over exactly the key.
async fn no_unique_index(client: &Client, table: &Table, key: &[String]) -> Result<Option<String>, Trouble> {
    let sql = "SELECT array_agg(a.attname::text) FROM pg_index i \
        CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, n) \
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
        WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL \
        AND i.indexprs IS NULL AND k.n <= i.indnkeyatts GROUP BY i.indexrelid";
    let mut wanted: Vec<&str> = key.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    for row in client.query(sql, &[&table.quoted()]).await? {
        let mut found: Vec<String> = row.get(0);
        found.sort_unstable();
        if found == wanted {
            return Ok(None);
        }
    }
    let columns = identifiers(key.iter().map(String::as_str));
    Ok(Some(format!("no primary key or unique index is exactly over ({columns}): CREATE UNIQUE INDEX ON {} ({columns})", table.quoted())))
}

/// What the table of positions lacks.
enum Lacking {
    Table,
    /// The topic's id, in tables of older versions.
    Topic,
}

impl Lacking {
    fn remedy(&self, table: &Table) -> String {
        match self {
            Lacking::Table => format!("the table of positions is missing: {}", create_positions(table)),
            Lacking::Topic => format!("the table of positions is of an older version: {}", extend_positions(table)),
        }
    }
}

async fn lacking_positions(client: &Client, table: &Table) -> Result<Option<Lacking>, Trouble> {
    let beside = Table { schema: table.schema.clone(), name: POSITIONS.to_owned() };
    let found = columns(client, &beside).await?;
    let has = |name: &str| found.iter().any(|column| column.name == name);
    let all = ["pipeline", "sink", "partition", "epoch", "next_offset", "next_row"].into_iter().all(has);
    Ok(match (all, has("topic_id")) {
        (true, true) => None,
        (true, false) => Some(Lacking::Topic),
        (false, _) => Some(Lacking::Table),
    })
}

async fn no_rights(client: &Client, wanted: &Wanted) -> Result<Vec<String>, Trouble> {
    let (table, positions) = (wanted.table.quoted(), wanted.table.positions());
    let rows: &[&str] = match (&wanted.key, wanted.changes) {
        (None, _) => &["INSERT"],
        (Some(_), false) => &["INSERT", "SELECT", "UPDATE"],
        (Some(_), true) => &["INSERT", "SELECT", "UPDATE", "DELETE"],
    };
    let mut missing = Vec::new();
    for (name, rights) in [(&table, rows), (&positions, &["INSERT", "SELECT", "UPDATE"])] {
        for right in rights {
            let row = client.query_one("SELECT has_table_privilege($1::text, $2::text), current_user::text", &[name, right]).await?;
            let (allowed, user): (bool, String) = (row.get(0), row.get(1));
            if !allowed {
                missing.push(format!("no right: GRANT {right} ON {name} TO {}", identifier(&user)));
            }
        }
    }
    if wanted.key.is_some() {
        let row = client
            .query_one("SELECT has_database_privilege(current_database(), 'TEMP'), current_database()::text, current_user::text", &[])
            .await?;
        let (allowed, database, user): (bool, String, String) = (row.get(0), row.get(1), row.get(2));
        if !allowed {
            missing.push(format!("no right: GRANT TEMPORARY ON DATABASE {} TO {}", identifier(&database), identifier(&user)));
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_of_a_statement_is_known() {
        assert_eq!(created_schema("CREATE SCHEMA IF NOT EXISTS shop"), Some("shop"));
        assert_eq!(created_schema("CREATE SCHEMA \"Shop\" AUTHORIZATION hw"), Some("\"Shop\""));
        assert_eq!(created_schema("CREATE TABLE shop.orders (id bigint)"), None);
    }
}
