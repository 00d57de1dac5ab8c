//! What a lane gets from outside.

use std::path::PathBuf;
use std::sync::Arc;

use operator_core::Millis;

use crate::broker::{Broker, Clock};
use crate::manifest::Noted;
use crate::plan::{Plan, TOMBSTONE_RETENTION};
use crate::schemas::{MemorySchemas, SchemaSource};
use crate::sim::{MemoryBroker, MemoryClock};
use crate::stats::Stats;
use crate::tables::LoadedTables;
use crate::time::TrustedWall;

/// Gives the registry's id of a schema that a sink writes: by subject and text.
pub type SchemaIds = Arc<dyn Fn(&str, &str) -> Result<u32, String> + Send + Sync>;

/// Everything that the lanes of a worker share.
#[derive(Clone)]
pub struct Runtime {
    pub plan: Arc<Plan>,
    pub broker: Arc<dyn Broker>,
    pub clock: Arc<dyn Clock>,
    /// The wall clock as far as watermarks follow it.
    pub wall: Arc<TrustedWall>,
    pub schemas: Arc<dyn SchemaSource>,
    pub schema_ids: SchemaIds,
    pub tables: Arc<LoadedTables>,
    pub stats: Arc<Stats>,
    pub noted: Arc<Noted>,
}

impl Runtime {
    /// What lanes share at the start of a worker: no table is read, nothing is counted.
    pub fn new(
        plan: Arc<Plan>,
        broker: Arc<dyn Broker>,
        clock: Arc<dyn Clock>,
        schemas: Arc<dyn SchemaSource>,
        schema_ids: SchemaIds,
    ) -> Runtime {
        let (wall, tables) = (Arc::new(TrustedWall::of(clock.as_ref())), Arc::new(LoadedTables::new(&plan)));
        Runtime { plan, broker, clock, wall, schemas, schema_ids, tables, stats: Arc::default(), noted: Arc::default() }
    }

    /// The same over the simulated Kafka and its clock, with an empty registry that gives every schema the id 1.
    pub fn simulated(plan: &Arc<Plan>, broker: &MemoryBroker, clock: Arc<MemoryClock>) -> Runtime {
        let schemas = Arc::new(MemorySchemas::default());
        Runtime::new(plan.clone(), Arc::new(broker.clone()), clock, schemas, Arc::new(|_, _| Ok(1)))
    }
}

/// Settings of a lane.
#[derive(Clone, Debug)]
pub struct LaneConfig {
    /// Name of the worker's slot, the same after a restart.
    pub worker: String,
    /// Number of the lane in its worker.
    pub index: usize,
    /// Where local checkpoints are kept; `None`: every start reads the whole changelog.
    pub state_dir: Option<PathBuf>,
    /// An epoch is sealed at this many input records even before its time is up.
    pub epoch_rows: u64,
    /// ... or this many bytes of output.
    pub epoch_bytes: usize,
    /// Records per poll.
    pub poll_rows: usize,
    /// How long a restore may make no progress.
    pub restore_patience: Millis,
    /// A checkpoint older than this is not used: tombstones written since might be gone from its changelog.
    pub checkpoint_age: Millis,
}

impl LaneConfig {
    pub fn new(worker: impl Into<String>, index: usize) -> LaneConfig {
        LaneConfig {
            worker: worker.into(),
            index,
            state_dir: None,
            epoch_rows: 200_000,
            epoch_bytes: 32 << 20,
            poll_rows: 8_192,
            restore_patience: 180_000,
            checkpoint_age: TOMBSTONE_RETENTION / 2,
        }
    }
}
