CREATE TABLE analytics.stock (
    sku String,
    quantity Int32,
    _partition Int32,
    _offset Int64,
    _row Int32
) ENGINE = MergeTree ORDER BY sku SETTINGS non_replicated_deduplication_window = 10000;
