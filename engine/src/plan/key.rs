//! Record keys: which columns they have, and how a key that is a record is read and written.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use headwater_formats::{Decoder, Encoder, RowBuilder};
use operator_core::batch::METADATA;
use operator_core::keys::is_groupable;
use operator_core::path::unknown_column;
use operator_core::table::is_record_key;
use operator_core::{Diagnostic, Path, type_name, type_said};

use super::Catalog;
use crate::format::{Content, Format, Layout, Rows, Values};
use crate::pipeline::{Key, KeyRecord, Source, Table, TopicTarget};

/// How a key that is a record becomes columns, or is made of them.
#[derive(Clone)]
pub struct KeyCodec {
    pub format: Format,
    /// In the order in which a table is looked up by them.
    pub columns: SchemaRef,
    /// What keys look like: they may have more columns.
    pub layout: Layout,
    /// The subject of their schema.
    pub subject: String,
}

impl KeyCodec {
    /// # Errors
    /// The columns are not those of the registered schema: planning has compared them.
    pub fn decoder(&self) -> Result<(Box<dyn Decoder>, RowBuilder), String> {
        let (decoder, columns) = self.format.decoder(&self.layout, &self.columns)?;
        Ok((decoder, RowBuilder::new(&columns, 1_024)?))
    }

    /// `id`: of the registered schema.
    ///
    /// # Errors
    /// The columns can't be written: planning has checked that they can.
    pub fn encoder(&self, id: u32) -> Result<Box<dyn Encoder>, String> {
        self.format.encoder(&self.layout, None, id)
    }
}

/// The key of a topic that a sink writes.
#[derive(Clone)]
pub struct SinkKey {
    /// The columns it is made of, or fields of records.
    pub columns: Vec<Path>,
    /// `None`: the value of one column, as Kafka's serializers write it.
    pub codec: Option<KeyCodec>,
}

/// The columns whose values decide the partition of a source's rows, and how its keys are read.
pub(super) type SourceKey = (Option<Vec<Path>>, Option<KeyCodec>);

/// `value`: the columns of the source's values.
pub(super) fn of_source(source: &Source, topics: &[String], value: &Fields, catalog: &dyn Catalog) -> Result<SourceKey, Diagnostic> {
    let record = match &source.key {
        None => return Ok((None, None)),
        Some(Key::Column(column)) => return Ok((Some(vec![relied_on(column, value)?.at_key(["key"])?]), None)),
        Some(Key::Columns(columns)) => {
            some_columns(columns)?;
            let paths = columns.iter().enumerate().map(|(n, column)| relied_on(column, value)?.at_key(["key".to_string(), n.to_string()]));
            return Ok((Some(paths.collect::<Result<_, _>>()?), None));
        }
        Some(Key::Record(record)) => record,
    };
    let (mut known, mut whole): (Option<(&String, KeyCodec)>, bool) = (None, true);
    for topic in topics {
        let (codec, all) = of_record(record, topic, catalog)?;
        whole &= all;
        match &known {
            Some((first, known)) if known.columns != codec.columns => {
                let message = format!("the keys of `{topic}` have other columns than those of `{first}`");
                return Err(Diagnostic::error("key-columns", message).at(["key"]).help("read the topics as two sources"));
            }
            Some(_) => {}
            None => known = Some((topic, codec)),
        }
    }
    let Some((_, codec)) = known else { return Ok((None, None)) };
    let [_, _, key, ..] = METADATA;
    let fields = codec.columns.fields();
    // Columns of other types can be read, but nothing groups by them; and some of the columns don't decide a record's partition.
    let decides = whole && !fields.is_empty() && fields.iter().all(|field| is_groupable(field.data_type()));
    let paths = decides.then(|| fields.iter().map(|field| Path::column(key).child(field.name())).collect());
    Ok((paths, Some(codec)))
}

/// A column that a source's key is relied on to be, and its type.
struct ReliedOn(Path, DataType);

fn relied_on(column: &str, value: &Fields) -> Result<ReliedOn, Diagnostic> {
    let path = Path::resolve(column, value).map_err(|d| d.at(["key"]))?;
    let of = path.field(value).map_or(DataType::Null, |field| field.data_type().clone());
    Ok(ReliedOn(path, of))
}

impl ReliedOn {
    fn at_key<S: Into<String>>(self, place: impl IntoIterator<Item = S>) -> Result<Path, Diagnostic> {
        if is_record_key(&self.1) {
            return Ok(self.0);
        }
        let message = format!("`{}` is {}, which no standard Kafka serializer writes as a key", self.0, type_said(&self.1));
        let found = Diagnostic::error("key-type", message).at(place);
        Err(found.help("remove `key`: the pipeline then repartitions rows where it needs to"))
    }
}

/// The columns of a table's key, and how it is read if it is a record.
pub(super) fn of_table(table: &Table, value: &SchemaRef, catalog: &dyn Catalog) -> Result<(Fields, Option<KeyCodec>), Diagnostic> {
    let column = |text: &String, place: &[String]| {
        let found = Path::resolve_column(text, value.fields());
        found.cloned().ok_or_else(|| unknown_column(text, value.fields()).at(place))
    };
    let changes = table.format.content() == Content::Change;
    let columns: Fields = match &table.key {
        Key::Column(name) => return Ok(([column(name, &["key".into()])?].into_iter().collect(), None)),
        Key::Record(_) if changes => {
            let found = Diagnostic::error("key-format", "rows of change records have their key among their columns").at(["key"]);
            return Err(found.help("name the columns: `key: sku`, or `key: [tenant, sku]`"));
        }
        Key::Record(record) => {
            let (codec, _) = of_record(record, &table.topic, catalog)?;
            return Ok((codec.columns.fields().clone(), Some(codec)));
        }
        Key::Columns(names) => {
            some_columns(names)?;
            names.iter().enumerate().map(|(n, name)| column(name, &["key".into(), n.to_string()])).collect::<Result<_, _>>()?
        }
    };
    if changes {
        return Ok((columns, None));
    }
    let keys = Arc::new(Schema::new(columns.clone()));
    let mut codec = KeyCodec { format: table.format.clone(), layout: Layout::of(keys.clone()), columns: keys, subject: String::new() };
    if table.format.is_registered() {
        let record = KeyRecord { format: table.format.clone(), columns: Some(table.key.columns().to_vec()), schema: None, subject: None };
        // Their types are those of the key's schema, which may differ from those of the value's.
        (codec, _) = of_record(&record, &table.topic, catalog)?;
    }
    Ok((codec.columns.fields().clone(), Some(codec)))
}

/// A key that is a record of a topic, and whether all of its columns are named.
fn of_record(record: &KeyRecord, topic: &str, catalog: &dyn Catalog) -> Result<(KeyCodec, bool), Diagnostic> {
    has_columns(&record.format)?;
    let subject = record.subject.clone().unwrap_or_else(|| format!("{topic}-key"));
    let values = Values { declared: record.schema.as_ref(), event: None, subject: &subject, catalog };
    let layout = record.format.layout(&values).map_err(|d| d.under(["key"]))?;
    let all = layout.columns.clone();
    let width = all.fields().len();
    let columns = match &record.columns {
        None => all,
        Some(names) => {
            some_columns(names)?;
            let of = |(n, name): (usize, &String)| {
                let found = Path::resolve_column(name, all.fields()).cloned();
                found.ok_or_else(|| unknown_column(name, all.fields()).at(["key".to_string(), "columns".to_string(), n.to_string()]))
            };
            Arc::new(Schema::new(names.iter().enumerate().map(of).collect::<Result<Fields, _>>()?))
        }
    };
    let whole = columns.fields().len() == width;
    Ok((KeyCodec { format: record.format.clone(), columns, layout, subject }, whole))
}

fn has_columns(format: &Format) -> Result<(), Diagnostic> {
    if format.content() == Content::Row {
        return Ok(());
    }
    let known = Format::names_of(|content| *content == Content::Row);
    let found = Diagnostic::error("key-format", format!("a key with columns of its own has `format` {known}"));
    Err(found.at(["key", "format"]).help("name the column for a key that is one value: `key: order_id`"))
}

fn some_columns(columns: &[String]) -> Result<(), Diagnostic> {
    let found = || Diagnostic::error("key-columns", "the key has no columns").at(["key"]).help("name them: `key: [tenant, sku]`");
    if columns.is_empty() { Err(found()) } else { Ok(()) }
}

/// The key of a sink's records. `topic`: as the file has it.
pub(super) fn of_sink(
    sink: &TopicTarget,
    topic: &str,
    schema: &SchemaRef,
    catalog: &dyn Catalog,
    wrong: &mut Vec<Diagnostic>,
) -> Option<SinkKey> {
    let key = sink.key.as_ref()?;
    let place = |n: usize| match key {
        Key::Column(_) => vec!["key".to_string()],
        Key::Columns(_) => vec!["key".to_string(), n.to_string()],
        Key::Record(_) => vec!["key".to_string(), "columns".to_string(), n.to_string()],
    };
    if let Err(found) = some_columns(key.columns()) {
        wrong.push(found);
        return None;
    }
    let (mut columns, mut fields): (Vec<Path>, Vec<Arc<Field>>) = Default::default();
    for (n, column) in key.columns().iter().enumerate() {
        match Path::resolve(column, schema.fields()) {
            Err(unknown) => wrong.push(unknown.at(place(n))),
            Ok(path) => {
                fields.extend(path.nullable_field(schema.fields()).map(Arc::new));
                columns.push(path);
            }
        }
    }
    if fields.len() < key.columns().len() {
        return None;
    }
    if let Some((n, twice)) = fields.iter().enumerate().find(|(n, field)| fields.iter().take(*n).any(|other| other.name() == field.name()))
    {
        let found = Diagnostic::error("key-columns", format!("the key has two columns `{}`", twice.name())).at(place(n));
        wrong.push(found.help("make one of them a column of another name in a `map` step"));
        return None;
    }
    let (format, subject) = match key {
        Key::Column(column) => {
            let of = fields.first().map_or(&DataType::Null, |field| field.data_type());
            if !is_record_key(of) {
                let message = format!("`{column}` is {}, which no standard Kafka serializer writes", type_name(of));
                let found = Diagnostic::error("key-type", message).at(["key"]);
                wrong.push(found.help("a key is a text, bytes, int or long: add a text column with CAST(... AS VARCHAR)"));
            }
            return Some(SinkKey { columns, codec: None });
        }
        Key::Columns(_) => (if sink.format.content() == Content::Row { sink.format.clone() } else { Format::default() }, None),
        Key::Record(record) => (record.format.clone(), record.subject.clone()),
    };
    let written = || {
        has_columns(&format)?;
        let columns: SchemaRef = Arc::new(Schema::new(fields));
        let subject = subject.unwrap_or_else(|| format!("{topic}-key"));
        let rows = Rows { columns: &columns, subject: &subject, topic: &format!("{topic}-key"), catalog };
        let layout = format.check(&rows).map_err(|d| d.under(["key"]))?;
        Ok(KeyCodec { format, columns, layout, subject })
    };
    match written() {
        Ok(codec) => Some(SinkKey { columns, codec: Some(codec) }),
        Err(found) => {
            wrong.push(found);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Registered;
    use crate::yaml;

    /// A key has `sku` as a long, a value as an int.
    struct Subjects;

    impl Catalog for Subjects {
        fn subject(&self, subject: &str) -> Result<Option<Registered>, String> {
            let sku = if subject == "prices-key" { "long" } else { "int" };
            let fields = format!(r#"[{{"name":"tenant","type":"string"}},{{"name":"sku","type":"{sku}"}}]"#);
            let text = format!(r#"{{"type":"record","name":"R","fields":{fields}}}"#);
            Ok(Some(Registered { id: 1, text, json: false }))
        }

        fn partitions(&self, _: &str) -> Result<Option<i32>, String> {
            Ok(Some(3))
        }

        fn topics(&self) -> Result<Vec<String>, String> {
            Ok(Vec::new())
        }
    }

    /// Looked up by the types of the values, no row was found: their bytes are others.
    #[test]
    fn a_table_is_looked_up_by_the_types_of_its_key() {
        let table = yaml::parse("{ topic: prices, key: [tenant, sku], format: avro }").unwrap().read::<Table>().unwrap();
        let value = Schema::new(vec![
            arrow::datatypes::Field::new("tenant", DataType::Utf8, false),
            arrow::datatypes::Field::new("sku", DataType::Int32, false),
        ]);
        let (columns, codec) = of_table(&table, &Arc::new(value), &Subjects).unwrap_or_else(|found| panic!("{found:?}"));
        let types = |fields: &Fields| fields.iter().map(|field| field.data_type().clone()).collect::<Vec<_>>();
        assert_eq!(types(&columns), [DataType::Utf8, DataType::Int64]);
        assert_eq!(types(codec.unwrap().columns.fields()), types(&columns));
    }
}
