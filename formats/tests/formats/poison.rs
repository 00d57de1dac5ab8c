//! Poison pills: inputs that have brought other stream processors down. Each is sent between good records, in every
//! place of a batch.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};
use headwater_formats::{AvroDecoder, AvroReader, CsvDecoder, CsvDialect, DecodeError, Decoder, JsonDecoder, RowBuilder};

use crate::columns::*;

/// The pill alone, first, in the middle and last: bad each time, and the good rows are as without it.
fn check(
    mut decode: impl FnMut(&[u8], &mut RowBuilder) -> Result<(), DecodeError>,
    rows: &mut RowBuilder,
    good: &[u8],
    pill: &[u8],
    what: &str,
) {
    let mut run = |payloads: &[&[u8]]| -> RecordBatch {
        for payload in payloads {
            match decode(payload, rows) {
                Ok(()) => assert_eq!(*payload, good, "{what} was accepted"),
                Err(DecodeError::Bad(cause)) => {
                    assert_eq!(*payload, pill, "{what}: {cause}");
                    assert!(cause.len() < 400, "{what}: the cause is {} bytes long", cause.len());
                }
                Err(other) => panic!("{what}: {other}"),
            }
        }
        rows.finish().unwrap()
    };
    let clean = run(&[good, good]);
    assert_eq!(clean.num_rows(), 2);
    assert_eq!(run(&[pill]).num_rows(), 0, "{what}");
    assert_eq!(run(&[pill, good, good]), clean, "{what} first");
    assert_eq!(run(&[good, pill, good]), clean, "{what} in the middle");
    assert_eq!(run(&[good, good, pill]), clean, "{what} last");
    let many: Vec<&[u8]> = [good].into_iter().chain([pill; 100]).chain([good]).collect();
    assert_eq!(run(&many), clean, "{what} a hundred times");
}

fn check_json(pill: &[u8], what: &str) {
    let inner = DataType::Struct(vec![Field::new("t", DataType::Utf8, true)].into());
    let schema = schema(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("t", DataType::Utf8, true),
        Field::new("d", DataType::Float64, true),
        Field::new("m", DataType::Decimal128(38, 2), true),
        Field::new("w", millis(), true),
        Field::new("l", list_of(inner), true),
    ]);
    let mut decoder = JsonDecoder::new(&schema);
    let mut rows = RowBuilder::new(&schema, 4).unwrap();
    let good = br#"{"id":1,"t":"x","d":1.5,"m":2.25,"w":0,"l":[{"t":"y"}],"other":"z"}"#;
    check(|payload, rows| decoder.decode(payload, rows), &mut rows, good, pill, what);
}

#[test]
fn json_text_that_is_not_json() {
    let long = "9".repeat(400);
    for (what, pill) in [
        ("empty", &b""[..]),
        ("white space", b" \n"),
        ("null", b"null"),
        ("byte order mark", b"\xef\xbb\xbf{\"id\":1}"),
        ("invalid UTF-8 in a declared string", b"{\"id\":1,\"t\":\"\xff\"}"),
        ("invalid UTF-8 in another string", b"{\"id\":1,\"other\":\"\xc3(\"}"),
        ("overlong UTF-8", b"{\"id\":1,\"t\":\"\xc0\xaf\"}"),
        ("UTF-8 surrogate", b"{\"id\":1,\"t\":\"\xed\xa0\x80\"}"),
        ("NUL", b"{\"id\":1,\"t\":\"a\0b\"}"),
        ("NUL after the end", b"{\"id\":1}\0"),
        ("control character", b"{\"id\":1,\"other\":\"a\tb\"}"),
        ("lone high surrogate", br#"{"id":1,"t":"\ud800"}"#),
        ("lone low surrogate, not declared", br#"{"id":1,"other":"\udc00"}"#),
        ("high surrogate twice", br#"{"id":1,"t":"\ud800\ud800"}"#),
        ("short escape", br#"{"id":1,"t":"\u12"}"#),
        ("unknown escape", br#"{"id":1,"t":"\x41"}"#),
        ("NaN", br#"{"id":1,"d":NaN}"#),
        ("Infinity, not declared", br#"{"id":1,"other":-Infinity}"#),
        ("1e400", br#"{"id":1,"d":1e400}"#),
        ("beyond i64", br#"{"id":9223372036854775808}"#),
        ("text for a number", br#"{"id":"1"}"#),
        ("number for a text", br#"{"id":1,"t":1}"#),
        ("scale loss", br#"{"id":1,"m":1.005}"#),
        ("39 digits", br#"{"id":1,"m":100000000000000000000000000000000000000}"#),
        ("year 292277", br#"{"id":1,"w":"292277-01-01T00:00:00Z"}"#),
        ("i64::MIN milliseconds", br#"{"id":1,"w":-9223372036854775808}"#),
        ("second 60", br#"{"id":1,"w":"2016-12-31T23:59:60Z"}"#),
        ("no zone", br#"{"id":1,"w":"2016-12-31T23:59:59"}"#),
        ("trailing comma", br#"{"id":1,}"#),
        ("trailing bytes", br#"{"id":1} {}"#),
        ("comment", br#"{"id":1/**/}"#),
        ("single quotes", br#"{'id':1}"#),
        ("leading zero, not declared", br#"{"id":1,"other":007}"#),
        ("truncated", br#"{"id":1,"l":[{"t":"y"#),
        ("mismatched brackets, not declared", br#"{"id":1,"other":[{"a":[1}]]}"#),
    ] {
        check_json(pill, what);
    }
    check_json(format!("{{\"id\":{long}}}").as_bytes(), "400 digits");
}

#[test]
fn json_deeper_than_any_stack() {
    for levels in [129, 10_000, 1_000_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let closed = format!("{{\"id\":1,\"other\":{}1{}}}", open.repeat(levels), close.repeat(levels));
            check_json(closed.as_bytes(), "deep nesting");
            check_json(format!("{{\"id\":1,\"other\":{}", open.repeat(levels)).as_bytes(), "deep nesting without end");
            check_json(open.repeat(levels).as_bytes(), "deep nesting at the root");
        }
    }
    let fits = format!("{{\"id\":1,\"other\":{}1{}}}", "[".repeat(127), "]".repeat(127));
    let (outcomes, _) = json(&one(DataType::Int64).project(&[]).map(std::sync::Arc::new).unwrap(), &[fits]);
    assert_eq!(outcomes, [Ok(())]);
}

#[test]
fn json_members_without_end_do_not_fill_the_memory_of_the_decoder() {
    let schema = one(DataType::Int64);
    let mut decoder = JsonDecoder::new(&schema);
    let mut rows = RowBuilder::new(&schema, 4).unwrap();
    for round in 0..50 {
        let members: String = (0..2000).map(|i| format!("\"m{round}x{i}\":{i},")).collect();
        decoder.decode(format!("{{{members}\"a\":{round}}}").as_bytes(), &mut rows).unwrap();
    }
    assert_eq!(longs(&rows.finish().unwrap(), "a"), (0..50).map(Some).collect::<Vec<_>>());
}

const WRITER: &str = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"long"},{"name":"t","type":"string"},
    {"name":"u","type":["null","int"]},{"name":"k","type":{"type":"enum","name":"K","symbols":["A","B"]}},
    {"name":"nulls","type":{"type":"array","items":{"type":"array","items":"null"}}},
    {"name":"l","type":{"type":"array","items":"long"}},{"name":"m","type":{"type":"map","values":"string"}},
    {"name":"rec","type":["null",{"type":"record","name":"Tree","fields":[{"name":"left","type":["null","Tree"]},{"name":"kids","type":{"type":"array","items":"Tree"}}]}]}]}"#;

/// The same without the recursive field, which has no Arrow form.
fn reader() -> String {
    let cut = WRITER.find(",\n    {\"name\":\"rec\"").unwrap();
    format!("{}]}}", &WRITER[..cut])
}

const GOOD: [u8; 10] = [2, 2, b'x', 2, 2, 0, 0, 0, 0, 0];

fn check_avro(pill: &[u8], what: &str) {
    let (mut decoder, mut rows) = avro(&reader(), WRITER);
    check(|payload, rows| decoder.decode(payload, rows), &mut rows, &framed(1, &GOOD), pill, what);
}

#[test]
fn avro_frames_and_lengths_that_lie() {
    let varint = |n: i64| {
        let mut rest = (n << 1 ^ n >> 63) as u64;
        let mut out = Vec::new();
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
        out
    };
    let head = [2, 2, b'x', 2, 2, 0]; // up to `nulls`
    let body = |parts: &[&[u8]]| framed(1, &parts.concat());
    for (what, fault, pill) in [
        ("no bytes", "shorter than", vec![]),
        ("one byte", "shorter than", vec![0]),
        ("four bytes", "shorter than", vec![0, 0, 0, 0]),
        ("wrong magic byte", "first byte is not 0", [vec![1], framed(1, &GOOD)[1..].to_vec()].concat()),
        ("truncated", "truncated", framed(1, &GOOD[..8])),
        ("trailing byte", "bytes after the end", body(&[&GOOD, &[0]])),
        ("negative length", "negative length", body(&[&[2], &varint(-1), &[0; 8]])),
        ("length 2^62", "truncated", body(&[&[2], &varint(1 << 62), &[0; 8]])),
        ("length i64::MIN", "negative length", body(&[&[2], &varint(i64::MIN), &[0; 8]])),
        ("invalid UTF-8", "not UTF-8", body(&[&[2, 2, 0xff], &GOOD[3..]])),
        ("integer of eleven bytes", "more than 64 bits", body(&[&[0xff; 10], &[0x01], &GOOD[1..]])),
        ("integer of 70 bits", "more than 64 bits", body(&[&[0xff; 9], &[0x7f], &GOOD[1..]])),
        ("int beyond 32 bits", "more than 32 bits", body(&[&[2, 2, b'x', 2], &varint(1 << 40), &GOOD[5..]])),
        ("union branch 2 of 2", "does not have", body(&[&[2, 2, b'x', 4, 2], &GOOD[5..]])),
        ("union branch -1", "does not have", body(&[&[2, 2, b'x', 1, 2], &GOOD[5..]])),
        ("enum symbol 2 of 2", "does not have", body(&[&[2, 2, b'x', 2, 2, 4], &GOOD[6..]])),
        ("2^62 nulls", "far more than its size", body(&[&head, &[2], &varint(1 << 62), &[0, 0, 0, 0, 0]])),
        (
            "nulls beyond the limit in blocks",
            "far more than its size",
            body(&[&head, &[2], &[varint(1 << 19), varint(1 << 19), varint(1 << 19)].concat(), &[0, 0, 0, 0, 0]]),
        ),
        ("2^62 arrays", "more items", body(&[&head, &varint(1 << 62), &[0, 0, 0, 0]])),
        ("2^62 longs", "more items", body(&[&head, &[0], &varint(1 << 62), &[0, 0, 0]])),
        ("block of -2^63 items", "more items", body(&[&head, &[0], &varint(i64::MIN), &[2, 0, 0, 0]])),
        ("block of negative size", "longer than the record", body(&[&head, &[0], &varint(-1), &varint(-5), &[2, 0, 0, 0]])),
        ("block of size 2^62", "longer than the record", body(&[&head, &[0], &varint(-1), &varint(1 << 62), &[2, 0, 0, 0]])),
        ("duplicate map key", "duplicate key", body(&[&head, &[0, 0, 4, 2, b'k', 0, 2, b'k', 0, 0, 0]])),
        ("skipped tree 10 000 deep", "deeper than 64", body(&[&GOOD[..9], &[2], &[2; 10_000], &[0; 20_000]])),
        ("skipped tree without end", "deeper than 64", body(&[&GOOD[..9], &[2; 50_000]])),
        ("skipped array of 2^62", "more items", body(&[&GOOD[..9], &[2, 0], &varint(1 << 62), &[0]])),
    ] {
        check_avro(&pill, what);
        // Each fails at its own fault, not because what follows does not fit.
        let (mut decoder, mut rows) = avro(&reader(), WRITER);
        let found = cause(decoder.decode(&pill, &mut rows).unwrap_err());
        assert!(found.contains(fault), "{what}: {found}");
    }
}

#[test]
fn avro_blocks_that_state_their_size_are_read_and_skipped() {
    let (mut decoder, mut rows) = avro(&reader(), WRITER);
    // Two longs in one sized block; nulls of three; a tree of two levels that is skipped.
    let body = [&[2, 2, b'x', 2, 2, 0][..], &[2, 6, 0, 0], &[3, 4, 8, 10, 0], &[0], &[2, 2, 0, 0, 2, 0, 0, 0]].concat();
    decoder.decode(&framed(1, &body), &mut rows).unwrap();
    let batch = rows.finish().unwrap();
    assert_consistent(&batch);
    let empty = schema(vec![Field::new("id", DataType::Int64, false)]);
    let mut decoder = AvroDecoder::new(AvroReader::new(WRITER, &empty).unwrap());
    decoder.add_writer(1, WRITER).unwrap();
    let mut rows = RowBuilder::new(&empty, 1).unwrap();
    decoder.decode(&framed(1, &body), &mut rows).unwrap();
    assert_eq!(longs(&rows.finish().unwrap(), "id"), [Some(1)]);
}

#[test]
fn avro_defaults_cannot_multiply_without_bound() {
    // Items without width in the bytes, but with a default of 1 kB in the columns.
    let writer =
        r#"{"type":"record","name":"R","fields":[{"name":"l","type":{"type":"array","items":{"type":"record","name":"I","fields":[]}}}]}"#;
    let padding = "x".repeat(1000);
    let reader = writer.replace(r#""fields":[]"#, &format!(r#""fields":[{{"name":"t","type":"string","default":"{padding}"}}]"#));
    let (mut decoder, mut rows) = avro(&reader, writer);
    decoder.decode(&framed(1, &[20, 0]), &mut rows).unwrap();
    let bomb = framed(1, &[0x80, 0x80, 0x40, 0]); // 2^19 items
    assert!(cause(decoder.decode(&bomb, &mut rows).unwrap_err()).contains("far more than its size"));
    assert_eq!(rows.len(), 1);
}

#[test]
fn lines_that_are_no_rows() {
    let schema = schema(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("t", DataType::Utf8, true),
        Field::new("d", DataType::Float64, true),
        Field::new("m", DataType::Decimal128(10, 2), true),
        Field::new("w", millis(), true),
        Field::new("b", DataType::Boolean, true),
    ]);
    let mut decoder = CsvDecoder::new(CsvDialect::default(), &schema, &schema);
    let mut rows = RowBuilder::new(&schema, 4).unwrap();
    let (long, wide) = ("9".repeat(400), ",".repeat(100_000));
    for (what, pill) in [
        ("empty", &b""[..]),
        ("an empty line", b"\n"),
        ("byte order mark", b"\xef\xbb\xbf1,x,,,,"),
        ("too few fields", b"1,x,1.5,2.25,2026-01-01T00:00:00Z"),
        ("too many fields", b"1,x,1.5,2.25,2026-01-01T00:00:00Z,true,"),
        ("very many fields", wide.as_bytes()),
        ("another delimiter", b"1;x;1.5;2.25;0;true"),
        ("two lines", b"1,x,1.5,2.25,2026-01-01T00:00:00Z,true\n2,x,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("two ends of the line", b"1,x,1.5,2.25,2026-01-01T00:00:00Z,true\n\n"),
        ("a carriage return in a field", b"1,x\ry,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("a quote without an end", b"1,\"x,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("a doubled quote without an end", b"1,\"x\"\",1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("text after a quote", b"1,\"x\"y,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("text before a quote", b"1,x\"y\",1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("space before a quote", b"1, \"y\",1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("invalid UTF-8", b"1,\xff,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("UTF-8 cut off", b"1,x,1.5,2.25,2026-01-01T00:00:00Z,true\xc3"),
        ("NUL in a number", b"1\0,x,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("null that is not nullable", b",x,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("an empty text as a number", b"\"\",x,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("beyond i64", b"9223372036854775808,x,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("400 digits", long.as_bytes()),
        ("a plus sign", b"+1,x,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("a leading zero", b"01,x,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("a space beside a number", b" 1,x,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("a fraction", b"1.5,x,1.5,2.25,2026-01-01T00:00:00Z,true"),
        ("NaN", b"1,x,NaN,2.25,2026-01-01T00:00:00Z,true"),
        ("Infinity", b"1,x,Infinity,2.25,2026-01-01T00:00:00Z,true"),
        ("1e400", b"1,x,1e400,2.25,2026-01-01T00:00:00Z,true"),
        ("hexadecimal", b"1,x,0x10,2.25,2026-01-01T00:00:00Z,true"),
        ("a decimal beyond its scale", b"1,x,1.5,2.255,2026-01-01T00:00:00Z,true"),
        ("a decimal beyond its precision", b"1,x,1.5,123456789.25,2026-01-01T00:00:00Z,true"),
        ("a time without a zone", b"1,x,1.5,2.25,2026-01-01T00:00:00,true"),
        ("the year 10000", b"1,x,1.5,2.25,10000-01-01T00:00:00Z,true"),
        ("a time of digits", b"1,x,1.5,2.25,1767225600000,true"),
        ("a day of digits", b"1,x,1.5,2.25,\"20260101\",true"),
        ("30 February", b"1,x,1.5,2.25,2026-02-30T00:00:00Z,true"),
        ("another boolean", b"1,x,1.5,2.25,2026-01-01T00:00:00Z,TRUE"),
    ] {
        check(|payload, rows| decoder.decode(payload, rows), &mut rows, b"1,x,1.5,2.25,2026-01-01T00:00:00Z,true", pill, what);
    }
}
