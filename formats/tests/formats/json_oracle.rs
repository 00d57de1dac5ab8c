//! The JSON decoder against `arrow-json` on random documents.

use std::fmt::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use proptest::prelude::*;

use crate::columns::*;

fn inner() -> DataType {
    DataType::Struct(
        vec![
            Field::new("i", DataType::Int32, true),
            Field::new("t", DataType::Utf8, true),
            Field::new("l", list_of(DataType::Float64), true),
        ]
        .into(),
    )
}

fn document_schema() -> SchemaRef {
    schema(vec![
        Field::new("long", DataType::Int64, true),
        Field::new("unsigned", DataType::UInt64, true),
        Field::new("double", DataType::Float64, true),
        Field::new("flag", DataType::Boolean, true),
        Field::new("text", DataType::Utf8, true),
        // arrow-json knows time zones by name only with a time zone database.
        Field::new("when", DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into())), true),
        Field::new("day", DataType::Date32, true),
        Field::new("amount", DataType::Decimal128(20, 4), true),
        Field::new("inner", inner(), true),
        Field::new("items", list_of(inner()), true),
        Field::new("labels", map_of(DataType::Int64), true),
    ])
}

/// Renders random values as JSON, with random white space, order, escapes and unknown members.
struct Render<'a> {
    dice: &'a mut Dice,
    out: String,
}

impl Render<'_> {
    fn space(&mut self) {
        if self.dice.below(12) == 0 {
            self.out.push_str([" ", "\n", "\t ", "\r\n"][self.dice.below(4) as usize]);
        }
    }

    fn text(&mut self) {
        let text = self.dice.text();
        self.out.push('"');
        for c in text.chars() {
            let mut units = [0; 2];
            match c {
                '"' | '\\' => write!(self.out, "\\{c}").unwrap(),
                '\n' => self.out.push_str("\\n"),
                c if u32::from(c) < 0x20 || self.dice.below(9) == 0 => {
                    c.encode_utf16(&mut units).iter().for_each(|u| write!(self.out, "\\u{u:04X}").unwrap());
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn value(&mut self, data_type: &DataType) {
        self.space();
        if self.dice.below(8) == 0 {
            self.out.push_str("null");
        } else {
            self.some(data_type);
        }
        self.space();
    }

    fn some(&mut self, data_type: &DataType) {
        match data_type {
            DataType::Int64 => write!(self.out, "{}", self.dice.long()).unwrap(),
            DataType::Int32 => write!(self.out, "{}", self.dice.long() as i32).unwrap(),
            DataType::UInt64 => write!(self.out, "{}", self.dice.next() >> self.dice.below(64)).unwrap(),
            DataType::Float64 => match self.dice.below(3) {
                0 => write!(self.out, "{:e}", self.dice.double()).unwrap(),
                1 => write!(self.out, "{}", self.dice.double()).unwrap(),
                _ => write!(self.out, "{}.{:02}", self.dice.below(1000), self.dice.below(100)).unwrap(),
            },
            DataType::Boolean => self.out.push_str(if self.dice.below(2) == 0 { "true" } else { "false" }),
            DataType::Utf8 => self.text(),
            DataType::Timestamp(..) => {
                let (day, second) = (1 + self.dice.below(28), self.dice.below(60));
                let (year, month) = (1700 + self.dice.below(500), 1 + self.dice.below(12));
                let zone = ["Z", "+02:00", "-11:30"][self.dice.below(3) as usize];
                write!(self.out, "\"{year:04}-{month:02}-{day:02}T{:02}:{second:02}:07.{:03}{zone}\"", second % 24, self.dice.below(1000))
                    .unwrap();
            }
            DataType::Date32 => {
                write!(self.out, "\"{:04}-{:02}-{:02}\"", 1 + self.dice.below(9999), 1 + self.dice.below(12), 1 + self.dice.below(28))
                    .unwrap();
            }
            DataType::Decimal128(..) => write!(self.out, "{}.{:04}", self.dice.long() / 10_000, self.dice.below(10_000)).unwrap(),
            DataType::Struct(fields) => self.object(fields.iter().map(|f| (f.name().clone(), f.data_type().clone())).collect()),
            DataType::List(item) => {
                self.out.push('[');
                for i in 0..self.dice.below(4) {
                    if i > 0 {
                        self.out.push(',');
                    }
                    self.value(item.data_type());
                }
                self.out.push(']');
            }
            DataType::Map(..) => {
                let keys = self.dice.below(4);
                self.members((0..keys).map(|k| (format!("k{k}"), DataType::Int64)).collect());
            }
            other => panic!("no values of {other}"),
        }
    }

    fn object(&mut self, mut members: Vec<(String, DataType)>) {
        if self.dice.below(3) == 0 {
            for i in (1..members.len()).rev() {
                members.swap(i, self.dice.below(i as u64 + 1) as usize);
            }
        }
        members.retain(|_| self.dice.below(10) > 0);
        if self.dice.below(3) == 0 {
            let place = self.dice.below(members.len() as u64 + 1) as usize;
            members.insert(place, (format!("unknown{}", self.dice.below(3)), list_of(inner())));
        }
        self.members(members);
    }

    fn members(&mut self, members: Vec<(String, DataType)>) {
        self.out.push('{');
        for (i, (name, data_type)) in members.into_iter().enumerate() {
            if i > 0 {
                self.out.push(',');
            }
            self.space();
            write!(self.out, "\"{name}\"").unwrap();
            self.space();
            self.out.push(':');
            self.value(&data_type);
        }
        self.out.push('}');
    }
}

fn oracle(schema: &SchemaRef, documents: &[String]) -> RecordBatch {
    let mut decoder = arrow_json::ReaderBuilder::new(schema.clone()).with_batch_size(10_000).build_decoder().unwrap();
    for document in documents {
        let read = decoder.decode(document.as_bytes()).unwrap();
        assert_eq!(read, document.len());
    }
    decoder.flush().unwrap().unwrap_or_else(|| RecordBatch::new_empty(schema.clone()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn random_documents_decode_as_in_arrow_json(seed in any::<u64>()) {
        let schema = document_schema();
        let mut dice = Dice(seed);
        let documents: Vec<String> = (0..1 + dice.below(12))
            .map(|_| {
                let mut render = Render { dice: &mut dice, out: String::new() };
                render.some(&DataType::Struct(schema.fields().clone()));
                render.out
            })
            .collect();
        let (outcomes, ours) = json(&schema, &documents);
        prop_assert!(outcomes.iter().all(Result::is_ok), "{:?} of {:#?}", outcomes, documents);
        let theirs = oracle(&schema, &documents);
        for (column, field) in schema.fields().iter().enumerate() {
            prop_assert_eq!(ours.column(column), theirs.column(column), "{} of {:#?}", field.name(), documents);
        }
    }
}
