//! From text to a syntax tree, with limits and with positions in bytes.

use std::fmt::Write;
use std::ops::Range;

use datafusion_sql::sqlparser::ast::{Expr as Ast, Spanned};
use datafusion_sql::sqlparser::dialect::Dialect;
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use crate::refusal::ExprError;

/// The longest SQL text that is read, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;
/// The most operators in one expression: chains of them become trees as deep as the chain is long, and planning walks
/// those by recursion. Commas and names do not count: an `IN` list may be long.
pub const MAX_OPERATORS: usize = 128;
/// Levels of casts and other forms with a syntax of their own.
const MAX_FORMS: usize = 8;
/// How deeply parentheses and function calls may nest.
const MAX_NESTING: usize = 32;

/// The SQL that expressions are written in: DataFusion's, with lambdas (`x -> x + 1`) and struct literals
/// (`{'a': 1}`).
#[derive(Debug)]
struct ExpressionDialect;

impl Dialect for ExpressionDialect {
    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_'
    }

    fn supports_lambda_functions(&self) -> bool {
        true
    }

    fn supports_dictionary_syntax(&self) -> bool {
        true
    }

    fn supports_bitwise_shift_operators(&self) -> bool {
        true
    }

    // Read so that it can be refused with a hint.
    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }
}

/// `sql` as the parser would write it: texts that differ in white space and in the case of keywords alone become equal.
/// A text that can't be parsed stays as it is.
pub fn canonical(sql: &str) -> String {
    parse(sql).map_or_else(|_| sql.to_string(), |parsed| parsed.ast.to_string())
}

/// A parsed expression with the text it came from.
pub(crate) struct Parsed {
    pub ast: Ast,
    /// How many operators the text has, which bounds the depth of the tree.
    pub operators: usize,
    lines: Lines,
}

impl Parsed {
    /// The text it came from.
    pub fn sql(&self) -> &str {
        &self.lines.sql
    }

    /// The bytes that `span` covers, if it is known.
    pub fn range(&self, span: Span) -> Option<Range<usize>> {
        self.lines.range(span)
    }

    /// The bytes of a syntax node, if the parser knows them.
    pub fn range_of(&self, node: &impl Spanned) -> Option<Range<usize>> {
        self.range(node.span())
    }
}

/// Parses a text that is one expression and nothing else.
pub(crate) fn parse(sql: &str) -> Result<Parsed, ExprError> {
    let lines = Lines::of(sql);
    let dialect = ExpressionDialect;
    let (mut parser, operators) = parser(&dialect, sql, &lines)?;
    let ast = parser.parse_expr().map_err(|e| refuse(e, &lines))?;
    let rest = parser.peek_token();
    if rest.token == Token::EOF {
        return Ok(Parsed { ast, operators, lines });
    }
    let error = ExprError::new("syntax", format!("`{}` is not expected after the expression", rest.token));
    let help = match rest.token {
        Token::Word(_) => "an operator or a comma may be missing; put a column name that is a SQL keyword in double quotes",
        Token::SemiColon => "remove the semicolon",
        _ => "an expression is one value, such as `quantity * unit_price`",
    };
    Err(error.at(lines.range(rest.span)).help(help))
}

/// Splits `data.items AS item` into the expression and the new name.
///
/// # Errors
/// When the text is not an expression followed by `AS` and one name.
pub fn parse_alias(sql: &str) -> Result<(String, String), ExprError> {
    let help = "write an expression, AS and a name: `data.items AS item`";
    let lines = Lines::of(sql);
    let dialect = ExpressionDialect;
    let (mut parser, _) = parser(&dialect, sql, &lines)?;
    parser.parse_expr().map_err(|e| refuse(e, &lines))?;
    let after = parser.peek_token();
    if !parser.parse_keyword(Keyword::AS) {
        return Err(ExprError::new("missing-alias", "the name after AS is missing").help(help));
    }
    let alias = parser.parse_identifier().map_err(|e| refuse(e, &lines).help(help))?;
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        let error = ExprError::new("syntax", format!("`{}` is not expected after the name", rest.token));
        return Err(error.at(lines.range(rest.span)).help(help));
    }
    let end = lines.range(after.span).map_or(sql.len(), |r| r.start);
    let text = sql.get(..end).unwrap_or(sql).trim();
    Ok((text.to_string(), alias.value))
}

fn parser<'a>(dialect: &'a dyn Dialect, sql: &str, lines: &Lines) -> Result<(Parser<'a>, usize), ExprError> {
    if sql.trim().is_empty() {
        return Err(ExprError::new("syntax", "the expression is empty"));
    }
    if sql.len() > MAX_TEXT {
        return Err(ExprError::new("too-long", format!("the expression has {} bytes, at most {MAX_TEXT} are allowed", sql.len())));
    }
    let tokens =
        Tokenizer::new(dialect, sql).tokenize_with_location().map_err(|e| refuse(ParserError::TokenizerError(e.to_string()), lines))?;
    let operators = tokens.iter().filter(|t| is_operator(t)).count();
    if operators > MAX_OPERATORS {
        let error = ExprError::new("too-long", format!("the expression has {operators} operators, at most {MAX_OPERATORS} are allowed"));
        return Err(error.help("use IN (...) for a list of values, or compute parts in an earlier `map` step"));
    }
    refuse_queries(&tokens, lines)?;
    refuse_deep_forms(&tokens)?;
    Ok((Parser::new(dialect).with_recursion_limit(MAX_NESTING).with_tokens_with_locations(tokens), operators))
}

/// A whole query, as who comes from other engines writes.
fn refuse_queries(tokens: &[TokenWithSpan], lines: &Lines) -> Result<(), ExprError> {
    let first = tokens.iter().find(|t| !matches!(t.token, Token::Whitespace(_)));
    match first {
        Some(TokenWithSpan { token: Token::Word(word), span }) if word.keyword == Keyword::SELECT && word.quote_style.is_none() => {
            let error = ExprError::new("syntax", "this is a query; an expression is expected").at(lines.range(*span));
            Err(error.help(
                "write only the expression, such as `quantity * unit_price`: `from` names the input, a `filter` step has the condition",
            ))
        }
        _ => Ok(()),
    }
}

/// Forms that the parser tries twice, so that each level of nesting doubles its work, or that it descends into
/// without counting: a handful of levels is more than anyone means.
fn refuse_deep_forms(tokens: &[TokenWithSpan]) -> Result<(), ExprError> {
    let (mut open, mut depth) = (Vec::new(), 0);
    let mut before = None;
    for token in tokens.iter().filter(|t| !matches!(t.token, Token::Whitespace(_))) {
        match &token.token {
            Token::LParen => {
                let doubles = before.is_some_and(is_special_form);
                depth += usize::from(doubles);
                open.push(doubles);
            }
            Token::RParen => depth -= usize::from(open.pop().unwrap_or(false)),
            Token::Word(word) if word.keyword == Keyword::INTERVAL && before == Some(Keyword::INTERVAL) => depth = MAX_FORMS + 1,
            _ => {}
        }
        if depth > MAX_FORMS {
            let error = ExprError::new("too-long", format!("casts and similar forms are nested more than {MAX_FORMS} levels deep"));
            return Err(error.help("compute parts in an earlier `map` step"));
        }
        before = if let Token::Word(word) = &token.token { Some(word.keyword) } else { None };
    }
    Ok(())
}

fn is_special_form(keyword: Keyword) -> bool {
    use Keyword::*;
    matches!(
        keyword,
        CAST | TRY_CAST
            | SAFE_CAST
            | CONVERT
            | TRY_CONVERT
            | EXTRACT
            | CEIL
            | FLOOR
            | POSITION
            | SUBSTRING
            | SUBSTR
            | TRIM
            | OVERLAY
            | EXISTS
            | ARRAY
            | STRUCT
            | MAP
    )
}

/// Everything that can deepen the tree: symbols other than separators and names of operators. Casts and subscripts
/// count too.
fn is_operator(token: &TokenWithSpan) -> bool {
    match &token.token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::BETWEEN
                | Keyword::IN
                | Keyword::DIV
                | Keyword::SIMILAR
                | Keyword::AT
                | Keyword::XOR
                | Keyword::RLIKE
                | Keyword::REGEXP
                | Keyword::OVERLAPS
                | Keyword::MEMBER
                | Keyword::COLLATE
                | Keyword::INTERVAL
        ),
        Token::Whitespace(_)
        | Token::EOF
        | Token::Comma
        | Token::Period
        | Token::Number(..)
        | Token::LParen
        | Token::RParen
        | Token::RBracket
        | Token::LBrace
        | Token::RBrace
        | Token::Colon
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_) => false,
        _ => true,
    }
}

fn refuse(error: ParserError, lines: &Lines) -> ExprError {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => {
            let text = format!("the expression nests more than {MAX_NESTING} levels deep");
            return ExprError::new("too-long", text).help("compute parts in an earlier `map` step");
        }
    };
    // The parser reports the place only inside its message.
    let (message, place) = match text.split_once(" at Line: ") {
        Some((message, place)) => (message, place.split_once(", Column: ")),
        None => (text.as_str(), None),
    };
    let mut shown = String::new();
    for (i, part) in message.trim_start_matches("Expected: ").splitn(2, ", found: ").enumerate() {
        // Writing to a text cannot fail.
        let _ = match i {
            0 if message.starts_with("Expected: ") => write!(shown, "expected {part}"),
            0 => write!(shown, "{part}"),
            _ if part == "EOF" => write!(shown, ", but the text ends"),
            _ => write!(shown, ", found `{part}`"),
        };
    }
    let within = place.and_then(|(line, column)| {
        let column = column.trim_end_matches(|c: char| !c.is_ascii_digit());
        let start = lines.offset(Location { line: line.parse().ok()?, column: column.parse().ok()? })?;
        Some(start..lines.word_end(start))
    });
    let no_operator = shown.strip_prefix("No infix parser for token ").map(str::to_string);
    let ends = shown.ends_with("the text ends");
    let help = match no_operator.as_deref() {
        Some("Overlap") => "write `AND`",
        Some("Pipe" | "StringConcat") => "write `OR`; `||` concatenates texts",
        Some(_) => "use SQL's operators: AND, OR, NOT, =, <>, <, >, +, -, *, /, %, ||, LIKE, IN, BETWEEN",
        None if ends => {
            "a bracket or quote may not be closed; in YAML's `{ .. }` a comma ends a value: quote the expression, or write it on a line of its own"
        }
        None => "put a text in single quotes, a column name that is a SQL keyword in double quotes",
    };
    if no_operator.is_some() {
        let sign = within.clone().and_then(|range| lines.sql.get(range)).unwrap_or("this").to_string();
        let sign = if sign == "&" { "&&".to_string() } else { sign };
        shown = format!("`{sign}` is not a SQL operator");
    }
    ExprError::new("syntax", shown).at(within).help(help)
}

/// Where lines start, to turn the parser's lines and columns (in characters, from 1) into bytes.
struct Lines {
    sql: String,
    starts: Vec<usize>,
}

impl Lines {
    fn of(sql: &str) -> Lines {
        let starts = std::iter::once(0).chain(sql.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Lines { sql: sql.to_string(), starts }
    }

    fn offset(&self, at: Location) -> Option<usize> {
        let line = usize::try_from(at.line).ok()?.checked_sub(1)?;
        let column = usize::try_from(at.column).ok()?.checked_sub(1)?;
        let start = *self.starts.get(line)?;
        let rest = self.sql.get(start..)?;
        Some(start + rest.char_indices().nth(column).map_or(rest.len(), |(i, _)| i))
    }

    fn range(&self, span: Span) -> Option<Range<usize>> {
        let (start, end) = (self.offset(span.start)?, self.offset(span.end)?);
        (start < end).then_some(start..end)
    }

    /// The end of the word (or single character) that starts at `start`.
    fn word_end(&self, start: usize) -> usize {
        let rest = self.sql.get(start..).unwrap_or_default();
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        start + word.max(rest.chars().next().map_or(0, char::len_utf8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_an_alias_off() {
        let split = |sql| parse_alias(sql).map_err(|e| e.code);
        assert_eq!(split("data.items AS item"), Ok(("data.items".into(), "item".into())));
        assert_eq!(split("make_array(a, b) as \"Item\" "), Ok(("make_array(a, b)".into(), "Item".into())));
        assert_eq!(split("data.items item"), Err("missing-alias"));
        assert_eq!(split("data.items"), Err("missing-alias"));
        assert_eq!(split("data.items AS item, other"), Err("syntax"));
        assert_eq!(split(""), Err("syntax"));
    }

    #[test]
    fn positions_are_bytes() {
        let error = parse("'für' ||\n  über +").err().unwrap();
        assert_eq!(error.code, "syntax");
        let error = parse("'für' = a b").err().unwrap();
        assert_eq!(error.within.map(|r| &"'für' = a b"[r]), Some("b"));
        let parsed = parse("a +\n 'ä' || bcd").unwrap();
        let Ast::BinaryOp { right, .. } = &parsed.ast else { panic!("{}", parsed.ast) };
        let range = parsed.range_of(right.as_ref());
        assert!(range.is_some());
    }

    #[test]
    fn limits_hold() {
        assert_eq!(parse(&"(".repeat(1_000)).err().unwrap().code, "too-long");
        assert_eq!(parse(&format!("a{}", " + a".repeat(MAX_OPERATORS + 1))).err().unwrap().code, "too-long");
        assert_eq!(parse(&"a".repeat(MAX_TEXT + 1)).err().unwrap().code, "too-long");
        let list: Vec<String> = (0..5_000).map(|n| n.to_string()).collect();
        assert!(parse(&format!("a IN ({})", list.join(", "))).is_ok());
    }
}
