//! What authors of pipelines use: findings, pictures and explanations of a plan, documentation, samples of topics as cases.

pub mod codes;
pub mod docs;
pub mod explain;
pub mod graph;
pub mod json_schema;
pub mod lint;
pub mod sagas;
pub mod sample;
