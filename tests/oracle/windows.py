#!/usr/bin/env python3
"""What windows of sessions and of a calendar, and results before the close mean, in plain Python, and cases for `hw test` on
generated records.

    windows.py sessions|calendar|every SEED FOLDER

writes a pipeline with one case into FOLDER: random records of three partitions, and what must come out by the rules below. The
standard library suffices, with the tz database of the system. The first seeds of `calendar` are days around a change of clocks.

The rules
---------
1. Before a record, the watermark of its partition is the greatest event time of the earlier records in that partition, minus
   `out_of_order`.
2. Sessions. A record is late when its time + `lateness` < the watermark before it. All others of a group, in order of time, are cut
   where the next one comes `gap` or more after the one before. A session is [time of its first, time of its last + gap).
3. Calendar. A boundary is the first minute at which clocks of the zone show the first day of a period plus `offset`, or more. A
   window lasts from one boundary to the next. A record is late when the end of its window + `lateness` <= the watermark before it.
4. A window is emitted, once, when its end + `lateness` <= the watermark of every partition.
5. Results before the close. A record counts from the first multiple of `every` after its time and after the watermark before it.
   At each multiple that the watermarks of all partitions reach before the window closes, a group with records that count from then on
   is emitted with all that count. Final results of a moment come last.
6. At equal times the position decides which record is first: partition, then offset.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from drawn import write_lines

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Record:
    """A record and its place; `at` in milliseconds since 1970."""

    partition: int
    offset: int
    group: str
    page: str
    ms: int
    at: int

    @property
    def place(self) -> tuple[int, int, int]:
        return (self.at, self.partition, self.offset)


@dataclass(frozen=True)
class Row:
    """A result, without its columns that every window has in common."""

    group: str
    start: int
    end: int
    records: tuple[Record, ...]
    final: bool | None = None


def watermarks(records: Iterable[Record], out_of_order: int) -> tuple[list[int | None], int | None]:
    """The watermark before each record, and that of the slowest partition in the end (of those that have records)."""
    newest: dict[int, int] = {}
    before = []
    for record in records:
        known = newest.get(record.partition)
        before.append(None if known is None else known - out_of_order)
        newest[record.partition] = record.at if known is None else max(known, record.at)
    return before, min(newest.values()) - out_of_order if newest else None


def sessions(records: list[Record], gap: int, out_of_order: int, lateness: int) -> tuple[list[Row], list[Record]]:
    """Rows and late records by the rules."""
    before, slowest = watermarks(records, out_of_order)
    late, groups = [], defaultdict(list)
    for record, watermark in zip(records, before):
        if watermark is not None and record.at + lateness < watermark:
            late.append(record)
        else:
            groups[record.group].append(record)
    rows = []
    for group, members in groups.items():
        session: list[Record] = []
        for record in sorted(members, key=lambda r: r.place) + [None]:
            if session and (record is None or record.at - session[-1].at >= gap):
                rows.append(Row(group, session[0].at, session[-1].at + gap, tuple(session)))
                session = []
            if record is not None:
                session.append(record)
    return emitted(rows, slowest, lateness), late


@dataclass(frozen=True)
class Calendar:
    """Windows of `count` days, weeks or months of a zone."""

    zone: str
    unit: str
    count: int
    offset: int

    def first_day(self, number: int) -> datetime:
        """The wall-clock time at which the period of this number begins."""
        if self.unit == "mo":
            year, month = divmod(number * self.count, 12)
            day = datetime(year, month + 1, 1)
        else:
            monday = {"w": 4, "d": 0}[self.unit]
            day = EPOCH + timedelta(days=number * self.count * {"w": 7, "d": 1}[self.unit] + monday)
        return day + timedelta(milliseconds=self.offset)

    def around(self, at: int) -> int:
        """The number of a period not far from a time."""
        day = at // DAY
        if self.unit == "mo":
            date = EPOCH + timedelta(days=day)
            return (date.year * 12 + date.month - 1) // self.count
        return day // (self.count * {"w": 7, "d": 1}[self.unit])

    def window(self, at: int) -> tuple[int, int]:
        """Start and end of the window that a time is in."""
        near = self.around(at)
        for number in range(near - 3, near + 4):
            start, end = boundary(self.zone, self.first_day(number)), boundary(self.zone, self.first_day(number + 1))
            if start <= at < end:
                return start, end
        raise AssertionError(f"{at} is in no window")


@lru_cache(maxsize=None)
def boundary(zone: str, wanted: datetime) -> int:
    """The first minute at which clocks of the zone show this time or more, by looking at them minute after minute."""
    clock = ZoneInfo(zone)
    instant = wanted.replace(tzinfo=timezone.utc) - timedelta(hours=26)
    while instant.astimezone(clock).replace(tzinfo=None) < wanted:
        instant += timedelta(minutes=1)
    return round(instant.timestamp() * 1000)


def calendar(records: list[Record], windows: Calendar, out_of_order: int, lateness: int) -> tuple[list[Row], list[Record]]:
    """Rows and late records by the rules."""
    before, slowest = watermarks(records, out_of_order)
    late, cells = [], defaultdict(list)
    for record, watermark in zip(records, before):
        start, end = windows.window(record.at)
        if watermark is not None and end + lateness <= watermark:
            late.append(record)
        else:
            cells[record.group, start, end].append(record)
    rows = [Row(group, start, end, tuple(sorted(members, key=lambda r: r.place))) for (group, start, end), members in cells.items()]
    return emitted(rows, slowest, lateness), late


def early(records: list[Record], size: int, every: int, out_of_order: int, lateness: int) -> tuple[list[Row], list[Record]]:
    """Rows and late records of tumbling windows with results before the close, by the rules."""
    before, slowest = watermarks(records, out_of_order)
    late, cells = [], defaultdict(list)
    for record, watermark in zip(records, before):
        end = record.at - record.at % size + size
        if watermark is not None and end + lateness <= watermark:
            late.append(record)
            continue
        newest = record.at if watermark is None else max(record.at, watermark)
        cells[record.group, end].append((newest - newest % every + every, record))
    rows = []
    for (group, end), members in cells.items():
        for moment in sorted({moment for moment, _ in members}) + [end + lateness]:
            final = moment >= end + lateness
            counted = sorted((record for counts, record in members if final or counts <= moment), key=lambda r: r.place)
            if slowest is not None and min(moment, end + lateness) <= slowest:
                rows.append((min(moment, end + lateness), Row(group, end - size, end, tuple(counted), final)))
            if final:
                break
    return [row for _, row in sorted(rows, key=lambda entry: (entry[0], entry[1].final, entry[1].end, entry[1].group))], late


def emitted(rows: list[Row], slowest: int | None, lateness: int) -> list[Row]:
    """The rows that are closed in the end, in the order in which they close."""
    closed = [row for row in rows if slowest is not None and row.end + lateness <= slowest]
    return sorted(closed, key=lambda row: (row.end, row.group, row.start))


def said(at: int) -> str:
    """A time as JSON has it."""
    return (EPOCH + timedelta(milliseconds=at)).isoformat(timespec="milliseconds") + "Z"


def result(row: Row) -> dict[str, Any]:
    """The columns of a result: those that the pipelines below compute."""
    slowest = max(row.records, key=lambda r: (r.ms, r.place))
    last = {} if row.final is None else {"window_final": row.final}
    return last | {
        "visitor": row.group,
        "window_start": said(row.start),
        "window_end": said(row.end),
        "views": len(row.records),
        "pages": len({record.page for record in row.records}),
        "ms": sum(record.ms for record in row.records),
        "entry": row.records[0].page,
        "exit": row.records[-1].page,
        "slowest": slowest.page,
    }


def value(record: Record) -> dict[str, Any]:
    return {"visitor": record.group, "page": record.page, "ms": record.ms, "at": said(record.at)}


PIPELINE = """\
apiVersion: headwater/v1
name: windows
sources:
  views:
    topic: business.web.views
    schema: { visitor: string, page: string, ms: long, at: timestamp }
    time: { field: at, out_of_order: OUT_OF_ORDER }
steps:
  window:
    from: views
    window:
      WINDOW
      by: [visitor]
      lateness: LATENESS
      compute: { views: count(*), pages: count(DISTINCT page), ms: sum(ms), entry: first(page), exit: last(page), slowest: "max_by(page, ms)" }
sinks:
  out: { from: window, topic: analytics.web.windows, key: visitor }
  late: { from: window.late, topic: analytics.web.late, key: visitor }
"""


def draw(source: random.Random, count: int, start: int, step: int, disorder: int) -> list[Record]:
    """Records of three partitions whose times grow by about `step`, in disorder."""
    offsets: dict[int, int] = defaultdict(int)
    records = []
    for number in range(count):
        partition = number % 3 if number < 3 or number >= count - 3 else source.randrange(3)
        at = start + number * step + source.randrange(-disorder, disorder + 1)
        group, page, ms = source.choice(["ann", "bob", "cyn"]), source.choice("abcd"), source.randrange(5)
        records.append(Record(partition, offsets[partition], group, page, ms, at - at % source.choice([1, SECOND, MINUTE])))
        offsets[partition] += 1
    return records


def write(folder: Path, window: str, out_of_order: int, lateness: int, records: list[Record], rows: list[Row], late: list[Record]) -> None:
    """A pipeline with one case."""
    case = folder / "cases" / "generated"
    case.mkdir(parents=True)
    text = PIPELINE.replace("OUT_OF_ORDER", f"{out_of_order}ms").replace("LATENESS", f"{lateness}ms").replace("WINDOW", window)
    (folder / "pipeline.yaml").write_text(text)
    (case / "why.txt").write_text("Generated records give what the oracle computes from them.\n")
    write_lines(case / "in.business.web.views.jsonl", ({"@partition": record.partition, "@value": value(record)} for record in records))
    write_lines(case / "out.analytics.web.windows.jsonl", map(result, rows))
    write_lines(case / "out.analytics.web.late.jsonl", map(value, late))


def of_sessions(source: random.Random, _: int, folder: Path) -> tuple[list[Row], list[Record]]:
    gap, out_of_order, lateness = (source.choice(choices) * SECOND for choices in ([15, 30, 50], [10, 40], [0, 15]))
    records = draw(source, 150, 1_772_359_200_000, 7 * SECOND, 45 * SECOND)
    rows, late = sessions(records, gap, out_of_order, lateness)
    write(folder, f"session: {{ gap: {gap}ms }}", out_of_order, lateness, records, rows, late)
    return rows, late


# Days that are not 24 hours long, or do not begin at midnight.
CHANGES = [
    ("Europe/Berlin", datetime(2026, 3, 29)),  # 23 hours
    ("Europe/Berlin", datetime(2026, 10, 25)),  # 25 hours
    ("Africa/Cairo", datetime(2024, 4, 26)),  # from 00:00 to 01:00: no midnight
    ("America/Havana", datetime(2018, 11, 4)),  # from 01:00 to 00:00: two midnights
    ("America/St_Johns", datetime(2010, 11, 7)),  # from 00:01 to 23:01: two days that are over twice
    ("Pacific/Apia", datetime(2011, 12, 30)),  # left out
    ("Australia/Lord_Howe", datetime(2026, 4, 5)),  # half an hour
    ("Asia/Kolkata", datetime(2026, 3, 1)),  # none
]


def of_a_calendar(source: random.Random, seed: int, folder: Path) -> tuple[list[Row], list[Record]]:
    zone, change = CHANGES[(seed - 1) % len(CHANGES)]
    unit, count, step = source.choice([("d", 1, 2 * HOUR), ("d", 2, 3 * HOUR), ("w", 1, 8 * HOUR), ("mo", 1, 24 * HOUR), ("mo", 3, 70 * HOUR)])
    offset = source.choice([0, 0, 6 * HOUR, 90 * MINUTE])
    if seed <= len(CHANGES):
        (unit, count, step), offset = ("d", 1, 2 * HOUR), 0
    windows = Calendar(zone, unit, count, offset)
    out_of_order, lateness = 2 * step, source.choice([0, step])
    start = round((change - EPOCH) / timedelta(milliseconds=1)) - 40 * step
    records = draw(source, 120, start, step, 4 * step)
    rows, late = calendar(records, windows, out_of_order, lateness)
    window = f"tumbling: {count}{unit}\n      zone: {zone}\n      offset: {windows.offset}ms"
    write(folder, window, out_of_order, lateness, records, rows, late)
    return rows, late


def of_early_results(source: random.Random, _: int, folder: Path) -> tuple[list[Row], list[Record]]:
    size, every, out_of_order, lateness = (source.choice(choices) * SECOND for choices in ([60, 90], [10, 25, 60], [10, 40], [0, 20]))
    records = draw(source, 120, 1_772_359_200_000, 5 * SECOND, 45 * SECOND)
    rows, late = early(records, size, every, out_of_order, lateness)
    window = f"tumbling: {size}ms\n      emit: {{ every: {every}ms }}"
    write(folder, window, out_of_order, lateness, records, rows, late)
    return rows, late


KINDS: dict[str, Callable[[random.Random, int, Path], tuple[list[Row], list[Record]]]] = {
    "sessions": of_sessions,
    "calendar": of_a_calendar,
    "every": of_early_results,
}


def main() -> None:
    kind, seed, folder = sys.argv[1:4]
    rows, late = KINDS[kind](random.Random(f"{kind} {seed}"), int(seed), Path(folder))
    print(json.dumps({"rows": len(rows), "late": len(late)}))


if __name__ == "__main__":
    main()
