//! Where a pipeline file has SQL: where the schemas of the operators say so (`format: sql`).

use std::collections::BTreeMap;

use headwater_engine::operators::Operators;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The schemas of the operators by their names, and what these refer to.
pub struct Expressions {
    operators: BTreeMap<&'static str, Value>,
    definitions: Map<String, Value>,
}

impl Expressions {
    pub fn of(operators: &Operators) -> Expressions {
        let mut generator = SchemaSettings::draft07().into_generator();
        let operators = operators.0.iter().map(|kind| (kind.name, (kind.schema)(&mut generator).to_value())).collect();
        Expressions { operators, definitions: generator.take_definitions(true) }
    }

    /// Whether the path from the root of a file leads to an expression.
    pub fn is_sql(&self, path: &[String]) -> bool {
        match path {
            [section, _, operator, rest @ ..] if section == "steps" => {
                self.operators.get(operator.as_str()).is_some_and(|schema| self.leads(schema, rest))
            }
            _ => false,
        }
    }

    fn leads(&self, schema: &Value, path: &[String]) -> bool {
        let reference = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.rsplit('/').next());
        if let Some(definition) = reference.and_then(|name| self.definitions.get(name)) {
            return self.leads(definition, path);
        }
        let choices = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
        let below = match path {
            [] => {
                return schema.get("format").is_some_and(|format| format == "sql") || choices.into_iter().any(|one| self.leads(one, path));
            }
            [key, rest @ ..] => {
                let named = schema.get("properties").and_then(|properties| properties.get(key));
                named.or(schema.get("additionalProperties")).or(schema.get("items")).is_some_and(|below| self.leads(below, rest))
            }
        };
        below || choices.into_iter().any(|one| self.leads(one, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::operators;

    #[test]
    fn expressions_are_found_and_names_of_columns_are_not() {
        let expressions = Expressions::of(&operators());
        let is_sql = |path: &str| expressions.is_sql(&path.split('.').map(str::to_string).collect::<Vec<_>>());
        for path in [
            "steps.a.filter",
            "steps.a.map.add.x",
            "steps.a.map.select.x",
            "steps.a.window.compute.n",
            "steps.a.fanout.routes.big",
            "steps.a.fanout.big",
        ] {
            assert!(is_sql(path), "{path}");
        }
        for path in [
            "steps.a.from",
            "steps.a.dedup.by",
            "steps.a.window.by.0",
            "steps.a.window.tumbling",
            "sources.a.topic",
            "steps.a.fanout.match",
        ] {
            assert!(!is_sql(path), "{path}");
        }
    }
}
