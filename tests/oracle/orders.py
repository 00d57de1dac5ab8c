"""What must be true of orders and stock, from the events alone. Independent of the product.

Stock: the events of a bucket (SKU and bucket) have the sequence 1, 2, 3, no part of its stock is ever negative, and after each event what was
received is available, reserved or shipped. Orders: each placed order ends once; a confirmed one has exactly what it ordered, and is paid and
dispatched, a cancelled one has nothing, and is neither.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class Order:
    """An order, and what it has."""

    lines: dict[str, int] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)
    effects: dict[str, set[bool]] = field(default_factory=lambda: defaultdict(set))
    taken: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))


class Books:
    """Everything that the events say."""

    def __init__(self) -> None:
        self.stock: dict[Bucket, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        self.versions: dict[Bucket, int] = defaultdict(int)
        self.orders: dict[str, Order] = defaultdict(Order)
        self.wrong: list[str] = []
        self.events = 0
        self._ids: set[str] = set()

    def moves(self, events: Iterable[dict[str, Any]]) -> None:
        """The events of the inventory, those of a bucket in their order."""
        for event in events:
            self.events += 1
            name, data = event["eventType"], event["data"]
            bucket = (data["sku"], int(data["bucket"]))
            if event["eventId"] in self._ids:
                self.wrong.append(f"the event {event['eventId']} is there twice")
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
                taken = self.orders[order].taken[data["sku"]]
                taken[0] += change[2]
                taken[1] += change[3]

    def shop(self, events: Iterable[dict[str, Any]]) -> None:
        """Orders that were placed, ends of orders, and answers of services: any of them can be there twice."""
        for event in events:
            name, data = event["eventType"], event["data"]
            order = data.get("orderId")
            if name == "orders.placed":
                self.orders[order].lines = {item["sku"]: int(item["quantity"]) for item in data["items"]}
            elif name in ("orders.confirmed", "orders.cancelled"):
                self.orders[order].ends.append(name)
            elif name in EFFECTS:
                kind, there = EFFECTS[name]
                self.orders[order].effects[kind].add(there)

    def open_orders(self) -> int:
        """Orders that have not ended."""
        return sum(not order.ends for order in self.orders.values())

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
        for name, order in self.orders.items():
            if not order.lines:
                self.wrong.append(f"order {name} was never placed")
            if len(order.ends) != 1:
                self.wrong.append(f"order {name} has the ends {order.ends}")
                continue
            confirmed = order.ends == ["orders.confirmed"]
            for sku, quantity in order.lines.items():
                if order.taken[sku] != ([0, quantity] if confirmed else [0, 0]):
                    self.wrong.append(f"order {name} ({order.ends[0]}) of {quantity} {sku} has {order.taken[sku]} reserved and shipped")
            for kind in ("payment", "shipment"):
                said = order.effects[kind]
                # An effect that was taken back is no longer there, whichever answer came last.
                there = True in said and False not in said
                if there != confirmed:
                    self.wrong.append(f"order {name} ({order.ends[0]}): its {kind} is {'' if there else 'not '}there")

    def summary(self) -> dict[str, Any]:
        ends = [order.ends[0] for order in self.orders.values() if order.ends]
        return {
            "same": not self.wrong,
            "orders": len(self.orders),
            "confirmed": ends.count("orders.confirmed"),
            "cancelled": ends.count("orders.cancelled"),
            "events": self.events,
            "buckets": len(self.stock),
            "wrong": len(self.wrong),
        }
