//! Column types as users write them in scripts and examples.
//!
//! `string` (`utf8`), `int`, `long`, `float`, `double`, `bool` (`boolean`), `timestamp` (milliseconds, UTC), `date`,
//! `bytes` (`binary`), `decimal(12,2)`, `list<T>`, `struct<a: T, b: T>`, `map<T>` (texts to T). Columns and fields are
//! nullable unless `not null` follows the type.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};

pub use operator_core::type_names::name;

use operator_core::batch::time_type;

/// A schema from `name: type` lines or from `name: type, name: type`.
///
/// # Errors
/// What can't be read.
pub fn schema(text: &str) -> Result<Schema, String> {
    let mut reader = Reader { rest: text };
    let fields = reader.fields(None)?;
    Ok(Schema::new(fields))
}

/// The schemas of the inputs called `names`: each below a line `[name]`. Without names, that of the only one.
///
/// # Errors
/// What can't be read.
pub fn inputs(text: &str, names: &[&str]) -> Result<Vec<Schema>, String> {
    if names.is_empty() {
        return Ok(vec![schema(text)?]);
    }
    let section = |name: &&str| {
        let (_, rest) = text.split_once(&format!("[{name}]\n")).ok_or_else(|| format!("there is no `[{name}]`"))?;
        schema(rest.split("\n[").next().unwrap_or(rest))
    };
    names.iter().map(section).collect()
}

/// One type.
///
/// # Errors
/// What can't be read.
pub fn data_type(text: &str) -> Result<DataType, String> {
    let mut reader = Reader { rest: text };
    let data_type = reader.data_type()?;
    reader.skip();
    if reader.rest.is_empty() { Ok(data_type) } else { Err(format!("`{}` after the type", reader.rest)) }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(format!("`{token}` is missing before `{}`", self.rest)) }
    }

    fn word(&mut self) -> Result<&'a str, String> {
        self.skip();
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() { Err(format!("a name is missing before `{rest}`")) } else { Ok(word) }
    }

    /// Fields up to `end`, or to the end of the text. Commas between them may be line ends.
    fn fields(&mut self, end: Option<&str>) -> Result<Fields, String> {
        let mut fields = Vec::new();
        loop {
            self.skip();
            match end {
                Some(end) if self.take(end) => break,
                None if self.rest.is_empty() => break,
                _ => {}
            }
            let name = self.word()?;
            self.expect(":")?;
            let data_type = self.data_type()?;
            let required = self.take("not null");
            fields.push(Field::new(name, data_type, !required));
            self.take(",");
        }
        Ok(fields.into())
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, String> {
        let word = self.word()?;
        word.parse().map_err(|_| format!("`{word}` is not a number that fits here"))
    }

    fn data_type(&mut self) -> Result<DataType, String> {
        Ok(match self.word()? {
            "string" | "utf8" => DataType::Utf8,
            "int" => DataType::Int32,
            "long" => DataType::Int64,
            "float" => DataType::Float32,
            "double" => DataType::Float64,
            "bool" | "boolean" => DataType::Boolean,
            "timestamp" => time_type(),
            "date" => DataType::Date32,
            "bytes" | "binary" => DataType::Binary,
            "decimal" => {
                self.expect("(")?;
                let precision = self.number()?;
                self.expect(",")?;
                let scale = self.number()?;
                self.expect(")")?;
                DataType::Decimal128(precision, scale)
            }
            "list" => {
                self.expect("<")?;
                let item = self.data_type()?;
                let required = self.take("not null");
                self.expect(">")?;
                DataType::List(Arc::new(Field::new("item", item, !required)))
            }
            "struct" => {
                self.expect("<")?;
                DataType::Struct(self.fields(Some(">"))?)
            }
            "map" => {
                self.expect("<")?;
                let value = self.data_type()?;
                self.expect(">")?;
                let entries = vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)];
                DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries.into()), false)), false)
            }
            other => return Err(format!("there is no type `{other}`")),
        })
    }
}
