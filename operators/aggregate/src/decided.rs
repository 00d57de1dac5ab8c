//! What commands led to.

use arrow::array::ArrayRef;
use operator_core::Millis;
use operator_event::Uuid;

use crate::cells::Cell;
use crate::fold::Hand;
use crate::rows::Turn;

/// Which port events go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Emitted,
    Replies,
    Rejected,
    /// `rejected`, because of an invariant: and `violations`.
    Violated,
}

/// Events of one kind, one for each of these commands.
#[derive(Debug)]
pub struct Piece {
    pub to: To,
    pub kind: usize,
    pub columns: Vec<ArrayRef>,
    /// Which of the events of their commands they are.
    pub number: usize,
    pub turns: Vec<Turn>,
    pub times: Vec<Millis>,
    pub ids: Vec<Uuid>,
    pub sequences: Vec<i64>,
}

impl Piece {
    /// Without events.
    pub fn new(to: To, kind: usize, number: usize) -> Piece {
        let (columns, turns) = (Vec::new(), Vec::new());
        Piece { to, kind, columns, number, turns, times: Vec::new(), ids: Vec::new(), sequences: Vec::new() }
    }

    /// Adds an event, whose columns are to be added.
    pub fn push(&mut self, turn: Turn, time: Millis, id: Uuid, sequence: i64) {
        self.turns.push(turn);
        self.times.push(time);
        self.ids.push(id);
        self.sequences.push(sequence);
    }
}

/// The state of an aggregate before and after an event.
#[derive(Debug)]
pub struct Step {
    pub turn: Turn,
    /// Which of the command's events it is.
    pub number: usize,
    pub before: Cell,
    pub after: Cell,
}

/// What commands led to.
#[derive(Debug, Default)]
pub struct Decided {
    pub pieces: Vec<Piece>,
    pub hands: Vec<(Hand, Vec<Turn>)>,
    pub steps: Vec<Step>,
}

/// Commands that can't be decided with the others.
#[derive(Debug)]
pub enum Refused {
    /// An expression failed.
    Failed(String),
    /// The events would break this invariant.
    Violates(usize),
}
