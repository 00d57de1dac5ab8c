//! Sections of the configuration that belong to the stores of sinks: a list, a store each. The configuration names no store itself.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use headwater_engine::yaml::{Node, YamlError, read_all};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use super::service::ServiceConfig;

/// How the configuration describes a store.
pub trait Section: Any + Debug + Send + Sync {
    /// The store as a service of the environment.
    fn service(&self) -> ServiceConfig<'_>;
}

/// A section as it is written.
pub trait SectionSpec: Section + DeserializeOwned + JsonSchema {}

impl<S: Section + DeserializeOwned + JsonSchema> SectionSpec for S {}

/// A section by its key, if the configuration has it, and what is wrong with it.
type ReadSection = (Option<Arc<dyn Section>>, Vec<YamlError>);

/// One kind of section.
#[derive(Clone, Copy)]
pub struct SectionKind {
    /// Its key.
    pub name: &'static str,
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
    pub(super) read: fn(&Node, &str) -> ReadSection,
}

impl SectionKind {
    /// The kind of sections that `S` describes, under the key `name`.
    pub fn of<S: SectionSpec>(name: &'static str) -> SectionKind {
        SectionKind { name, schema: |generator| generator.subschema_for::<S>(), read: read::<S> }
    }
}

/// The sections of stores that a configuration can have.
#[derive(Clone, Default)]
pub struct Sections(pub Vec<SectionKind>);

impl Sections {
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|kind| kind.name)
    }
}

/// Reads the section from the whole configuration, so that what is missing is reported at the section's key.
fn read<S: SectionSpec>(root: &Node, name: &str) -> ReadSection {
    let (sections, errors) = read_all::<BTreeMap<String, S>>(&root.retaining(|key| key == name));
    let section = sections.and_then(|mut sections| sections.remove(name));
    (section.map(|section| Arc::new(section) as Arc<dyn Section>), errors)
}
