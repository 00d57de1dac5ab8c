CREATE TABLE shop.events (
  id Int64, u32 UInt32, u64 UInt64, dt DateTime, dts DateTime, epoch DateTime, day Date, uid UUID, kind LowCardinality(String),
  kind8 Enum8('placed' = 1, 'it\'s paid, or so' = 2), uid_text UUID, ip IPv4, ip6 IPv6, at3 DateTime64(3, 'UTC'), at1 DateTime64(1),
  small UInt8, code FixedString(16), price Decimal(5, 2), real Float32, note LowCardinality(Nullable(String)),
  tags Array(Nullable(String)), place Tuple(city String, zip Nullable(String)), doc JSON,
  _partition Int32, _offset Int64, _row Int32
) ENGINE = MergeTree ORDER BY (_partition, _offset, _row) SETTINGS non_replicated_deduplication_window = 10000;
