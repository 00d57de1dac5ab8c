CREATE TABLE IF NOT EXISTS `analytics`.`revenue_per_minute` (
    `product_id` String,
    `category` Nullable(String),
    `window_start` DateTime64(3, 'UTC'),
    `window_end` DateTime64(3, 'UTC'),
    `orders` Int64,
    `quantity` Int64,
    `revenue` Decimal(38, 2),
    `_partition` Int32,
    `_offset` Int64,
    `_row` Int32
)
ENGINE = MergeTree
ORDER BY (`_partition`, `_offset`, `_row`)
SETTINGS non_replicated_deduplication_window = 10000;

