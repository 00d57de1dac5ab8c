//! A service that reads commands and answers them.
//!
//! Its memory are the two topics. At the start it reads which commands have an answer; then it reads the commands from the beginning,
//! so that it knows what it did, and answers those that have none. Nothing else is committed: a crash leaves answers that were not
//! written, and they are written then, under the ids they would have had.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use headwater_engine::broker::{Broker, Event, Reader, TopicPartition};
use headwater_engine::worker::Stop;
use headwater_generate::simulate::{Participant, Record, cause_of};

use super::writer::{Writer, failed};
use crate::diagnose::Problem;

/// Most time between two looks at what is due.
const TICK: Duration = Duration::from_millis(20);
/// Most records that are read at a time.
const MOST: usize = 2_000;

/// What a service has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answered {
    /// Commands that were read.
    pub commands: u64,
    /// Answers that were written.
    pub answers: u64,
    /// Commands whose answer is lost.
    pub lost: u64,
    /// Commands whose answer comes twice.
    pub doubled: u64,
    /// Answers whose time has not come.
    pub waiting: u64,
    /// Commands that had an answer before the start.
    pub before: u64,
    /// Records that are no commands of this service.
    pub unreadable: u64,
}

/// Answers that wait, by the time they are due, then by the order in which the commands were read.
type Waiting = BTreeMap<(Instant, u64), Record>;

/// Answers commands until `stop`, or until `limit` answers are written. `tell` hears what is done, now and then.
///
/// # Errors
/// The broker can't be reached, or does not acknowledge an answer. Started again, the service goes on.
pub fn run(
    broker: &dyn Broker,
    partitions: i32,
    mut participant: Participant,
    limit: Option<u64>,
    stop: &Stop,
    tell: &mut dyn FnMut(&Answered),
) -> Result<Answered, Problem> {
    let service = participant.service();
    let mut writer = Writer::open(broker, &[service.commands, service.events], partitions)?;
    let answered = answered(broker, service.events, stop)?;
    let mut commands = from_the_beginning(broker, service.commands)?;
    let (mut waiting, mut number) = (Waiting::new(), 0);
    let mut so_far = Answered::default();
    while !stop.is_stopped() && limit.is_none_or(|limit| so_far.answers < limit) {
        let now = Instant::now();
        let next = waiting.first_key_value().map_or(TICK, |((due, _), _)| due.saturating_duration_since(now).min(TICK));
        for event in commands.poll(MOST, next).map_err(|e| failed(&e))? {
            let Event::Records { records, .. } = event else { continue };
            let now = Instant::now();
            for value in (0..records.len()).filter_map(|index| records.get(index).value) {
                let Ok(answers) = participant.on(value) else {
                    so_far.unreadable += 1;
                    continue;
                };
                so_far.commands += 1;
                if !answered.is_empty() && id_of(value).is_some_and(|id| answered.contains(&id)) {
                    so_far.before += 1;
                    continue;
                }
                match answers.len() {
                    0 => so_far.lost += 1,
                    1 => {}
                    _ => so_far.doubled += 1,
                }
                for answer in answers {
                    number += 1;
                    let due = now + Duration::from_millis(answer.after_ms.unsigned_abs());
                    waiting.insert((due, number), answer.record);
                }
            }
        }
        let mut due = Vec::new();
        while due.len() < MOST
            && let Some(next) = waiting.first_entry().filter(|next| next.key().0 <= Instant::now())
        {
            due.push(next.remove());
        }
        if !due.is_empty() {
            writer.write(&due)?;
        }
        so_far.answers += due.len() as u64;
        so_far.waiting = waiting.len() as u64;
        tell(&so_far);
    }
    Ok(so_far)
}

/// The ids of the commands that have an answer.
fn answered(broker: &dyn Broker, events: &str, stop: &Stop) -> Result<HashSet<String>, Problem> {
    let (mut known, mut reader) = (HashSet::new(), from_the_beginning(broker, events)?);
    let mut open: HashSet<TopicPartition> = partitions(broker, events)?.into_iter().map(|(partition, _)| partition).collect();
    while !open.is_empty() && !stop.is_stopped() {
        for event in reader.poll(MOST, TICK).map_err(|e| failed(&e))? {
            match event {
                Event::Records { records, .. } => {
                    known.extend((0..records.len()).filter_map(|index| records.get(index).value).filter_map(cause_of));
                }
                Event::End { partition, .. } => {
                    open.remove(&partition);
                }
                Event::Assigned(_) | Event::Revoked { .. } | Event::Ends(_) => {}
            }
        }
    }
    Ok(known)
}

fn from_the_beginning(broker: &dyn Broker, topic: &str) -> Result<Box<dyn Reader>, Problem> {
    broker.reader(&partitions(broker, topic)?).map_err(|e| failed(&e))
}

/// The partitions of a topic, and where each begins.
fn partitions(broker: &dyn Broker, topic: &str) -> Result<Vec<(TopicPartition, i64)>, Problem> {
    let count = broker.partitions(topic).map_err(|e| failed(&e))?.unwrap_or_default();
    let all = (0..count).map(|partition| TopicPartition::new(topic, partition));
    all.map(|partition| broker.bounds(&partition).map(|(first, _)| (partition, first)).map_err(|e| failed(&e))).collect()
}

fn id_of(command: &[u8]) -> Option<String> {
    let command: serde_json::Value = serde_json::from_slice(command).ok()?;
    command.get("eventId")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use headwater_engine::sim::MemoryBroker;
    use headwater_generate::simulate::{Behaviour, PAYMENTS};
    use serde_json::{Value, json};

    use super::*;

    fn command(broker: &MemoryBroker, id: &str, name: &str) {
        let event = json!({
            "eventId": id, "eventType": name, "timestamp": "2026-01-01T00:00:00Z",
            "data": { "orderId": "o1" }, "metadata": { "correlationId": "o1" },
        });
        broker.append(PAYMENTS.commands, 0, Some(b"o1"), Some(event.to_string().as_bytes()), None, &[]).unwrap();
    }

    fn answers(broker: &MemoryBroker) -> Vec<(String, String)> {
        let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
        let of = |record: headwater_engine::sim::CommittedRecord| -> (String, String) {
            let event: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
            (text(&event, "eventType"), text(&event["metadata"], "causationId"))
        };
        broker.read_all_committed(PAYMENTS.events).into_iter().map(of).collect()
    }

    fn participant() -> Participant {
        Participant::new(&PAYMENTS, Behaviour { latency_ms: (0, 1), ..Behaviour::default() })
    }

    #[test]
    fn a_service_that_starts_again_answers_what_has_no_answer() {
        let broker = MemoryBroker::realtime();
        broker.create_topic(PAYMENTS.commands, 1);
        command(&broker, "c1", "payments.authorise");
        let first = run(&broker, 1, participant(), Some(1), &Stop::default(), &mut |_| {}).unwrap();
        assert_eq!((first.commands, first.answers, first.before), (1, 1, 0));
        // It was away when these came.
        command(&broker, "c2", "orders.place");
        command(&broker, "c3", "payments.authorise");
        let second = run(&broker, 1, participant(), Some(1), &Stop::default(), &mut |_| {}).unwrap();
        assert_eq!((second.commands, second.answers, second.before, second.unreadable), (2, 1, 1, 1));
        let authorised = |cause: &str| ("payments.authorised".to_owned(), cause.to_owned());
        assert_eq!(answers(&broker), [authorised("c1"), authorised("c3")]);
    }

    #[test]
    fn a_stop_leaves_what_is_not_due_to_the_next_start() {
        let broker = MemoryBroker::realtime();
        broker.create_topic(PAYMENTS.commands, 1);
        command(&broker, "c1", "payments.authorise");
        let slow = Participant::new(&PAYMENTS, Behaviour { latency_ms: (3_600_000, 3_600_000), ..Behaviour::default() });
        let stop = Stop::default();
        let ended = run(&broker, 1, slow, None, &stop, &mut |so_far| {
            if so_far.waiting == 1 {
                stop.stop();
            }
        });
        assert_eq!(ended.unwrap().answers, 0);
        assert_eq!(run(&broker, 1, participant(), Some(1), &Stop::default(), &mut |_| {}).unwrap().answers, 1);
    }
}
