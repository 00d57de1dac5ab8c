//! Rows that the store refuses: parts are halved, and a row that is alone becomes a dead letter.

use std::time::Duration;

use super::PositionedDelivery;
use super::marks::Mark;
use super::work::Doing;
use crate::broker::{Committed, Failure, Outcome, Progress};
use crate::delivery::DeliveryError;
use crate::delivery::dead_letters::RefusedRow;
use crate::failpoint::failpoint;

impl PositionedDelivery {
    /// A part was refused: halve it, or set its one row aside.
    pub(super) fn split(&mut self, number: i32, code: &str, message: &str) -> Result<(), DeliveryError> {
        // What the store says may have values of the rows: that is for their dead letters.
        self.counters.failed(format!("rows refused, code {code}: their dead letters have the reasons"));
        if self.halve(number) {
            return Ok(());
        }
        let now = self.clock.monotonic();
        let Some(partition) = self.partitions.get(&number) else { return Ok(()) };
        let Some(pending) = &partition.block else { return Ok(()) };
        let (tp, offset) = (partition.tp.clone(), pending.cut.first);
        let refused = |why: String| Err(DeliveryError::Refused { partition: tp, offset, why });
        if self.dead_letters.topic().is_none() {
            return refused(format!("a row is refused (code {code}) and there is no dead-letter topic"));
        }
        let limit = self.settings.max_refused;
        if self.flood.is_over(now, limit) {
            return refused(format!("more than {limit} rows refused within a minute, the last with code {code}"));
        }
        self.write_letter(number, code, message)
    }

    /// Starts the Kafka transaction of a dead letter and its place.
    pub(super) fn write_letter(&mut self, number: i32, code: &str, message: &str) -> Result<(), DeliveryError> {
        let membership = self.member.consumer.membership();
        if !membership.is_fencing() {
            self.start_over("the group has not confirmed this member");
            return Ok(());
        }
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(()) };
        let Some(pending) = &partition.block else { return Ok(()) };
        let (start, _) = pending.part();
        let Some(row) = pending.cut.rows.as_ref().map(|rows| rows.slice(start, 1)) else { return Ok(()) };
        let (source, at) = (partition.tp.clone(), pending.place(start));
        let letter = RefusedRow { source, position: (at.offset, at.row), row, code: code.to_owned(), message: message.to_owned() };
        let mark = Committed { offset: at.offset, metadata: Mark::DeadLetter { stored: partition.stored, at }.encode() };
        match self.dead_letters.send(self.broker.as_ref(), &letter, mark, membership) {
            Ok(()) => self.job = Some((number, Doing::DeadLetter)),
            Err(error) if error.failure == Failure::Fenced => self.start_over(&error.message),
            // The part is written again, and refused again.
            Err(error) => {
                self.counters.tolerate(error)?;
                self.pause(number);
            }
        }
        Ok(())
    }

    pub(super) fn letter_progress(&mut self, number: i32, timeout: Duration) -> Result<bool, DeliveryError> {
        let outcome = match self.dead_letters.progress(timeout) {
            Some(Progress::Done(outcome)) => outcome,
            Some(_) => {
                self.job = Some((number, Doing::DeadLetter));
                return Ok(false);
            }
            None => Outcome::Unknown("the producer is gone".to_owned()),
        };
        match outcome {
            Outcome::Committed { .. } => {
                failpoint("delivery-lettered");
                self.counters.dead_lettered();
                self.dead_letters.written();
                if let Some(partition) = self.partitions.get_mut(&number) {
                    // The group has the letter's offset now.
                    partition.shown.0 = -1;
                    if let Some(pending) = &mut partition.block {
                        pending.lettered = true;
                    }
                }
                if !self.member.is_closing() {
                    self.write(number);
                }
            }
            Outcome::Aborted(why) => {
                self.dead_letters.refused()?;
                self.counters.failed(why);
                self.pause(number);
            }
            // The group's mark shows it, once a new producer has settled the transaction.
            Outcome::Fenced(why) | Outcome::Unknown(why) => self.start_over(&why),
        }
        Ok(true)
    }
}
