//! Types as ClickHouse writes them: `LowCardinality(Nullable(String))`, `Tuple(a Int64, b Array(UInt8))`.

/// Types nested deeper are not read.
const MAX_DEPTH: usize = 32;

/// A type: its name and what stands between its parentheses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Native {
    pub name: String,
    pub arguments: Vec<Argument>,
}

/// One argument of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A type, with its name in a named tuple.
    Type(Option<String>, Native),
    /// A number, a text with its quotes, or anything else.
    Text(String),
}

impl Native {
    /// Reads a type. What is not understood becomes [`Argument::Text`].
    ///
    /// # Errors
    /// Parentheses or quotes that don't match, too deep.
    pub fn parse(text: &str) -> Result<Native, String> {
        Native::at(text.trim(), 0)
    }

    fn at(text: &str, depth: usize) -> Result<Native, String> {
        if depth > MAX_DEPTH {
            return Err("nested too deeply".to_owned());
        }
        let Some((name, rest)) = text.split_once('(') else {
            return Ok(Native { name: text.to_owned(), arguments: Vec::new() }.named());
        };
        let inside = rest.strip_suffix(')').ok_or_else(|| format!("no closing parenthesis in `{text}`"))?;
        let arguments = split(inside)?.into_iter().map(|argument| Argument::read(argument.trim(), depth)).collect::<Result<_, _>>()?;
        Ok(Native { name: name.trim().to_owned(), arguments }.named())
    }

    /// Under the name by which the server shows it.
    fn named(mut self) -> Native {
        let upper = self.name.to_ascii_uppercase();
        let digits = match upper.as_str() {
            "DECIMAL32" => "9",
            "DECIMAL64" => "18",
            "DECIMAL128" => "38",
            "DECIMAL256" => "76",
            _ => "",
        };
        if !digits.is_empty() {
            self.arguments.insert(0, Argument::Text(digits.to_owned()));
        }
        if let Some(name) = shown_as(&upper) {
            self.name = name.to_owned();
        }
        if self.name == "DateTime" && self.number(0).is_some() {
            "DateTime64".clone_into(&mut self.name);
        }
        if self.name == "Decimal" && self.arguments.is_empty() {
            self.arguments.push(Argument::Text("10".to_owned()));
        }
        self
    }

    /// The arguments that are types.
    pub fn inner(&self) -> impl Iterator<Item = (Option<&str>, &Native)> {
        self.arguments.iter().filter_map(|argument| match argument {
            Argument::Type(name, native) => Some((name.as_deref(), native)),
            Argument::Text(_) => None,
        })
    }

    /// The arguments that are not types.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.arguments.iter().filter_map(|argument| match argument {
            Argument::Text(text) => Some(text.as_str()),
            Argument::Type(..) => None,
        })
    }

    /// The number at `index`.
    pub fn number(&self, index: usize) -> Option<i64> {
        match self.arguments.get(index)? {
            Argument::Text(text) => text.parse().ok(),
            Argument::Type(..) => None,
        }
    }

    /// The type whose values are stored: without `LowCardinality`, `Nullable` and `SimpleAggregateFunction` around it; and whether
    /// it was nullable.
    pub fn bare(&self) -> (&Native, bool) {
        let (mut native, mut nullable) = (self, false);
        loop {
            let at = match native.name.as_str() {
                "LowCardinality" => 0,
                "Nullable" => {
                    nullable = true;
                    0
                }
                // Behind the function.
                "SimpleAggregateFunction" => 1,
                _ => break,
            };
            match native.arguments.get(at) {
                Some(Argument::Type(None, inner)) => native = inner,
                _ => break,
            }
        }
        (native, nullable)
    }
}

impl Argument {
    fn read(text: &str, depth: usize) -> Result<Argument, String> {
        if text.starts_with(|c: char| c.is_ascii_digit() || c == '\'' || c == '-') {
            return Ok(Argument::Text(text.to_owned()));
        }
        // A blank outside quotes and parentheses separates a name from its type.
        if let Some(rest) = text.strip_prefix('`') {
            let (name, native) = rest.split_once('`').ok_or_else(|| format!("no closing quote in `{text}`"))?;
            return Ok(Argument::Type(Some(name.to_owned()), Native::at(native.trim(), depth + 1)?));
        }
        let before = text.split('(').next().unwrap_or_default().trim();
        if before.contains(' ') && shown_as(&before.to_ascii_uppercase()).is_some() {
            return Ok(Argument::Type(None, Native::at(text, depth + 1)?));
        }
        let blank = text.find(' ').filter(|blank| text.find('(').is_none_or(|open| *blank < open));
        match blank.and_then(|blank| text.split_at_checked(blank)) {
            Some((name, native)) if native.trim().starts_with(|c: char| c.is_ascii_alphabetic()) => {
                Ok(Argument::Type(Some(name.to_owned()), Native::at(native.trim(), depth + 1)?))
            }
            Some(_) => Ok(Argument::Text(text.to_owned())),
            None => Ok(Argument::Type(None, Native::at(text, depth + 1)?)),
        }
    }
}

/// The one name by which the server shows a type that can be written under several (`system.data_type_families`).
fn shown_as(upper: &str) -> Option<&'static str> {
    Some(match upper {
        "TINYINT" | "TINYINT SIGNED" | "INT1" | "INT1 SIGNED" | "BYTE" => "Int8",
        "SMALLINT" | "SMALLINT SIGNED" => "Int16",
        "INT" | "INT SIGNED" | "INTEGER" | "INTEGER SIGNED" | "MEDIUMINT" | "MEDIUMINT SIGNED" => "Int32",
        "BIGINT" | "BIGINT SIGNED" | "SIGNED" => "Int64",
        "TINYINT UNSIGNED" | "INT1 UNSIGNED" => "UInt8",
        "SMALLINT UNSIGNED" | "YEAR" => "UInt16",
        "INT UNSIGNED" | "INTEGER UNSIGNED" | "MEDIUMINT UNSIGNED" => "UInt32",
        "BIGINT UNSIGNED" | "UNSIGNED" | "BIT" | "SET" => "UInt64",
        "BOOL" | "BOOLEAN" => "Bool",
        "FLOAT" | "REAL" | "SINGLE" => "Float32",
        "DOUBLE" | "DOUBLE PRECISION" => "Float64",
        "DECIMAL" | "DEC" | "NUMERIC" | "FIXED" | "DECIMAL32" | "DECIMAL64" | "DECIMAL128" | "DECIMAL256" => "Decimal",
        "DATE" => "Date",
        "DATE32" => "Date32",
        "DATETIME" | "DATETIME32" | "TIMESTAMP" => "DateTime",
        "DATETIME64" => "DateTime64",
        "ENUM" => "Enum",
        "JSON" => "JSON",
        "INET4" => "IPv4",
        "INET6" => "IPv6",
        "BINARY" => "FixedString",
        "CHAR" | "CHARACTER" | "NCHAR" | "VARCHAR" | "NVARCHAR" | "VARCHAR2" | "CHAR VARYING" | "CHARACTER VARYING" | "NCHAR VARYING" => {
            "String"
        }
        "NATIONAL CHAR" | "NATIONAL CHAR VARYING" | "NATIONAL CHARACTER" | "NATIONAL CHARACTER VARYING" => "String",
        "CHAR LARGE OBJECT" | "CHARACTER LARGE OBJECT" | "NCHAR LARGE OBJECT" | "NATIONAL CHARACTER LARGE OBJECT" => "String",
        "TEXT" | "TINYTEXT" | "MEDIUMTEXT" | "LONGTEXT" | "CLOB" => "String",
        "BLOB" | "TINYBLOB" | "MEDIUMBLOB" | "LONGBLOB" | "BYTEA" => "String",
        "BINARY LARGE OBJECT" | "BINARY VARYING" | "VARBINARY" => "String",
        _ => return None,
    })
}

/// Splits at commas outside parentheses and quotes.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut from, mut depth, mut quote, mut escaped) = (Vec::new(), 0, 0i32, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '`') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, ',') if depth == 0 => {
                parts.push(text.get(from..at).unwrap_or_default());
                from = at + 1;
            }
            _ => {}
        }
    }
    if depth != 0 || quote.is_some() {
        return Err(format!("parentheses or quotes don't match in `{text}`"));
    }
    let last = text.get(from..).unwrap_or_default();
    if !last.trim().is_empty() || !parts.is_empty() {
        parts.push(last);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read() {
        let native = Native::parse("LowCardinality(Nullable(String))").unwrap();
        assert_eq!((native.bare().0.name.as_str(), native.bare().1), ("String", true));
        let native = Native::parse("DateTime64(3, 'UTC')").unwrap();
        assert_eq!((native.name.as_str(), native.number(0)), ("DateTime64", Some(3)));
        let native = Native::parse("Tuple(a Int64, `b c` Array(Decimal(12, 2)), d Nullable(UInt8))").unwrap();
        let names: Vec<_> = native.inner().map(|(name, inner)| (name.unwrap(), inner.name.as_str())).collect();
        assert_eq!(names, [("a", "Int64"), ("b c", "Array"), ("d", "Nullable")]);
        let native = Native::parse("Tuple(Int64, String)").unwrap();
        assert_eq!(native.inner().map(|(name, _)| name).collect::<Vec<_>>(), [None, None]);
        let native = Native::parse("Enum8('a, b)' = 1, 'it\\'s' = 2)").unwrap();
        assert_eq!(native.arguments.len(), 2);
    }

    #[test]
    fn nonsense_is_an_error_or_a_name_and_never_a_panic() {
        for text in ["Array(", "Array(Tuple(a)", "Enum8('a)", "Tuple(`a Int64)"] {
            assert!(Native::parse(text).is_err(), "{text}");
        }
        assert!(Native::parse(&("Array(".repeat(100) + "Int8" + &")".repeat(100))).is_err());
        for text in ["", "()", "Tuple()", "x(,)", "é(ü)", "Nullable"] {
            let _ = Native::parse(text).map(|native| native.bare().1);
        }
    }
}
