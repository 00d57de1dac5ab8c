"""Reading Kafka topics to their end as a consumer with read_committed, and decoding their values. Independent of the product."""

from __future__ import annotations

import io
import json
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import fastavro
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

REQUEST = 20.0
"""Seconds that one request may take."""

COMPARED = 100
"""Values of each schema that Confluent's deserializer reads, too."""


class Trouble(Exception):
    """What cannot be read, in words for the person at the terminal."""


@dataclass(frozen=True)
class Record:
    """A Kafka record as it lies in the log."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Registry:
    """The part of a Confluent-compatible registry that a reader needs: schemas by id."""

    def __init__(self, url: str | None):
        self._url = url.rstrip("/") if url else None
        self._schemas: dict[int, Any] = {}
        self._deserializer: Any = None

    def confluent(self, data: bytes) -> Any:
        """What Confluent's own deserializer makes of a value: any consumer must be able to read it, not only this one."""
        from confluent_kafka.schema_registry import SchemaRegistryClient
        from confluent_kafka.schema_registry.avro import AvroDeserializer
        from confluent_kafka.serialization import MessageField, SerializationContext

        if self._deserializer is None:
            self._deserializer = AvroDeserializer(SchemaRegistryClient({"url": self._url}))
        return self._deserializer(data, SerializationContext("any", MessageField.VALUE))

    def schema(self, schema_id: int) -> Any:
        if schema_id not in self._schemas:
            if self._url is None:
                raise Trouble(f"a value names schema {schema_id}: give the address of the registry with --registry")
            address = f"{self._url}/schemas/ids/{schema_id}"
            try:
                with urllib.request.urlopen(address, timeout=REQUEST) as answer:
                    text = json.load(answer)["schema"]
            except (urllib.error.URLError, KeyError, ValueError) as error:
                raise Trouble(f"{address}: {error}") from error
            self._schemas[schema_id] = fastavro.parse_schema(json.loads(text))
        return self._schemas[schema_id]


class Decoder:
    """Turns bytes into Python values. `auto` takes what starts with a zero byte for Avro and the rest for JSON, which never does."""

    def __init__(self, registry: Registry, form: str = "auto"):
        self._registry = registry
        self._form = form
        self._compared: dict[int, int] = {}

    def __call__(self, data: bytes | None) -> Any:
        if data is None:
            return None
        if self._form == "raw":
            return data
        if self._form == "avro" or (self._form == "auto" and data[:1] == b"\0"):
            return self._avro(data)
        try:
            return json.loads(data, parse_float=Decimal)
        except ValueError as error:
            raise Trouble(f"not JSON: {error}: {data[:100]!r}") from error

    def _avro(self, data: bytes) -> Any:
        if len(data) < 5 or data[0] != 0:
            raise Trouble(f"not in Confluent's wire format: {data[:20]!r}")
        schema = self._registry.schema(struct.unpack(">I", data[1:5])[0])
        rest = io.BytesIO(data[5:])
        try:
            value = fastavro.schemaless_reader(rest, schema, None)
        except (EOFError, ValueError, IndexError, StopIteration) as error:
            raise Trouble(f"not a datum of its schema: {error!r}: {data[:60]!r}") from error
        if rest.read(1):
            raise Trouble(f"bytes left over after the datum: {data[:60]!r}")
        self._compare(data, value)
        return value

    def _compare(self, data: bytes, value: Any) -> None:
        """The first values of each schema are read a second time, by Confluent's deserializer."""
        schema_id = struct.unpack(">I", data[1:5])[0]
        seen = self._compared.get(schema_id, 0)
        if seen < COMPARED:
            self._compared[schema_id] = seen + 1
            if (other := self._registry.confluent(data)) != value:
                raise Trouble(f"Confluent's deserializer reads {other!r} where {value!r} was expected")


class Log:
    """The topics of one cluster."""

    def __init__(self, bootstrap: str, patience: float = 60.0):
        self._bootstrap = bootstrap
        self._patience = patience

    def _consumer(self, isolation: str) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "oracle-reads-without-a-group",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "isolation.level": isolation,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 50,
                "queued.max.messages.kbytes": 131072,
            }
        )

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0 when it does not exist."""
        consumer = self._consumer("read_committed")
        try:
            found = consumer.list_topics(topic, timeout=REQUEST).topics[topic]
        except KafkaException as error:
            raise Trouble(f"{self._bootstrap}: {error}") from error
        finally:
            consumer.close()
        if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise Trouble(f"topic {topic}: {found.error}")
        return 0 if found.error is not None else len(found.partitions)

    def _ends(self, topic: str, count: int) -> dict[int, tuple[int, int]]:
        """First and end offset of each partition, once no transaction is open: last stable offset == high watermark."""
        committed, everything = self._consumer("read_committed"), self._consumer("read_uncommitted")
        deadline, ends = time.monotonic() + self._patience, {}
        try:
            for partition in range(count):
                at = TopicPartition(topic, partition)
                while True:
                    high = everything.get_watermark_offsets(at, timeout=REQUEST)[1]
                    low, stable = committed.get_watermark_offsets(at, timeout=REQUEST)
                    if stable >= high:
                        break
                    if time.monotonic() > deadline:
                        raise Trouble(f"{topic}/{partition}: a transaction stays open (last stable offset {stable}, end {high})")
                    time.sleep(0.05)
                ends[partition] = (low, high)
        except KafkaException as error:
            raise Trouble(f"topic {topic} at {self._bootstrap}: {error}") from error
        finally:
            committed.close()
            everything.close()
        return ends

    def read(self, topic: str, must_exist: bool = True, since: dict[int, int] | None = None) -> Iterator[Record]:
        """Every committed record up to the end as it is now; in offset order within a partition. With `since` only from those offsets on,
        which are then put to the end: the same dictionary the next time gives what is new."""
        count = self.partitions(topic)
        if count == 0:
            if must_exist:
                raise Trouble(f"topic {topic} does not exist at {self._bootstrap}")
            return
        begin = {} if since is None else since
        ends = {partition: end for partition, (low, end) in self._ends(topic, count).items() if end > max(low, begin.get(partition, low))}
        if not ends:
            return
        consumer = self._consumer("read_committed")
        try:
            consumer.assign([TopicPartition(topic, partition, begin.get(partition, OFFSET_BEGINNING)) for partition in ends])
            yield from self._until(consumer, topic, ends)
            begin.update(ends)
        finally:
            consumer.close()

    def _until(self, consumer: Consumer, topic: str, ends: dict[int, int]) -> Iterator[Record]:
        left, quiet_since = dict(ends), time.monotonic()
        while left:
            for message in consumer.consume(num_messages=2000, timeout=0.2):
                quiet_since = time.monotonic()
                partition, error = message.partition(), message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    # Everything up to here was handed out; what follows the last row are transaction markers.
                    if message.offset() >= ends[partition]:
                        left.pop(partition, None)
                    continue
                if error is not None:
                    raise Trouble(f"{topic}/{partition}: {error}")
                if message.offset() >= ends[partition]:
                    left.pop(partition, None)
                    continue
                if partition in left:
                    yield Record(
                        partition,
                        message.offset(),
                        message.timestamp()[1],
                        message.key(),
                        message.value(),
                        message.headers() or [],
                    )
            if time.monotonic() - quiet_since > self._patience:
                raise Trouble(f"{topic}: nothing arrives, but partitions {sorted(left)} are not at their end")
