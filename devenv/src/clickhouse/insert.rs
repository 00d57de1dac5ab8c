//! Telling the statement of an insert from its data.
//!
//! `INSERT INTO t (a, b) FORMAT JSONEachRow\n{...}` is a statement, a format and bytes in that format. Only the
//! statement is SQL; the bytes are anything. The scan therefore stops at the format and understands just enough of
//! SQL to find it: names, quotes, comments and parentheses.

use std::ops::Range;

/// Where the parts of an insert with data are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The statement, without format and data.
    pub statement: Range<usize>,
    /// The name of the data's format; empty when the statement names none.
    pub format: Range<usize>,
    /// Where the data begins.
    pub data: usize,
}

/// What a text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An insert whose data comes from outside the statement.
    Data(Split),
    /// An insert that names neither a format nor a source: the data may follow, in the default format.
    Bare,
    /// Anything else, an insert from a query included.
    Other,
}

/// Tells what a text is.
pub fn classify(text: &[u8]) -> Kind {
    let mut scan = Scan { text, at: 0 };
    let start = scan.skip_blanks();
    if !scan.take_word(b"insert") {
        return Kind::Other;
    }
    scan.take_word(b"into");
    if !scan.take_word(b"function") {
        scan.take_word(b"table");
    }
    scan.take_name();
    let mut depth = 0_u32;
    loop {
        scan.skip_blanks();
        let Some(byte) = scan.peek() else {
            return Kind::Bare;
        };
        match byte {
            b'\'' | b'"' | b'`' => scan.skip_quoted(byte),
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ if depth == 0 && is_word(byte) => {
                let word = scan.word();
                let is = |keyword: &[u8]| text.get(word.clone()).is_some_and(|word| word.eq_ignore_ascii_case(keyword));
                if is(b"select") || is(b"with") || is(b"from") || is(b"watch") {
                    return Kind::Other;
                }
                if is(b"values") {
                    return Kind::Data(Split { statement: start..word.start, format: word.start..word.end, data: word.end });
                }
                if is(b"format") {
                    scan.skip_blanks();
                    let format = scan.word();
                    return Kind::Data(Split { statement: start..word.start, data: scan.end_of_statement(), format });
                }
                continue;
            }
            _ if is_word(byte) => {
                scan.word();
                continue;
            }
            _ => {}
        }
        scan.at += 1;
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Skips white space and comments; returns the new position.
    fn skip_blanks(&mut self) -> usize {
        loop {
            let rest = self.rest();
            let blanks = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let rest = rest.get(blanks..).unwrap_or_default();
            let comment = if rest.starts_with(b"--") {
                rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
            } else if rest.starts_with(b"/*") {
                rest.windows(2).skip(2).position(|pair| pair == b"*/").map_or(rest.len(), |at| at + 4)
            } else {
                0
            };
            self.at += blanks + comment;
            if comment == 0 {
                return self.at;
            }
        }
    }

    /// Takes a word if it is the given one, and the blanks after it.
    fn take_word(&mut self, keyword: &[u8]) -> bool {
        let begin = self.at;
        let word = self.word();
        if self.text.get(word).is_some_and(|word| word.eq_ignore_ascii_case(keyword)) {
            self.skip_blanks();
            return true;
        }
        self.at = begin;
        false
    }

    /// Takes a table name, quoted or not, with its database.
    fn take_name(&mut self) {
        loop {
            match self.peek() {
                Some(quote @ (b'"' | b'`')) => {
                    self.skip_quoted(quote);
                    self.at += 1;
                }
                _ => drop(self.word()),
            }
            self.skip_blanks();
            if self.peek() != Some(b'.') {
                return;
            }
            self.at += 1;
            self.skip_blanks();
        }
    }

    /// Takes a word (possibly empty) and leaves the position behind it.
    fn word(&mut self) -> Range<usize> {
        let begin = self.at;
        self.at += self.rest().iter().take_while(|byte| is_word(**byte)).count();
        begin..self.at
    }

    /// Moves from an opening quote to its closing one, or to the end.
    fn skip_quoted(&mut self, quote: u8) {
        self.at += 1;
        while let Some(byte) = self.peek() {
            match byte {
                b'\\' => self.at += 1,
                _ if byte == quote => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Where the data begins after the format's name: behind one line break, as in ClickHouse, or behind the blanks
    /// if the data is on the same line.
    fn end_of_statement(&mut self) -> usize {
        let blanks = self.rest().iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b';')).count();
        self.at += blanks;
        if self.peek() == Some(b'\n') {
            self.at += 1;
        }
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statement, format and data of an insert.
    fn split(text: &str) -> (String, String, String) {
        match classify(text.as_bytes()) {
            Kind::Data(split) => (text[split.statement].to_owned(), text[split.format].to_owned(), text[split.data..].to_owned()),
            other => panic!("{text:?} is {other:?}"),
        }
    }

    #[test]
    fn the_format_is_found_and_the_data_begins_after_one_line_break() {
        let (statement, format, data) = split("INSERT INTO t FORMAT JSONEachRow\n\n{}");
        assert_eq!((statement.as_str(), format.as_str(), data.as_str()), ("INSERT INTO t ", "JSONEachRow", "\n{}"));
        let (_, _, data) = split("insert into t format TSV 1\t2");
        assert_eq!(data, "1\t2");
    }

    #[test]
    fn values_is_a_format() {
        let (statement, format, data) = split("INSERT INTO t (a, b) VALUES (1, 'x\n\ny')");
        assert_eq!((statement.as_str(), format.as_str()), ("INSERT INTO t (a, b) ", "VALUES"));
        assert_eq!(data, " (1, 'x\n\ny')");
    }

    #[test]
    fn names_quotes_and_comments_are_not_keywords() {
        for text in [
            "INSERT INTO format FORMAT TSV\n1",
            "INSERT INTO db.`values` (format, select) FORMAT TSV\n1",
            "-- insert values\n/* select */ INSERT INTO TABLE \"a\\\"b\" FORMAT TSV\n1",
            "INSERT INTO t SETTINGS insert_deduplication_token='a select values' FORMAT TSV\n1",
            "INSERT INTO t SETTINGS a=1-- values\n, b=2 FORMAT TSV\n1",
            "INSERT INTO FUNCTION file('values', 'TSV') FORMAT TSV\n1",
        ] {
            let (_, format, data) = split(text);
            assert_eq!((format.as_str(), data.as_str()), ("TSV", "1"), "{text}");
        }
    }

    #[test]
    fn other_statements_are_left_alone() {
        assert_eq!(classify(b"SELECT 1 FORMAT TSV"), Kind::Other);
        assert_eq!(classify(b"INSERT INTO t SELECT * FROM s FORMAT TSV"), Kind::Other);
        assert_eq!(classify(b"INSERT INTO t (a) WITH 1 AS x SELECT x"), Kind::Other);
        assert_eq!(classify(b"inserted"), Kind::Other);
        assert_eq!(classify(b""), Kind::Other);
        assert_eq!(classify(b"INSERT INTO t (a)"), Kind::Bare);
    }

    #[test]
    fn any_bytes_are_scanned_without_panic() {
        for text in ["INSERT", "INSERT INTO t 'x\\", "INSERT INTO `", "INSERT /*", "INSERT INTO t FORMAT", "INSERT --"] {
            for end in 0..=text.len() {
                let _ = classify(&text.as_bytes()[..end]);
            }
        }
        assert!(matches!(classify(b"INSERT INTO t FORMAT RowBinary\n\xff\x00\n\n"), Kind::Data(_)));
    }
}
