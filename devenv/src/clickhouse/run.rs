//! Running a call on the engine; on a thread that may block.

use super::body::Input;
use super::engine::{Engine, Output, Refusal, Session};
use super::insert::{Kind, Split, classify};
use super::request::{Call, identifier};

/// Where a statement must have ended and its data begun; ClickHouse's `max_query_size` has the same default.
const MAX_STATEMENT: usize = 256 << 10;
/// Largest statement without data, for long lists in a query.
const MAX_QUERY: usize = 16 << 20;

/// Runs the call's statement with its own session.
pub fn run(engine: &Engine, call: &Call, mut input: Input) -> Result<Output, Refusal> {
    let session = engine.session()?;
    if let Some(database) = call.database.as_deref().filter(|database| !database.is_empty()) {
        session.query(format!("USE {}", identifier(database)).as_bytes(), "Null")?;
    }
    for statement in call.set_statements() {
        session.query(statement.as_bytes(), "Null")?;
    }
    if call.readonly {
        session.query(b"SET readonly = 2", "Null")?;
    }
    let format = call.format.as_deref().unwrap_or("TabSeparated");
    match classify(&call.sql) {
        Kind::Data(split) => insert(&session, &call.sql, &split, input),
        Kind::Bare => bare_insert(&session, call, input),
        // Statement in the URL, and the rest of it, if any, in the body.
        Kind::Other => {
            let mut text = call.sql.clone();
            if !text.is_empty() {
                text.push(b'\n');
            }
            text.extend(input.read_up_to(MAX_STATEMENT)?);
            match classify(&text) {
                Kind::Data(split) => insert(&session, &text, &split, input),
                Kind::Bare => Err(Refusal::new(62, "SYNTAX_ERROR", "an INSERT without FORMAT, VALUES or SELECT")),
                Kind::Other => query(&session, text, format, input),
            }
        }
    }
}

fn query(session: &Session<'_>, mut text: Vec<u8>, format: &str, mut input: Input) -> Result<Output, Refusal> {
    text.extend(input.read_up_to(MAX_QUERY)?);
    if text.len() > MAX_QUERY {
        return Err(Refusal::new(229, "QUERY_IS_TOO_LARGE", format!("the statement has more than {MAX_QUERY} bytes")));
    }
    if session.statements(&text) > 1 {
        return Err(Refusal::new(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)"));
    }
    session.query(&text, format)
}

/// Streams the data behind the statement, and then the input, into the engine.
fn insert(session: &Session<'_>, text: &[u8], split: &Split, mut input: Input) -> Result<Output, Refusal> {
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
    let format = part(split.format.clone());
    let format = if format.eq_ignore_ascii_case(b"values") { b"Values" } else { format };
    let mut stream = session.insert(part(split.statement.clone()), format)?;
    let begun = part(split.data..text.len());
    if !begun.is_empty() {
        stream.append(begun)?;
    }
    // An error here drops the stream, and dropping it cancels the insert.
    while let Some(bytes) = input.next()? {
        stream.append(&bytes)?;
    }
    stream.finish()
}

/// An insert in the URL that names no format: the body is its data, in the call's format or in that of `VALUES`.
fn bare_insert(session: &Session<'_>, call: &Call, input: Input) -> Result<Output, Refusal> {
    let end = call.sql.len();
    let text = [call.sql.as_slice(), call.format.as_deref().unwrap_or("Values").as_bytes()].concat();
    let split = Split { statement: 0..end, format: end..text.len(), data: text.len() };
    insert(session, &text, &split, input)
}
