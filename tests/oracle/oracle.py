#!/usr/bin/env python3
"""An independent check of what a pipeline wrote: reads the input, recomputes the output, compares to the row.

Differences go to standard error, a summary as one JSON object to standard output. Exit code 0: the same; 1: different;
2: something could not be read.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import clickhouse
import orders
import semantics
import steps
from difference import Difference, frozen, multisets, orders_per_key, plain
from semantics import OrderAnalytics, Rules, Unreadable, column, milliseconds
from topics import Decoder, Log, Record, Registry, Trouble

TOPICS = {
    "orders": "business.orders.created",
    "products": "business.catalog.products",
    "customers": "business.users.customers",
    "revenue": "analytics.orders.revenue-per-minute",
    "high_value": "analytics.orders.high-value",
    "late": "analytics.orders.late-lines",
}
# Those of `steps`, and the second input, which only they read.
TOPICS_OF_STEPS = {"payments": "business.payments.completed"} | {name: f"analytics.orders.{name.replace('_', '-')}" for name in steps.READERS}


def expected(
    log: Log, decode: Decoder, topics: dict[str, str], rules: Rules, more: steps.Steps | None
) -> tuple[OrderAnalytics, dict[str, Any]]:
    """Folds the input topics, to their end, into what must come out; also into `more`."""
    categories: dict[str, str | None] = {}
    for record in log.read(topics["products"]):
        row, key = decode(record.value), (record.key or b"").decode()
        if row is None:
            categories.pop(key, None)
        else:
            categories[row["product_id"]] = row["category"]
    # No column of the output depends on customers; the table is read to tell a broken one from a broken pipeline.
    customers = {record.key for record in log.read(topics["customers"]) if decode(record.value) is not None}
    model = OrderAnalytics(categories, log.partitions(topics["orders"]), rules)
    undecodable = 0
    for record in log.read(topics["orders"]):
        try:
            event = decode(record.value)
            at, data = milliseconds(event["timestamp"]), event["data"]
            order = data | {"total": Decimal(data["total"])}
        except (Trouble, Unreadable, TypeError, KeyError, ValueError):
            # Bytes that are no order go to the dead-letter topic; they are no row, so they do not move the watermark.
            undecodable += 1
            continue
        before = model.watermark(record.partition)
        repeat = model.observe(record.partition, record.timestamp_ms, at, str(event["eventId"]), order)
        if more is not None:
            more.order(before, at, order, repeat)
    if more is not None:
        watermarks = steps.Watermarks(rules)
        for record in log.read(topics["payments"]):
            event = decode(record.value)
            at = milliseconds(event["timestamp"])
            more.payment(watermarks.pass_by(record.partition, record.timestamp_ms, at), at, event["data"])
    return model, {"products": len(categories), "customers": len(customers), "orders": model.observed, "repeats": model.repeats, "undecodable": undecodable}


def rows_of(log: Log, decode: Decoder, topic: str, read: Callable[[dict[str, Any]], Any]) -> tuple[Counter[Any], list[str]]:
    """The rows of an output topic, and what is wrong with those that are none."""
    rows: Counter[Any] = Counter()
    notes = []
    for record in log.read(topic, must_exist=False):
        try:
            rows[read(decode(record.value))] += 1
        except (Trouble, Unreadable, TypeError, KeyError, ValueError) as error:
            notes.append(f"{topic}/{record.partition}@{record.offset}: {error}")
    return rows, notes


def check_outputs(args: argparse.Namespace, log: Log, decode: Decoder, topics: dict[str, str], wanted: dict[str, Counter[Any]]) -> list[Difference]:
    """Compares everything that was written with what should have been."""
    readers = {"revenue": semantics.as_revenue, "high_value": semantics.as_high_value, "late": semantics.as_late} | steps.READERS
    differences = []
    for name, read in readers.items():
        if name in args.skip or name not in wanted:
            continue
        rows, notes = rows_of(log, decode, topics[name], read)
        found = multisets(f"topic {topics[name]}", wanted[name], rows)
        found.notes += notes
        differences.append(found)
    if args.clickhouse:
        positions = tuple(name for name in args.positions.split(",") if name)
        rows, notes = clickhouse.revenue(args.clickhouse, args.table, positions)
        found = multisets(f"ClickHouse {args.table}", wanted["revenue"], rows)
        found.notes += notes
        differences.append(found)
    return differences


def order_analytics(args: argparse.Namespace) -> int:
    """The command `order-analytics`."""
    known = TOPICS | (TOPICS_OF_STEPS if args.steps else {})
    topics = known | (json.loads(args.topics_json) if args.topics_json else {})
    if unknown := topics.keys() - known.keys():
        raise Trouble(f"--topics-json names {', '.join(sorted(unknown))}: known are {', '.join(known)}")
    if args.steps and not args.all_closed:
        raise Trouble("--steps needs --all-closed: what the steps hold back is not computed")
    rules = replace(
        Rules(), window=args.window, out_of_order=args.out_of_order, lateness=args.lateness, skew=args.skew, high_value=Decimal(args.high_value)
    )
    log, decode = Log(args.bootstrap, args.patience), Decoder(Registry(args.registry))
    more = steps.Steps() if args.steps else None
    model, inputs = expected(log, decode, topics, rules, more)
    if args.all_closed:
        closed = None
    elif args.closed_up_to == "watermarks":
        closed = model.closed_up_to()
    else:
        closed = milliseconds(int(args.closed_up_to) if args.closed_up_to.isdigit() else args.closed_up_to)
    wanted = {"revenue": model.revenue(closed), "high_value": model.high_value, "late": model.late} | (more.wanted() if more else {})
    deadline = time.monotonic() + args.wait
    while True:
        differences = check_outputs(args, log, decode, topics, wanted)
        if all(found.same for found in differences) or time.monotonic() >= deadline:
            break
        time.sleep(0.5)
    inputs |= {"lines": model.lines, "filtered": model.filtered, "late_lines": model.late.total(), "open_rows": model.open_windows(closed)}
    return report(differences, {"input": inputs, "closed_up_to": closed})


def compare_topics(args: argparse.Namespace) -> int:
    """The command `compare-topics`: the same rows, and per key in the same order."""
    sides = []
    for topic, bootstrap in ((args.a, args.bootstrap), (args.b, args.bootstrap_b or args.bootstrap)):
        log, decode = Log(bootstrap, args.patience), Decoder(Registry(args.registry), args.format)
        sides.append(keyed(log, decode, topic, args.key, set(args.ignore)))
    (keys, rows, notes), (other_keys, other_rows, other_notes) = sides
    found = multisets(f"{args.a} | {args.b}", rows, other_rows)
    found.notes += notes + other_notes
    if not args.any_order:
        found.notes += orders_per_key("order", keys, other_keys)
    return report([found], {"keys": len(keys)})


def keyed(log: Log, decode: Decoder, topic: str, key: str, ignore: set[str]) -> tuple[dict[Any, list[Any]], Counter[Any], list[str]]:
    """The rows of a topic by key, all of them counted, and keys that lie in more than one partition (and so have no order)."""
    by_key: dict[Any, list[Any]] = {}
    home: dict[Any, int] = {}
    notes = []
    rows: Counter[Any] = Counter()
    for record in log.read(topic):
        value = decode(record.value)
        if isinstance(value, dict):
            value = {name: inner for name, inner in value.items() if name not in ignore}
        at = record.key if key == "@key" else frozen(column(decode(record.value) or {}, (key,)))
        row = (record.key, frozen(value))
        rows[row] += 1
        by_key.setdefault(at, []).append(row)
        if home.setdefault(at, record.partition) != record.partition:
            notes.append(f"{topic}: key {at!r} lies in partitions {home[at]} and {record.partition}")
    return by_key, rows, notes


def dump(args: argparse.Namespace) -> int:
    """The command `dump`."""
    decode = Decoder(Registry(args.registry), args.format)
    for count, record in enumerate(Log(args.bootstrap, args.patience).read(args.topic), 1):
        line = {
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp_ms,
            "key": record.key,
            "headers": {name: value for name, value in record.headers},
            "value": value_or_trouble(decode, record),
        }
        print(json.dumps(line, default=plain, ensure_ascii=False))
        if count == args.limit:
            break
    return 0


def value_or_trouble(decode: Decoder, record: Record) -> Any:
    """A dump shows what cannot be decoded too."""
    try:
        return decode(record.value)
    except Trouble as error:
        return {"undecodable": str(error)}


def report(differences: list[Difference], more: dict[str, Any]) -> int:
    """Says what was found."""
    for found in differences:
        for line in found.lines():
            print(line, file=sys.stderr)
    same = all(found.same for found in differences)
    print(json.dumps({"same": same, "checks": {found.what: found.summary() for found in differences}} | more, default=plain))
    return 0 if same else 1


def orders_and_stock(args: argparse.Namespace) -> int:
    """Adds up the events of the pipelines inventory and order-fulfilment, once all orders have ended."""
    log = Log(args.bootstrap, args.patience)
    decode = Decoder(Registry(None))

    def events(*topics: str) -> Iterator[dict[str, Any]]:
        for topic in topics:
            yield from (decode(record.value) for record in log.read(topic))

    def checked() -> orders.Books:
        books = orders.Books()
        # What ended before is in the topics that led to it.
        books.shop(events("business.orders.placed", "business.orders.ended", "business.payments.events", "business.shipping.events"))
        books.moves(events("business.inventory.events"))
        books.levels({bucket(record): decode(record.value) for record in log.read("analytics.inventory.stock")})
        books.close()
        return books

    def bucket(record: Record) -> orders.Bucket:
        key = json.loads(record.key or b"{}")
        return key["sku"], int(key["bucket"])

    deadline = time.monotonic() + args.wait
    progress = orders.Progress()
    read: dict[str, dict[int, int]] = {"business.orders.placed": {}, "business.orders.ended": {}}
    while time.monotonic() < deadline:
        for topic, since in read.items():
            progress.add(decode(record.value) for record in log.read(topic, since=since))
        if not progress.open_orders():
            break
        time.sleep(2.0)
    while True:
        # Late answers lead to more events, after the order has ended.
        books = checked()
        if not books.wrong or time.monotonic() >= deadline:
            break
        time.sleep(2.0)
    for line in books.wrong[: orders.SHOWN]:
        print(line, file=sys.stderr)
    print(json.dumps(books.summary()))
    return 1 if books.wrong else 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        new = commands.add_parser(name, help=about, description=about)
        new.set_defaults(run=run)
        new.add_argument("--bootstrap", required=True, help="Kafka, host:port")
        new.add_argument("--registry", help="schema registry, needed when values are Avro")
        new.add_argument("--patience", type=float, default=60.0, help="seconds to wait for open transactions and silent partitions (default 60)")
        return new

    check = command("order-analytics", order_analytics, "Recompute the output of the pipeline order-analytics and compare")
    check.add_argument("--clickhouse", help="ClickHouse's HTTP address; its table is not checked when absent")
    check.add_argument("--table", default="analytics.revenue_per_minute")
    check.add_argument("--positions", default="_partition,_offset,_row", help="columns that name a row's place in the topic; empty: none")
    check.add_argument("--topics-json", help=f"other topic names, for example {{\"revenue\": \"t\"}}; known: {', '.join(TOPICS)}")
    check.add_argument("--skip", action="append", default=[], choices=["revenue", "high_value", "late"], help="do not check this output topic")
    check.add_argument("--closed-up-to", default="watermarks", metavar="watermarks|TIME", help="which windows must be out: as the final watermarks say (default), or those that end by TIME (ISO-8601 or ms)")
    check.add_argument("--all-closed", action="store_true", help="every window must be out: the run was ended with an idle advance")
    check.add_argument("--steps", action="store_true", help="check the steps of steps.py, too")
    check.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="give the output this long to become right")
    rules = Rules()
    for name, about in (("window", "length of a window"), ("out-of-order", "slack of the watermark"), ("lateness", "how long windows stay open"), ("skew", "how far ahead of its record an event may move time")):
        check.add_argument(f"--{name}", type=int, default=getattr(rules, name.replace("-", "_")), metavar="MS", help=f"{about} (default %(default)s)")
    check.add_argument("--high-value", default=str(rules.high_value), metavar="AMOUNT")

    ended = command("orders", orders_and_stock, "Add up the events of inventory and order-fulfilment: orders end once, stock is conserved")
    ended.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="give the orders this long to end")

    compare = command("compare-topics", compare_topics, "Compare two topics: the same rows, per key in the same order")
    compare.add_argument("a", metavar="A")
    compare.add_argument("b", metavar="B")
    compare.add_argument("--bootstrap-b", help="the cluster of B, when it is another")
    compare.add_argument("--key", default="@key", help="path of the key in the value, for example data.orderId; @key is the record's key (default)")
    compare.add_argument("--format", default="auto", choices=["auto", "avro", "json", "raw"])
    compare.add_argument("--ignore", action="append", default=[], metavar="FIELD", help="leave this field of the value out of the comparison")
    compare.add_argument("--any-order", action="store_true", help="compare the rows only")

    show = command("dump", dump, "Print a topic as JSON lines")
    show.add_argument("topic", metavar="TOPIC")
    show.add_argument("--format", default="auto", choices=["auto", "avro", "json", "raw"])
    show.add_argument("--limit", type=int, help="stop after so many")
    return parser


def main() -> int:
    args = arguments().parse_args()
    try:
        return args.run(args)
    except (Trouble, Unreadable) as error:
        print(f"oracle: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
