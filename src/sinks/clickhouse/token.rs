//! The token under which a table remembers a block.

use arrow::datatypes::Schema;
use headwater_engine::delivery::Block;
use sha2::{Digest, Sha256};

use super::connection::Table;

/// SHA-256 in hexadecimal over everything that distinguishes this insert from all others: the block's identity (pipeline, run,
/// topic, partition, offsets, rows, part), the table, and the columns. Content is not part of it: ClickHouse does not
/// compare content under a token either, so the lane proves that it is the same.
pub fn token(block: &Block, table: &Table) -> String {
    let mut hash = Sha256::new();
    for part in [block.identity().as_str(), &table.database, &table.name, &fingerprint(&block.rows.schema())] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

/// Names, types and nullability of columns as one text.
fn fingerprint(schema: &Schema) -> String {
    schema.fields().iter().map(|f| format!("{} {}{};", f.name(), f.data_type(), if f.is_nullable() { "?" } else { "" })).collect()
}

/// 32 bits of a SHA-256 over texts.
pub fn short_hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> u32 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(4).fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use headwater_engine::delivery::contract::block;

    use super::*;

    #[test]
    fn a_token_depends_on_identity_table_and_columns_only() {
        let table = Table::new("d", "t");
        let first = block(0, 0, 0..10, None).unwrap();
        let of = |block: &Block| token(block, &table);
        assert_eq!(of(&first).len(), 64);
        assert_eq!(of(&first), of(&Block { rows: block(0, 0, 50..60, None).unwrap().rows, ..first.clone() }));
        let fewer = first.rows.project(&[0, 2, 3, 4]).unwrap();
        let others = [
            of(&Block { epoch: 2, ..first.clone() }),
            of(&Block { first: 1, ..first.clone() }),
            of(&Block { path: first.path.halved(10).unwrap(), ..first.clone() }),
            of(&Block { rows: fewer, ..first.clone() }),
            token(&first, &Table::new("d", "u")),
            token(&first, &Table::new("dt", "")),
        ];
        let different: std::collections::BTreeSet<_> = others.iter().chain([&of(&first)]).cloned().collect();
        assert_eq!(different.len(), 7);
    }
}
