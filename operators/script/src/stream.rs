//! An input of the step, as far as the script has said what it is.

use std::sync::Arc;

use arrow::datatypes::Schema;
use operator_core::{InputInfo, Mode, Path};

use super::rows::{Clock, with_system};

/// An input of the step.
#[derive(Default)]
pub(super) struct Stream {
    pub schema: Option<Arc<Schema>>,
    /// Its key columns, as written.
    pub key: Option<String>,
    /// The key of its changes, as written.
    pub changes: Option<String>,
    pub clock: Clock,
}

impl Stream {
    /// What the step is planned against; `None` while the columns are unknown. `row_time`: the event time is a column.
    pub fn info(&self, row_time: bool) -> Result<Option<InputInfo>, String> {
        let Some(schema) = &self.schema else { return Ok(None) };
        let path = |text: &str| Path::resolve(text.trim(), schema.fields()).map_err(|found| found.message);
        let paths = |text: &String| text.split(',').filter(|text| !text.trim().is_empty()).map(path).collect::<Result<Vec<_>, _>>();
        let key = self.key.as_ref().map(paths).transpose()?;
        let mode = self.changes.as_ref().map(paths).transpose()?.map_or(Mode::Append, |key| Mode::Changes { key, row_time });
        Ok(Some(InputInfo { schema: with_system(schema, mode.is_changes()), key, mode }))
    }
}
