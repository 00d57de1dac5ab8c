//! `hw replay`: the state of an aggregate, made of its events again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use headwater_engine::broker::{RecordSet, TopicPartition};
use headwater_engine::plan::{Plan, PlanNode, Stage, Target, TopicName, TopicSink, Upstream};
use headwater_formats::{DecodeError, Decoder, RowBuilder};
use operator_aggregate::{Aggregate, Found, Replay};
use operator_core::{InputInfo, MemoryState, PlanCx, Port, Spec};

use super::{Environment, Failure, runtime, step, topic};
use crate::authoring::sample::wait_for;
use crate::diagnose::Problem;
use crate::observe::outages::Outages;
use crate::pipeline_files::catalog::Live;
use crate::pipeline_files::{self, Loaded};
use crate::say;
use crate::style::{self, good};
use crate::worker::run;

/// Events that are applied together.
const ROWS: usize = 8_192;
/// The most differences that are shown.
const MOST: usize = 50;

#[derive(Args)]
#[command(
    after_help = "Reads the changelog of the step, then the topic that its events are written to, from its beginning, and runs `apply` alone. \
Each aggregate is compared at the version that its state has, so the pipeline may be running. Exit code 1: something differs, or retention has \
removed the first events.

Examples:
  hw replay pipelines/inventory/pipeline.yaml --check -c config/production.yaml
  hw replay pipelines/inventory/pipeline.yaml --key SKU-1"
)]
pub struct ReplayArgs {
    /// The pipeline file
    pipeline: PathBuf,
    #[command(flatten)]
    environment: Environment,
    /// The step, if the pipeline has several aggregates
    #[arg(long)]
    step: Option<String>,
    /// Compare state, entries and versions with what the events say
    #[arg(long, required_unless_present = "key")]
    check: bool,
    /// Print the events of this aggregate, and the state after each; a key of several columns with commas between them
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

pub fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let loaded = pipeline_files::load(&args.pipeline).map_err(Failure::Wrong)?;
    let name = step::find(&loaded, Aggregate::KIND, args.step.as_deref()).map_err(|p| Failure::Wrong(vec![p]))?;
    let config = args.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
    let runtime = runtime()?;
    let services = run::connect(&config, "hw-replay", None, runtime.handle(), &Outages::default())?;
    let catalog = Live::new(services.broker.clone(), services.subjects.clone());
    let (plan, _) = pipeline_files::make_plan(&loaded, &catalog).map_err(Failure::Wrong)?;
    let step = planned(&plan, &name).map_err(Problem::plain)?;
    let broker = services.broker.as_ref();
    let changelog = step.node.changelog.clone().unwrap_or_else(|| "".into());
    let mut stored = MemoryState::default();
    topic::read(broker, &changelog, &mut |_, records| {
        for (key, value) in (0..records.len()).map(|at| records.get(at)).filter_map(|record| Some((record.key?, record.value))) {
            match value {
                Some(value) => drop(stored.entries.insert(key.to_vec(), value.to_vec())),
                None => drop(stored.entries.remove(key)),
            }
        }
        Ok(())
    })
    .map_err(Problem::plain)?;
    let mut replay = replay(&plan, &loaded, &step, stored, args.key.clone())?;
    let mut events = Events::new(step.sink, services.schemas.as_ref()).map_err(Problem::plain)?;
    topic::read(broker, &step.topic, &mut |partition, records| events.take(partition, records, &mut replay)).map_err(Problem::plain)?;
    events.finish(&mut replay).map_err(Problem::plain)?;
    if args.key.is_some() {
        for line in replay.told() {
            say!("{}", line.replace('\t', "  "));
        }
    }
    if !args.check {
        return Ok(());
    }
    let found = replay.finish().map_err(|e| Problem::plain(e.to_string()))?;
    report(&step.node.step, &step.topic, &found)
}

/// An aggregate, and the topic of its events.
struct Step<'p> {
    stage: &'p Stage,
    node: &'p PlanNode,
    sink: &'p TopicSink,
    topic: String,
}

/// The aggregate of this name, and where its events go.
fn planned<'p>(plan: &'p Plan, name: &str) -> Result<Step<'p>, String> {
    let mut nodes = plan.stages.iter().flat_map(|stage| stage.nodes.iter().enumerate().map(move |(place, node)| (stage, place, node)));
    let found = nodes.find(|(_, _, node)| node.step == name);
    let (stage, place, node) = found.ok_or_else(|| format!("the step `{name}` is not in the plan: this is a bug"))?;
    let outputs = stage.outputs.iter().filter(|output| output.from == Upstream::Node(place, Port::OUT) && !output.united);
    let topic = outputs.into_iter().find_map(|output| match &output.target {
        Target::Topic(sink) => match &sink.topic {
            TopicName::Fixed(topic) => Some((sink, topic.to_string())),
            TopicName::Column(..) => None,
        },
        _ => None,
    });
    let (sink, topic) = topic.ok_or_else(|| {
        format!("no sink writes the events of `{}` as they are to one topic: add `{{ from: {}, topic: .. }}`", node.step, node.step)
    })?;
    Ok(Step { stage, node, sink, topic })
}

fn replay(plan: &Plan, loaded: &Loaded, step: &Step<'_>, stored: MemoryState, key: Option<String>) -> Result<Replay, Failure> {
    let name = &step.node.step;
    let schema = step.node.branches.first().and_then(|branch| match (branch.from, &branch.united) {
        (_, Some(united)) => Some(united.clone()),
        (Upstream::Input(input), _) => Some(step.stage.inputs.get(input)?.schema.clone()),
        (Upstream::Node(node, port), _) => Some(step.stage.nodes.get(node)?.planned.outputs.get(usize::from(port.0))?.schema.clone()),
    });
    let config = loaded.root.find(&["steps".to_string(), name.clone(), Aggregate::KIND.to_string()]);
    let (Some(schema), Some(config)) = (schema, config) else {
        return Err(Problem::plain(format!("the step `{name}` can't be found in the file: this is a bug")).into());
    };
    let aggregate: Aggregate = config.read().map_err(|e| Failure::Wrong(vec![Problem::yaml(&loaded.source, e)]))?;
    let input = InputInfo { schema, key: None, mode: operator_core::Mode::Append };
    let (tables, source) = (BTreeMap::new(), format!("{}.{}", plan.pipeline, loaded.pipeline.topics_named(name)));
    let cx = PlanCx { source: &source, ..PlanCx::new(&input, &tables) };
    Replay::new(&aggregate, &cx, stored, key)
        .map_err(|found| Failure::Wrong(found.into_iter().map(|d| Problem::found(&loaded.source, &loaded.root, d)).collect()))
}

/// Records of events on their way into a replay, by partition: events of a key are in one.
struct Events<'a> {
    decoder: Box<dyn Decoder>,
    schemas: &'a dyn headwater_engine::schemas::SchemaSource,
    rows: BTreeMap<i32, RowBuilder>,
    columns: arrow::datatypes::SchemaRef,
}

impl<'a> Events<'a> {
    fn new(sink: &TopicSink, schemas: &'a dyn headwater_engine::schemas::SchemaSource) -> Result<Events<'a>, String> {
        let (decoder, columns) = sink.format.decoder(&sink.layout, &sink.layout.columns)?;
        Ok(Events { decoder, schemas, rows: BTreeMap::new(), columns })
    }

    fn take(&mut self, partition: &TopicPartition, records: &dyn RecordSet, replay: &mut Replay) -> Result<(), String> {
        for record in (0..records.len()).map(|at| records.get(at)) {
            let Some(value) = record.value else { continue };
            let rows = match self.rows.entry(partition.partition) {
                std::collections::btree_map::Entry::Occupied(rows) => rows.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => new.insert(RowBuilder::new(&self.columns, ROWS)?),
            };
            let decoded = match self.decoder.decode(value, rows) {
                Err(DecodeError::UnknownSchema(id)) => {
                    let text = wait_for(self.schemas, id).ok_or_else(|| format!("the registry does not have the schema {id}"))?;
                    self.decoder.add_schema(id, &text)?;
                    self.decoder.decode(value, rows)
                }
                decoded => decoded,
            };
            decoded.map_err(|e| format!("{partition}, offset {}: {e}", record.offset))?;
            if rows.len() >= ROWS {
                replay.push(&rows.finish()?).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, replay: &mut Replay) -> Result<(), String> {
        for rows in self.rows.values_mut().filter(|rows| !rows.is_empty()) {
            replay.push(&rows.finish()?).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

fn report(step: &str, topic: &str, found: &Found) -> Result<(), Failure> {
    let Found { events, aggregates, cut, differences } = found;
    differences.iter().take(MOST).for_each(|difference| say!("{difference}"));
    if differences.len() > MOST {
        say!("and {} more", differences.len() - MOST);
    }
    if !cut.is_empty() {
        let some = cut.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
        let what = format!("`{topic}` does not have the first events of {} aggregates ({some}): they can't be checked", cut.len());
        say!("{what}. Keep the topic for ever: `create: {{ config: {{ retention.ms: -1 }} }}`");
    }
    if differences.is_empty() && cut.is_empty() {
        say!("{} {} aggregates of {} are what their {events} events say", good("same"), aggregates, style::name(step));
        return Ok(());
    }
    Err(Problem::plain(format!("{} differences, {} aggregates without their first events", differences.len(), cut.len())).into())
}
