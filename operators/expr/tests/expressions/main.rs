//! Expressions from the outside: what compiles, what it gives, what is refused and how that is said.

mod refusals;
mod rows;
mod values;
