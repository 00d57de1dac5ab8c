//! The table of types: which kinds of columns go into which types of ClickHouse, and what of them fits.
//!
//! One table serves lint, the gate, the check of every value ([`super::fit`]) and the documentation.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use operator_core::type_name;

use super::native::Native;

/// What a column of rows is, as far as a table cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Whole,
    Decimal,
    Float,
    Text,
    Bytes,
    Date,
    Timestamp,
    List,
    Record,
    Map,
}

impl Kind {
    pub fn of(data_type: &DataType) -> Option<Kind> {
        use DataType::*;
        Some(match data_type {
            Boolean => Kind::Bool,
            Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 => Kind::Whole,
            Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..) => Kind::Decimal,
            Float16 | Float32 | Float64 => Kind::Float,
            Utf8 | LargeUtf8 | Utf8View => Kind::Text,
            Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => Kind::Bytes,
            Date32 | Date64 => Kind::Date,
            DataType::Timestamp(..) => Kind::Timestamp,
            List(_) | LargeList(_) | FixedSizeList(..) => Kind::List,
            Struct(_) => Kind::Record,
            DataType::Map(..) => Kind::Map,
            Dictionary(_, value) => return Kind::of(value),
            _ => return None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Whole => "integer",
            Kind::Decimal => "decimal",
            Kind::Float => "float, double",
            Kind::Text => "string",
            Kind::Bytes => "bytes",
            Kind::Date => "date",
            Kind::Timestamp => "timestamp",
            Kind::List => "list",
            Kind::Record => "record",
            Kind::Map => "map",
        }
    }
}

/// Which kinds go into which types, and what of them fits.
pub(super) struct Rule {
    types: &'static [&'static str],
    takes: &'static [Kind],
    pub fits: &'static str,
}

const RULES: [Rule; 19] = [
    Rule { types: &["Bool"], takes: &[Kind::Bool], fits: "every value" },
    Rule { types: &["UInt8"], takes: &[Kind::Whole, Kind::Decimal, Kind::Bool], fits: "whole numbers in the type's range; true is 1" },
    Rule {
        types: &["Int8", "Int16", "Int32", "Int64", "Int128", "Int256", "UInt16", "UInt32", "UInt64", "UInt128", "UInt256"],
        takes: &[Kind::Whole, Kind::Decimal],
        fits: "whole numbers in the type's range, of at most 38 digits",
    },
    Rule {
        types: &["Float32", "Float64", "BFloat16"],
        takes: &[Kind::Float, Kind::Whole],
        fits: "floats in the type's range, rounded to its precision; integers that it holds exactly",
    },
    Rule { types: &["Decimal"], takes: &[Kind::Decimal, Kind::Whole], fits: "numbers whose digits all have a place" },
    Rule { types: &["String"], takes: &[Kind::Text, Kind::Bytes], fits: "every value" },
    Rule {
        types: &["FixedString"],
        takes: &[Kind::Text, Kind::Bytes],
        fits: "at most that many bytes; ClickHouse fills up with zero bytes",
    },
    Rule { types: &["UUID"], takes: &[Kind::Text, Kind::Bytes], fits: "32 hexadecimal digits with or without hyphens, or 16 bytes" },
    Rule { types: &["IPv4"], takes: &[Kind::Text, Kind::Whole], fits: "an address as text, or as a number of 32 bits" },
    Rule { types: &["IPv6"], takes: &[Kind::Text, Kind::Bytes], fits: "an address of either version as text, or 16 bytes" },
    Rule { types: &["Enum8", "Enum16", "Enum"], takes: &[Kind::Text, Kind::Whole], fits: "a member's name or number" },
    Rule { types: &["Date"], takes: &[Kind::Date], fits: "1970-01-01 to 2149-06-06" },
    Rule { types: &["Date32"], takes: &[Kind::Date], fits: "1900-01-01 to 2299-12-31" },
    Rule {
        types: &["DateTime"],
        takes: &[Kind::Timestamp, Kind::Whole],
        fits: "whole seconds from 1970 to 2106-02-07 06:28:15 UTC (`date_trunc('second', at)` drops fractions); numbers are seconds",
    },
    Rule {
        types: &["DateTime64"],
        takes: &[Kind::Timestamp],
        fits: "1900 to 2299 (1677 to 2262 with 9 digits), with at most the type's digits after the second",
    },
    Rule { types: &["JSON", "Object"], takes: &[Kind::Text, Kind::Record], fits: "a text that is a JSON object; a record" },
    Rule { types: &["Array"], takes: &[Kind::List], fits: "lists whose items fit; never NULL itself" },
    Rule {
        types: &["Tuple"],
        takes: &[Kind::Record],
        fits: "records of the same members in the same order, all of which fit; never NULL itself",
    },
    Rule { types: &["Map"], takes: &[Kind::Map], fits: "maps whose keys and values fit; never NULL itself" },
];

pub(super) fn rule(native: &Native) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.types.contains(&native.name.as_str()))
}

/// Whether values of a type can fit into a column at all.
///
/// # Errors
/// None can, and why: a relative clause about the column's type.
pub(super) fn takes(data_type: &DataType, native: &Native) -> Result<(), String> {
    let (bare, _) = native.bare();
    let rule = rule(bare).ok_or_else(|| "which can't be written".to_owned())?;
    let not = || {
        let words: Vec<&str> = rule.takes.iter().map(|kind| kind.word()).collect();
        format!("which accepts {}, not {}", words.join(", "), type_name(data_type))
    };
    let kind = Kind::of(data_type).filter(|kind| rule.takes.contains(kind)).ok_or_else(not)?;
    match (kind, data_type) {
        (Kind::List, DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) => {
            let inner = bare.inner().next().ok_or_else(not)?.1;
            takes(item.data_type(), inner).map_err(|why| format!("and of its items {why}"))
        }
        (Kind::Record, DataType::Struct(fields)) if bare.name == "Tuple" => {
            let members: Vec<_> = bare.inner().collect();
            if members.len() != fields.len() {
                return Err(format!("where {} members are written", fields.len()));
            }
            fields.iter().zip(members).try_for_each(|(field, (name, member))| match name.filter(|name| name != field.name()) {
                Some(_) => Err(format!("where the member `{}` was expected", field.name())),
                None => takes(field.data_type(), member).map_err(|why| format!("and of `{}` {why}", field.name())),
            })
        }
        (Kind::Map, DataType::Map(entries, _)) => {
            let DataType::Struct(pair) = entries.data_type() else { return Err(not()) };
            let inner: Vec<_> = bare.inner().collect();
            if inner.len() != 2 || pair.len() != 2 {
                return Err(not());
            }
            pair.iter().zip(inner).try_for_each(|(field, (_, native))| takes(field.data_type(), native))
        }
        _ => Ok(()),
    }
}

/// Whether NULL can be written. Never in place of a list, a record or a map: ClickHouse's `Nullable(Tuple(..))` is experimental,
/// and the members that a null hides would have to be sent.
pub(super) fn takes_null(native: &Native) -> bool {
    let (bare, nullable) = native.bare();
    nullable && !matches!(bare.name.as_str(), "Array" | "Tuple" | "Map")
}

/// Where a column may be null and its type takes no NULL; `None` if nowhere. Rows with such a NULL are dead letters.
pub(super) fn unheld_null(field: &Field, native: &Native) -> Option<String> {
    let bare = native.bare().0;
    if field.is_nullable() && !takes_null(native) {
        return Some(format!("`{}` is nullable, but `{}` is not", field.name(), bare.name));
    }
    // The arguments of `JSON(..)` are paths and limits.
    let members: Vec<&Native> = bare.inner().map(|(_, native)| native).filter(|_| bare.name != "JSON").collect();
    let fields: Vec<&Arc<Field>> = match field.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => vec![item],
        DataType::Struct(fields) => fields.iter().collect(),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) => pair.iter().collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    };
    let below = fields.into_iter().zip(members).find_map(|(field, native)| unheld_null(field, native));
    below.map(|why| format!("in `{}` {why}", field.name()))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// `UPDATE=1` rewrites it.
    #[test]
    fn the_documentation_shows_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/yaml.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once("<!-- ClickHouse types -->\n").expect("the beginning of the table");
        let (_, after) = rest.split_once("<!-- end -->").expect("the end of the table");
        let current = format!("{before}<!-- ClickHouse types -->\n{}<!-- end -->{after}", types_table());
        if std::env::var("UPDATE").is_ok_and(|v| v == "1") {
            std::fs::write(path, current).unwrap();
        } else {
            assert!(text == current, "docs/yaml.md does not show the types as they are: UPDATE=1 rewrites the table");
        }
    }

    #[test]
    fn no_type_has_two_rules() {
        let mut names: Vec<&str> = RULES.iter().flat_map(|rule| rule.types).copied().collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    /// The table of types in Markdown.
    fn types_table() -> String {
        let mut out = "| ClickHouse | accepts | values that fit |\n|---|---|---|\n".to_owned();
        for rule in &RULES {
            let types: Vec<String> = rule.types.iter().map(|name| format!("`{name}`")).collect();
            let takes: Vec<&str> = rule.takes.iter().map(|kind| kind.word()).collect();
            let _ = writeln!(out, "| {} | {} | {} |", types.join(", "), takes.join(", "), rule.fits);
        }
        out
    }
}
