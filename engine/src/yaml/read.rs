//! Typed values from a tree: a node is its own serde deserializer, and every error knows its place.

use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use operator_core::diagnostic::closest;

use super::problems::STAND_IN;
use super::{Key, Node, Value, YamlError};

impl de::Error for YamlError {
    fn custom<T: fmt::Display>(message: T) -> YamlError {
        YamlError { code: "invalid-value", message: message.to_string(), ..YamlError::default() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> YamlError {
        let help = match closest(field, expected.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None if expected.is_empty() => "no keys are allowed here".to_string(),
            None => format!("allowed here: {}", expected.join(", ")),
        };
        YamlError { code: "unknown-key", message: format!("unknown key `{field}`"), help: Some(help), place: None }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> YamlError {
        let help = match closest(variant, expected.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("allowed here: {}", expected.join(", ")),
        };
        YamlError { code: "unknown-value", message: format!("unknown value `{variant}`"), help: Some(help), place: None }
    }

    fn missing_field(field: &'static str) -> YamlError {
        YamlError { code: "missing-key", message: super::problems::missing(field), ..YamlError::default() }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> YamlError {
        let message = match found {
            de::Unexpected::Unit => format!("the value is missing, expected {expected}"),
            found => format!("found {found}, expected {expected}"),
        };
        YamlError { code: "wrong-type", message, ..YamlError::default() }
    }

    fn invalid_value(found: de::Unexpected<'_>, _: &dyn de::Expected) -> YamlError {
        YamlError { code: "invalid-value", message: format!("{found} is out of range"), ..YamlError::default() }
    }
}

macro_rules! numbers {
    ($($method:ident => $visit:ident: $type:ty, $what:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
            let text = self.scalar(&visitor)?;
            let number: $type = text.replace('_', "").parse().map_err(|_| {
                YamlError::new("wrong-type", format!("`{text}` is not {}", $what), self.place)
            })?;
            visitor.$visit(number)
        }
    )*};
}

impl Node {
    fn scalar(&self, expected: &dyn de::Expected) -> Result<&str, YamlError> {
        match &self.value {
            Value::Scalar { text, .. } => Ok(text),
            Value::List(items) => {
                let error = YamlError::new("wrong-type", format!("found a list, expected {expected}"), self.place);
                let first = items.first().and_then(Node::text).map(|text| format!("write one value, such as `{text}`"));
                Err(YamlError { help: first, ..error })
            }
            Value::Map(_) => Err(YamlError::new("wrong-type", format!("found a mapping, expected {expected}"), self.place)),
        }
    }
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = YamlError;

    numbers! {
        deserialize_i8 => visit_i64: i64, "a whole number";
        deserialize_i16 => visit_i64: i64, "a whole number";
        deserialize_i32 => visit_i64: i64, "a whole number";
        deserialize_i64 => visit_i64: i64, "a whole number";
        deserialize_u8 => visit_u64: u64, "a whole number from 0";
        deserialize_u16 => visit_u64: u64, "a whole number from 0";
        deserialize_u32 => visit_u64: u64, "a whole number from 0";
        deserialize_u64 => visit_u64: u64, "a whole number from 0";
        deserialize_f32 => visit_f64: f64, "a number";
        deserialize_f64 => visit_f64: f64, "a number";
        deserialize_bool => visit_bool: bool, "`true` or `false`";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        match &self.value {
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Scalar { .. } if self.is_null() => visitor.visit_unit(),
            Value::Scalar { text, plain, .. } => {
                if *plain {
                    if let Ok(b) = text.parse::<bool>() {
                        return visitor.visit_bool(b);
                    }
                    if let Ok(i) = text.parse::<i64>() {
                        return visitor.visit_i64(i);
                    }
                    if let Some(f) = text.parse::<f64>().ok().filter(|f| f.is_finite()) {
                        return visitor.visit_f64(f);
                    }
                }
                visitor.visit_str(text)
            }
        }
        .map_err(|e| e.or_at(self.place))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        let text = self.scalar(&visitor)?;
        // What stands in for a missing key is as good as any text.
        if self.is_null() && self.place != STAND_IN {
            return Err(YamlError::new(
                "wrong-type",
                format!("the value is missing, expected {}", &visitor as &dyn de::Expected),
                self.place,
            ));
        }
        visitor.visit_str(text).map_err(|e: YamlError| e.or_at(self.place))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, YamlError> {
        visitor.visit_newtype_struct(self).map_err(|e: YamlError| e.or_at(self.place))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        match &self.value {
            Value::List(items) => visitor.visit_seq(Items(items.iter())).map_err(|e| e.or_at(self.place)),
            Value::Scalar { text, .. } if !self.is_null() => Err(YamlError {
                help: Some(format!("write a list with one element as `[{text}]`")),
                ..YamlError::new("wrong-type", "expected a list", self.place)
            }),
            _ => Err(YamlError::new("wrong-type", "expected a list", self.place)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        match &self.value {
            Value::Map(entries) => visitor.visit_map(Entries { rest: entries.iter(), value: None }).map_err(|e| e.or_at(self.place)),
            _ if self.is_null() => visitor.visit_map(Entries { rest: [].iter(), value: None }).map_err(|e| e.or_at(self.place)),
            _ => Err(YamlError::new("wrong-type", "expected a mapping (`key: value`)", self.place)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, YamlError> {
        if matches!(self.value, Value::Map(_)) || self.is_null() {
            return self.deserialize_map(visitor);
        }
        // A long text is not an example.
        let text = self.text().filter(|text| text.len() <= 40 && !text.contains('\n')).unwrap_or("..");
        let example = keys.first().map(|first| format!("such as `{{ {first}: {text} }}`; allowed keys: {}", keys.join(", ")));
        Err(YamlError { help: example, ..YamlError::new("wrong-type", "expected a mapping (`key: value`)", self.place) })
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, YamlError> {
        match &self.value {
            Value::Scalar { text, .. } => visitor.visit_enum(text.as_str().into_deserializer()).map_err(|e: YamlError| e.or_at(self.place)),
            Value::Map(entries) if entries.len() == 1 => visitor
                .visit_enum(de::value::MapAccessDeserializer::new(Entries { rest: entries.iter(), value: None }))
                .map_err(|e| e.or_at(self.place)),
            _ => Err(YamlError::new("wrong-type", "expected one word or one `key: value`", self.place)),
        }
    }

    serde::forward_to_deserialize_any! { char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any }
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = YamlError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, YamlError> {
        self.0.next().map(|node| seed.deserialize(node).map_err(|e| e.or_at(node.place))).transpose()
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, (Key, Node)>,
    value: Option<&'a Node>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = YamlError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, YamlError> {
        let Some((key, node)) = self.rest.next() else { return Ok(None) };
        self.value = Some(node);
        let deserializer: de::value::StrDeserializer<'_, YamlError> = key.text.as_str().into_deserializer();
        seed.deserialize(deserializer).map(Some).map_err(|e| e.or_at(key.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, YamlError> {
        match self.value.take() {
            Some(node) => seed.deserialize(node).map_err(|e| e.or_at(node.place)),
            None => Err(de::Error::custom("value without a key")),
        }
    }
}
