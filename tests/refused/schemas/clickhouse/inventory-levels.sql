CREATE TABLE IF NOT EXISTS `analytics`.`inventory_levels` (
    `sku` String,
    `balance` Int64,
    `movements` Int64,
    `reorder_level` Int32,
    `_partition` Int32,
    `_offset` Int64,
    `_row` Int32
)
ENGINE = MergeTree
ORDER BY (`_partition`, `_offset`, `_row`)
SETTINGS non_replicated_deduplication_window = 10000;

