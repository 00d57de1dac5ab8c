"""What must be true of orders and stock, from the events alone. Independent of the product.

Stock: the events of a bucket (SKU and bucket) have the sequence 1, 2, 3, no part of its stock is ever negative, and after each event what was
received is available, reserved or shipped. Orders: each placed order ends once; a confirmed one has exactly what it ordered, and is paid and
dispatched, a cancelled one has nothing, and is neither.

A million orders have ten million events. What events say about orders is put into files, all about an order into one of them, and a file at a time is
added up: memory has the stock, and a small part of the orders.
"""

from __future__ import annotations

import marshal
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

SHOWN = 20
"""Most findings that are told."""

# What an event adds to received, available, reserved and shipped, per piece.
MOVES = {
    "inventory.received": (1, 1, 0, 0),
    "inventory.adjusted": (1, 1, 0, 0),
    "inventory.reserved": (0, -1, 1, 0),
    "inventory.confirmed": (0, 0, -1, 1),
    "inventory.returned": (0, 0, 1, -1),
    "inventory.released": (0, 1, -1, 0),
    "inventory.expired": (0, 1, -1, 0),
    "inventory.forgotten": (0, 0, 0, 0),
}
# What an answer of a service says of its effect: there, or not.
EFFECTS = {
    "payments.authorised": ("payment", True),
    "payments.voided": ("payment", False),
    "shipping.dispatched": ("shipment", True),
    "shipping.cancelled": ("shipment", False),
}

Bucket = tuple[str, int]
Fact = tuple[str, tuple[Any, ...]]


@dataclass
class Order:
    """An order, and what it has."""

    lines: dict[str, int] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)
    effects: dict[str, set[bool]] = field(default_factory=lambda: defaultdict(set))
    taken: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def add(self, what: str, values: list[Any]) -> None:
        """Takes in what an event says about it."""
        if what == "lines":
            self.lines = values[0]
        elif what == "end":
            self.ends.append(values[0])
        elif what == "effect":
            self.effects[values[0]].add(values[1])
        else:
            taken = self.taken[values[0]]
            taken[0] += values[1]
            taken[1] += values[2]

    def findings(self, name: str) -> Iterator[str]:
        """What is wrong with it."""
        if not self.lines:
            yield f"order {name} was never placed"
        if len(self.ends) != 1:
            yield f"order {name} has the ends {self.ends}"
            return
        confirmed = self.ends == ["orders.confirmed"]
        for sku, quantity in self.lines.items():
            if self.taken[sku] != ([0, quantity] if confirmed else [0, 0]):
                yield f"order {name} ({self.ends[0]}) of {quantity} {sku} has {self.taken[sku]} reserved and shipped"
        for kind in ("payment", "shipment"):
            said = self.effects[kind]
            # An effect that was taken back is no longer there, whichever answer came last.
            there = True in said and False not in said
            if there != confirmed:
                yield f"order {name} ({self.ends[0]}): its {kind} is {'' if there else 'not '}there"


class Parts:
    """Facts in files, all with the same name in the same one."""

    COUNT = 64
    TOGETHER = 500
    """Facts that are written at once."""

    def __init__(self) -> None:
        self._facts: list[list[Fact]] = [[] for _ in range(self.COUNT)]
        with ExitStack() as opened:
            self._files = [opened.enter_context(tempfile.TemporaryFile()) for _ in range(self.COUNT)]
            self._opened = opened.pop_all()

    def add(self, name: str, *said: Any) -> None:
        part = crc32(name.encode()) % self.COUNT
        self._facts[part].append((name, said))
        if len(self._facts[part]) >= self.TOGETHER:
            self._write(part)

    def _write(self, part: int) -> None:
        data = marshal.dumps(self._facts[part])
        self._files[part].write(len(data).to_bytes(4, "big") + data)
        self._facts[part] = []

    def each(self) -> Iterator[list[Fact]]:
        """The facts of each file, in the order in which they were added."""
        for part, file in enumerate(self._files):
            self._write(part)
            file.seek(0)
            facts: list[Fact] = []
            while size := file.read(4):
                facts += marshal.loads(file.read(int.from_bytes(size, "big")))
            yield facts

    def close(self) -> None:
        self._opened.close()


class Progress:
    """Which orders have not ended: names of orders, and nothing else, stay in memory."""

    def __init__(self) -> None:
        self._placed: set[int] = set()
        self._ended: set[int] = set()

    def add(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            placed = event["eventType"] == "orders.placed"
            (self._placed if placed else self._ended).add(hash(event["data"]["orderId"]))

    def open_orders(self) -> int:
        return len(self._placed - self._ended)


class Books:
    """Everything that the events say."""

    def __init__(self) -> None:
        self.stock: dict[Bucket, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        self.versions: dict[Bucket, int] = defaultdict(int)
        self.wrong: list[str] = []
        self.events = 0
        self._said = Parts()
        self._ids = Parts()
        self._orders = 0
        self._ends: Counter[str] = Counter()

    def moves(self, events: Iterable[dict[str, Any]]) -> None:
        """The events of the inventory, those of a bucket in their order."""
        for event in events:
            self.events += 1
            name, data = event["eventType"], event["data"]
            bucket = (data["sku"], int(data["bucket"]))
            self._ids.add(event["eventId"])
            self.versions[bucket] += 1
            if event["metadata"]["sequence"] != self.versions[bucket]:
                self.wrong.append(f"{bucket}: {name} has sequence {event['metadata']['sequence']}, not {self.versions[bucket]}")
            quantity = int(data.get("quantity") or 0)
            change = [each * quantity for each in MOVES[name]]
            stock = self.stock[bucket] = [old + new for old, new in zip(self.stock[bucket], change)]
            received, available, reserved, shipped = stock
            if min(available, reserved, shipped) < 0 or received != available + reserved + shipped:
                self.wrong.append(f"{bucket} after {name} of order {data.get('orderId')}: {stock}")
            if order := data.get("orderId"):
                self._said.add(order, "taken", data["sku"], change[2], change[3])

    def shop(self, events: Iterable[dict[str, Any]]) -> None:
        """Orders that were placed, ends of orders, and answers of services: any of them can be there twice."""
        for event in events:
            name, data = event["eventType"], event["data"]
            order = data.get("orderId")
            if name == "orders.placed":
                self._said.add(order, "lines", {item["sku"]: int(item["quantity"]) for item in data["items"]})
            elif name in ("orders.confirmed", "orders.cancelled"):
                self._said.add(order, "end", name)
            elif name in EFFECTS:
                self._said.add(order, "effect", *EFFECTS[name])

    def levels(self, rows: dict[Bucket, dict[str, Any]]) -> None:
        """The state that the aggregate shows is the sum of its events."""
        for bucket, (received, available, reserved, shipped) in self.stock.items():
            expected = (received, available + reserved, reserved, shipped, self.versions[bucket])
            row = rows.get(bucket, {})
            found = tuple(row.get(name) for name in ("received", "on_hand", "reserved", "shipped", "version"))
            if found != expected:
                self.wrong.append(f"{bucket}: its state is {found}, and its events say {expected}")
        for bucket in rows.keys() - self.stock.keys():
            self.wrong.append(f"{bucket} has a state, and no events")

    def close(self) -> None:
        """Everything must have ended."""
        for facts in self._said.each():
            orders: dict[str, Order] = defaultdict(Order)
            for name, (what, *values) in facts:
                orders[name].add(what, values)
            for name, order in orders.items():
                self._orders += 1
                self._ends.update(order.ends[:1])
                self.wrong.extend(order.findings(name))
        for names in self._ids.each():
            seen = Counter(name for name, _ in names)
            self.wrong.extend(f"the event {name} is there twice" for name, count in seen.items() if count > 1)
        self._said.close()
        self._ids.close()

    def summary(self) -> dict[str, Any]:
        return {
            "same": not self.wrong,
            "orders": self._orders,
            "confirmed": self._ends["orders.confirmed"],
            "cancelled": self._ends["orders.cancelled"],
            "events": self.events,
            "buckets": len(self.stock),
            "wrong": len(self.wrong),
        }
