//! What a worker shows of itself: its log, its pages and metrics, and which services answer.

pub mod http;
pub mod logs;
pub mod outages;
