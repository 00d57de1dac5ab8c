"""Reading a table through ClickHouse's HTTP interface."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from typing import Any

from semantics import Revenue, as_revenue
from topics import Trouble

PATIENCE = 120.0


def query(url: str, sql: str) -> list[dict[str, Any]]:
    """The rows of a query."""
    request = urllib.request.Request(url, data=f"{sql} FORMAT JSONEachRow".encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return [json.loads(line) for line in answer.read().splitlines() if line]
    except urllib.error.HTTPError as error:
        raise Trouble(f"ClickHouse at {url}: {error.read(500).decode(errors='replace')}") from error
    except (urllib.error.URLError, ValueError) as error:
        raise Trouble(f"ClickHouse at {url}: {error}") from error


def revenue(url: str, table: str, positions: tuple[str, ...]) -> tuple[Counter[Revenue], list[str]]:
    """The table's rows, and what is wrong with their positions: no position of the topic may be there twice."""

    rows: Counter[Revenue] = Counter()
    # Text keeps decimals exact on the way through JSON, and milliseconds do not depend on anybody's time zone. The names with an
    # underscore keep an alias from hiding the column that it is made of.
    columns = "product_id, category, orders, quantity, toString(revenue) AS revenue_"
    for name in ("window_start", "window_end"):
        columns += f", toUnixTimestamp64Milli(toDateTime64({name}, 3, 'UTC')) AS {name}_"
    for row in query(url, f"SELECT {columns} FROM {table}"):
        row |= {"window_start": int(row["window_start_"]), "window_end": int(row["window_end_"]), "revenue": row["revenue_"]}
        rows[as_revenue(row)] += 1
    notes = []
    if positions:
        [counts] = query(url, f"SELECT count() AS rows, uniqExact({', '.join(positions)}) AS places FROM {table}")
        if int(counts["rows"]) != int(counts["places"]):
            notes.append(f"{counts['rows']} rows but {counts['places']} distinct positions ({', '.join(positions)})")
    return rows, notes
