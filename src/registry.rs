//! What a pipeline may use. Adding an operator is a crate under `operators/` and a line here, adding a sink a folder and a line.

use headwater_engine::registry::{Kind, Registry};
use headwater_engine::sinks::Sinks;

use crate::clickhouse::ClickHouseSink;
use crate::postgres::PostgresSink;
use crate::sink;

/// THE list of operators.
pub fn operators() -> Registry {
    Registry(vec![
        Kind::of::<operator_filter::Filter>(),
        Kind::of::<operator_map::Map>(),
        Kind::of::<operator_enrich::Enrich>(),
        Kind::of::<operator_window::Window>(),
        Kind::of::<operator_fanout::Fanout>(),
        Kind::of::<operator_dedup::Dedup>(),
        Kind::of::<operator_join::Join>(),
    ])
}

/// THE list of sinks that write to tables.
pub fn sinks() -> Sinks {
    Sinks(vec![sink::kind::<ClickHouseSink>(), sink::kind::<PostgresSink>()])
}

/// A kind of sink in words: its store.
pub fn title(kind: &str) -> &'static str {
    sinks().get(kind).map_or("table", |kind| kind.title)
}
