//! What follows the columns of a table: its engine with arguments, and its keys. From a file or from the server, which show it alike.

use sqlparser::dialect::ClickHouseDialect;
use sqlparser::tokenizer::{Token, Tokenizer};

/// What begins a clause behind the engine.
const CLAUSES: [&str; 7] = ["PARTITION", "PRIMARY", "ORDER", "SAMPLE", "TTL", "SETTINGS", "COMMENT"];

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// `ReplacingMergeTree`.
    pub engine: String,
    /// Its arguments that are names of columns.
    pub arguments: Vec<String>,
    /// The entries of the sorting key: columns, and expressions as they are written.
    pub sorting: Vec<String>,
    /// The names in the expression of the partitions.
    pub partition: Vec<String>,
    /// The words in the clause that deletes rows by time, names of columns among them.
    pub expires: Vec<String>,
}

impl Layout {
    /// Of the tokens that follow the columns: `ENGINE = MergeTree ORDER BY id`.
    pub(super) fn of(tail: &[Token]) -> Layout {
        let mut behind = tail.iter().skip_while(|t| !is(t, "ENGINE")).skip(1).skip_while(|t| **t == Token::Eq);
        let engine = behind.next().map(plain).unwrap_or_default();
        let rest: Vec<Token> = behind.cloned().collect();
        let arguments = match rest.first() {
            Some(Token::LParen) => entries(inside(&rest)),
            _ => Vec::new(),
        };
        let name = |entry: &Vec<Token>| if let [one @ Token::Word(_)] = entry.as_slice() { Some(plain(one)) } else { None };
        let text = |entry: &Vec<Token>| name(entry).unwrap_or_else(|| entry.iter().map(ToString::to_string).collect());
        let by = clause(&rest, "PARTITION");
        let columns = by.iter().enumerate().filter(|(at, t)| matches!(t, Token::Word(_)) && by.get(at + 1) != Some(&Token::LParen));
        let partition = columns.map(|(_, token)| plain(token)).collect();
        let sorting = clause(&rest, "ORDER");
        // `(a, b)` or `tuple()`: a list; `f(a), b` is not one.
        let list = match sorting {
            [Token::LParen, .., Token::RParen] => inside(sorting),
            [word, Token::LParen, .., Token::RParen] if is(word, "tuple") => inside(sorting.get(1..).unwrap_or_default()),
            other => other,
        };
        Layout {
            engine,
            arguments: arguments.iter().filter_map(name).collect(),
            sorting: entries(list).iter().map(text).collect(),
            partition,
            expires: expiry(&rest),
        }
    }

    /// Of `engine_full` in `system.tables`.
    pub(super) fn read(full: &str) -> Layout {
        let tokens = Tokenizer::new(&ClickHouseDialect {}, &format!("ENGINE = {full}")).tokenize().unwrap_or_default();
        Layout::of(&tokens.into_iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect::<Vec<_>>())
    }
}

/// What follows `PARTITION BY` or `ORDER BY`, up to the next clause.
fn clause<'a>(tokens: &'a [Token], word: &str) -> &'a [Token] {
    let begins = |pair: &[Token]| matches!(pair, [first, by] if is(first, word) && is(by, "BY"));
    let Some(at) = tokens.windows(2).position(begins) else { return &[] };
    let rest = tokens.get(at + 2..).unwrap_or_default();
    let end = rest.iter().position(|t| CLAUSES.iter().any(|word| is(t, word))).unwrap_or(rest.len());
    rest.get(..end).unwrap_or_default()
}

/// The words of `TTL`, without the entries that move rows to other disks or compress them.
fn expiry(tokens: &[Token]) -> Vec<String> {
    let begins = |at: &usize| tokens.get(*at).is_some_and(|t| is(t, "TTL")) && !tokens.get(at.wrapping_sub(1)).is_some_and(|t| is(t, "BY"));
    let Some(at) = (0..tokens.len()).find(begins) else { return Vec::new() };
    let rest = tokens.get(at + 1..).unwrap_or_default();
    let end = rest.iter().position(|t| is(t, "SETTINGS") || is(t, "COMMENT")).unwrap_or(rest.len());
    let mut deleting = entries(rest.get(..end).unwrap_or_default());
    deleting.retain(|entry| !entry.iter().any(|t| is(t, "DISK") || is(t, "VOLUME") || is(t, "RECOMPRESS")));
    deleting.into_iter().flatten().filter(|t| matches!(t, Token::Word(_))).map(|t| plain(&t)).collect()
}

/// What is between a parenthesis and the one that closes it.
fn inside(tokens: &[Token]) -> &[Token] {
    let mut depth = 0;
    let close = tokens.iter().position(|token| {
        depth += match token {
            Token::LParen => 1,
            Token::RParen => -1,
            _ => 0,
        };
        depth == 0
    });
    tokens.get(1..close.unwrap_or(tokens.len())).unwrap_or_default()
}

/// The parts between commas that are in no parentheses.
fn entries(tokens: &[Token]) -> Vec<Vec<Token>> {
    let (mut entries, mut depth) = (vec![Vec::new()], 0);
    for token in tokens {
        match token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Comma if depth == 0 => {
                entries.push(Vec::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = entries.last_mut() {
            last.push(token.clone());
        }
    }
    entries.retain(|entry| !entry.is_empty());
    entries
}

pub(super) fn is(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.value.eq_ignore_ascii_case(word))
}

/// A name without its quotes.
pub(super) fn plain(token: &Token) -> String {
    match token {
        Token::Word(word) => word.value.clone(),
        Token::DoubleQuotedString(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_and_keys_are_read() {
        let found = Layout::read(
            "ReplicatedReplacingMergeTree('/t/{shard}', '{replica}', `_version`, _deleted) PARTITION BY toYYYYMM(at) PRIMARY KEY id \
             ORDER BY (id, `line no`, intHash32(x)) TTL at + INTERVAL 1 DAY SETTINGS index_granularity = 8192",
        );
        let expected = Layout {
            engine: "ReplicatedReplacingMergeTree".into(),
            arguments: vec!["_version".into(), "_deleted".into()],
            sorting: vec!["id".into(), "line no".into(), "intHash32(x)".into()],
            partition: vec!["at".into()],
            expires: ["at", "INTERVAL", "DAY"].map(str::to_owned).to_vec(),
        };
        assert_eq!(found, expected);
        for (full, sorting) in [
            ("MergeTree ORDER BY a", vec!["a"]),
            ("MergeTree() ORDER BY tuple(a, b) SETTINGS x = 1", vec!["a", "b"]),
            ("MergeTree ORDER BY tuple()", vec![]),
            ("MergeTree ORDER BY (f(a, b), c)", vec!["f(a,b)", "c"]),
            ("Log", vec![]),
        ] {
            assert_eq!(Layout::read(full).sorting, sorting, "{full}");
        }
    }
}
