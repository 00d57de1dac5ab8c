//! CSV: there and back, against the `csv` crate, and each cause.

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use headwater_formats::{CsvDecoder, CsvDialect, CsvEncoder, Decoder, Encoder, RowBuilder};
use proptest::prelude::*;

use crate::columns::*;
use crate::encode;

fn read_as(dialect: &CsvDialect, schema: &SchemaRef, lines: &[Vec<u8>]) -> Result<RecordBatch, String> {
    let mut decoder = CsvDecoder::new(dialect.clone(), schema, schema);
    let mut rows = RowBuilder::new(schema, 8).unwrap();
    lines.iter().try_for_each(|line| decoder.decode(line, &mut rows).map_err(cause))?;
    let batch = rows.finish().unwrap();
    assert_consistent(&batch);
    Ok(batch)
}

fn read(schema: &SchemaRef, line: &str) -> Result<RecordBatch, String> {
    read_as(&CsvDialect::default(), schema, &[line.as_bytes().to_vec()])
}

fn write(dialect: &CsvDialect, batch: &RecordBatch) -> Vec<Vec<u8>> {
    let encoder = CsvEncoder::new(dialect.clone(), &batch.schema());
    let rows = encoder.batch(batch).unwrap();
    let line = |row| {
        let mut out = b"before".to_vec();
        assert!(rows.write(row, &mut out).unwrap());
        out.split_off(6)
    };
    (0..batch.num_rows()).map(line).collect()
}

/// The columns of [`encode::wide`] that are one value.
fn flat() -> SchemaRef {
    let one = |field: &&std::sync::Arc<Field>| CsvEncoder::check(&arrow::datatypes::Schema::new(vec![(**field).clone()])).is_ok();
    schema(encode::wide().fields().iter().filter(one).map(|field| field.as_ref().clone()).collect())
}

fn texts_of(columns: usize) -> SchemaRef {
    schema((0..columns).map(|n| Field::new(format!("c{n}"), DataType::Utf8, true)).collect())
}

fn dialects() -> impl Strategy<Value = CsvDialect> {
    let nulls = prop_oneof![Just(""), Just("NULL"), Just("\\N"), Just("0"), Just("true")];
    (
        prop_oneof![Just(","), Just(";"), Just("\t"), Just(":"), Just("-"), Just("."), Just("\u{1}")],
        prop_oneof![Just("\""), Just("'")],
        nulls,
    )
        .prop_map(|(delimiter, quote, null)| CsvDialect::new(delimiter, quote, null).unwrap())
}

/// Texts that are likely to need quotes, and null.
fn field() -> impl Strategy<Value = Option<String>> {
    proptest::option::weighted(0.8, "[a,;\"'\r\n\t0\\\\ NUL.:\u{feff}\u{1}-]{0,6}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn values_of_every_type_are_read_back(seed in any::<u64>(), rows in 0usize..20, dialect in dialects()) {
        prop_assert!(flat().fields().len() >= 14);
        let original = encode::batch(&flat(), rows, &mut Dice(seed));
        let lines = write(&dialect, &original);
        prop_assert_eq!(read_as(&dialect, &flat(), &lines).map_err(TestCaseError::fail)?, original);
    }

    #[test]
    fn texts_and_nulls_are_read_back(rows in proptest::collection::vec([field(), field(), field()], 0..6), dialect in dialects()) {
        let column = |n: usize| std::sync::Arc::new(rows.iter().map(|row| row[n].clone()).collect::<StringArray>()) as _;
        let original = RecordBatch::try_new(texts_of(3), (0..3).map(column).collect()).unwrap();
        let lines = write(&dialect, &original);
        prop_assert_eq!(read_as(&dialect, &texts_of(3), &lines).map_err(TestCaseError::fail)?, original);
    }

    /// The crate has no nulls: an empty text is read either way.
    #[test]
    fn the_csv_crate_reads_what_is_written(row in proptest::collection::vec(field(), 1..5)) {
        let columns = row.iter().map(|text| std::sync::Arc::new(StringArray::from(vec![text.clone()])) as _).collect();
        let line = write(&CsvDialect::default(), &RecordBatch::try_new(texts_of(row.len()), columns).unwrap()).remove(0);
        let mut oracle = csv::ReaderBuilder::new().has_headers(false).from_reader(line.as_slice());
        let read: Vec<Vec<String>> = oracle.records().map(|record| record.unwrap().iter().map(str::to_string).collect()).collect();
        let expected: Vec<String> = row.iter().map(|text| text.clone().unwrap_or_default()).collect();
        // A line without anything is no record to the crate.
        prop_assert_eq!(read, if line.is_empty() { Vec::new() } else { vec![expected] });
    }

    #[test]
    fn what_the_csv_crate_writes_is_read(row in proptest::collection::vec("[a,;\"\r\n\t é-]{0,6}", 1..5), always in any::<bool>()) {
        let style = if always { csv::QuoteStyle::Always } else { csv::QuoteStyle::Necessary };
        let mut oracle = csv::WriterBuilder::new().quote_style(style).from_writer(Vec::new());
        oracle.write_record(&row).unwrap();
        let line = oracle.into_inner().unwrap();
        let schema = schema((0..row.len()).map(|n| Field::new(format!("c{n}"), DataType::Utf8, false)).collect());
        let batch = read_as(&CsvDialect::default(), &schema, &[line]).map_err(TestCaseError::fail)?;
        let read: Vec<String> = (0..row.len()).map(|n| texts(&batch, &format!("c{n}"))[0].clone().unwrap()).collect();
        prop_assert_eq!(read, row);
    }

    /// Any bytes are a row or a cause, and leave no trace if they are no row.
    #[test]
    fn any_bytes_have_an_outcome(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b','), Just(b'"'), Just(b'\n')], 0..40)) {
        let schema = schema(vec![Field::new("a", DataType::Utf8, true), Field::new("b", DataType::Int32, true)]);
        let mut decoder = CsvDecoder::new(CsvDialect::default(), &schema, &schema);
        let mut rows = RowBuilder::new(&schema, 8).unwrap();
        let good = decoder.decode(&bytes, &mut rows).is_ok();
        decoder.decode(b"x,1", &mut rows).unwrap();
        let batch = rows.finish().unwrap();
        assert_consistent(&batch);
        prop_assert_eq!(batch.num_rows(), 1 + usize::from(good));
    }
}

fn order() -> SchemaRef {
    schema(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("note", DataType::Utf8, true),
        Field::new("quantity", DataType::Int32, true),
    ])
}

#[test]
fn null_an_empty_text_and_the_end_of_the_line_differ() {
    for (line, id, note) in [
        ("o1,,1", "o1", None),
        ("o1,\"\",1\n", "o1", Some("")),
        (",x,1\r\n", "", Some("x")),
        ("\"o\"\"1\",\"a,b\nc\",\"1\"", "o\"1", Some("a,b\nc")),
        ("o1, ,", "o1", Some(" ")),
        ("o1,x,1\r", "o1", Some("x")),
        ("o1,x,\"1\"\r", "o1", Some("x")),
        ("\"\u{feff}o1\",\u{feff},1", "\u{feff}o1", Some("\u{feff}")),
    ] {
        let batch = read(&order(), line).unwrap();
        assert_eq!((texts(&batch, "id")[0].as_deref(), texts(&batch, "note")[0].as_deref()), (Some(id), note), "{line:?}");
    }
    assert!(read(&order(), "o1,,").unwrap().column(2).is_null(0));
    let batch = read_as(&CsvDialect::new(";", "'", "NULL").unwrap(), &order(), &[b"'NULL';NULL;7".to_vec()]).unwrap();
    assert_eq!((texts(&batch, "id")[0].as_deref(), texts(&batch, "note")[0].as_deref()), (Some("NULL"), None));
    let refused = read_as(&CsvDialect::new(";", "'", "NULL").unwrap(), &order(), &[b"NULL;;7".to_vec()]).unwrap_err();
    assert_eq!(refused, "id: null, but the field is not nullable (field 1, line 1, column 1)");
}

#[test]
fn causes_say_where_they_are_and_quote_nothing() {
    for (line, expected) in [
        ("o1,x", "quantity: missing: the line ends after field 2 of 3"),
        ("o1,x,1,", "field 4 is one too many at line 1, column 8"),
        ("o1,x,one", "quantity: expected a 32-bit integer (field 3, line 1, column 6)"),
        ("o1,\"a\nžb\",2147483648", "quantity: out of range for a 32-bit integer (field 3, line 2, column 5)"),
        ("o1,x,1.5", "quantity: expected a 32-bit integer, found a number with a fraction (field 3, line 1, column 6)"),
        ("o1,x,007", "quantity: a number with a leading zero (field 3, line 1, column 6)"),
        ("o1,\"x,1", "the quote has no end at line 1, column 4"),
        ("o1,\"x\" ,1", "more after the end of the quote at line 1, column 7"),
        ("o1,x\"y,1", "a quote in a field that does not begin with one at line 1, column 5"),
        (
            "o1,x,\"\"",
            "quantity: an empty text, which is not null where it is in quotes or `null_text` is something else (field 3, line 1, column 6)",
        ),
        ("o1,x,1\r\r", "the record goes on after the end of the line at line 1, column 7"),
        ("\u{feff}o1,x,1", "the line begins with a byte order mark"),
        ("o1,x,1\no2,x,2", "the record goes on after the end of the line at line 1, column 7"),
    ] {
        assert_eq!(read(&order(), line).unwrap_err(), expected, "{line:?}");
    }
    let refused = read_as(&CsvDialect::default(), &order(), &[b"o1,\xc5\xbe\xff,1".to_vec()]).unwrap_err();
    assert_eq!(refused, "not UTF-8 at line 1, column 5");
}

#[test]
fn a_timestamp_is_a_text_and_not_digits() {
    let zoned = DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, Some("UTC".into()));
    let columns = schema(vec![Field::new("at", zoned, false)]);
    for line in ["2026-01-01T00:00:00Z", "\"2026-01-01 00:00+00\""] {
        assert_eq!(read(&columns, line).unwrap(), read(&columns, "2026-01-01T00:00:00.000Z").unwrap(), "{line}");
    }
    for line in ["20260101", "\"20260101\"", "20260101120000", "1767225600000", "-1"] {
        let found = read(&columns, line).unwrap_err();
        assert!(found.contains("found digits alone (declare epoch milliseconds as `long`) (field 1, line 1, column 1)"), "{line}: {found}");
    }
    assert!(!read(&columns, "2026-01-01").unwrap_err().contains("digits alone"));
}

#[test]
fn some_columns_in_another_order_and_one_field_alone() {
    let wanted = schema(vec![Field::new("quantity", DataType::Int32, true), Field::new("id", DataType::Utf8, false)]);
    let mut decoder = CsvDecoder::new(CsvDialect::default(), &order(), &wanted);
    let mut rows = RowBuilder::new(&wanted, 8).unwrap();
    decoder.decode(b"o1,x,7", &mut rows).unwrap();
    assert!(decoder.decode(b"o1,\"x,7", &mut rows).is_err());
    assert_eq!(texts(&rows.finish().unwrap(), "id"), [Some("o1".to_string())]);
    let column = schema(vec![Field::new("kind", DataType::Utf8, true)]);
    let mut decoder = CsvDecoder::of_field(CsvDialect::default(), 1, &column);
    let mut rows = RowBuilder::new(&column, 8).unwrap();
    decoder.decode(b"o1,placed,7,8,9", &mut rows).unwrap();
    decoder.decode(b"o1,", &mut rows).unwrap();
    assert!(decoder.decode(b"o1", &mut rows).is_err());
    assert_eq!(texts(&rows.finish().unwrap(), "kind"), [Some("placed".to_string()), None]);
}

#[test]
fn what_no_line_can_have_is_refused() {
    for (delimiter, quote, null, why) in [
        ("", "\"", "", "`delimiter` is one ASCII character"),
        ("::", "\"", "", "`delimiter` is one ASCII character"),
        ("é", "\"", "", "`delimiter` is one ASCII character"),
        ("a", "\"", "", "no letter, digit or line break, such as `,`, `;` or `\\t`; found \"a\""),
        ("\n", "\"", "", "`delimiter` is one ASCII character"),
        (",", "-", "", "`quote` is one punctuation character"),
        (",", "0", "", "`quote` is one punctuation character"),
        ("|", "|", "", "different characters"),
        (",", "\"", "a,b", "`null_text` has no delimiter"),
        (",", "\"", "\n", "`null_text` has no delimiter"),
        (",", "\"", "\u{feff}", "`null_text` can't begin with a byte order mark"),
    ] {
        let found = CsvDialect::new(delimiter, quote, null).unwrap_err();
        assert!(found.contains(why), "{delimiter:?} {quote:?} {null:?}: {found}");
    }
    let nested = |of| CsvEncoder::check(&one(of)).unwrap_err();
    assert_eq!(nested(list_of(DataType::Utf8)), ("a".to_string(), "a field of CSV is one value".to_string()));
    assert_eq!(nested(DataType::Interval(arrow::datatypes::IntervalUnit::DayTime)).0, "a");
    let batch =
        RecordBatch::try_new(one(DataType::Float64), vec![std::sync::Arc::new(arrow::array::Float64Array::from(vec![f64::NAN]))]).unwrap();
    let encoder = CsvEncoder::new(CsvDialect::default(), &batch.schema());
    let mut out = b"before".to_vec();
    let refused = encoder.batch(&batch).unwrap().write(0, &mut out).unwrap_err();
    assert_eq!((refused.as_str(), out.as_slice()), ("a: NaN and infinities have no form in CSV", &b"before"[..]));
}
