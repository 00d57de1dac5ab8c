//! Expressions from the outside: what compiles, what it computes, what is refused and with which message.

mod refusals;
mod rows;
mod values;
