CREATE TABLE scratch.orders (
    order_id String,
    _partition Int32,
    _offset Int64,
    _row Int32
) ENGINE = MergeTree ORDER BY order_id;
