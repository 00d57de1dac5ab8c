//! Which records the brokers refuse because of their content, from the delivery reports of a batch (KIP-467).
//!
//! | report | means |
//! |---|---|
//! | _INVALID_DIFFERENT_RECORD | another record of the batch is refused |
//! | INVALID_RECORD beside that, before or behind | this record is refused |
//! | INVALID_RECORD, INVALID_TIMESTAMP, MSG_SIZE_TOO_LARGE, RECORD_LIST_TOO_LARGE, of one record | it is refused |
//! | the same, of several in a row | the batch is refused, and it is unknown for which record |
//!
//! The brokers' own text per record (`rd_kafka_message_produce_errstr`) is not used: librdkafka 2.12 frees it before it calls
//! back (the messages point into the answer, which is copied for the callback and destroyed).

use headwater_engine::broker::Refused;

use super::codes;

/// Consecutive reports of a partition with the same code.
struct Run {
    partition: (usize, i32),
    code: i32,
    records: Vec<Refused>,
}

/// The failed reports of a transaction, as they come: batch by batch.
#[derive(Default)]
pub(super) struct Refusals(Vec<Run>);

/// What became clear.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub refused: Vec<Refused>,
    /// A batch was refused as a whole: smaller ones must tell.
    pub unclear: bool,
}

fn is_refusal(code: i32) -> bool {
    matches!(code, codes::INVALID_RECORD | codes::INVALID_TIMESTAMP | codes::MSG_SIZE_TOO_LARGE | codes::RECORD_LIST_TOO_LARGE)
}

impl Refusals {
    /// Notes a failed report. `topic` is any number of its own; `record` is asked for if it may be the record that is refused.
    pub(super) fn report(&mut self, topic: usize, partition: i32, code: i32, record: impl FnOnce() -> Refused) {
        let partition = (topic, partition);
        if self.0.last().is_none_or(|run| run.code != code || run.partition != partition) {
            self.0.push(Run { partition, code, records: Vec::new() });
        }
        if let Some(run) = self.0.last_mut().filter(|_| is_refusal(code)) {
            run.records.push(record());
        }
    }

    /// What is known now; forgets it. `alone`: batches have one record each.
    pub(super) fn take(&mut self, alone: bool) -> Found {
        let mut found = Found::default();
        let different =
            |run: Option<&Run>, partition| run.is_some_and(|run| run.code == codes::INVALID_DIFFERENT_RECORD && run.partition == partition);
        let beside = |at: usize, run: &Run| {
            let before = at.checked_sub(1).and_then(|before| self.0.get(before));
            different(before, run.partition) || different(self.0.get(at + 1), run.partition)
        };
        let named: Vec<bool> = self.0.iter().enumerate().map(|(at, run)| run.code == codes::INVALID_RECORD && beside(at, run)).collect();
        for (mut run, named) in self.0.drain(..).zip(named) {
            match alone || named || run.records.len() == 1 {
                true => found.refused.append(&mut run.records),
                false => found.unclear |= !run.records.is_empty(),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(reports: &[(i32, i32, u64)], alone: bool) -> (Vec<u64>, bool) {
        let mut refusals = Refusals::default();
        for (partition, code, record) in reports {
            refusals.report(1, *partition, *code, || Refused { record: *record, cause: String::new() });
        }
        let Found { refused, unclear } = refusals.take(alone);
        assert_eq!(refusals.take(alone), Found::default(), "told once");
        (refused.into_iter().map(|r| r.record).collect(), unclear)
    }

    const MATE: i32 = codes::INVALID_DIFFERENT_RECORD;

    #[test]
    fn the_record_is_refused_and_its_mates_are_not() {
        assert_eq!(found(&[(0, MATE, 1), (0, codes::INVALID_TIMESTAMP, 2), (0, MATE, 3)], false), (vec![2], false));
        let several = [(0, codes::INVALID_RECORD, 1), (0, codes::INVALID_RECORD, 2), (0, MATE, 3), (0, codes::INVALID_RECORD, 4)];
        assert_eq!(found(&several, false), (vec![1, 2, 4], false));
        assert_eq!(found(&[(0, codes::PURGE_QUEUE, 1), (0, codes::MSG_TIMED_OUT, 2)], false), (vec![], false));
    }

    #[test]
    fn a_broker_that_names_nobody_is_asked_with_smaller_batches() {
        let all = [(0, codes::INVALID_RECORD, 1), (0, codes::INVALID_RECORD, 2)];
        assert_eq!(found(&all, false), (vec![], true));
        assert_eq!(found(&all, true), (vec![1, 2], false));
    }

    #[test]
    fn a_batch_that_is_too_large_names_nobody_until_it_is_one_record() {
        let two = [(0, codes::MSG_SIZE_TOO_LARGE, 1), (0, codes::MSG_SIZE_TOO_LARGE, 2)];
        assert_eq!(found(&two, false), (vec![], true));
        assert_eq!(found(&two, true), (vec![1, 2], false));
        assert_eq!(found(&[(0, codes::MSG_SIZE_TOO_LARGE, 1), (1, codes::MSG_SIZE_TOO_LARGE, 2)], false), (vec![1, 2], false));
    }
}
