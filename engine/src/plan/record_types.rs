//! Planning a source whose topic has records of several types.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use operator_core::batch::is_written;
use operator_core::{Diagnostic, Input, InputInfo, Path, Port, type_said};

use super::build::{Builder, Stream};
use super::source::envelope_complete;
use super::{Branch, Catalog, PlanNode, Upstream};
use crate::format::{Content, Format, Values};
use crate::pipeline::{OtherTypes, Source, TypeFrom};
use crate::record_types::{By, KIND, MOST, OTHER, RecordType, Types, by_default, is_named, split};

/// The types of a source; `None` if its records have one.
pub(super) fn of_source(source: &Source, topics: &[String], catalog: &dyn Catalog) -> Result<Option<Types>, Diagnostic> {
    if source.types.is_empty() {
        return Ok(None);
    }
    let wrong = |message: String| Diagnostic::error("types", message);
    let [topic] = topics else {
        let found = wrong("a source with `types` reads one topic".into()).at(["types"]).key();
        return Err(found.help("write `topic:`, and a source for each topic"));
    };
    if source.format.content() != Content::Row {
        let found = wrong(format!("values in `{}` have no types", source.format.name())).at(["format"]);
        return Err(found.help(format!("write `format` {}", Format::names_of(|content| *content == Content::Row))));
    }
    if source.types.len() > MOST {
        return Err(wrong(format!("there are {} types, at most {MOST} are possible", source.types.len())).at(["types"]).key());
    }
    let by = by(source)?;
    let mut types: Vec<RecordType> = Vec::new();
    let mut known: BTreeMap<String, &String> = BTreeMap::new();
    for name in source.types.keys() {
        let one = of_type(source, name, topic, &by, catalog)?;
        if let Some(first) = known.insert(one.is.clone(), name) {
            let found = wrong(format!("`{first}` and `{name}` are the same type, `{}`", one.is)).at(["types", name]).key();
            return Err(found.help("keep one of them: several steps can read it"));
        }
        let meet = |of: &&RecordType| by == By::RecordName && (is_named(&of.is, &one.is) || is_named(&one.is, &of.is));
        if let Some(other) = types.iter().find(meet) {
            let message = format!("`{}` ({}) and `{name}` ({}) are names of the same schema", other.name, other.is, one.is);
            let found = wrong(message).at(["types", name]).key();
            return Err(found.help("write both with their namespaces, `is: shop.OrderPlaced`, or keep one of them"));
        }
        types.push(one);
    }
    let types = Types { by, types, other: source.other };
    if let By::Field(path) = &types.by {
        let help = "tell them apart by a header: `type: { header: event-type }`";
        source.format.text_at(path, &types.layouts()).map_err(|why| wrong(why).at(["type"]).help(help))?;
    }
    Ok(Some(types))
}

fn by(source: &Source) -> Result<By, Diagnostic> {
    let registered = source.format.is_registered();
    let event = source.format.envelope(source.event, false);
    let from = source.type_from.clone().or_else(|| by_default(event.is_some(), registered)).ok_or_else(|| {
        let found = Diagnostic::error("types", "nothing says which type a record has").at(["types"]).key();
        found.help("write `type: { field: eventType }`, or `type: { header: event-type }`")
    })?;
    let format = source.format.name();
    let unusable = |message: String, help: &str| Err(Diagnostic::error("types", message).at(["type"]).help(help));
    match from {
        TypeFrom::Field(_) if registered => unusable(
            format!("types of `{format}` records are told apart by the names of their schemas, or by a header"),
            "remove `type`; for records of one schema, use a `fanout` step",
        ),
        TypeFrom::RecordName if !registered => {
            unusable(format!("records in `{format}` have no name"), "write `type: { field: eventType }`, or `type: { header: event-type }`")
        }
        TypeFrom::RecordName => Ok(By::RecordName),
        TypeFrom::Header(name) if name.is_empty() => unusable("a header has a name".into(), "write `type: { header: event-type }`"),
        TypeFrom::Header(name) => Ok(By::Header(name)),
        TypeFrom::Field(path) => match Path::parse(&path) {
            Some(path) => Ok(By::Field(path)),
            None => unusable("this is not the path of a field".into(), "write `type: { field: eventType }`"),
        },
    }
}

fn of_type(source: &Source, name: &str, topic: &str, by: &By, catalog: &dyn Catalog) -> Result<RecordType, Diagnostic> {
    let here = |found: Diagnostic| found.at(["types", name]).key();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(word) {
        let found = Diagnostic::error("name", format!("`{name}` is not a valid name"));
        return Err(
            here(found).help("use letters, digits, `_` and `-`, and say with `is` what records have: `placed: { is: order.placed }`")
        );
    }
    if name == OTHER && source.other == OtherTypes::Keep {
        let found = Diagnostic::error("types", "with `other: keep`, `other` is the stream of records of other types");
        return Err(here(found).help("call the type otherwise, and say with `is` what records have"));
    }
    let Some(written) = source.types.get(name) else { return Err(here(Diagnostic::error("types", "there is no such type"))) };
    let said = written.is.clone();
    let subject = written.subject.clone().unwrap_or_else(|| format!("{topic}-{}", said.as_deref().unwrap_or(name)));
    let event = source.format.envelope(source.event, written.schema.is_some());
    let values = Values { declared: written.schema.as_ref(), event, subject: &subject, catalog };
    let layout = source.format.layout(&values).map_err(|mut found| match found.path.first().map(String::as_str) {
        Some("schema") => found.under(["types", name]),
        _ => {
            found.path.clear();
            here(found)
        }
    })?;
    if event.is_some() {
        envelope_complete(&layout.columns, topic)?;
    }
    if let Some(field) = layout.columns.fields().iter().find(|field| !is_written(field.name()) || field.name().starts_with('_')) {
        let message = format!("the records have a column `{}`, a name reserved for the engine", field.name());
        return Err(here(Diagnostic::error("reserved-column", message)).help("names that start with `_` are the engine's"));
    }
    let is = match (said, by, &layout.registered) {
        (Some(is), ..) => is,
        // The name is that of the subject's schema.
        (None, By::RecordName, Some(text)) => source.format.record_name(text).map_err(|e| here(Diagnostic::error("schema", e)))?,
        (None, ..) => name.to_string(),
    };
    Ok(RecordType { name: name.to_string(), is, layout, subject })
}

/// Resolves something in the columns of every type, where it must be the same and have the same data type.
pub(super) fn in_every_type<T: PartialEq>(
    types: &Types,
    place: &[&str],
    resolve: impl Fn(&RecordType) -> Result<(T, Vec<DataType>), Diagnostic>,
) -> Result<Option<T>, Diagnostic> {
    let mut known: Option<(&RecordType, T, Vec<DataType>)> = None;
    for of in &types.types {
        let (found, data_types) = resolve(of).map_err(|found| in_type(found, of))?;
        match &known {
            Some((first, _, before)) if *before != data_types => {
                let said = |data_types: &[DataType]| data_types.iter().map(type_said).collect::<Vec<_>>().join(", ");
                let (a, b) = (said(before), said(&data_types));
                let message = format!("it is {a} in `{}`, and {b} in `{}`", first.name, of.name);
                return Err(Diagnostic::error("types", message)
                    .at(place.iter().copied())
                    .help("use a column that has one type in all of them"));
            }
            // In one type `a.b` is a column of that name, in another a field of the record `a`.
            Some((first, before, _)) if *before != found => {
                let message = format!("it is a column in `{}` or `{}`, and a field of a record in the other", first.name, of.name);
                return Err(Diagnostic::error("types", message)
                    .at(place.iter().copied())
                    .help("use a column that is in the same place in all of them"));
            }
            Some(_) => {}
            None => known = Some((of, found, data_types)),
        }
    }
    Ok(known.map(|(_, found, _)| found))
}

fn in_type(mut found: Diagnostic, of: &RecordType) -> Diagnostic {
    found.message = format!("{} in the type `{}`", found.message, of.name);
    found
}

impl Builder<'_> {
    /// The step behind a source that makes a stream of each type.
    pub(super) fn split(&mut self, name: &str, types: &Types, stream: &Stream) {
        let planned = split(types, &stream.input.schema);
        let node = self.nodes.len();
        let mut keys = Vec::new();
        for (port, output) in planned.outputs.iter().enumerate() {
            // Records of other types have no columns that could be the key.
            let has_key = |path: &Path| path.field(output.schema.fields()).is_some();
            let key = stream.input.key.clone().filter(|key| key.iter().all(has_key));
            keys.push(key.clone());
            let input = InputInfo { schema: output.schema.clone(), key, mode: output.mode.clone() };
            let of = Stream { from: Upstream::Node(node, Port(port as u16)), input, lossy: true, ..stream.clone() };
            self.streams.insert(format!("{name}.{}", output.name), of);
        }
        let branches = vec![Branch { from: stream.from, input: Input::ONLY, united: None, mode: stream.input.mode.clone() }];
        let (step, kind, on_error) = (name.to_string(), KIND.to_string(), Default::default());
        let node = PlanNode { step, kind, planned, branches, on_error, keys, changelog: None, changelog_id: None };
        self.nodes.push((stream.component, node));
    }
}
