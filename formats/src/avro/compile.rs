//! Writer schema + reader schema + projection -> program.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{EnumSchema, RecordField, RecordSchema};
use arrow::datatypes::{DataType, Field, Fields, Schema as ArrowSchema};

use super::arrow_types::{branch_names, scalar_type};
use super::decode_plan::{DecodePlan, DecodeStep, Default, Read, Record, Skip};
use super::default::encode_default;
use super::scalars::{promotes, scalar};
use super::schema::{AvroSchema, Layout, default_of, layout, names_of, type_name};
use crate::column::MAX_SCHEMA_DEPTH;

/// Steps one program may have. Unions of records of unions can multiply beyond any memory.
const MAX_STEPS: usize = 100_000;

/// Compiles the program that reads records of `writer` into the columns of `projection`.
pub(crate) fn compile(writer: &AvroSchema, reader: &AvroSchema, projection: &ArrowSchema) -> Result<DecodePlan, String> {
    let mut compiler = Compiler { writer, reader, named: Vec::new(), by_name: HashMap::new(), steps: 0 };
    let record = Field::new("", DataType::Struct(projection.fields().clone()), false);
    let root = compiler.read(&writer.root, &reader.root, &record, 0)?;
    if let Read::Refuse(cause) = root {
        return Err(cause);
    }
    Ok(compiler.finish(root))
}

/// Compiles the program that reads rows of `written`, a record in the writer's schema, as rows of `wanted`, one in the reader's. They are
/// the same by their places, whatever they are called.
pub(crate) fn compile_row(
    (writer, written): (&AvroSchema, &RecordSchema),
    (reader, wanted): (&AvroSchema, &RecordSchema),
    projection: &ArrowSchema,
) -> Result<DecodePlan, String> {
    let mut compiler = Compiler { writer, reader, named: Vec::new(), by_name: HashMap::new(), steps: 0 };
    let record = Field::new("", DataType::Struct(projection.fields().clone()), false);
    let root = compiler.read_record(written, wanted, &record, 0)?;
    Ok(compiler.finish(root))
}

/// Compiles how to pass over values of these schemas, for the program that comes with them.
pub(crate) fn compile_skips<'a>(
    writer: &'a AvroSchema,
    schemas: impl Iterator<Item = &'a Schema>,
) -> Result<(Vec<Skip>, DecodePlan), String> {
    let mut compiler = Compiler { writer, reader: writer, named: Vec::new(), by_name: HashMap::new(), steps: 0 };
    let skips = schemas.map(|schema| compiler.skip(schema, 0)).collect::<Result<_, _>>()?;
    Ok((skips, compiler.finish(Read::Null)))
}

struct Compiler<'a> {
    writer: &'a AvroSchema,
    reader: &'a AvroSchema,
    /// `None` while the entry is being compiled.
    named: Vec<Option<Skip>>,
    by_name: HashMap<String, usize>,
    steps: usize,
}

impl<'a> Compiler<'a> {
    fn finish(self, root: Read) -> DecodePlan {
        DecodePlan { root, named: self.named.into_iter().map(|skip| skip.unwrap_or(Skip::Nothing)).collect() }
    }

    fn count(&mut self, depth: usize) -> Result<(), String> {
        self.steps += 1;
        if self.steps > MAX_STEPS || depth > MAX_SCHEMA_DEPTH * 2 {
            return Err("the schema is too large or too deep".to_string());
        }
        Ok(())
    }

    fn read(&mut self, writer: &'a Schema, reader: &'a Schema, field: &Field, depth: usize) -> Result<Read, String> {
        self.count(depth)?;
        let (writer, reader) = (self.writer.resolve(writer)?, self.reader.resolve(reader)?);
        if let Schema::Union(union) = writer {
            return self.read_writer_union(union.variants(), reader, field, depth);
        }
        if let Schema::Union(union) = reader {
            return self.read_reader_union(writer, union.variants(), field, depth);
        }
        self.read_plain(writer, reader, field, depth)
    }

    fn read_writer_union(&mut self, branches: &'a [Schema], reader: &'a Schema, field: &Field, depth: usize) -> Result<Read, String> {
        let (mut reads, mut readable, mut cause, mut values) = (Vec::with_capacity(branches.len()), 0, None, 0);
        for branch in branches {
            let is_null = matches!(branch, Schema::Null);
            values += usize::from(!is_null);
            match self.read(branch, reader, field, depth + 1) {
                Ok(Read::Refuse(_)) if !is_null => reads.push(Read::Refuse("a union branch that the reader does not have".to_string())),
                Ok(read) => {
                    readable += usize::from(!is_null);
                    reads.push(read);
                }
                Err(error) => {
                    reads.push(Read::Refuse(error.clone()));
                    if !is_null {
                        cause.get_or_insert(error);
                    }
                }
            }
        }
        match cause {
            Some(cause) if readable == 0 && values > 0 => Err(cause),
            _ => Ok(Read::Union(reads)),
        }
    }

    fn read_reader_union(&mut self, writer: &'a Schema, branches: &'a [Schema], field: &Field, depth: usize) -> Result<Read, String> {
        if matches!(writer, Schema::Null) {
            let nullable = branches.iter().any(|b| matches!(b, Schema::Null));
            return if nullable { Ok(Read::Null) } else { Err("null, but the reader's union has no null".to_string()) };
        }
        let values: Vec<&'a Schema> = branches.iter().filter(|b| !matches!(b, Schema::Null)).collect();
        if let [only] = values.as_slice() {
            return self.read(writer, only, field, depth + 1);
        }
        let DataType::Struct(fields) = field.data_type() else {
            return Err(format!("a union of several types is read as a struct, not as {}", field.data_type()));
        };
        let names = branch_names(self.reader, branches)?;
        if let Some(wrong) = fields.iter().find(|f| !f.is_nullable() || !names.contains(f.name())) {
            return Err(format!("{} is not a branch of the union, or not nullable", wrong.name()));
        }
        let index = self.matching_branch(writer, &values, &names, fields, depth)?;
        let Some((branch, name)) = values.get(index).zip(names.get(index)) else { return Err(no_branch(writer)) };
        match fields.find(name) {
            Some((column, child)) => {
                let read = self.read(writer, branch, child, depth + 1).map_err(|e| within(name, e))?;
                Ok(Read::Branch(column, Box::new(read)))
            }
            None => Ok(Read::OtherBranch(self.skip(writer, depth)?)),
        }
    }

    /// The reader's branch for a value of the writer: by full name, by short name or alias, else the first of the same
    /// layout, else the first that the value can be promoted to.
    fn matching_branch(
        &mut self,
        writer: &'a Schema,
        branches: &[&'a Schema],
        names: &[String],
        fields: &Fields,
        depth: usize,
    ) -> Result<usize, String> {
        let resolved = branches.iter().map(|b| self.reader.resolve(b)).collect::<Result<Vec<_>, _>>()?;
        if let Some((full, _)) = names_of(writer) {
            let short = |name: &str| name.rsplit('.').next().unwrap_or_default().to_string();
            let same_kind = |b: &Schema| std::mem::discriminant(&layout(b)) == std::mem::discriminant(&layout(writer));
            let by = |test: &dyn Fn(&str, &[String]) -> bool| {
                resolved.iter().position(|b| same_kind(b) && names_of(b).is_some_and(|(name, aliases)| test(&name, &aliases)))
            };
            let found = by(&|name, _| name == full)
                .or_else(|| by(&|_, aliases| aliases.contains(&full)))
                .or_else(|| by(&|name, _| short(name) == short(&full)));
            if let Some(found) = found {
                return Ok(found);
            }
            if layout(writer) == Layout::Record {
                return Err(no_branch(writer)); // by shape any record might do, with defaults for everything
            }
        }
        if let Some(found) = resolved.iter().position(|b| layout(b) == layout(writer)) {
            return Ok(found);
        }
        let promoted = resolved.iter().zip(names).position(|(branch, name)| match fields.find(name) {
            Some((_, child)) => self.read_plain(writer, branch, child, depth + 1).is_ok(),
            None => promotes(layout(writer), layout(branch)),
        });
        promoted.ok_or_else(|| no_branch(writer))
    }

    fn read_plain(&mut self, writer: &'a Schema, reader: &'a Schema, field: &Field, depth: usize) -> Result<Read, String> {
        if let Some(other) = other_type(writer, reader) {
            return Err(other);
        }
        match (writer, reader) {
            (Schema::Record(w), Schema::Record(r)) => self.read_record(w, r, field, depth),
            (Schema::Array(w), Schema::Array(r)) => {
                let DataType::List(item) = field.data_type() else { return Err(not_a(reader, field)) };
                let read = self.read(&w.items, &r.items, item, depth + 1).map_err(|e| within("[]", e))?;
                Ok(Read::Array(Box::new(read), self.writer.is_zero_width(&w.items)))
            }
            (Schema::Map(w), Schema::Map(r)) => {
                let DataType::Map(entries, _) = field.data_type() else { return Err(not_a(reader, field)) };
                let value = match entries.data_type() {
                    DataType::Struct(fields) => fields.get(1).ok_or_else(|| not_a(reader, field))?,
                    _ => return Err(not_a(reader, field)),
                };
                Ok(Read::Map(Box::new(self.read(&w.types, &r.types, value, depth + 1).map_err(|e| within("[]", e))?)))
            }
            (Schema::Enum(w), Schema::Enum(r)) => {
                expect_type(reader, field)?;
                Ok(Read::Enum(enum_table(w, r)))
            }
            _ if is_composite(writer) || is_composite(reader) => {
                Err(format!("{} cannot be read as {}", type_name(writer), type_name(reader)))
            }
            _ => {
                expect_type(reader, field)?;
                scalar(writer, reader)
            }
        }
    }

    fn read_record(&mut self, writer: &'a RecordSchema, reader: &'a RecordSchema, field: &Field, depth: usize) -> Result<Read, String> {
        let DataType::Struct(columns) = field.data_type() else {
            return Err(format!("record {} is read as a struct, not as {}", reader.name.name, field.data_type()));
        };
        // Which column each field of the writer goes to.
        let mut targets: Vec<Option<(usize, &'a RecordField)>> = vec![None; writer.fields.len()];
        let mut defaults = Vec::new();
        for (index, column) in columns.iter().enumerate() {
            let wanted = reader.fields.iter().find(|f| f.name == *column.name());
            let wanted = wanted.ok_or_else(|| within(column.name(), "not a field of the reader's schema".to_string()))?;
            match source(writer, reader, wanted).and_then(|place| targets.get_mut(place)) {
                Some(slot) if slot.is_none() => *slot = Some((index, wanted)),
                _ => defaults.push(self.default(index, wanted, column, depth).map_err(|e| within(column.name(), e))?),
            }
        }
        let mut steps = Vec::with_capacity(targets.len());
        for (written, target) in writer.fields.iter().zip(targets) {
            let step = match target.and_then(|(index, wanted)| Some((index, wanted, columns.get(index)?))) {
                Some((index, wanted, column)) => {
                    let read = self.read(&written.schema, &wanted.schema, column, depth + 1);
                    DecodeStep::Read(index, read.map_err(|e| within(column.name(), e))?)
                }
                None => DecodeStep::Skip(self.skip(&written.schema, depth + 1)?),
            };
            steps.push(step);
        }
        Ok(Read::Record(Box::new(Record { steps, defaults })))
    }

    fn default(&mut self, column: usize, wanted: &'a RecordField, field: &Field, depth: usize) -> Result<Default, String> {
        let json = default_of(wanted).ok_or("the writer's schema does not have it, and it has no default")?;
        let mut bytes = Vec::new();
        encode_default(self.reader, json, &wanted.schema, &mut bytes, 0)?;
        // The default is read as if the reader had written it.
        let mut compiler =
            Compiler { writer: self.reader, reader: self.reader, named: Vec::new(), by_name: HashMap::new(), steps: self.steps };
        let read = compiler.read(&wanted.schema, &wanted.schema, field, depth + 1)?;
        self.steps = compiler.steps;
        Ok(Default { column, bytes, plan: compiler.finish(read) })
    }

    fn skip(&mut self, schema: &'a Schema, depth: usize) -> Result<Skip, String> {
        self.count(depth)?;
        let schema = self.writer.resolve(schema)?;
        Ok(match schema {
            Schema::Array(array) => Skip::Array(Box::new(self.skip(&array.items, depth + 1)?), self.writer.is_zero_width(&array.items)),
            Schema::Map(map) => Skip::Map(Box::new(self.skip(&map.types, depth + 1)?)),
            Schema::Union(union) => Skip::Union(union.variants().iter().map(|b| self.skip(b, depth + 1)).collect::<Result<_, _>>()?),
            Schema::Record(record) => self.skip_record(record, depth)?,
            scalar => match layout(scalar) {
                Layout::Null => Skip::Nothing,
                Layout::Bool => Skip::Bool,
                Layout::Int | Layout::Long | Layout::Enum => Skip::Integer,
                Layout::Float => Skip::Fixed(4),
                Layout::Double => Skip::Fixed(8),
                Layout::Fixed(size) => Skip::Fixed(size),
                _ => Skip::Bytes,
            },
        })
    }

    /// A record is compiled once, however often it occurs, and may contain itself.
    fn skip_record(&mut self, record: &'a RecordSchema, depth: usize) -> Result<Skip, String> {
        let name = record.name.fullname(None);
        if let Some(index) = self.by_name.get(&name) {
            return Ok(Skip::Named(*index));
        }
        let index = self.named.len();
        self.named.push(None);
        self.by_name.insert(name, index);
        let fields = record.fields.iter().map(|f| self.skip(&f.schema, depth + 1)).collect::<Result<_, _>>()?;
        if let Some(slot) = self.named.get_mut(index) {
            *slot = Some(Skip::Record(fields));
        }
        Ok(Skip::Named(index))
    }
}

/// The writer's field that a reader's field is read from: of the same name, else one that the reader's aliases name and
/// that is not a field of the reader itself.
fn source(writer: &RecordSchema, reader: &RecordSchema, wanted: &RecordField) -> Option<usize> {
    writer.fields.iter().position(|f| f.name == wanted.name).or_else(|| {
        let aliases = wanted.aliases.iter().flatten();
        aliases
            .filter(|alias| !reader.fields.iter().any(|f| f.name == **alias))
            .find_map(|alias| writer.fields.iter().position(|f| f.name == *alias))
    })
}

fn enum_table(writer: &EnumSchema, reader: &EnumSchema) -> Vec<Option<Box<[u8]>>> {
    let known = |symbol: &String| reader.symbols.iter().find(|s| *s == symbol).or(reader.default.as_ref());
    writer.symbols.iter().map(|symbol| known(symbol).map(|s| s.as_bytes().into())).collect()
}

fn is_composite(schema: &Schema) -> bool {
    matches!(layout(schema), Layout::Record | Layout::Array | Layout::Map | Layout::Enum)
}

fn expect_type(reader: &Schema, field: &Field) -> Result<(), String> {
    if scalar_type(reader)?.equals_datatype(field.data_type()) { Ok(()) } else { Err(not_a(reader, field)) }
}

fn not_a(reader: &Schema, field: &Field) -> String {
    format!("the reader's {} cannot be read as {}", type_name(reader), field.data_type())
}

/// Why values of the writer are of another type than the reader's although they look alike: for two records, enums or fixed, the
/// unqualified names differ, and the reader has no alias for the writer's. Namespaces are not compared, as the specification has
/// it: producers of one type in different languages often differ there.
fn other_type(writer: &Schema, reader: &Schema) -> Option<String> {
    let ((written, _), (wanted, aliases)) = (names_of(writer)?, names_of(reader)?);
    let short = |name: &str| name.rsplit('.').next().unwrap_or_default().to_string();
    let same = short(&written) == short(&wanted) || aliases.contains(&written) || type_name(writer) != type_name(reader);
    (!same).then(|| format!("the {} is of type {written}, and {wanted} is expected", type_name(writer)))
}

fn no_branch(writer: &Schema) -> String {
    match names_of(writer) {
        Some((name, _)) => format!("the reader's union has no branch for {name}"),
        None => format!("the reader's union has no branch for {}", type_name(writer)),
    }
}

/// Puts a field's name in front of a message about it.
pub(crate) fn within(name: &str, message: String) -> String {
    match message.split_once(": ") {
        Some((path, rest)) if !path.contains(' ') => format!("{name}.{path}: {rest}"),
        _ => format!("{name}: {message}"),
    }
}
