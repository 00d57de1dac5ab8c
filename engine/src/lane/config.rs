//! What a lane gets from outside.

use std::path::PathBuf;
use std::sync::Arc;

use operator_core::Millis;

use crate::broker::{Broker, Clock};
use crate::plan::{Plan, TOMBSTONE_RETENTION};
use crate::schemas::SchemaSource;
use crate::stats::Stats;
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
    pub tables: Arc<crate::tables::LoadedTables>,
    pub stats: Arc<Stats>,
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
