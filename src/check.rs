//! What was checked before a worker starts, and what was found: the start and the dry run show it.

/// A thing that was checked.
pub struct Check {
    pub what: String,
    pub found: Found,
}

/// What came of it.
pub enum Found {
    Fine(String),
    /// It can't be known now; a worker starts all the same.
    Unknown(String),
    /// What is wrong, and what to do.
    Wrong(String),
}

impl From<String> for Found {
    fn from(wrong: String) -> Found {
        Found::Wrong(wrong)
    }
}

impl Check {
    pub fn new(what: impl Into<String>, result: Result<String, String>) -> Check {
        let found = match result {
            Ok(found) => Found::Fine(found),
            Err(wrong) => Found::Wrong(wrong),
        };
        Check { what: what.into(), found }
    }

    pub fn unknown(what: impl Into<String>, why: impl Into<String>) -> Check {
        Check { what: what.into(), found: Found::Unknown(why.into()) }
    }

    pub fn wrong(&self) -> Option<&str> {
        match &self.found {
            Found::Wrong(wrong) => Some(wrong),
            Found::Fine(_) | Found::Unknown(_) => None,
        }
    }
}
