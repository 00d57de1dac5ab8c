"""Comparing what should be with what is: multisets of rows, and the order of the rows of one key. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

SHOWN = 10
"""How many differences are shown in each direction."""


@dataclass
class Difference:
    """Rows on one side only, with how many more times they are there."""

    what: str
    expected: int
    actual: int
    missing: Counter[Any] = field(default_factory=Counter)
    unexpected: Counter[Any] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        return not (self.missing or self.unexpected or self.notes)

    def summary(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "expected": self.expected,
            "actual": self.actual,
            "missing": sum(self.missing.values()),
            "unexpected": sum(self.unexpected.values()),
            "notes": len(self.notes),
        }

    def lines(self) -> Iterable[str]:
        """The difference for people."""
        if self.same:
            yield f"{self.what}: {self.actual} rows, as expected"
            return
        yield f"{self.what}: {self.expected} rows expected, {self.actual} found"
        yield from (f"  ! {note}" for note in self.notes[:SHOWN])
        for sign, name, rows in (("-", "missing", self.missing), ("+", "unexpected", self.unexpected)):
            shown = sorted(rows.items(), key=lambda entry: repr(entry[0]))[:SHOWN]
            for row, times in shown:
                yield f"  {sign} {show(row)}" + (f"   ({times} times)" if times > 1 else "")
            left = sum(rows.values()) - sum(times for _, times in shown)
            if left:
                yield f"  {sign} ... and {left} more {name}"


def multisets(what: str, expected: Counter[Any], actual: Counter[Any]) -> Difference:
    """Rows that are there too rarely or too often."""
    return Difference(what, expected.total(), actual.total(), expected - actual, actual - expected)


def orders_per_key(what: str, expected: dict[Hashable, list[Any]], actual: dict[Hashable, list[Any]]) -> list[str]:
    """Keys whose rows are the same but in another order. Keys whose rows differ are the business of `multisets`."""
    notes = []
    for key, rows in expected.items():
        others = actual.get(key, [])
        if rows != others and Counter(rows) == Counter(others):
            at = next(i for i, (row, other) in enumerate(zip(rows, others)) if row != other)
            notes.append(f"{what}: key {show(key)}: order differs from row {at} of {len(rows)}: {show(rows[at])} | {show(others[at])}")
    return notes


def frozen(value: Any) -> Any:
    """A decoded value as something that can be counted: hashable, and equal exactly when the values are."""
    if isinstance(value, dict):
        return tuple(sorted((name, frozen(inner)) for name, inner in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(frozen(inner) for inner in value)
    # True == 1 and Decimal(1) == 1 in Python; the type keeps them apart where it matters.
    return ("bool", value) if isinstance(value, bool) else value


def show(row: Any) -> str:
    """A row as JSON, named tuples by their names."""
    if hasattr(row, "_asdict"):
        row = row._asdict()
    return json.dumps(row, default=plain, ensure_ascii=False)


def plain(value: Any) -> Any:
    """What JSON does not know."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return repr(value)
