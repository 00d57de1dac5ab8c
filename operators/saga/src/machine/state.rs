//! Where a saga is, and where each of its tasks.

/// Where a saga is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    Running,
    Compensating,
    Completed,
    Compensated,
}

/// Where a saga is, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    Running,
    Compensating,
    Completed,
    Compensated,
    Stuck,
}

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    Waiting,
    Sent,
    /// Until the next attempt.
    Pausing,
    Asked,
    /// Until the next question.
    AskPausing,
    Done,
    /// It has no effect.
    Failed,
    /// Whether it has an effect is not known.
    Unknown,
    Undoing,
    /// Until the next undo.
    UndoPausing,
    /// Its undo was given up.
    Stuck,
    Undone,
    /// Never sent, because compensation came first; or given up by hand.
    Skipped,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Phase; 4] = [Phase::Running, Phase::Compensating, Phase::Completed, Phase::Compensated];
}

impl State {
    /// All of them, in their order.
    pub const ALL: [State; 13] = [
        State::Waiting,
        State::Sent,
        State::Pausing,
        State::Asked,
        State::AskPausing,
        State::Done,
        State::Failed,
        State::Unknown,
        State::Undoing,
        State::UndoPausing,
        State::Stuck,
        State::Undone,
        State::Skipped,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Sent => "sent",
            State::Pausing => "pausing",
            State::Asked => "asked",
            State::AskPausing => "pausing before the next question",
            State::Done => "done",
            State::Failed => "failed",
            State::Unknown => "unknown",
            State::Undoing => "undoing",
            State::UndoPausing => "pausing before the next undo",
            State::Stuck => "stuck",
            State::Undone => "undone",
            State::Skipped => "skipped",
        }
    }
}

impl Status {
    /// In a word, as in the column `status`.
    pub fn name(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Compensating => "compensating",
            Status::Completed => "completed",
            Status::Compensated => "compensated",
            Status::Stuck => "stuck",
        }
    }
}
