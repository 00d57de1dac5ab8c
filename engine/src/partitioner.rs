//! Where producers put a record, by its key.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the producers of a topic choose the partition of a record, by librdkafka's names for `partitioner`. Those that
/// end in `_random` differ from the others only for records without a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Partitioner {
    /// MurmurHash2: Kafka's Java client, Kafka Streams, Flink and Headwater.
    #[default]
    Murmur2,
    /// MurmurHash2; keyless records anywhere.
    Murmur2Random,
    /// CRC-32.
    Consistent,
    /// CRC-32; keyless records anywhere: the default of librdkafka, so of kcat and the clients for Python, Go and .NET.
    ConsistentRandom,
    /// FNV-1a: the default of Sarama.
    Fnv1a,
    /// FNV-1a; keyless records anywhere.
    Fnv1aRandom,
    /// Producers choose partitions otherwise: no step relies on the key, rows are repartitioned where they need to be.
    Unknown,
}

/// The function of a key that a partitioner computes: it decides whether equal keys of two topics are in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHash {
    Murmur2,
    Crc32,
    Fnv1a,
}

impl KeyHash {
    pub const ALL: [KeyHash; 3] = [KeyHash::Murmur2, KeyHash::Crc32, KeyHash::Fnv1a];

    /// The name to write as `partitioner`, and whose default it is.
    pub fn described(self) -> (&'static str, &'static str) {
        match self {
            KeyHash::Murmur2 => ("murmur2", "the default of Kafka's Java client"),
            KeyHash::Crc32 => ("consistent_random", "the default of librdkafka: kcat and the clients for Python, Go and .NET"),
            KeyHash::Fnv1a => ("fnv1a", "the default of Sarama"),
        }
    }

    /// The partition of a key among `partitions`. Zero if there are none.
    pub fn partition(self, key: &[u8], partitions: i32) -> i32 {
        let Some(count) = u32::try_from(partitions).ok().filter(|count| *count > 0) else { return 0 };
        let hash = match self {
            KeyHash::Murmur2 => return headwater_formats::partition(key, partitions),
            KeyHash::Crc32 => crc32fast::hash(key),
            KeyHash::Fnv1a => fnv1a(key),
        };
        (hash % count) as i32
    }
}

impl Partitioner {
    pub fn hash(self) -> KeyHash {
        match self {
            // Of cases: their records are somewhere.
            Partitioner::Murmur2 | Partitioner::Murmur2Random | Partitioner::Unknown => KeyHash::Murmur2,
            Partitioner::Consistent | Partitioner::ConsistentRandom => KeyHash::Crc32,
            Partitioner::Fnv1a | Partitioner::Fnv1aRandom => KeyHash::Fnv1a,
        }
    }

    /// The partition of a key among `partitions`.
    pub fn partition(self, key: &[u8], partitions: i32) -> i32 {
        self.hash().partition(key, partitions)
    }
}

/// The 32-bit FNV-1a hash, its absolute value as Sarama takes it.
fn fnv1a(key: &[u8]) -> u32 {
    let hash = key.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash as i32).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hashes of librdkafka's own test of FNV-1a, which come from Go, and the check value of CRC-32 (zlib's).
    #[test]
    fn hashes_are_those_of_the_clients() {
        for (key, hash) in [("kafka", 0x0d33_c4e1), ("giberish123456789", 0x77a5_8295), ("1234", 0x023b_dd03), ("", 0x7ee3_623b)] {
            assert_eq!(fnv1a(key.as_bytes()), hash, "{key}");
        }
        assert_eq!(KeyHash::Crc32.partition(b"123456789", i32::MAX), (0xcbf4_3926_u32 % i32::MAX as u32) as i32);
        assert_eq!(KeyHash::Murmur2.partition(b"21", 7), headwater_formats::partition(b"21", 7));
    }

    #[test]
    fn partitions_are_within_their_number() {
        for hash in KeyHash::ALL {
            assert_eq!(hash.partition(b"a", 0), 0);
            for key in 0..1_000i32 {
                assert!((0..12).contains(&hash.partition(&key.to_be_bytes(), 12)), "{hash:?}");
            }
        }
    }
}
