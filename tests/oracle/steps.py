"""What the steps with state mean that the kill test adds to order-analytics, in plain Python: sessions of lines, orders without repeats,
orders with their payments.

The rules
---------
1. The watermark before a record is that of `semantics`, of the record's own partition. A record is late for a step when its event time +
   the step's `lateness` < the watermark before it. Every step sees valid orders only.
2. `bursts`: lines of orders that are no repeats of `semantics`, of products whose id ends with 7, by product. In order of time they are cut
   where the next one comes `GAP` or more after the one before. A session is [time of its first, time of its last + GAP).
3. `once`: the orders of one id, repeats among them, in order of time, form runs: a run begins with the first order that is in none, and
   has every order less than `WITHIN` after its first. One of a run goes on, the others are repeats.
4. `paid`: an order and a payment of one order id are a pair when the payment is at most `BEFORE` before and at most `AFTER` after the
   order. An order in time without a pair comes out alone.
5. Sources are silent for longer than `idle` in the end, so everything is out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, NamedTuple

from semantics import NEVER, Rules, column, milliseconds

GAP = 1_000
WITHIN = 300_000
REPEAT_LATENESS = 30_000
BEFORE = 1_000
AFTER = 5_000


class Burst(NamedTuple):
    """A row of the topic `bursts`."""

    product_id: str
    window_start: int
    window_end: int
    lines: int
    orders: int
    quantity: int


class Line(NamedTuple):
    """What identifies a late line."""

    order_id: str
    product_id: str
    quantity: int


class Pair(NamedTuple):
    """What identifies a row of the topic `paid`; in late rows one of the two is absent."""

    order_id: str | None
    payment_id: str | None


class Watermarks:
    """The watermark of each partition of a source."""

    def __init__(self, rules: Rules):
        self._rules = rules
        self._newest: dict[int, int] = {}

    def pass_by(self, partition: int, record_ms: int, event_ms: int) -> int:
        """Takes the next record of a partition; returns the watermark before it."""
        newest = self._newest.get(partition, NEVER)
        if event_ms - record_ms <= self._rules.skew:
            self._newest[partition] = max(newest, event_ms)
        return newest if newest == NEVER else newest - self._rules.out_of_order


class Steps:
    """The rules above as a fold over the input."""

    def __init__(self) -> None:
        self.late: dict[str, Counter[Any]] = {"late_lines_of_bursts": Counter(), "late_orders": Counter(), "late_pairs": Counter()}
        self._lines: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
        self._orders: dict[str, list[int]] = defaultdict(list)
        self._unpaid: list[tuple[str, int]] = []
        self._payments: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def order(self, before: int, at: int, order: dict[str, Any], repeat: bool = False) -> None:
        """Takes an order; `before`: the watermark of its partition before it; `repeat`: it is one by the rules of `semantics`."""
        if not order["total"] > 0 or order["currency"] is None:
            return
        order_id = str(order["orderId"])
        for item in [] if repeat else order["items"]:
            line = Line(order_id, item["productId"], item["quantity"])
            if not line.product_id.endswith("7"):
                continue
            if at < before:
                self.late["late_lines_of_bursts"][line] += 1
            else:
                self._lines[line.product_id].append((at, order_id, line.quantity))
        if at + REPEAT_LATENESS < before:
            self.late["late_orders"][order_id] += 1
        else:
            self._orders[order_id].append(at)
        if at < before:
            self.late["late_pairs"][Pair(order_id, None)] += 1
        else:
            self._unpaid.append((order_id, at))

    def payment(self, before: int, at: int, payment: dict[str, Any]) -> None:
        """Takes a payment."""
        order_id, payment_id = str(payment["orderId"]), str(payment["paymentId"])
        if at < before:
            self.late["late_pairs"][Pair(None, payment_id)] += 1
        else:
            self._payments[order_id].append((at, payment_id))

    def bursts(self) -> Counter[Burst]:
        rows: Counter[Burst] = Counter()
        for product, lines in self._lines.items():
            lines.sort()
            begin = 0
            for end in range(1, len(lines) + 1):
                if end == len(lines) or lines[end][0] - lines[end - 1][0] >= GAP:
                    of = lines[begin:end]
                    orders = {order_id for _, order_id, _ in of}
                    quantity = sum(quantity for _, _, quantity in of)
                    rows[Burst(product, of[0][0], of[-1][0] + GAP, len(of), len(orders), quantity)] += 1
                    begin = end
        return rows

    def once(self) -> tuple[Counter[str], Counter[str]]:
        """Orders that go on, and repeats."""
        once: Counter[str] = Counter()
        repeats: Counter[str] = Counter()
        for order_id, times in self._orders.items():
            first = None
            for at in sorted(times):
                if first is None or at - first >= WITHIN:
                    first = at
                    once[order_id] += 1
                else:
                    repeats[order_id] += 1
        return once, repeats

    def paid(self) -> Counter[Pair]:
        rows: Counter[Pair] = Counter()
        for order_id, at in self._unpaid:
            pairs = [payment_id for paid, payment_id in self._payments.get(order_id, []) if -BEFORE <= paid - at <= AFTER]
            rows.update(Pair(order_id, payment_id) for payment_id in pairs or [None])
        return rows

    def wanted(self) -> dict[str, Counter[Any]]:
        """What must be in each topic."""
        once, repeats = self.once()
        return {"bursts": self.bursts(), "once": once, "repeats": repeats, "paid": self.paid()} | self.late


def as_burst(row: dict[str, Any]) -> Burst:
    product, start, end, lines, orders, quantity = (column(row, (name,)) for name in Burst._fields)
    return Burst(product, milliseconds(start), milliseconds(end), int(lines), int(orders), int(quantity))


def as_line(row: dict[str, Any]) -> Line:
    return Line(*(column(row, (name,)) for name in Line._fields))


def as_order(row: dict[str, Any]) -> str:
    return str(column(row, ("order_id",)))


def as_pair(row: dict[str, Any]) -> Pair:
    return Pair(*(column(row, (name,)) for name in Pair._fields))


def as_late_pair(row: dict[str, Any]) -> Pair:
    return Pair(column(row, ("left_order_id",)), column(row, ("payment_id",)))


READERS = {
    "bursts": as_burst,
    "late_lines_of_bursts": as_line,
    "once": as_order,
    "repeats": as_order,
    "late_orders": as_order,
    "paid": as_pair,
    "late_pairs": as_late_pair,
}
