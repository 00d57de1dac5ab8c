"""What the pipeline order-analytics means, in plain Python.

This module is the whole truth of the oracle: no Kafka, no ClickHouse, no product code. Feed it the input in the order of each
partition's offsets (the interleaving of partitions does not matter) and it says which rows must come out.

The rules
---------
1. Every decodable record of the orders topic is observed in offset order. Before a record, the watermark of its partition is the
   greatest event time of the earlier records in that partition, minus `out_of_order`. A record whose event time lies more than
   `skew` after its Kafka timestamp does not move the watermark: one wrong clock must not close everybody's windows.
2. An order is a repeat, and comes out nowhere, when an order of its customer and its `eventId` went on before whose event time is less
   than `within` away. One whose event time + `remember` < the watermark before it is not compared, and goes on. Repeats move the
   watermark like others.
3. An order is valid when total > 0 and it has a currency. Others are filtered; they still move the watermark, because time is
   observed at the source, before any step.
4. A valid order with total > `high_value` is copied to the high-value topic.
5. Each item of a valid order is a line. Its category comes from the product table; a product that the table does not have keeps its
   line, with category null. (A product never changes its category, so it does not matter as of when the table is read.)
6. A line falls into the tumbling window [start, start + `window`) of its event time, start being a multiple of `window` since 1970.
   It is late, and goes to the late topic instead, when window end + `lateness` <= the watermark before its record. So lateness
   depends on the prefix of its own partition only.
7. Per (product_id, category, window): orders = number of distinct order ids, quantity = sum of quantity,
   revenue = sum of quantity * unitPrice, exact.
8. A window is emitted, once, when window end + `lateness` <= the watermark of every source partition. A partition without a single
   record therefore holds everything back, unless the run was ended with an idle advance (then: all windows).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

NEVER = -(1 << 62)
"""The watermark of a partition in which nothing was observed."""


@dataclass(frozen=True)
class Rules:
    """The pipeline's settings; times in milliseconds."""

    window: int = 60_000
    out_of_order: int = 5_000
    lateness: int = 120_000
    skew: int = 300_000
    within: int = 3_600_000
    remember: int = 3_600_000
    high_value: Decimal = Decimal(1000)


class Revenue(NamedTuple):
    """A row of analytics.orders.revenue-per-minute and of the ClickHouse table."""

    product_id: str
    category: str | None
    window_start: int
    window_end: int
    orders: int
    quantity: int
    revenue: Decimal


class HighValue(NamedTuple):
    """What identifies a row of analytics.orders.high-value."""

    order_id: str
    total: Decimal


class LateLine(NamedTuple):
    """What identifies a row of analytics.orders.late-lines."""

    order_id: str
    product_id: str
    quantity: int


@dataclass
class _Cell:
    orders: set[str] = field(default_factory=set)
    quantity: int = 0
    revenue: Decimal = Decimal(0)


class OrderAnalytics:
    """The rules above as a fold over the input."""

    def __init__(self, categories: dict[str, str | None], partitions: int, rules: Rules = Rules()):
        self.rules = rules
        self.categories = categories
        self.high_value: Counter[HighValue] = Counter()
        self.late: Counter[LateLine] = Counter()
        self.observed = 0
        self.repeats = 0
        self.filtered = 0
        self.lines = 0
        self._passed: dict[tuple[str, str], list[int]] = {}
        self._newest = dict.fromkeys(range(partitions), NEVER)
        self._cells: dict[tuple[str, str | None, int], _Cell] = {}

    def watermark(self, partition: int) -> int:
        """The watermark of a partition after all that was observed there."""
        newest = self._newest[partition]
        return newest if newest == NEVER else newest - self.rules.out_of_order

    def is_repeat(self, before: int, event_ms: int, event_id: str, order: dict[str, Any]) -> bool:
        """Whether the order went on before; it does now if not. `before`: the watermark before it."""
        if event_ms + self.rules.remember < before:
            return False
        passed = self._passed.setdefault((order["customerId"], event_id), [])
        if any(abs(event_ms - at) < self.rules.within for at in passed):
            return True
        passed.append(event_ms)
        return False

    def observe(self, partition: int, record_ms: int, event_ms: int, event_id: str, order: dict[str, Any]) -> bool:
        """Takes the next record of a partition: its Kafka timestamp, its event time, its id and the envelope's data. Whether it is a repeat."""
        before = self.watermark(partition)
        if event_ms - record_ms <= self.rules.skew:
            self._newest[partition] = max(self._newest[partition], event_ms)
        self.observed += 1
        if self.is_repeat(before, event_ms, event_id, order):
            self.repeats += 1
            return True
        if not order["total"] > 0 or order["currency"] is None:
            self.filtered += 1
            return False
        if order["total"] > self.rules.high_value:
            self.high_value[HighValue(str(order["orderId"]), order["total"])] += 1
        start = event_ms - event_ms % self.rules.window
        late = start + self.rules.window + self.rules.lateness <= before
        for item in order["items"]:
            self.lines += 1
            if late:
                self.late[LateLine(str(order["orderId"]), item["productId"], item["quantity"])] += 1
                continue
            key = (item["productId"], self.categories.get(item["productId"]), start)
            cell = self._cells.setdefault(key, _Cell())
            cell.orders.add(str(order["orderId"]))
            cell.quantity += item["quantity"]
            cell.revenue += item["quantity"] * item["unitPrice"]
        return False

    def closed_up_to(self) -> int:
        """Windows that end at or before this moment are closed by the watermarks alone."""
        slowest = min((self.watermark(partition) for partition in self._newest), default=NEVER)
        return slowest if slowest == NEVER else slowest - self.rules.lateness

    def revenue(self, closed_up_to: int | None) -> Counter[Revenue]:
        """The rows of the windows that end at or before `closed_up_to`; of all windows, when it is None."""
        rows: Counter[Revenue] = Counter()
        for (product, category, start), cell in self._cells.items():
            end = start + self.rules.window
            if closed_up_to is None or end <= closed_up_to:
                rows[Revenue(product, category, start, end, len(cell.orders), cell.quantity, cell.revenue)] += 1
        return rows

    def open_windows(self, closed_up_to: int | None) -> int:
        """How many (product, category, window) rows are not expected yet."""
        return len(self._cells) - sum(self.revenue(closed_up_to).values())


# Reading the pipeline's output back into the rows above. A column is looked up under each of these paths, so that a pipeline may
# copy the envelope as it is or project it; adapt here when a pipeline names its columns otherwise.
ORDER_ID = ("order_id", "orderId", "data.orderId")
TOTAL = ("total", "data.total")
PRODUCT_ID = ("product_id", "productId", "item.productId")
QUANTITY = ("quantity", "item.quantity")


class Unreadable(Exception):
    """An output row lacks what every such row must have."""


def column(row: dict[str, Any], paths: tuple[str, ...]) -> Any:
    """The first of these paths that the row has."""
    for path in paths:
        value: Any = row
        for name in path.split("."):
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
        else:
            return value
    raise Unreadable(f"no column {' or '.join(paths)} in {row}")


def decimal(value: Any) -> Decimal:
    """An exact number. A float is no such thing, and is shown as the row that it is."""
    if isinstance(value, float):
        raise Unreadable(f"{value!r} is a float where a decimal is expected")
    return Decimal(value)


def as_revenue(row: dict[str, Any]) -> Revenue:
    """An output row of the revenue topic or table."""
    names = ("product_id", "category", "window_start", "window_end", "orders", "quantity", "revenue")
    product, category, start, end, orders, quantity, revenue = (column(row, (name,)) for name in names)
    return Revenue(product, category, milliseconds(start), milliseconds(end), int(orders), int(quantity), decimal(revenue))


def as_high_value(row: dict[str, Any]) -> HighValue:
    """An output row of the high-value topic."""
    return HighValue(str(column(row, ORDER_ID)), decimal(column(row, TOTAL)))


def as_late(row: dict[str, Any]) -> LateLine:
    """An output row of the late topic."""
    return LateLine(str(column(row, ORDER_ID)), str(column(row, PRODUCT_ID)), int(column(row, QUANTITY)))


def milliseconds(value: Any) -> int:
    """A time as milliseconds since 1970: from an integer, an aware datetime, or ISO-8601 text."""
    from datetime import datetime, timedelta, timezone

    if isinstance(value, int):
        return value
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if value.tzinfo is None:
        raise Unreadable(f"the time {value} has no zone")
    return (value - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(milliseconds=1)
