//! Commands that come again.

use std::collections::BTreeMap;

use operator_core::stores::{RowReader, too_large};
use operator_core::{Context, StateError};

use crate::decide::event_id;
use crate::decided::{Piece, To};
use crate::operator::Aggregating;
use crate::outputs::Outputs;
use crate::rows::{Rows, Turn};
use crate::subjects::Subjects;

/// Bytes that what a command led to seldom exceeds.
const USUAL: usize = 128;

/// Events that are said again: those of one kind that are the n-th of their commands.
struct Again {
    rows: RowReader,
    piece: Piece,
}

impl Aggregating {
    /// Answers the commands of a round that were decided before; the others.
    pub(crate) fn answer_repeats(
        &mut self,
        round: Vec<Turn>,
        (rows, subjects): (&Rows<'_>, &Subjects),
        outputs: &mut Outputs<'_>,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Turn>, StateError> {
        let Some(outcomes) = &mut self.outcomes else { return Ok(round) };
        let (mut left, mut all): (Vec<Turn>, BTreeMap<(usize, usize), Again>) = (Vec::with_capacity(round.len()), BTreeMap::new());
        let mut id = Vec::new();
        for turn in round {
            let system = rows.system.row(turn.row);
            let known = rows.put_id(turn, subjects, &mut id);
            let known = if known { outcomes.find(&id, system.time, system.watermark, &*cx.state())? } else { None };
            let Some(outcome) = known else {
                left.push(turn);
                continue;
            };
            for (number, event) in outcome.events.into_iter().enumerate() {
                // Its kind has other columns now: what they were is not known any more.
                let Some(kind) = event.kind else { continue };
                let again = match all.entry((number, kind)) {
                    std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                    std::collections::btree_map::Entry::Vacant(new) => {
                        let Some(codec) = outcomes.codec(kind) else { continue };
                        new.insert(Again { rows: codec.reader()?, piece: Piece::new(To::Replies, kind, number) })
                    }
                };
                again.rows.push(&event.row)?;
                let name = self.plan.replies.types().get(kind).map_or("", |kind| kind.name.as_str());
                let key = subjects.list.get(turn.place).map_or(&[][..], |subject| subject.key.as_slice());
                let id = event_id(&self.plan, rows.cause(turn.row), key, name, (number, event.sequence));
                again.piece.push(turn, outcome.time, id, event.sequence);
            }
        }
        for Again { rows: mut again, mut piece } in all.into_values() {
            piece.columns = again.take()?;
            outputs.add(&piece, |row| rows.system.row(row))?;
        }
        Ok(left)
    }

    /// Remembers what commands led to, those that have an id.
    pub(crate) fn remember(
        &mut self,
        pieces: &[Piece],
        (rows, subjects): (&Rows<'_>, &Subjects),
        cx: &mut Context<'_>,
    ) -> Result<(), StateError> {
        let Some(outcomes) = &mut self.outcomes else { return Ok(()) };
        let mut turns: Vec<Turn> = pieces.iter().flat_map(|piece| &piece.turns).copied().collect();
        turns.sort_unstable_by_key(|turn| turn.row);
        turns.dedup();
        let mut events: Vec<Vec<u8>> = turns.iter().map(|_| Vec::with_capacity(USUAL)).collect();
        for piece in pieces {
            let places = piece.turns.iter().filter_map(|turn| turns.binary_search_by_key(&turn.row, |known| known.row).ok());
            outcomes.put(piece.kind, &piece.columns, piece.sequences.iter().copied().zip(places), &mut events)?;
        }
        let mut id = Vec::new();
        for (turn, mut events) in turns.into_iter().zip(events) {
            let system = rows.system.row(turn.row);
            if rows.put_id(turn, subjects, &mut id) && !outcomes.forgotten(system) {
                if too_large(&[], &events).is_some() {
                    // It is a repeat all the same, which has no answer.
                    events.clear();
                }
                outcomes.keep(&id, system.time, &events, cx.state())?;
            }
        }
        Ok(())
    }
}
