//! The operators as the engine sees them: a list of kinds, defined in one place (`src/registry.rs` of the program).
//! The engine names no operator family itself.

use operator_core::{Diagnostic, PlanCx, Planned, Spec};
use schemars::{Schema, SchemaGenerator};

use crate::yaml::{Node, YamlError, read_all};

/// One kind of operator.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub summary: &'static str,
    pub example: &'static str,
    pub example_input: &'static str,
    /// Names of its inputs; empty: one, without a name.
    pub inputs: &'static [&'static str],
    /// JSON Schema of the configuration.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    plan: fn(&Node, &PlanCx<'_>) -> Result<Planned, Refused>,
    shape: fn(&Node) -> Vec<YamlError>,
}

/// Why a step was refused: its configuration can't be read, or doesn't fit its input.
pub enum Refused {
    Unreadable(Vec<YamlError>),
    /// With the ports that are known anyway ([`Spec::passes_on`]).
    Wrong(Vec<Diagnostic>, Vec<String>),
}

impl Kind {
    /// The kind that `S` describes.
    pub fn of<S: Spec>() -> Kind {
        Kind {
            name: S::KIND,
            summary: S::SUMMARY,
            example: S::EXAMPLE,
            example_input: S::EXAMPLE_INPUT,
            inputs: S::INPUTS,
            schema: |generator| generator.subschema_for::<S>(),
            plan: |config, cx| match read_all::<S>(config) {
                (Some(spec), errors) if errors.is_empty() => {
                    operator_core::plan(&spec, cx).map_err(|wrong| Refused::Wrong(wrong, spec.pass_through_ports()))
                }
                (_, errors) => Err(Refused::Unreadable(errors)),
            },
            shape: |config| read_all::<S>(config).1,
        }
    }

    /// What is wrong with the shape of a configuration, whatever its input.
    pub fn shape(&self, config: &Node) -> Vec<YamlError> {
        (self.shape)(config)
    }

    /// Reads the configuration and plans the step.
    pub fn plan(&self, config: &Node, cx: &PlanCx<'_>) -> Result<Planned, Refused> {
        (self.plan)(config, cx)
    }
}

/// The operators a pipeline may use.
#[derive(Clone, Default)]
pub struct Operators(pub Vec<Kind>);

impl Operators {
    pub fn get(&self, name: &str) -> Option<&Kind> {
        self.0.iter().find(|kind| kind.name == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|kind| kind.name)
    }
}
