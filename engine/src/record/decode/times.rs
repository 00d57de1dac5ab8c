//! Event times of rows: where they come from, and what becomes of one that can't be right.

use arrow::array::{Array, ArrayRef, AsArray, UnionArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMillisecondType};
use operator_core::Millis;
use operator_core::batch::time_type;

use super::{Decoded, Decoder, EVENT_TIMES};
use crate::broker::Record;
use crate::pipeline::{OtherTypes, WrongUnit};
use crate::plan::TimeSource;
use crate::record::units::{self, Reference};
use crate::record_types;
use crate::record_types::changes::Changes;

impl Decoder {
    /// Event times, and the unit they were in.
    pub(super) fn times(&mut self, columns: &[ArrayRef]) -> Result<(Vec<Option<Millis>>, TimeUnit), String> {
        let of_changes = self.reading.changes().map(Changes::take_times).unwrap_or_default();
        let TimeSource::Column(path) = &self.plan.time else {
            let mut times = self.timestamps.clone();
            times.iter_mut().zip(of_changes).for_each(|(time, of_change)| *time = of_change.or(*time));
            return Ok((times, TimeUnit::Millisecond));
        };
        let column = record_types::values(path, self.plan.value.fields(), columns).ok_or_else(|| format!("no column `{path}`"))?;
        let unit = match column.data_type() {
            DataType::Int64 => {
                return Ok((self.of_other_types(column.as_primitive::<Int64Type>().iter().collect(), columns), TimeUnit::Millisecond));
            }
            DataType::Timestamp(unit, _) => *unit,
            _ => TimeUnit::Millisecond,
        };
        let millis = cast(&column, &time_type()).map_err(|e| e.to_string())?;
        Ok((self.of_other_types(millis.as_primitive::<TimestampMillisecondType>().iter().collect(), columns), unit))
    }

    /// Records of other types have no column with a time: theirs is that of the record.
    fn of_other_types(&self, mut times: Vec<Option<Millis>>, columns: &[ArrayRef]) -> Vec<Option<Millis>> {
        let other = self.plan.types.as_ref().filter(|types| types.other == OtherTypes::Keep).map(|types| types.types.len());
        let union = columns.first().and_then(|column| column.as_any().downcast_ref::<UnionArray>());
        if let (Some(other), Some(union)) = (other, union) {
            let rows = times.iter_mut().zip(union.type_ids()).zip(&self.timestamps);
            rows.filter(|((_, id), _)| **id as usize == other).for_each(|((time, _), timestamp)| *time = *timestamp);
        }
        times
    }

    /// Judges an event time that is missing, out of range or decades from `reference`.
    #[cold]
    pub(super) fn far(
        &mut self,
        at: Option<Millis>,
        unit: TimeUnit,
        reference: Reference,
        record: &Record<'_>,
        partition: i32,
        out: &mut Decoded,
    ) -> Result<Millis, String> {
        let column = match &self.plan.time {
            TimeSource::Record | TimeSource::Change => None,
            TimeSource::Column(path) => Some(path),
        };
        let own = if self.plan.time == TimeSource::Change { "the time of the change (`ts_ms`)" } else { "the record's timestamp" };
        // Checked last: it reads the record again.
        let is_text = || match column {
            Some(path) => record.value.is_some_and(|value| self.plan.format.is_text(&self.layout, value, path)),
            None => false,
        };
        let looks = at.and_then(|at| units::other_unit(at, unit, reference)).filter(|_| !is_text());
        let usable = match column {
            None => at.filter(|at| EVENT_TIMES.contains(at)).ok_or_else(|| format!("{own} is missing or not within the years 1 to 9999")),
            Some(path) => at
                .filter(|at| EVENT_TIMES.contains(at))
                .ok_or_else(|| format!("event time `{path}` is null or not within the years 1 to 9999")),
        };
        let Some(looks) = looks else { return usable };
        out.wrong_unit += 1;
        let what = column.map_or_else(|| own.to_string(), |path| format!("event time `{path}`"));
        let cause = format!("{what} is decades from {reference}: it looks like {looks}");
        if !std::mem::replace(&mut self.warned, true) {
            let offset = record.offset;
            tracing::warn!(topic = %self.topic, partition, offset, "{cause}. Further rows of this partition with such a time are counted (headwater_source_wrong_unit_total), not logged");
        }
        match self.plan.wrong_unit {
            // Out of range in any case.
            WrongUnit::Accept => usable.map_err(|_| cause),
            WrongUnit::DeadLetter => Err(cause),
        }
    }
}
