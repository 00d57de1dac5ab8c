#!/usr/bin/env python3
"""An independent check of `join`: writes pipelines with cases whose expected output is computed here.

`join.py FOLDER SEEDS` draws two streams from each seed, with several partitions, rows out of order, rows of the same time, nulls and late
rows, computes what must come out, and writes both as cases. `hw test FOLDER` must agree, under every schedule.

The rules. A row is late if it is more than `lateness` before its partition's watermark: the newest time before it in the partition, less
`out_of_order`. Every pair of rows in time, one of each stream, with equal keys, none of them null, and a payment at most `before` before
and at most `after` after the order, is a result. In an outer join the rows in time that are in no pair are results, too.
"""

from __future__ import annotations

import random
from pathlib import Path

from drawn import main, write_pipeline

START = 1_772_359_200_000  # 2026-03-01T10:00:00Z
OUT_OF_ORDER = 5_000
TOPICS = {"left": "business.shop.orders", "right": "business.shop.payments"}

PIPELINE = """\
apiVersion: headwater/v1
name: {name}
sources:
  orders:
    topic: business.shop.orders
    schema: {{ id: string?, shop: string?, n: int, at: timestamp }}
    time: {{ field: at, out_of_order: 5s }}
{key}  payments:
    topic: business.shop.payments
    schema: {{ id: string?, shop: string?, amount: int, at: timestamp }}
    time: {{ field: at, out_of_order: 5s }}
{key}steps:
  paid:
    from: {{ left: orders, right: payments }}
    join:
      kind: {kind}
      on: {on}
      within: {{ before: {before}s, after: {after}s }}
      lateness: {lateness}s
{select}  per_minute:
    from: paid
    window: {{ tumbling: 1m, by: [n], compute: {{ pairs: count(*), last: last(amount) }} }}
sinks:
  paid: {{ from: paid, topic: analytics.shop.paid }}
  late: {{ from: paid.late, topic: analytics.shop.late }}
  per_minute: {{ from: per_minute, topic: analytics.shop.per-minute }}
  too_late: {{ from: per_minute.late, topic: analytics.shop.too-late }}
"""
SELECT = """\
      select: { id: "COALESCE(left.id, right.id)", n: left.n, amount: right.amount, before: left.at > right.at }
"""

Row = dict


def murmur2(data: bytes) -> int:
    """The hash by which Kafka's Java client chooses partitions."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(data)
    whole = len(data) - len(data) % 4
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    rest = data[whole:]
    for n in reversed(range(len(rest))):
        h ^= rest[n] << 8 * n
    if rest:
        h = h * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def drawn(rng: random.Random, keyed: bool, partitions: dict[str, int]) -> list[Row]:
    """Rows of both streams in the order in which they are written, each with its side and partition."""
    rows, newest = [], START
    for n in range(rng.randint(25, 50)):
        side = rng.choice(["left", "right"])
        newest += rng.choice([0, 0, 1_000, 4_000, 15_000])
        at = newest - rng.choice([0, 0, 0, 1, 3_000, 5_000, 9_000, 40_000])
        key = rng.choice(["a", "a", "b", "c", None])
        place = rng.randrange(partitions[side])
        if keyed:
            place = 0 if key is None else (murmur2(key.encode()) & 0x7FFFFFFF) % partitions[side]
        shop = rng.choice(["x", "x", "y", None])
        rows.append({"side": side, "partition": place, "id": key, "shop": shop, "n": n, "at": at})
    return rows


def in_time(rows: list[Row], lateness: int) -> tuple[list[Row], list[Row]]:
    """Rows in time, and late ones."""
    newest: dict[tuple[str, int], int] = {}
    early, late = [], []
    for row in rows:
        place = (row["side"], row["partition"])
        watermark = newest[place] - OUT_OF_ORDER if place in newest else None
        newest[place] = max(newest.get(place, row["at"]), row["at"])
        (late if watermark is not None and row["at"] < watermark - lateness else early).append(row)
    return early, late


def joined(rows: list[Row], kind: str, on: list[str], before: int, after: int) -> list[tuple[Row | None, Row | None]]:
    left, right = ([row for row in rows if row["side"] == side] for side in ("left", "right"))
    key = lambda row: [row[column] for column in on]
    meets = lambda a, b: None not in key(a) and key(a) == key(b) and -before <= b["at"] - a["at"] <= after
    results: list[tuple[Row | None, Row | None]] = [(a, b) for a in left for b in right if meets(a, b)]
    if kind in ("left", "full"):
        results += [(a, None) for a in left if not any(meets(a, b) for b in right)]
    if kind in ("right", "full"):
        results += [(None, b) for b in right if not any(meets(a, b) for a in left)]
    return results


def iso(millis: int) -> str:
    seconds, rest = divmod(millis - START, 1_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes + 600, 60)
    return f"2026-03-01T{hours:02}:{minutes:02}:{seconds:02}.{rest:03}Z"


def every_column(left: Row | None, right: Row | None) -> Row:
    of = lambda row, column: None if row is None else iso(row["at"]) if column == "at" else row[column]
    both = {f"{side}_{column}": of(row, column) for side, row in (("left", left), ("right", right)) for column in ("id", "shop", "at")}
    return both | {"n": of(left, "n"), "amount": of(right, "n")}


def selected(left: Row | None, right: Row | None) -> Row:
    ids = [row["id"] for row in (left, right) if row is not None and row["id"] is not None]
    is_before = None if left is None or right is None else left["at"] > right["at"]
    return {"id": ids[0] if ids else None, "n": left and left["n"], "amount": right and right["n"], "before": is_before}


def per_minute(results: list[tuple[Row | None, Row | None]]) -> list[Row]:
    """Results by order and minute. Of one order every payment has its own time, so that `last` is the one with the latest result; among
    those before the order, which all have the order's time, no rule is stated here: such groups have no `last` to compare."""
    groups: dict[tuple[int | None, int], list[tuple[int, int | None]]] = {}
    for left, right in results:
        time = max(row["at"] for row in (left, right) if row is not None)
        start = START + (time - START) // 60_000 * 60_000
        groups.setdefault((left and left["n"], start), []).append((time, right and right["n"]))
    rows = []
    for (n, start), members in groups.items():
        known = [(time, amount) for time, amount in members if amount is not None]
        newest = max((time for time, _ in known), default=None)
        last = [amount for time, amount in known if time == newest]
        shown = None if not last else last[0] if len(last) == 1 else "<any>"
        rows.append({"n": n, "window_start": iso(start), "window_end": iso(start + 60_000), "pairs": len(members), "last": shown})
    return rows


def write(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    kind = ["inner", "left", "right", "full"][seed % 4]
    before, after, lateness = rng.choice([0, 5, 20]), rng.choice([0, 1, 10, 60]), rng.choice([0, 0, 5, 20])
    keyed, on, select = seed % 3 == 0, [["id"], ["id", "shop"]][seed // 4 % 2], seed // 2 % 2 == 0
    # Without `key` the rows go through repartition topics, and the topics may differ in their partitions.
    partitions = {"left": 3, "right": 3 if keyed else rng.choice([1, 2, 3])}
    text = PIPELINE.format(
        name=f"join-{seed}",
        key="    key: id\n" if keyed else "",
        kind=kind,
        on=on[0] if len(on) == 1 else f"[{', '.join(on)}]",
        before=before,
        after=after,
        lateness=lateness,
        select=SELECT if select else "",
    )
    rows = drawn(rng, keyed, partitions)
    lines = []
    for row in rows:
        number = {"n": row["n"]} if row["side"] == "left" else {"amount": row["n"]}
        value = {"id": row["id"], "shop": row["shop"], "at": iso(row["at"])} | number
        place = {"@topic": TOPICS[row["side"]], "@partition": row["partition"], "@key": row["id"], "@timestamp": row["at"]}
        lines.append(place | {"@value": value})
    lines.append({"@advance": "1h"})
    early, late = in_time(rows, lateness * 1_000)
    results = joined(early, kind, on, before * 1_000, after * 1_000)
    expected = {
        "paid": [(selected if select else every_column)(*result) for result in results],
        "late": [every_column(*((row, None) if row["side"] == "left" else (None, row))) for row in late],
        "per-minute": per_minute(results),
    }
    topics = {topic: partitions[side] for side, topic in TOPICS.items()}
    write_pipeline(folder, "join", seed, text, topics, lines, expected)


if __name__ == "__main__":
    main(write)
