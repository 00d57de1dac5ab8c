//! The operators a pipeline may use. Adding one is a crate under `operators/` and a line here.

use headwater_engine::registry::{Kind, Registry};

/// THE list of operators.
pub fn operators() -> Registry {
    Registry(vec![
        Kind::of::<operator_filter::Filter>(),
        Kind::of::<operator_map::Map>(),
        Kind::of::<operator_enrich::Enrich>(),
        Kind::of::<operator_window::Window>(),
        Kind::of::<operator_fanout::Fanout>(),
    ])
}
