//! Columns and fields by name, as keys of YAML write them: `by`, `key`, `time.field`, `drop` and the like read names in one way.
//!
//! A text that is exactly the name of a column means that column, whatever characters the name has. Otherwise it is a path as SQL
//! writes it: names with dots between them, in double quotes where a name has dots or quotes itself (`data.sku`, `"a.b".c`).

use std::fmt;

use arrow::array::{Array, ArrayRef, AsArray, make_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};

use crate::diagnostic::{Diagnostic, closest, names};

/// A column, or a field within records: names from the outside in, at least one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    column: String,
    fields: Vec<String>,
}

impl Path {
    /// The column called `name`.
    pub fn column(name: impl Into<String>) -> Path {
        Path { column: name.into(), fields: Vec::new() }
    }

    /// The path of these names; `None` if there are none.
    pub fn from_names(names: impl IntoIterator<Item = String>) -> Option<Path> {
        let mut names = names.into_iter();
        Some(Path { column: names.next()?, fields: names.collect() })
    }

    /// The field called `name` of the record at this path.
    pub fn child(&self, name: &str) -> Path {
        let mut child = self.clone();
        child.fields.push(name.to_string());
        child
    }

    /// What moves when the column or field here, of this type, moves to `new`: itself, and the fields of a record. Old paths
    /// and new ones, for [`KeyEffect::Renamed`](crate::KeyEffect::Renamed).
    pub fn moved(&self, new: &Path, data_type: &DataType) -> Vec<(Path, Path)> {
        let mut moved = vec![(self.clone(), new.clone())];
        if let DataType::Struct(fields) = data_type {
            for field in fields {
                moved.extend(self.child(field.name()).moved(&new.child(field.name()), field.data_type()));
            }
        }
        moved
    }

    /// Reads a path as it is written; `None` if a quote is not closed or a name is missing.
    pub fn parse(text: &str) -> Option<Path> {
        let mut names = Vec::new();
        let mut rest = text;
        loop {
            let (name, after) = match rest.strip_prefix('"') {
                Some(quoted) => unquoted(quoted)?,
                None => {
                    let (name, after) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
                    (name.to_string(), after)
                }
            };
            if name.is_empty() && !rest.starts_with('"') {
                return None;
            }
            names.push(name);
            if after.is_empty() {
                return Path::from_names(names);
            }
            rest = after.strip_prefix('.')?;
        }
    }

    /// What `text` means among `columns`.
    ///
    /// # Errors
    /// `unknown-column`, with the name that was likely meant.
    pub fn resolve(text: &str, columns: &Fields) -> Result<Path, Diagnostic> {
        if columns.find(text).is_some() {
            return Ok(Path::column(text));
        }
        let path = Path::parse(text).filter(|path| path.field(columns).is_some());
        path.ok_or_else(|| unknown_column(text, columns))
    }

    /// The column that `text` means, by itself and not a field of it.
    pub fn resolve_column<'a>(text: &str, columns: &'a Fields) -> Option<&'a FieldRef> {
        let path = Path::resolve(text, columns).ok()?;
        columns.find(path.as_column()?).map(|(_, field)| field)
    }

    /// The names, from the outside in.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.column.as_str()).chain(self.fields.iter().map(String::as_str))
    }

    /// The outermost name: the column.
    pub fn first(&self) -> &str {
        &self.column
    }

    /// The innermost name.
    pub fn last(&self) -> &str {
        self.fields.last().unwrap_or(&self.column)
    }

    /// The column's name, if the path is not a field within it.
    pub fn as_column(&self) -> Option<&str> {
        self.fields.is_empty().then_some(self.column.as_str())
    }

    /// The field at this path: one of `columns`, or within records of them.
    pub fn field<'a>(&self, columns: &'a Fields) -> Option<&'a FieldRef> {
        let (_, mut field) = columns.find(&self.column)?;
        for name in &self.fields {
            let DataType::Struct(fields) = field.data_type() else { return None };
            (_, field) = fields.find(name)?;
        }
        Some(field)
    }

    /// The field at this path as its [`values`](Path::values) are: nullable if any record on the way is.
    pub fn nullable_field(&self, columns: &Fields) -> Option<Field> {
        let (_, mut field) = columns.find(&self.column)?;
        let mut nullable = field.is_nullable();
        for name in &self.fields {
            let DataType::Struct(fields) = field.data_type() else { return None };
            (_, field) = fields.find(name)?;
            nullable |= field.is_nullable();
        }
        Some(field.as_ref().clone().with_nullable(nullable))
    }

    /// The values at this path, null where any record on the way is.
    pub fn values(&self, columns: &Fields, arrays: &[ArrayRef]) -> Option<ArrayRef> {
        let (place, _) = columns.find(&self.column)?;
        let mut values = arrays.get(place)?.clone();
        for name in &self.fields {
            let record = values.as_struct_opt()?;
            let child = record.column_by_name(name)?;
            values = match record.nulls() {
                None => child.clone(),
                Some(nulls) => {
                    let nulls = NullBuffer::union(Some(nulls), child.nulls());
                    make_array(child.to_data().into_builder().nulls(nulls).build().ok()?)
                }
            };
        }
        Some(values)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, name) in self.names().enumerate() {
            if place > 0 {
                f.write_str(".")?;
            }
            if name.is_empty() || name.contains(['.', '"']) {
                write!(f, "{}", quoted(name))?;
            } else {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

/// A name as SQL writes it: in double quotes if it has other characters than letters, digits and `_`.
pub fn in_sql(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_numeric());
    if plain && !name.is_empty() { name.to_string() } else { quoted(name) }
}

/// A name in double quotes, as SQL writes it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name up to the quote that closes it, and what follows.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        let Some(more) = after.strip_prefix('"') else { return Some((name, after)) };
        name.push('"');
        rest = more;
    }
}

/// "unknown column" with the closest name, fields of records included.
pub fn unknown_column(text: &str, columns: &Fields) -> Diagnostic {
    let mut paths = Vec::new();
    paths_of(columns, None, &mut paths);
    // A path that reads like a column's name has to be distinguished from it.
    let written = |path: &Path| match path.to_string() {
        same if path.as_column().is_none() && columns.find(&same).is_some() => path.names().map(quoted).collect::<Vec<_>>().join("."),
        written => written,
    };
    let paths: Vec<String> = paths.iter().map(written).filter(|path| path != text).collect();
    let found = Diagnostic::error("unknown-column", format!("there is no column `{text}`"));
    match closest(text, paths.iter().map(String::as_str)) {
        Some(path) => found.help(format!("did you mean `{path}`?")),
        None => found.help(format!("the columns are {}", names(columns.iter().map(|f| f.name().as_str()).filter(|n| !n.starts_with('_'))))),
    }
}

/// Columns and their fields.
fn paths_of(fields: &Fields, of: Option<&Path>, paths: &mut Vec<Path>) {
    for field in fields.iter().filter(|f| !f.name().starts_with('_')) {
        let path = of.map_or_else(|| Path::column(field.name()), |of| of.child(field.name()));
        if let DataType::Struct(inner) = field.data_type() {
            paths_of(inner, Some(&path), paths);
        }
        paths.push(path);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, StructArray};
    use arrow::datatypes::Field;

    use super::*;

    fn columns() -> Fields {
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let record = |name: &str, fields: Vec<Field>| Field::new(name, DataType::Struct(fields.into()), true);
        vec![
            text("a.b"),
            record("a", vec![text("b"), text("c.d"), text("")]),
            record("x.y", vec![text("z")]),
            text("Date Time"),
            text("say \"hi\""),
            text("plain"),
        ]
        .into()
    }

    #[test]
    fn a_columns_name_goes_before_a_path() {
        for (text, names) in [
            ("a.b", vec!["a.b"]),
            ("\"a.b\"", vec!["a.b"]),
            ("\"a\".b", vec!["a", "b"]),
            ("a.\"c.d\"", vec!["a", "c.d"]),
            ("a.\"\"", vec!["a", ""]),
            ("\"x.y\".z", vec!["x.y", "z"]),
            ("Date Time", vec!["Date Time"]),
            ("\"Date Time\"", vec!["Date Time"]),
            ("say \"hi\"", vec!["say \"hi\""]),
            ("\"say \"\"hi\"\"\"", vec!["say \"hi\""]),
        ] {
            let path = Path::resolve(text, &columns()).unwrap();
            assert_eq!(path.names().collect::<Vec<_>>(), names, "{text}");
            assert_eq!(Path::parse(&path.to_string()), Some(path), "what is shown can be read");
        }
    }

    #[test]
    fn help_is_never_what_was_written() {
        let help = |text: &str| Path::resolve(text, &columns()).unwrap_err().help.unwrap();
        assert_eq!(help("x.y.z"), "did you mean `\"x.y\".z`?");
        assert_eq!(help("Plain"), "did you mean `plain`?");
        assert_eq!(help("date time"), "did you mean `Date Time`?");
        for text in ["", ".", "a.", "a..b", "\"a", "\"a\"b", "\"\"", "a.b.c", "plain.x"] {
            let help = help(text);
            assert!(!help.contains(&format!("did you mean `{text}`")), "{text}: {help}");
        }
    }

    #[test]
    fn what_a_null_hides_is_null() {
        let inner: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), Some(2), None]));
        let fields: Fields = vec![Field::new("n", DataType::Int32, true)].into();
        let record = StructArray::new(fields.clone(), vec![inner], Some(vec![true, false, true].into()));
        let columns: Fields = vec![Field::new("r", DataType::Struct(fields), true)].into();
        let path = Path::resolve("r.n", &columns).unwrap();
        let values = path.values(&columns, &[Arc::new(record)]).unwrap();
        assert_eq!(values.as_primitive::<arrow::datatypes::Int32Type>(), &Int32Array::from(vec![Some(1), None, None]));
    }
}
