"""Pipelines that are drawn from a seed, each with one case: what the scripts share that compute what an operator must give."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def write_lines(file: Path, values: Iterable[Any]) -> None:
    file.write_text("".join(json.dumps(value) + "\n" for value in values))


def write_pipeline(
    folder: Path,
    name: str,
    seed: int,
    text: str,
    partitions: dict[str, int],
    lines: list[dict[str, Any]],
    expected: dict[str, list[Any]],
    source: str = "in.jsonl",
) -> None:
    """A pipeline with the case `drawn`: the lines of its input, and the rows of each topic `analytics.shop.*` that has some."""
    case = folder / f"{name}-{seed}" / "cases" / "drawn"
    case.mkdir(parents=True)
    (case.parent.parent / "pipeline.yaml").write_text(text)
    (case.parent / "topics.yaml").write_text("".join(f"{topic}: {{ partitions: {count} }}\n" for topic, count in partitions.items()))
    (case / "why.txt").write_text(f"Drawn from seed {seed}, computed by {name}.py.\n")
    write_lines(case / source, lines)
    for topic, rows in expected.items():
        if rows:
            write_lines(case / f"out.analytics.shop.{topic}.jsonl", rows)


def main(write: Callable[[Path, int], None]) -> None:
    """`<script> FOLDER COUNT` writes the pipelines of the first seeds."""
    for seed in range(int(sys.argv[2])):
        write(Path(sys.argv[1]), seed)
