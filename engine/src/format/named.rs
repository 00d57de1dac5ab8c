//! A format as a file has it: its name, or its name with options.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, json};

use super::declared::EventShape;
use super::json::Json;
use super::{Content, FORMATS, FormatOption, Kind};

/// One of the [`FORMATS`], with its options.
#[derive(Clone)]
pub struct Format(Arc<dyn Kind>);

impl Format {
    pub(super) fn of(kind: impl Kind + 'static) -> Format {
        Format(Arc::new(kind))
    }

    /// Names of the formats with such a content, as a sentence has them: `json` or `avro`.
    pub(crate) fn names_of(is: impl Fn(&Content) -> bool) -> String {
        let names: Vec<String> = FORMATS.iter().filter(|kind| is(&kind.content())).map(|kind| format!("`{}`", kind.name())).collect();
        match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => names.concat(),
        }
    }

    /// Values are one column.
    pub fn is_raw(&self) -> bool {
        matches!(self.content(), Content::Value(_))
    }

    /// The envelope that values of a source are in. A format whose values can't be in one warns that `event` has no effect.
    pub(crate) fn envelope(&self, event: Option<EventShape>, declared: bool) -> Option<EventShape> {
        event.filter(|_| !self.without_effect(declared).0.contains(&"event"))
    }

    fn named<E: Error>(name: &str) -> Result<&'static Format, E> {
        static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| FORMATS.iter().map(|kind| kind.name()).collect());
        FORMATS.iter().find(|kind| kind.name() == name).ok_or_else(|| E::unknown_variant(name, &NAMES))
    }
}

impl std::ops::Deref for Format {
    type Target = dyn Kind;

    fn deref(&self) -> &(dyn Kind + 'static) {
        self.0.as_ref()
    }
}

impl Default for Format {
    fn default() -> Format {
        Format::of(Json)
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Format, D::Error> {
        struct Written;
        impl<'de> Visitor<'de> for Written {
            type Value = Format;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a format, or a format with its options such as `{ csv: { delimiter: \";\" } }`")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Format, E> {
                Format::named(name).cloned()
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Format, A::Error> {
                let name: String = map.next_key()?.ok_or_else(|| A::Error::custom("the name of the format is missing"))?;
                let format = Format::named(&name)?;
                if format.options().is_empty() {
                    map.next_value::<IgnoredAny>()?;
                    return Err(A::Error::custom(format!("`{name}` has no options: write `format: {name}`")));
                }
                let format = map.next_value_seed(WithOptions(format))?;
                match map.next_key::<String>()? {
                    None => Ok(format),
                    Some(other) => {
                        Err(A::Error::custom(format!("`{name}` and `{other}`: there is one format, and its options are under its name")))
                    }
                }
            }
        }
        deserializer.deserialize_any(Written)
    }
}

/// Reads the options of a format. Each is read by itself, so that an error is where the option is.
struct WithOptions(&'static Format);

impl<'de> DeserializeSeed<'de> for WithOptions {
    type Value = Format;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Format, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WithOptions {
    type Value = Format;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the options of `{0}` as a mapping, or `format: {0}`", self.0.name())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut options: A) -> Result<Format, A::Error> {
        let mut format = self.0.clone();
        while let Some(option) = options.next_key_seed(OptionName(self.0))? {
            format = options.next_value_seed(OptionValue(&format, option))?;
        }
        format.options_agree().map_err(A::Error::custom)?;
        Ok(format)
    }
}

struct OptionName(&'static Format);

impl<'de> DeserializeSeed<'de> for OptionName {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'static str, D::Error> {
        static NAMES: LazyLock<BTreeMap<&'static str, Vec<&'static str>>> =
            LazyLock::new(|| FORMATS.iter().map(|kind| (kind.name(), kind.options().iter().map(|option| option.name).collect())).collect());
        let name = String::deserialize(deserializer)?;
        let known = NAMES.get(self.0.name()).map_or(&[][..], Vec::as_slice);
        known.iter().find(|option| **option == name).copied().ok_or_else(|| D::Error::unknown_field(&name, known))
    }
}

struct OptionValue<'a>(&'a Format, &'static str);

impl<'de> DeserializeSeed<'de> for OptionValue<'_> {
    type Value = Format;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Format, D::Error> {
        let text = String::deserialize(deserializer)?;
        self.0.with(self.1, &text).map_err(D::Error::custom)
    }
}

impl JsonSchema for Format {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Format".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
        let mut all: Vec<Value> = Vec::new();
        for kind in FORMATS.iter() {
            let (name, summary) = (kind.name(), kind.summary());
            all.push(json!({ "description": summary, "type": "string", "const": name }));
            if !kind.options().is_empty() {
                let option = |of: &FormatOption| {
                    (of.name.to_string(), json!({ "description": of.summary, "type": "string", "default": of.default }))
                };
                let options: serde_json::Map<String, Value> = kind.options().iter().map(option).collect();
                let properties = json!({ name: { "type": "object", "properties": options, "additionalProperties": false } });
                all.push(json!({ "description": summary, "type": "object", "properties": properties, "required": [name], "additionalProperties": false }));
            }
        }
        schemars::json_schema!({ "description": "How record values are encoded.", "oneOf": all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_by_their_names() {
        let mut names = std::collections::BTreeSet::new();
        for kind in FORMATS.iter() {
            let read: Format = serde_json::from_value(kind.name().into()).unwrap();
            assert_eq!(read.name(), kind.name());
            assert!(!kind.summary().is_empty() && names.insert(kind.name()), "{}", kind.name());
        }
        let unknown = serde_json::from_str::<Format>("\"xml\"").unwrap_err().to_string();
        assert!(unknown.contains("`json`") && unknown.contains("`string`"), "{unknown}");
        assert_eq!(Format::names_of(|content| *content == Content::Change), "`debezium` or `debezium-avro`");
    }

    #[test]
    fn options_are_those_of_the_format() {
        let refused = |text: &str| serde_json::from_str::<Format>(text).unwrap_err().to_string();
        assert!(refused(r#"{"json":{"x":1}}"#).contains("`json` has no options: write `format: json`"));
        assert!(refused(r#"{"json":null}"#).contains("`json` has no options"));
        assert!(refused(r#"{"csv":null}"#).contains("expected the options of `csv` as a mapping, or `format: csv`"));
        assert!(refused(r#"{"csv":{"delimeter":";"}}"#).contains("unknown field `delimeter`"));
        assert!(refused(r#"{"csv":{"delimiter":"'","quote":"'"}}"#).contains("different characters"));
        assert!(serde_json::from_str::<Format>(r#"{"csv":{"delimiter":"\"","quote":"'"}}"#).is_ok());
        assert!(refused(r#"{"xml":{}}"#).contains("unknown variant `xml`"));
        assert!(refused("{}").contains("the name of the format is missing"));
    }
}
