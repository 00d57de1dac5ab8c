//! How producers write the topics that a pipeline reads.

use arrow::datatypes::SchemaRef;
use headwater_engine::format::Layout;
use headwater_engine::partitioner::Partitioner;
use headwater_engine::pipeline::{Format, Pipeline};
use headwater_engine::plan::{InputKind, KeyCodec, Plan, TimeSource};
use headwater_engine::record_types::Types;
use operator_core::Path;

/// How the values of a topic are written.
pub struct Shape {
    pub format: Format,
    /// The columns of the rows.
    pub schema: SchemaRef,
    /// What lines are written as, unless they name another schema.
    pub layout: Layout,
    pub subject: String,
    /// The types of its records, if there are several.
    pub types: Option<Types>,
    /// The columns of the key, in a value.
    pub key: Vec<Path>,
    pub codec: Option<KeyCodec>,
    pub time: Option<Path>,
    pub table: bool,
    pub partitions: i32,
    /// How the producers of the topic choose partitions.
    pub partitioner: Partitioner,
}

/// The shape of a topic that a source or a table reads.
pub fn shape(plan: &Plan, pipeline: &Pipeline, topic: &str) -> Option<Shape> {
    for input in plan.stages.iter().flat_map(|stage| &stage.inputs) {
        let (InputKind::Source(decode), Some(found)) = (&input.kind, input.topics.iter().find(|t| t.name.as_ref() == topic)) else {
            continue;
        };
        let time = if let TimeSource::Column(path) = &decode.time { Some(path.clone()) } else { None };
        // Columns of a key that is a record are in the key alone.
        let key = if decode.key.is_none() { input.key.clone().unwrap_or_default() } else { Vec::new() };
        let subject = pipeline.sources.get(&input.name).and_then(|source| source.subject.clone());
        return Some(Shape {
            format: decode.format.clone(),
            schema: decode.value.clone(),
            layout: found.layout.clone(),
            subject: subject.unwrap_or_else(|| format!("{topic}-value")),
            types: decode.types.clone(),
            key,
            codec: decode.key.clone(),
            time,
            table: false,
            partitions: found.partitions,
            partitioner: decode.partitioner,
        });
    }
    let table = plan.tables.iter().find(|table| table.topic.name.as_ref() == topic)?;
    let spec = pipeline.tables.get(&table.name);
    Some(Shape {
        format: table.format.clone(),
        schema: table.schema.clone(),
        layout: table.topic.layout.clone(),
        subject: spec.and_then(|spec| spec.subject.clone()).unwrap_or_else(|| format!("{topic}-value")),
        types: None,
        key: table.key.iter().map(|field| Path::column(field.name())).collect(),
        codec: table.codec.clone(),
        time: table.time.clone().map(Path::column),
        table: true,
        partitions: table.topic.partitions,
        partitioner: Partitioner::default(),
    })
}
