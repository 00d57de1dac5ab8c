#!/usr/bin/env python3
"""An independent check of joins and sums of tables: writes pipelines with cases whose expected output is computed here.

`changes.py FOLDER SEEDS` draws the changes of two tables of a database from each seed, as Debezium writes them, computes what must come out,
and writes both as cases. `hw test FOLDER` must agree, under every schedule.

The rules. After each record the tables hold certain rows. The join of the two is computed row by row, and a topic by its key gets a record for
each result that is new or other than before, and one without a value for each that is gone. A sum per shop over the left table is kept in the same way.
"""

from __future__ import annotations

import random
from pathlib import Path

from drawn import main, write_pipeline

START = 1_772_359_200_000  # 2026-03-01T10:00:00Z
TOPICS = {"left": "shop.public.orders", "right": "shop.public.customers"}

PIPELINE = """\
apiVersion: headwater/v1
name: {name}
sources:
  orders:
    topic: shop.public.orders
    format: debezium
    key: id
    schema: {{ id: string, customer: string?, shop: string, n: int }}
  customers:
    topic: shop.public.customers
    format: debezium
    key: id
    schema: {{ id: string, n: int }}
steps:
  joined:
    from: {{ left: orders, right: customers }}
    join:
      kind: {kind}
      on: {on}
      select: {{ {select}, left_n: left.n, right_n: right.n }}
  per_shop:
    from: orders
    window: {{ unbounded: true, emit: changes, by: [shop], compute: {{ orders: count(*), total: sum(n), customers: count(DISTINCT customer) }} }}
sinks:
  joined: {{ from: joined, topic: analytics.shop.joined, key: {key}, create: {{ partitions: 3 }} }}
  per_shop: {{ from: per_shop, topic: analytics.shop.per-shop, key: shop, create: {{ partitions: 3 }} }}
"""

Row = dict


def drawn(rng: random.Random) -> list[tuple[str, str, Row | None, Row | None]]:
    """Changes in the order in which they are written: side, key, the row before, the row after. No two versions of a row are equal."""
    tables: dict[str, dict[str, Row]] = {"left": {}, "right": {}}
    changes = []
    for n in range(rng.randint(20, 45)):
        side = rng.choice(["left", "left", "right"])
        key = rng.choice(["1", "2", "3", "4", "5"] if side == "left" else ["1", "2", "3", "4"])
        before = tables[side].pop(key, None)
        after = None
        if before is None or rng.random() < 0.7:
            after = {"id": key, "n": n}
            if side == "left":
                after |= {"customer": rng.choice(["1", "2", "3", "4", None]), "shop": rng.choice(["x", "y", "z"])}
            tables[side][key] = after
        changes.append((side, key, before, after))
    return changes


def joined(left: list[Row], right: list[Row], kind: str, foreign: bool) -> dict[tuple, Row]:
    """What the topic holds, by key."""
    meets = lambda a, b: (a["customer"] if foreign else a["id"]) == b["id"]
    pairs: list[tuple[Row | None, Row | None]] = [(a, b) for a in left for b in right if meets(a, b)]
    if kind in ("left", "full"):
        pairs += [(a, None) for a in left if not any(meets(a, b) for b in right)]
    if kind in ("right", "full"):
        pairs += [(None, b) for b in right if not any(meets(a, b) for a in left)]
    rows = {}
    for a, b in pairs:
        if foreign:
            columns = {"id": a["id"], "customer": a["customer"]}
        else:
            columns = {"id": (a or b)["id"]}
        rows[tuple(columns.values())] = columns | {"left_n": a and a["n"], "right_n": b and b["n"]}
    return rows


def per_shop(rows: list[Row]) -> dict[tuple, Row]:
    shops: dict[tuple, list[Row]] = {}
    for row in rows:
        shops.setdefault((row["shop"],), []).append(row)
    return {
        shop: {
            "shop": shop[0],
            "orders": len(of),
            "total": sum(row["n"] for row in of),
            "customers": len({row["customer"] for row in of if row["customer"] is not None}),
        }
        for shop, of in shops.items()
    }


def records(before: dict[tuple, Row], after: dict[tuple, Row], names: list[str]) -> list[Row]:
    """What is written so that a topic that holds `before` holds `after`."""
    key = lambda values: values[0] if len(values) == 1 else dict(zip(names, values))
    changed = [(values, after.get(values)) for values in before | after if before.get(values) != after.get(values)]
    return [{"@key": key(values), "@value": row} for values, row in changed]


def write(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    # By a foreign key, or by the keys of both.
    foreign = seed % 2 == 1
    kind = rng.choice(["inner", "left"]) if foreign else ["inner", "left", "right", "full"][seed // 2 % 4]
    select = "id: left.id, customer: left.customer"
    if not foreign:
        select = {"right": "id: right.id", "full": 'id: "COALESCE(left.id, right.id)"'}.get(kind, "id: left.id")
    on = "{ left: customer, right: id }" if foreign else "id"
    names = ["id", "customer"] if foreign else ["id"]
    text = PIPELINE.format(name=f"changes-{seed}", kind=kind, on=on, select=select, key="[id, customer]" if foreign else "id")
    tables: dict[str, dict[str, Row]] = {"left": {}, "right": {}}
    lines, expected = [], {"joined": [], "per-shop": []}
    for at, (side, key, before, after) in enumerate(drawn(rng)):
        op = "d" if after is None else "c" if before is None else "u"
        value = {"op": op, "before": before, "after": after, "ts_ms": START + 1_000 * at}
        place = {"@topic": TOPICS[side], "@key": key, "@timestamp": START + 1_000 * at}
        lines.append(place | {"@value": value})
        was = joined(*(list(table.values()) for table in tables.values()), kind, foreign), per_shop(list(tables["left"].values()))
        tables[side].pop(key, None)
        tables[side] |= {} if after is None else {key: after}
        now = joined(*(list(table.values()) for table in tables.values()), kind, foreign), per_shop(list(tables["left"].values()))
        expected["joined"] += records(was[0], now[0], names)
        expected["per-shop"] += records(was[1], now[1], ["shop"])
    write_pipeline(folder, "changes", seed, text, dict.fromkeys(TOPICS.values(), 3), lines, expected)


if __name__ == "__main__":
    main(write)
