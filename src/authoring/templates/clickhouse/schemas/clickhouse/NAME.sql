CREATE TABLE IF NOT EXISTS `analytics`.`orders` (
    `order_id` String,
    `customer_id` String,
    `total` Decimal(12, 2),
    `currency` String,
    `status` String,
    `created_at` DateTime64(3, 'UTC'),
    `_partition` Int32,
    `_offset` Int64,
    `_row` Int32
)
ENGINE = MergeTree
ORDER BY (`_partition`, `_offset`, `_row`)
SETTINGS non_replicated_deduplication_window = 10000;
