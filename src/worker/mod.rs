//! A worker: what it needs, its start and its end.

pub mod access;
pub mod deliver;
pub mod dry_run;
pub mod preflight;
pub mod run;
