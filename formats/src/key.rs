//! Record keys as Kafka's own serializers write them, and the partition they belong to.
//!
//! A stream processor that re-keys a topic must put a key where a Java producer with the default partitioner would
//! put it, or joins by partition find nothing. That takes the same bytes (Kafka's `StringSerializer`,
//! `LongSerializer`, ...) and the same hash (`Utils.murmur2` of Kafka's clients).

use arrow::array::Array;

use crate::view::{Values, View, at};

/// Writes the values of a key column.
///
/// | column | bytes | Kafka's serializer |
/// |---|---|---|
/// | Utf8 (text, UUIDs) | UTF-8 | `StringSerializer`, `UUIDSerializer` |
/// | Int16, Int32, Int64 | 2, 4, 8 bytes, big endian | `ShortSerializer`, `IntegerSerializer`, `LongSerializer` |
/// | Float32, Float64 | IEEE 754 bits, big endian | `FloatSerializer`, `DoubleSerializer` |
/// | Boolean | one byte, 0 or 1 | `BooleanSerializer` |
/// | Binary, FixedSizeBinary | as they are | `ByteArraySerializer` |
pub struct KeyEncoder<'a> {
    view: View<'a>,
    rows: usize,
}

impl<'a> KeyEncoder<'a> {
    /// # Errors
    /// No serializer of Kafka writes the column's type; cast it to one of the types above.
    pub fn new(column: &'a dyn Array) -> Result<KeyEncoder<'a>, String> {
        let unsupported = || {
            format!(
                "{} has no standard Kafka key serializer; cast the key to string, smallint, int, bigint, float, double, boolean or bytes",
                column.data_type()
            )
        };
        let view = View::new(column).map_err(|_| unsupported())?;
        match view.values {
            Values::Text(_) | Values::Bytes(_) | Values::Bool(_) | Values::Null => {}
            Values::I16(_) | Values::I32(_) | Values::I64(_) | Values::F32(_) | Values::F64(_) => {}
            _ => return Err(unsupported()),
        }
        Ok(KeyEncoder { view, rows: column.len() })
    }

    /// Appends the key of a row; `false`, and nothing written, if the key is null (or there is no such row).
    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        if row >= self.rows || self.view.is_null(row) {
            return false;
        }
        match &self.view.values {
            Values::Text(texts) => out.extend_from_slice(texts.get(row).as_bytes()),
            Values::Bytes(blobs) => out.extend_from_slice(blobs.get(row)),
            Values::Bool(array) => out.push(u8::from(array.value(row))),
            Values::I16(v) => out.extend_from_slice(&at(v, row).to_be_bytes()),
            Values::I32(v) => out.extend_from_slice(&at(v, row).to_be_bytes()),
            Values::I64(v) => out.extend_from_slice(&at(v, row).to_be_bytes()),
            Values::F32(v) => out.extend_from_slice(&at(v, row).to_be_bytes()),
            Values::F64(v) => out.extend_from_slice(&at(v, row).to_be_bytes()),
            _ => return false,
        }
        true
    }
}

/// Kafka's variant of MurmurHash2 (32 bits, seed 0x9747b28c), as `org.apache.kafka.common.utils.Utils.murmur2`.
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let bytes: [u8; 4] = word.try_into().unwrap_or_default();
        let mut k = u32::from_le_bytes(bytes).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        let last = tail.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    (hash ^ hash >> 15) as i32
}

/// The partition of a key, as Kafka's default partitioner chooses it. Zero if there are no partitions.
pub fn partition(key: &[u8], partitions: i32) -> i32 {
    if partitions <= 0 { 0 } else { (murmur2(key) & 0x7fff_ffff) % partitions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BinaryArray, Float64Array, Int32Array, Int64Array, StringArray, TimestampMillisecondArray};

    #[test]
    fn hashes_agree_with_kafkas_utils_test() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn partitions_are_never_negative() {
        assert_eq!(partition(b"21", 7), (-973_932_308i32 & 0x7fff_ffff) % 7);
        for key in 0..1000i32 {
            assert!((0..12).contains(&partition(&key.to_be_bytes(), 12)));
        }
        assert_eq!(partition(b"21", 0), 0);
    }

    #[test]
    fn keys_are_the_bytes_of_kafkas_serializers() {
        let bytes = |array: &dyn Array| {
            let encoder = KeyEncoder::new(array).unwrap();
            (0..array.len())
                .map(|row| {
                    let mut out = Vec::new();
                    encoder.write(row, &mut out).then_some(out)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(bytes(&StringArray::from(vec![Some("žluť"), None, Some("")])), [Some("žluť".as_bytes().to_vec()), None, Some(vec![])]);
        assert_eq!(bytes(&Int32Array::from(vec![-2])), [Some(vec![255, 255, 255, 254])]);
        assert_eq!(bytes(&Int64Array::from(vec![258])), [Some(vec![0, 0, 0, 0, 0, 0, 1, 2])]);
        assert_eq!(bytes(&Float64Array::from(vec![1.0])), [Some(vec![0x3f, 0xf0, 0, 0, 0, 0, 0, 0])]);
        assert_eq!(bytes(&BinaryArray::from(vec![&[0u8, 255][..]])), [Some(vec![0, 255])]);
        let error = KeyEncoder::new(&TimestampMillisecondArray::from(vec![1])).err().unwrap();
        assert!(error.contains("cast the key"), "{error}");
    }
}
