//! A kind of sink whose rows nobody delivers: they stay in the outbox.

use std::sync::Arc;

use headwater_engine::sinks::{Blocks, Incoming, SinkKind, SinkTable, Sinks, keys_of, read_as};
use operator_core::Diagnostic;
use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Debug, Deserialize, JsonSchema)]
struct Elsewhere {
    elsewhere: String,
}

impl SinkTable for Elsewhere {
    fn kind(&self) -> &'static str {
        "elsewhere"
    }

    fn name(&self) -> &str {
        &self.elsewhere
    }

    fn blocks(&self) -> Blocks {
        Blocks { flush: 1_000, rows: 100 }
    }

    fn check(&self, _: &Incoming) -> Vec<Diagnostic> {
        Vec::new()
    }
}

pub fn sinks() -> Sinks {
    Sinks(vec![SinkKind {
        name: "elsewhere",
        title: "elsewhere",
        example: "a.b",
        schema: |generator| generator.subschema_for::<Elsewhere>(),
        keys: keys_of::<Elsewhere>,
        read: |entry| read_as::<Elsewhere>(entry, |table| Arc::new(table)),
    }])
}
