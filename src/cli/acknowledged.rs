//! Records that commands write, without transactions: once they are acknowledged.

use std::time::Duration;

use headwater_engine::broker::{BrokerError, Membership, Outcome, Outgoing, Producer, Progress};

use crate::diagnose::Problem;

/// How long one look at acknowledgements waits.
const LOOK: Duration = Duration::from_millis(100);

/// Writes records in their order.
///
/// # Errors
/// Not all of them are acknowledged: some may be written.
pub(super) fn write<'a>(producer: &mut dyn Producer, records: impl IntoIterator<Item = Outgoing<'a>>) -> Result<(), Problem> {
    let failed = |e: BrokerError| Problem::of_broker(&e);
    producer.begin().map_err(failed)?;
    for record in records {
        producer.send(record).map_err(failed)?;
    }
    // Without transactions there are no positions to commit, and no group.
    let nobody = Membership { group: String::new(), generation: -1, member: String::new(), instance: None };
    producer.commit(Vec::new(), nobody).map_err(failed)?;
    loop {
        match producer.progress(LOOK) {
            Progress::Done(Outcome::Committed { .. }) => return Ok(()),
            Progress::Done(Outcome::Aborted(why) | Outcome::Fenced(why) | Outcome::Unknown(why)) => {
                return Err(Problem::plain(format!("records were not acknowledged: {why}")));
            }
            Progress::Sending | Progress::Acknowledged => {}
        }
    }
}
