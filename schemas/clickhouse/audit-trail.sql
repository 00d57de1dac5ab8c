CREATE TABLE IF NOT EXISTS `audit`.`events` (
    `event_id` String,
    `event_type` String,
    `event_version` String,
    `occurred_at` DateTime64(3, 'UTC'),
    `source` String,
    `correlation_id` String,
    `causation_id` Nullable(String),
    `topic` String,
    `record_key` Nullable(String),
    `_partition` Int32,
    `_offset` Int64,
    `_row` Int32
)
ENGINE = MergeTree
ORDER BY (`_partition`, `_offset`, `_row`)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS `audit`.`late_events` (
    `event_id` String,
    `event_type` String,
    `event_version` String,
    `occurred_at` DateTime64(3, 'UTC'),
    `source` String,
    `correlation_id` String,
    `causation_id` Nullable(String),
    `topic` String,
    `record_key` Nullable(String),
    `_partition` Int32,
    `_offset` Int64,
    `_row` Int32
)
ENGINE = MergeTree
ORDER BY (`_partition`, `_offset`, `_row`)
SETTINGS non_replicated_deduplication_window = 10000;

