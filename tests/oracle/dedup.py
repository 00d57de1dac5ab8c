#!/usr/bin/env python3
"""An independent check of `dedup`: writes pipelines with cases whose expected output is computed here.

`dedup.py FOLDER SEEDS` draws input from each seed, with several partitions, rows out of order, rows of the same time, nulls and late rows,
computes what must come out, and writes both as cases. `hw test FOLDER` must agree, under every schedule.

The rules. A row is late if it is more than `lateness` before its partition's watermark: the newest time before it in the partition, less
`out_of_order`. The other rows of a key, in the order of (time, partition, offset), form runs: a run begins with the first row that is in
none and has every row less than `within` after its first. One row of a run goes on, the first or the last; the others are duplicates. A row
without a key is alone.
"""

from __future__ import annotations

import random
from pathlib import Path

from drawn import main, write_pipeline

TOPIC = "business.shop.events"
START = 1_772_359_200_000  # 2026-03-01T10:00:00Z
OUT_OF_ORDER = 5_000
PARTITIONS = 3

PIPELINE = """\
apiVersion: headwater/v1
name: {name}
sources:
  events:
    topic: {topic}
    schema: {{ id: string?, at: timestamp, n: int, tags: [string?] }}
    time: {{ field: at, out_of_order: 5s }}
{key}steps:
  once: {{ from: events, dedup: {{ by: {by}, within: {within}s, keep: {keep}, lateness: {lateness}s }} }}
sinks:
  once: {{ from: once, topic: analytics.shop.once, key: id }}
  duplicates: {{ from: once.duplicates, topic: analytics.shop.duplicates, key: id }}
  late: {{ from: once.late, topic: analytics.shop.late, key: id }}
"""

Row = dict


def drawn(seed: int, one_partition: bool) -> list[Row]:
    """Rows in the order in which they are written, each with its partition."""
    rng = random.Random(seed)
    rows, newest = [], START
    for n in range(rng.randint(20, 45)):
        newest += rng.choice([0, 0, 1_000, 4_000, 15_000])
        at = newest - rng.choice([0, 0, 0, 1, 3_000, 5_000, 9_000, 40_000])
        key = rng.choice(["a", "a", "b", "c", None])
        partition = rng.randrange(1 if one_partition else PARTITIONS)
        tags = rng.choice([[], ["x"], ["y", None]])
        rows.append({"id": key, "at": at, "n": n, "tags": tags, "partition": partition})
    return rows


def answers(rows: list[Row], within: int, keep: str, lateness: int) -> dict[str, list[Row]]:
    """What must come out of each port."""
    newest: dict[int, int] = {}
    offsets: dict[int, int] = {}
    late, in_time = [], []
    for row in rows:
        partition = row["partition"]
        watermark = newest[partition] - OUT_OF_ORDER if partition in newest else None
        offsets[partition] = offsets.get(partition, -1) + 1
        newest[partition] = max(newest.get(partition, row["at"]), row["at"])
        if watermark is not None and row["at"] < watermark - lateness:
            late.append(row)
        else:
            row["place"] = (row["at"], partition, offsets[partition])
            in_time.append(row)
    kept, duplicates = [], []
    run: dict[str, list[Row]] = {}
    whole_runs = []
    by_place = lambda row: row["place"]
    for row in sorted(in_time, key=by_place):
        if row["id"] is None:
            kept.append(row)
            continue
        members = run.get(row["id"])
        if members and row["at"] - members[0]["at"] < within:
            members.append(row)
        else:
            run[row["id"]] = [row]
            whole_runs.append(run[row["id"]])
    for members in whole_runs:
        place = 0 if keep == "first" else len(members) - 1
        kept.append(members[place])
        duplicates += members[:place] + members[place + 1 :]
    return {"once": sorted(kept, key=by_place), "duplicates": sorted(duplicates, key=by_place), "late": late}


def iso(millis: int) -> str:
    seconds, rest = divmod(millis - START, 1_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes + 600, 60)
    return f"2026-03-01T{hours:02}:{minutes:02}:{seconds:02}.{rest:03}Z"


def value(row: Row) -> Row:
    return {"id": row["id"], "at": iso(row["at"]), "n": row["n"], "tags": row["tags"]}


def write(folder: Path, seed: int) -> None:
    rng = random.Random(seed ^ 0x5EED)
    keep, within, lateness = ["first", "last"][seed % 2], rng.choice([1, 10, 30, 60]), rng.choice([0, 0, 5, 20])
    # With `key` the rows are read where they are; without, they go through a repartition topic.
    one_partition = seed % 3 == 0
    key = "    key: id\n" if one_partition else ""
    text = PIPELINE.format(
        name=f"dedup-{seed}", topic=TOPIC, key=key, by=["id", "[id]"][seed % 2], within=within, keep=keep, lateness=lateness
    )
    rows = drawn(seed, one_partition)
    lines = [{"@partition": row["partition"], "@key": row["id"], "@timestamp": row["at"], "@value": value(row)} for row in rows]
    lines.append({"@advance": "1h"})
    ports = answers(rows, within * 1_000, keep, lateness * 1_000)
    expected = {port: [value(row) for row in rows] for port, rows in ports.items()}
    partitions = {TOPIC: 1 if one_partition else PARTITIONS}
    write_pipeline(folder, "dedup", seed, text, partitions, lines, expected, source=f"in.{TOPIC}.jsonl")


if __name__ == "__main__":
    main(write)
