//! Tables as `CREATE TABLE` statements define them, for checks without a server.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use headwater_engine::sinks::Incoming;
use sqlparser::dialect::ClickHouseDialect;
use sqlparser::tokenizer::{Location, Token, Tokenizer};

use super::changes::Applied;
use super::columns::{Column, misfits};
use super::connection::{Table, literal};
use super::guarantee::{LOCAL_WINDOW, REPLICATED_WINDOW, SMALL_WINDOW, is_replicated};
use super::layout::{Layout, is, plain};
use crate::sinks::sql_files;

/// Words that end a column's type.
const AFTER_TYPE: [&str; 12] =
    ["DEFAULT", "MATERIALIZED", "ALIAS", "EPHEMERAL", "CODEC", "COMMENT", "TTL", "NOT", "NULL", "STATISTICS", "PRIMARY", "SETTINGS"];
/// What begins an entry that is not a column.
const NO_COLUMN: [&str; 5] = ["INDEX", "CONSTRAINT", "PROJECTION", "PRIMARY", "ORDER"];

/// A table and the file that creates it.
#[derive(Clone, Debug, PartialEq)]
pub struct Created {
    pub table: Table,
    pub columns: Vec<Column>,
    /// It remembers inserts, or its engine makes repeated rows one.
    pub remembers: bool,
    pub layout: Layout,
    pub file: String,
    /// All statements of the file, as they are written.
    pub statements: Arc<[String]>,
}

impl Created {
    /// What stands between the rows and the columns of the table.
    pub fn misfits(&self, rows: &Incoming) -> Vec<String> {
        misfits(&self.table, &rows.columns, &self.columns)
    }

    /// Why the table can't take the rows if they are changes.
    pub fn takes_no_changes(&self, rows: &Incoming) -> Vec<String> {
        let by = |key| Applied::by(key, &rows.columns, &self.layout, &self.columns).err();
        rows.changes.as_deref().and_then(by).unwrap_or_default()
    }

    /// Whether the file can be run to create what is missing: it only creates, and replaces nothing.
    ///
    /// # Errors
    /// A statement that does something else.
    pub fn only_creates(&self) -> Result<(), String> {
        let other = self.statements.iter().find(|statement| {
            let mut words = statement.split_whitespace().map(str::to_ascii_uppercase);
            words.next().as_deref() != Some("CREATE") || !words.next().is_some_and(|kind| KINDS.contains(&kind.as_str()))
        });
        let Some(other) = other else { return Ok(()) };
        let shown: String = other.chars().take(60).collect();
        Err(format!(
            "{} creates the table {}, but also has `{shown}`: `create_tables` runs files of CREATE {} only. Move the statement \
             into another file, or run the file yourself",
            self.file,
            self.table,
            KINDS.join(", ")
        ))
    }
}

/// What a file may create.
const KINDS: [&str; 5] = ["DATABASE", "TABLE", "VIEW", "MATERIALIZED", "DICTIONARY"];

/// The tables that the `*.sql` files of a folder create, by `database.table`.
///
/// # Errors
/// A file that can't be read as SQL, by name.
pub fn tables_in(dir: &Path) -> Result<BTreeMap<String, Created>, String> {
    let mut tables = BTreeMap::new();
    for (file, text) in sql_files(dir)? {
        let at = |e: &dyn std::fmt::Display| format!("{file}: {e}");
        let pieces = pieces(&text).map_err(|e| at(&e))?;
        let all: Arc<[String]> = pieces.iter().map(|(_, text)| (*text).to_owned()).collect();
        for (tokens, _) in &pieces {
            let Some((table, columns, remembers, layout)) = statement(tokens).map_err(|e| at(&e))? else { continue };
            let (file, statements) = (file.clone(), all.clone());
            tables.insert(table.to_string(), Created { table, columns, remembers, layout, file, statements });
        }
    }
    Ok(tables)
}

/// A table, its columns, whether it remembers inserts, and its engine.
type Statement = (Table, Vec<Column>, bool, Layout);

/// The statements of a text: their tokens, and how they are written.
fn pieces(text: &str) -> Result<Vec<(Vec<Token>, &str)>, String> {
    let tokens = Tokenizer::new(&ClickHouseDialect {}, text).tokenize_with_location().map_err(|e| e.to_string())?;
    let (mut pieces, mut current, mut start) = (Vec::new(), Vec::new(), None);
    for token in tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_))) {
        let at = offset(text, token.span.start);
        if token.token != Token::SemiColon {
            start.get_or_insert(at);
            current.push(token.token);
        } else if let Some(start) = start.take() {
            pieces.push((std::mem::take(&mut current), text.get(start..at).unwrap_or_default().trim_end()));
        }
    }
    if let Some(start) = start {
        pieces.push((current, text.get(start..).unwrap_or_default().trim_end()));
    }
    Ok(pieces)
}

/// The byte at a line and a column, both from 1 and in characters.
fn offset(text: &str, at: Location) -> usize {
    let line: usize = text.split_inclusive('\n').take(at.line.saturating_sub(1) as usize).map(str::len).sum();
    let rest = text.get(line..).unwrap_or_default();
    line + rest.char_indices().nth(at.column.saturating_sub(1) as usize).map_or(rest.len(), |(byte, _)| byte)
}

/// What follows the columns: `ENGINE = MergeTree .. SETTINGS non_replicated_deduplication_window = 10000`.
fn remembers(tail: &[Token], Layout { engine, .. }: &Layout) -> bool {
    let window = |name: &str| {
        let value = tail.iter().position(|t| is(t, name)).and_then(|at| tail.get(at + 2))?;
        value.to_string().trim_matches('\'').parse::<u64>().ok()
    };
    let remembers = match is_replicated(engine) {
        // By default they do.
        true => window(REPLICATED_WINDOW).is_none_or(|window| window >= SMALL_WINDOW),
        false => window(LOCAL_WINDOW).is_some_and(|window| window >= SMALL_WINDOW),
    };
    // The version column, by which repeated rows become one.
    let mut behind = tail.iter().skip_while(|t| plain(t) != *engine).skip(1);
    let versioned = behind.next() == Some(&Token::LParen) && matches!(behind.next(), Some(Token::Word(_)));
    engine.ends_with("MergeTree") && (remembers || (engine.as_str() == "ReplacingMergeTree" && versioned))
}

fn statement(tokens: &[Token]) -> Result<Option<Statement>, String> {
    let Some(rest) = after(tokens, &["CREATE", "TABLE"]).or_else(|| after(tokens, &["CREATE", "OR", "REPLACE", "TABLE"])) else {
        return Ok(None);
    };
    let rest = after(rest, &["IF", "NOT", "EXISTS"]).unwrap_or(rest);
    let Some(open) = rest.iter().position(|t| *t == Token::LParen) else { return Ok(None) };
    // `CREATE TABLE a.b AS ..`, or one of the session's database: its columns are unknown here.
    let head = rest.get(..open).unwrap_or_default();
    let name: String = head.iter().take_while(|t| !is(t, "ON") && !is(t, "UUID")).map(plain).collect();
    let Ok(table) = Table::parse(&name) else { return Ok(None) };
    if head.iter().any(|t| is(t, "AS") || is(t, "ENGINE")) {
        return Ok(None);
    }
    let (mut columns, mut entry, mut depth) = (Vec::new(), Vec::new(), 0);
    for (at, token) in rest.iter().enumerate().skip(open + 1) {
        match token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => {
                columns.extend(column(&entry));
                let tail = rest.get(at..).unwrap_or_default();
                let layout = Layout::of(tail);
                return Ok(Some((table, columns, remembers(tail, &layout), layout)));
            }
            Token::RParen => depth -= 1,
            Token::Comma if depth == 0 => {
                columns.extend(column(&entry));
                entry.clear();
                continue;
            }
            _ => {}
        }
        entry.push(token.clone());
    }
    Err(format!("the column list of `{table}` is not closed"))
}

fn column(entry: &[Token]) -> Option<Column> {
    let (name, rest) = entry.split_first()?;
    if NO_COLUMN.iter().any(|word| is(name, word) && plain(name) == name.to_string()) {
        return None;
    }
    let end = rest.iter().position(|t| AFTER_TYPE.iter().any(|word| is(t, word))).unwrap_or(rest.len());
    let (native, after) = rest.split_at_checked(end)?;
    let mut text = String::new();
    for (n, token) in native.iter().enumerate() {
        // `Tuple(a Int64)`: a name and its type are separate words.
        let words = matches!((n.checked_sub(1).and_then(|n| native.get(n)), token), (Some(Token::Word(_)), Token::Word(_)));
        let space = if words || native.get(n.wrapping_sub(1)) == Some(&Token::Comma) { " " } else { "" };
        match token {
            Token::SingleQuotedString(inside) => text = format!("{text}{space}{}", literal(inside)),
            other => text = format!("{text}{space}{other}"),
        }
    }
    let kind = after.first().map(|t| t.to_string().to_ascii_uppercase()).unwrap_or_default();
    let native = if kind == "NULL" { format!("Nullable({text})") } else { text };
    Some(Column { name: plain(name), native, kind })
}

fn after<'a>(tokens: &'a [Token], words: &[&str]) -> Option<&'a [Token]> {
    let matches = words.iter().zip(tokens).filter(|(word, token)| is(token, word)).count() == words.len();
    matches.then(|| tokens.get(words.len()..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables that a text creates.
    fn statements(text: &str) -> Result<Vec<Statement>, String> {
        pieces(text)?.iter().map(|(tokens, _)| statement(tokens)).filter_map(Result::transpose).collect()
    }

    #[test]
    fn files_are_run_statement_by_statement_if_they_only_create() {
        let dir = tempfile::tempdir().unwrap();
        let found = |text: &str| {
            std::fs::write(dir.path().join("a.sql"), text).unwrap();
            tables_in(dir.path()).unwrap().remove("shop.orders").unwrap()
        };
        let created = found(
            "-- caf\u{e9}; a comment\nCREATE DATABASE IF NOT EXISTS shop;;\n  CREATE TABLE shop.orders (id Int64 COMMENT '\u{fc}; x')\n\
             ENGINE = MergeTree ORDER BY id; -- end\nCREATE MATERIALIZED VIEW shop.v TO shop.t AS SELECT 1\n",
        );
        let expected = [
            "CREATE DATABASE IF NOT EXISTS shop",
            "CREATE TABLE shop.orders (id Int64 COMMENT '\u{fc}; x')\nENGINE = MergeTree ORDER BY id",
            "CREATE MATERIALIZED VIEW shop.v TO shop.t AS SELECT 1",
        ];
        assert_eq!(*created.statements, expected);
        created.only_creates().unwrap();
        for other in [
            "DROP TABLE shop.x",
            "CREATE OR REPLACE TABLE shop.x (a Int8) ENGINE = Log",
            "CREATE USER x",
            "INSERT INTO shop.orders VALUES (1)",
        ] {
            let refused = found(&format!("CREATE TABLE shop.orders (id Int64) ENGINE = Log; {other};")).only_creates().unwrap_err();
            assert!(refused.contains(other.split(' ').next().unwrap()) && refused.contains("a.sql"), "{refused}");
        }
    }

    #[test]
    fn tables_are_read_with_their_types_as_written() {
        let text = "-- a comment; with a semicolon
CREATE DATABASE x;
CREATE TABLE IF NOT EXISTS `shop`.orders ON CLUSTER main (
    `order_id` String CODEC(ZSTD(1)), /* ( */
    status LowCardinality(Nullable(String)) DEFAULT 'a, b)',
    total Decimal(38, 2),
    at DateTime64(3, 'UTC'),
    items Array(Tuple(sku String, n Nullable(Int32))),
    day Date MATERIALIZED toDate(at),
    INDEX by_status status TYPE set(0) GRANULARITY 1
) ENGINE = MergeTree ORDER BY order_id;
CREATE MATERIALIZED VIEW shop.v TO shop.t AS SELECT 1;";
        let found = statements(text).unwrap();
        let (table, columns, remembers, _) = &found[0];
        assert!(!remembers);
        let shown: Vec<String> = columns.iter().map(|c| format!("{}: {} {}", c.name, c.native, c.kind).trim_end().to_string()).collect();
        assert_eq!((found.len(), table.to_string().as_str()), (1, "shop.orders"));
        let expected = [
            "order_id: String CODEC",
            "status: LowCardinality(Nullable(String)) DEFAULT",
            "total: Decimal(38, 2)",
            "at: DateTime64(3, 'UTC')",
            "items: Array(Tuple(sku String, n Nullable(Int32)))",
            "day: Date MATERIALIZED",
        ];
        assert_eq!(shown, expected);
        let named = |text: &str| statements(text).unwrap()[0].0.to_string();
        assert_eq!(named("CREATE OR REPLACE TABLE a.b (x Int64)"), "a.b");
        assert_eq!(named("CREATE TABLE a.b UUID '00000000-0000-0000-0000-000000000001' (x Int64)"), "a.b");
        assert!(statements("CREATE TABLE a.b (x Int64").unwrap_err().contains("is not closed"));
        assert!(statements("CREATE TABLE b (x Int64); CREATE TABLE a.c AS a.b ENGINE = MergeTree() ORDER BY x").unwrap().is_empty());
        let other = statements("CREATE TABLE a.b (x BIGINT NULL, y DECIMAL(12,2), z Decimal64(2), s varchar(10))").unwrap();
        let types: Vec<&str> = other[0].1.iter().map(|c| c.native.as_str()).collect();
        assert_eq!(types, ["Nullable(BIGINT)", "DECIMAL(12, 2)", "Decimal64(2)", "varchar(10)"]);
    }

    #[test]
    fn engines_tell_whether_inserts_are_remembered() {
        for (tail, expected) in [
            ("ENGINE = MergeTree ORDER BY x", false),
            ("ENGINE = MergeTree() ORDER BY x SETTINGS index_granularity = 10, non_replicated_deduplication_window = 100", true),
            ("ENGINE MergeTree ORDER BY x SETTINGS non_replicated_deduplication_window = 0", false),
            ("ENGINE = ReplicatedMergeTree('/a', '{replica}') ORDER BY x", true),
            ("ENGINE = ReplacingMergeTree(_offset) ORDER BY x", true),
            ("ENGINE = ReplacingMergeTree ORDER BY x", false),
            ("ENGINE = ReplacingMergeTree() ORDER BY x", false),
            ("ENGINE = MergeTree ORDER BY x SETTINGS non_replicated_deduplication_window = 5", false),
            ("ENGINE = MergeTree ORDER BY x SETTINGS non_replicated_deduplication_window = '1000'", true),
            ("ENGINE = ReplicatedMergeTree ORDER BY x SETTINGS replicated_deduplication_window = 0", false),
            ("ENGINE = Log", false),
            ("", false),
        ] {
            let found = statements(&format!("CREATE TABLE a.b (x Int64) {tail}")).unwrap();
            assert_eq!(found[0].2, expected, "{tail}");
        }
    }
}
