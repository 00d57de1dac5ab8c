//! The state as its events say: they are read from their topic, `apply` alone is run, and what comes out is compared with what the step's
//! changelog has.
//!
//! Events and state are committed together, so a changelog that was read first has no version whose events are not in the topic. Events that
//! came since are left out: each aggregate is compared at the version that its state has.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMillisecondType};
use arrow::util::display::array_value_to_string;
use operator_core::batch::TIME;
use operator_core::stores::{KeyedRow, KeyedRows, RowCodec};
use operator_core::{Diagnostic, MemoryState, Millis, PlanCx, State, StateError, keys};
use operator_event::{CORRELATION_ID, DATA, EVENT_ID, EVENT_TYPE, METADATA, SEQUENCE};

use crate::fold::{Hand, Happened, apply};
use crate::plan::{AggregatePlan, Column, compile, filled};
use crate::spec::Aggregate;
use crate::state::{STATE_TAG, structure};
use crate::subjects::Subjects;

/// The state of a step, made of its events.
pub struct Replay {
    plan: Arc<AggregatePlan>,
    subjects: Subjects,
    /// By key, the version up to which events count.
    versions: HashMap<Vec<u8>, i64>,
    /// As the changelog has it.
    stored: MemoryState,
    found: Found,
    /// The key whose states are told, as it is written.
    watched: Option<String>,
    told: Vec<String>,
}

/// What a replay found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Events that were applied.
    pub events: u64,
    /// Aggregates that were compared.
    pub aggregates: u64,
    /// Aggregates whose first events are not in the topic any more, each as its key.
    pub cut: Vec<String>,
    /// What differs: of which aggregate, and how.
    pub differences: Vec<String>,
}

/// An event of a batch.
#[derive(Clone, Copy)]
struct At {
    row: usize,
    place: usize,
    kind: usize,
}

impl Replay {
    /// `stored`: the entries of the step's changelog. `watched`: the key of the aggregate to tell the states of.
    ///
    /// # Errors
    /// The step can't be planned.
    pub fn new(aggregate: &Aggregate, cx: &PlanCx<'_>, stored: MemoryState, watched: Option<String>) -> Result<Replay, Vec<Diagnostic>> {
        let plan = Arc::new(compile(aggregate, cx)?);
        let subjects = Subjects::new(&plan);
        Ok(Replay { subjects, plan, versions: HashMap::new(), stored, found: Found::default(), watched, told: Vec::new() })
    }

    /// The columns of the topic's events.
    pub fn schema(&self) -> &SchemaRef {
        self.plan.emitted.schema()
    }

    /// Takes events of one partition, in their order.
    ///
    /// # Errors
    /// They can't be applied, which the step did, or the state can't be read.
    pub fn push(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        let column = |name: &str| rows.column_by_name(name).ok_or_else(|| lacks(name));
        let data = column(DATA)?.as_struct_opt().ok_or_else(|| lacks(DATA))?;
        let of_data = |name: &str| data.column_by_name(name).ok_or_else(|| lacks(name));
        let key = self.plan.key_fields.iter().map(|field| of_data(field.name()).map(keys::canonical));
        let key = key.collect::<Result<Vec<ArrayRef>, _>>()?;
        let metadata = column(METADATA)?.as_struct_opt().ok_or_else(|| lacks(METADATA))?;
        let sequences = metadata.column_by_name(SEQUENCE).and_then(|column| column.as_primitive_opt::<Int64Type>().cloned());
        let sequences = sequences.ok_or_else(|| lacks(SEQUENCE))?;
        let types = column(EVENT_TYPE)?.as_string_opt::<i32>().ok_or_else(|| lacks(EVENT_TYPE))?;
        let (mut bytes, mut next): (Vec<u8>, HashMap<usize, i64>) = Default::default();
        let mut rounds: Vec<Vec<At>> = Vec::new();
        let mut turns: HashMap<usize, usize> = HashMap::new();
        for row in 0..rows.num_rows() {
            bytes.clear();
            keys::encode(&key, row, &mut bytes);
            let place = self.subjects.place(&bytes);
            let version = match next.get(&place) {
                Some(version) => *version,
                None => self.version(place)?,
            };
            let sequence = sequences.value(row);
            if sequence > self.last(&bytes)? || sequence <= version {
                continue;
            }
            let named = text(&key, row);
            if sequence != version + 1 {
                if version == 0 && !self.found.cut.contains(&named) {
                    self.found.cut.push(named);
                } else if version > 0 {
                    self.found.differences.push(format!("{named}: the events {} to {} are not in the topic", version + 1, sequence - 1));
                }
                // Nothing that follows can be judged.
                self.versions.insert(bytes.clone(), version);
                continue;
            }
            let Some(kind) = self.plan.emitted.types().iter().position(|kind| kind.name == types.value(row)) else {
                self.found.differences.push(format!("{named}: the step emits no `{}`", types.value(row)));
                self.versions.insert(bytes.clone(), version);
                continue;
            };
            next.insert(place, sequence);
            let turn = turns.entry(place).or_default();
            if rounds.len() <= *turn {
                rounds.push(Vec::new());
            }
            if let Some(round) = rounds.get_mut(*turn) {
                round.push(At { row, place, kind });
            }
            *turn += 1;
        }
        for round in rounds {
            let mut kinds: BTreeMap<usize, Vec<At>> = BTreeMap::new();
            round.into_iter().for_each(|at| kinds.entry(at.kind).or_default().push(at));
            for (kind, all) in kinds {
                self.apply(kind, &all, rows, &key)?;
            }
        }
        Ok(())
    }

    /// The version up to which events of this aggregate count: that of its state.
    fn last(&mut self, key: &[u8]) -> Result<i64, StateError> {
        if let Some(last) = self.versions.get(key) {
            return Ok(*last);
        }
        let (shape, mut row, mut last) = (&self.plan.state, Vec::new(), 0);
        if shape.store.get(key, &[], &self.stored, &mut row)?.is_some() {
            let mut reader = shape.codec().reader()?;
            reader.push(&row)?;
            let rows = shape.read(&mut reader)?;
            last = shape.versions(&rows)?.values().first().copied().unwrap_or_default();
            self.found.aggregates += 1;
        }
        self.versions.insert(key.to_vec(), last);
        Ok(last)
    }

    fn version(&self, place: usize) -> Result<i64, StateError> {
        let missing = || StateError::new("an aggregate was not read: this is a bug");
        let cell = &self.subjects.list.get(place).ok_or_else(missing)?.state;
        self.plan.state.versions(&cell.rows)?.values().get(cell.row).copied().ok_or_else(missing)
    }

    /// Applies events of one kind, each of another aggregate.
    fn apply(&mut self, kind: usize, all: &[At], rows: &RecordBatch, key: &[ArrayRef]) -> Result<(), StateError> {
        let plan = self.plan.clone();
        let event = plan.events.get(kind).ok_or_else(|| lacks("eventType"))?;
        let these = UInt32Array::from_iter_values(all.iter().map(|at| at.row as u32));
        let of = |column: &ArrayRef| take(column.as_ref(), &these, None).map_err(|e| StateError::new(e.to_string()));
        let field = |record: &str, name: &str| {
            let column = rows.column_by_name(record).and_then(|record| record.as_struct_opt()?.column_by_name(name).cloned());
            column.ok_or_else(|| lacks(name))
        };
        let columns = event.columns.iter().map(|column| of(&field(DATA, column.name())?)).collect::<Result<Vec<_>, _>>()?;
        let data: ArrayRef = Arc::new(structure(&event.columns, columns, None)?);
        let times = of(rows.column_by_name("timestamp").ok_or_else(|| lacks(TIME))?)?;
        let ids = of(rows.column_by_name(EVENT_ID).ok_or_else(|| lacks(EVENT_ID))?)?;
        let causes = [of(&field(METADATA, CORRELATION_ID)?)?, ids];
        let mut hand = Hand::new(all.iter().map(|at| at.place).collect(), &self.subjects);
        let mut failed = Vec::new();
        let happened = Happened { event, data: data.clone(), times: times.clone(), causes };
        apply(&plan, &mut self.subjects, &MemoryState::default(), &mut hand, &happened, &mut failed)?;
        if let Some((at, cause)) = failed.first() {
            let named = all.get(*at).map_or_else(String::new, |at| text(key, at.row));
            return Err(StateError::new(format!("{named}: `{}` can't be applied: {cause}", event.name)));
        }
        let at: Vec<Millis> = times.as_primitive_opt::<TimestampMillisecondType>().map(|at| at.values().to_vec()).unwrap_or_default();
        for (place, (cell, of)) in hand.states.iter().zip(all).enumerate() {
            if self.watched.as_ref().is_some_and(|watched| *watched == text(key, of.row)) {
                let record = plan.state.record(&cell.rows)?;
                let version = plan.state.versions(&cell.rows)?.value(cell.row);
                self.told.push(format!("{version}\t{}\t{}\t{}", event.name, shown(&data, place), shown(&record, cell.row)));
            }
        }
        self.found.events += all.len() as u64;
        hand.keep(&mut self.subjects, |row| at.get(row).copied().unwrap_or_default());
        Ok(())
    }

    /// The watched aggregate so far: for each event its version, type and data, and the state after it, with tabs
    /// between them.
    pub fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }

    /// Compares what the events say with what the changelog has.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn finish(mut self) -> Result<Found, StateError> {
        let mut made = MemoryState::default();
        self.subjects.save(&mut made)?;
        let plan = self.plan.clone();
        let differing: Vec<Vec<u8>> =
            made.entries.keys().chain(self.stored.entries.keys()).filter(|key| plan.is_state(key)).cloned().collect();
        let mut told: Vec<(String, String)> = Vec::new();
        for key in self.stored.entries.keys().filter(|key| key.first() == Some(&STATE_TAG)) {
            if !self.versions.contains_key(key.get(1..).unwrap_or_default()) {
                let (of, _) = plan.about(key)?;
                self.found.aggregates += 1;
                self.found.cut.push(text(&of, 0));
            }
        }
        for key in differing.into_iter().collect::<std::collections::BTreeSet<_>>() {
            let (ours, theirs) = (made.entries.get(&key), self.stored.entries.get(&key));
            // A row from before the last columns were added says the same in other bytes.
            if ours == theirs || ours == theirs.map(|row| plan.written_now(&key, row)).transpose()?.as_ref() {
                continue;
            }
            let (of, entry) = plan.about(&key)?;
            let named = text(&of, 0);
            if !self.found.cut.contains(&named) {
                let say = |row: Option<&Vec<u8>>| row.map_or(Ok("nothing".to_string()), |row| plan.shown(&key, row));
                told.push((named, format!("{entry}: by its events {}, in state {}", say(ours)?, say(theirs)?)));
            }
        }
        self.found.differences.extend(told.into_iter().map(|(named, what)| format!("{named}: {what}")));
        Ok(self.found)
    }
}

fn lacks(name: &str) -> StateError {
    StateError::new(format!("the events have no `{name}`"))
}

/// A key as people write it: its columns with commas between them.
fn text(key: &[ArrayRef], row: usize) -> String {
    key.iter().map(|column| shown(column, row)).collect::<Vec<_>>().join(",")
}

/// A value as a text.
fn shown(column: &ArrayRef, row: usize) -> String {
    array_value_to_string(column, row).unwrap_or_else(|e| e.to_string())
}

impl AggregatePlan {
    /// The entry of the step's state is of an aggregate, and not of a command or a timer.
    fn is_state(&self, entry: &[u8]) -> bool {
        let tag = entry.first().copied();
        tag == Some(STATE_TAG) || self.collection_of(entry).is_some()
    }

    fn collection_of(&self, entry: &[u8]) -> Option<&crate::plan::Collection> {
        let place = entry.first()?.checked_sub(crate::plan::FIRST_TAG)?;
        self.collections.get(usize::from(place))
    }

    /// The columns of the key of the aggregate that an entry is of, and which part of it that is.
    fn about(&self, entry: &[u8]) -> Result<(Vec<ArrayRef>, String), StateError> {
        let unreadable = || StateError::new("a key in state can't be decoded");
        let (types, rest) = (self.key_types(), entry.get(1..).unwrap_or_default());
        let (key, id) = rest.split_at_checked(keys::length(&types, rest).ok_or_else(unreadable)?).ok_or_else(unreadable)?;
        let columns = keys::decode(&types, std::iter::once(key)).ok_or_else(unreadable)?;
        let Some(collection) = self.collection_of(entry) else { return Ok((columns, "the state".to_string())) };
        let id = keys::decode(&[collection.key.data_type().clone()], std::iter::once(id)).ok_or_else(unreadable)?;
        Ok((columns, format!("`{}` {}", collection.name, text(&id, 0))))
    }

    /// The row of an entry as a text.
    fn shown(&self, entry: &[u8], value: &[u8]) -> Result<String, StateError> {
        let (codec, ..) = self.stored(entry);
        let (_, columns) = self.row(entry, value)?;
        let rows: ArrayRef = Arc::new(structure(codec.fields(), columns, None)?);
        Ok(shown(&rows, 0))
    }

    /// The value of an entry as this version of the step writes it.
    fn written_now(&self, entry: &[u8], value: &[u8]) -> Result<Vec<u8>, StateError> {
        let (codec, store, _) = self.stored(entry);
        let (time, columns) = self.row(entry, value)?;
        let (mut row, mut state) = (Vec::new(), MemoryState::default());
        codec.writer(&columns)?.put(0, &mut row);
        store.put(entry.get(1..).unwrap_or_default(), &KeyedRow { id: &[], time, row: &row }, &mut state)?;
        Ok(state.entries.remove(entry).unwrap_or_default())
    }

    /// The time of an entry, and the columns of its row.
    fn row(&self, entry: &[u8], value: &[u8]) -> Result<(Millis, Vec<ArrayRef>), StateError> {
        let (codec, store, declared) = self.stored(entry);
        let (mut reader, mut state, mut row) = (codec.reader()?, MemoryState::default(), Vec::new());
        state.put(entry, value)?;
        let time = store.get(entry.get(1..).unwrap_or_default(), &[], &state, &mut row)?;
        reader.push(&row)?;
        Ok((time.unwrap_or_default(), filled(declared, reader.take()?)?))
    }

    /// What an entry is stored with.
    fn stored(&self, entry: &[u8]) -> (&RowCodec, &KeyedRows, &[Column]) {
        match self.collection_of(entry) {
            Some(collection) => (collection.codec(), &collection.store, &collection.columns),
            None => (self.state.codec(), &self.state.store, &self.state.declared),
        }
    }
}
