//! What a pipeline may use. Adding an operator is a crate under `operators/` and a line here, adding a sink a folder and a line.

use headwater_engine::operators::{Kind, Operators};
use headwater_engine::sinks::Sinks;

use crate::config::Sections;
use crate::sinks::clickhouse::ClickHouseSink;
use crate::sinks::postgres::PostgresSink;
use crate::sinks::{self, StoreKind};

/// THE list of operators.
pub fn operators() -> Operators {
    Operators(vec![
        Kind::of::<operator_filter::Filter>(),
        Kind::of::<operator_map::Map>(),
        Kind::of::<operator_enrich::Enrich>(),
        Kind::of::<operator_window::Window>(),
        Kind::of::<operator_fanout::Fanout>(),
        Kind::of::<operator_dedup::Dedup>(),
        Kind::of::<operator_join::Join>(),
        Kind::of::<operator_aggregate::Aggregate>(),
        Kind::of::<operator_saga::Saga>(),
    ])
}

/// THE list of stores that sinks write to.
fn stores() -> Vec<StoreKind> {
    vec![sinks::kind::<ClickHouseSink>(), sinks::kind::<PostgresSink>()]
}

/// The sinks that write to tables.
pub fn sinks() -> Sinks {
    Sinks(stores().into_iter().map(|store| store.sink).collect())
}

/// The sections of stores in a configuration.
pub fn sections() -> Sections {
    Sections(stores().into_iter().map(|store| store.section).collect())
}

/// A kind of sink in words: its store.
pub fn title(kind: &str) -> &'static str {
    sinks().get(kind).map_or("table", |kind| kind.title)
}
