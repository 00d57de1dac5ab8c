//! An instance as bytes in state. The encoding is the step's own, because the machine is more than rows; its version is in the layout that the
//! manifest compares.
//!
//! ```text
//! version · definition · cause id · sequence · since · timer · phase · flags · order · cause · trouble · forget · steps
//! step    number of tasks · tasks      task   line · state · attempt · asks · undos · failures · order · stale · due
//! ```

use operator_core::stores::MAX_ROW;
use operator_core::stores::bytes::{Reader, put_bytes, put_i128, put_u64};
use operator_core::{Millis, StateError};

use crate::machine::{Instance, LONGEST_TEXT, Phase, State, Task};

/// Version of the encoding. The first had a flag where `stale` is, for all undos so far; it is read, too.
pub const VERSION: u8 = 2;
const FIRST: u8 = 1;

/// Bytes of the longest length or count, and of the longest time behind its flag.
const LENGTH: usize = 10;
const TIME: usize = 11;

/// A saga as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The version of the definition that it began with.
    pub definition: String,
    pub instance: Instance,
    /// Events and commands so far.
    pub sequence: u64,
    /// The time since which status and step are what they are: the event time of a row, or the time of a timer.
    pub since: Millis,
    /// The timer that is set.
    pub timer: Option<Millis>,
}

fn put_option(value: Option<Millis>, out: &mut Vec<u8>) {
    out.push(value.is_some().into());
    if let Some(value) = value {
        put_i128(value.into(), out);
    }
}

impl Kept {
    pub fn put(&self, out: &mut Vec<u8>) {
        let Kept { definition, instance, sequence, since, timer } = self;
        out.push(VERSION);
        put_bytes(definition.as_bytes(), out);
        put_u64(*sequence, out);
        put_i128((*since).into(), out);
        put_option(*timer, out);
        out.push(instance.phase as u8);
        out.push(instance.told.into());
        put_u64(instance.order.into(), out);
        put_bytes(instance.cause.as_bytes(), out);
        put_bytes(instance.trouble.as_bytes(), out);
        put_option(instance.forget, out);
        put_u64(instance.steps.len() as u64, out);
        for tasks in &instance.steps {
            put_u64(tasks.len() as u64, out);
            tasks.iter().for_each(|task| put_task(task, out));
        }
    }

    /// Why a saga that begins can't be kept, if so. It has room for the most that it can become, so that it never outgrows its record: the
    /// number of its tasks and their names stay, its texts have a bound, and numbers and times have a longest form.
    pub fn too_large(&self) -> Option<String> {
        let of_task = |task: &Task| LENGTH + task.line.len() + 1 + 6 * LENGTH + TIME;
        let tasks: usize = self.instance.steps.iter().flatten().map(of_task).sum();
        let own = 3 + self.definition.len() + 2 * LONGEST_TEXT + 10 * LENGTH + 3 * TIME + self.instance.steps.len() * LENGTH;
        (tasks + own > MAX_ROW).then(|| format!("the saga's lines may take {} bytes of state; the limit is {MAX_ROW}", tasks + own))
    }

    /// # Errors
    /// These bytes are not a saga.
    pub fn read(bytes: &[u8]) -> Result<Kept, StateError> {
        let mut reader = Reader::new(bytes);
        let kept = read(&mut reader).filter(|_| reader.is_empty());
        kept.ok_or_else(|| StateError::new("a saga in state can't be decoded: was it written by another version of the step?"))
    }
}

fn put_task(task: &Task, out: &mut Vec<u8>) {
    put_bytes(task.line.as_bytes(), out);
    out.push(task.state as u8);
    for number in [task.attempt, task.asks, task.undos, task.failures, task.order] {
        put_u64(number.into(), out);
    }
    put_u64(task.stale.into(), out);
    put_option(task.due, out);
}

fn text(reader: &mut Reader<'_>) -> Option<String> {
    String::from_utf8(reader.bytes()?.to_vec()).ok()
}

fn flag(reader: &mut Reader<'_>) -> Option<bool> {
    match reader.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn option(reader: &mut Reader<'_>) -> Option<Option<Millis>> {
    if flag(reader)? { Some(Some(reader.i64()?)) } else { Some(None) }
}

fn number(reader: &mut Reader<'_>) -> Option<u32> {
    reader.u64()?.try_into().ok()
}

fn read(reader: &mut Reader<'_>) -> Option<Kept> {
    let version = reader.u8().filter(|version| [FIRST, VERSION].contains(version))?;
    let (definition, sequence, since, timer) = (text(reader)?, reader.u64()?, reader.i64()?, option(reader)?);
    let phase = *Phase::ALL.get(usize::from(reader.u8()?))?;
    let (told, order) = (flag(reader)?, number(reader)?);
    let (cause, trouble, forget) = (text(reader)?, text(reader)?, option(reader)?);
    // Collected one by one, so that a wrong count allocates nothing.
    let mut steps = Vec::new();
    for _ in 0..reader.u64()? {
        let mut tasks = Vec::new();
        for _ in 0..reader.u64()? {
            tasks.push(read_task(reader, version)?);
        }
        steps.push(tasks);
    }
    let instance = Instance { phase, steps, order, told, cause, trouble, forget };
    Some(Kept { definition, instance, sequence, since, timer })
}

fn read_task(reader: &mut Reader<'_>, version: u8) -> Option<Task> {
    let line = text(reader)?;
    let state = *State::ALL.get(usize::from(reader.u8()?))?;
    let (attempt, asks, undos) = (number(reader)?, number(reader)?, number(reader)?);
    let (failures, order) = (number(reader)?, number(reader)?);
    let stale = if version == FIRST { u32::from(flag(reader)?) * undos } else { number(reader)? };
    Some(Task { line, state, attempt, asks, undos, failures, stale, order, due: option(reader)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in state stays what it is.
    #[test]
    fn codes_are_places() {
        assert!(Phase::ALL.iter().enumerate().all(|(place, phase)| *phase as usize == place));
        assert!(State::ALL.iter().enumerate().all(|(place, state)| *state as usize == place));
    }

    #[test]
    fn a_saga_is_read_as_it_was_written() {
        let mut instance = Instance::new([vec!["sku-1".into(), "sku-2".into()], vec![String::new()], Vec::new()]);
        instance.phase = Phase::Compensating;
        instance.cause = "pay: declined".into();
        instance.forget = Some(-5);
        for (task, state) in instance.steps.iter_mut().flatten().zip([State::Skipped, State::Unknown, State::AskPausing]) {
            (task.state, task.due, task.stale, task.attempt) = (state, Some(1_700_000_000_000), 2, 300);
        }
        let kept = Kept { definition: "abc".into(), instance, sequence: 7, since: 9, timer: None };
        let mut bytes = Vec::new();
        kept.put(&mut bytes);
        assert_eq!(Kept::read(&bytes).unwrap(), kept);
        for cut in 0..bytes.len() {
            assert!(Kept::read(&bytes[..cut]).is_err(), "{cut}");
        }
        bytes.push(0);
        assert!(Kept::read(&bytes).is_err());
    }

    /// What the first version of the encoding wrote: one task, whose undo was sent three times, and a `done` came.
    #[test]
    fn the_first_encoding_is_read() {
        let bytes = [1, 1, b'v', 5, 0, 0, 1, 0, 2, 0, 0, 0, 1, 1, 0, 8, 1, 0, 3, 1, 2, 1, 0];
        let kept = Kept::read(&bytes).unwrap();
        let task = &kept.instance.steps[0][0];
        assert_eq!((kept.sequence, task.state, task.undos, task.stale, task.order), (5, State::Undoing, 3, 3, 2));
    }

    /// The largest of each number, time and text fits into what is counted when the saga begins.
    #[test]
    fn a_saga_that_may_begin_never_outgrows_its_record() {
        let lines = |count: usize| (0..count).map(|line| format!("{line:0>256}")).collect::<Vec<_>>();
        let begun = |count| {
            let instance = Instance::new([lines(count), vec![String::new()]]);
            Kept { definition: "12345678".into(), instance, sequence: 0, since: 0, timer: None }
        };
        let most = (0..3_000).rev().find(|count| begun(*count).too_large().is_none()).unwrap();
        assert!(most > 2_000, "{most}");
        let mut kept = begun(most);
        (kept.sequence, kept.since, kept.timer) = (u64::MAX, Millis::MIN, Some(Millis::MIN));
        let instance = &mut kept.instance;
        (instance.cause, instance.trouble) = ("x".repeat(LONGEST_TEXT), "x".repeat(LONGEST_TEXT));
        (instance.order, instance.forget) = (u32::MAX, Some(Millis::MIN));
        for task in instance.steps.iter_mut().flatten() {
            (task.attempt, task.asks, task.undos) = (u32::MAX, u32::MAX, u32::MAX);
            (task.failures, task.order, task.stale, task.due) = (u32::MAX, u32::MAX, u32::MAX, Some(Millis::MIN));
        }
        let mut bytes = Vec::new();
        kept.put(&mut bytes);
        assert!(bytes.len() <= MAX_ROW, "{}", bytes.len());
    }
}
