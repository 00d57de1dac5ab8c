"""The lag of a consumer group in a topic, as any client sees it: high watermarks minus committed positions.

    lag.py BOOTSTRAP GROUP TOPIC
"""

from __future__ import annotations

import sys

from confluent_kafka import Consumer, TopicPartition


def lag(bootstrap: str, group: str, topic: str) -> int:
    """Records between the committed positions and the ends of the partitions; a partition without a position counts whole."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "isolation.level": "read_uncommitted"})
    try:
        partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
        committed = consumer.committed([TopicPartition(topic, partition) for partition in partitions], timeout=20)
        total = 0
        for position in committed:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, position.partition), timeout=20)
            total += high - max(position.offset, low)
        return total
    finally:
        consumer.close()


if __name__ == "__main__":
    print(lag(*sys.argv[1:4]))
