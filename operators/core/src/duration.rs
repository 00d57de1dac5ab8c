//! Lengths of time as users write them in a pipeline: `250ms`, `5s`, `2m`, `1h`, `7d`.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::batch::Millis;

/// A length of time with millisecond resolution, written as a number and a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(pub Millis);

const UNITS: [(&str, Millis); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Interval {
    pub const fn millis(self) -> Millis {
        self.0
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Interval, String> {
        let most = || format!("`{text}` is too long: 36600d, a hundred years, is the most");
        let hint = || format!("`{text}` is not a duration: write a whole number and a unit, such as 250ms, 5s, 2m, 1h or 7d");
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(hint)?;
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(hint());
        }
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(hint)?;
        // Digits that don't parse are too many.
        let millis = number.parse::<Millis>().ok().and_then(|number| number.checked_mul(*scale));
        millis.filter(|ms| *ms <= 366 * 100 * 86_400_000).map(Interval).ok_or_else(most)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = UNITS.iter().rev().find(|(_, s)| self.0 % s == 0 && self.0 >= *s).unwrap_or(&("ms", 1));
        write!(f, "{}{unit}", self.0 / scale)
    }
}

/// A length of time, or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrNever(pub Option<Interval>);

impl<'de> Deserialize<'de> for OrNever {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<OrNever, D::Error> {
        match String::deserialize(d)?.as_str() {
            "never" => Ok(OrNever(None)),
            text => text.parse().map(|span| OrNever(Some(span))).map_err(de::Error::custom),
        }
    }
}

impl Serialize for OrNever {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(span) => span.serialize(s),
            None => s.serialize_str("never"),
        }
    }
}

impl JsonSchema for OrNever {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DurationOrNever".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "x-type": "duration or `never`",
            "pattern": "^(never|[0-9]+ ?(ms|s|m|h|d))$",
            "description": "A length of time (a whole number and a unit: ms, s, m, h, d), or `never`.",
            "examples": ["60s", "30d", "never"]
        })
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Interval, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl JsonSchema for Interval {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "x-type": "duration",
            "pattern": "^[0-9]+ ?(ms|s|m|h|d)$",
            "description": "A length of time: a whole number and a unit (ms, s, m, h, d).",
            "examples": ["250ms", "5s", "2m"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Interval;

    #[test]
    fn reads_what_it_writes() {
        for text in ["250ms", "5s", "2m", "1h", "7d", "0ms", "90s"] {
            let span: Interval = text.parse().unwrap();
            assert_eq!(span.to_string().parse::<Interval>().unwrap(), span);
        }
        assert_eq!("90s".parse::<Interval>().unwrap(), Interval(90_000));
    }

    #[test]
    fn refuses_what_is_not_a_duration() {
        for text in ["", "5", "s", "-5s", "1.5m", "5 weeks", "99999999999999999999s", "9999999d"] {
            assert!(text.parse::<Interval>().is_err(), "{text}");
        }
    }
}
