#!/usr/bin/env python3
"""Captures what `hw` prints as SVG, with its colours. Needs the package `rich` and a built `hw`.

    python3 docs/screens/capture.py target/release/hw
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from rich.console import Console
from rich.text import Text

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "docs" / "screens"


def svg(name: str, title: str, output: str, width: int) -> None:
    console = Console(record=True, width=width, file=open(os.devnull, "w"), force_terminal=True)
    console.print(Text.from_ansi(output.rstrip("\n")))
    text = console.export_svg(title=title)
    text = re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.S)
    text = text.replace("Fira Code", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono'")
    # Some viewers drop blanks at the beginning of a text.
    text = text.replace("<svg ", '<svg xml:space="preserve" ', 1)
    (OUT / f"{name}.svg").write_text(text)


def run(hw: str, arguments: list[str], folder: pathlib.Path) -> str:
    environment = {**os.environ, "CLICOLOR_FORCE": "1"}
    done = subprocess.run([hw, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def main() -> None:
    hw = str(pathlib.Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        for name in ["pipelines", "schemas"]:
            shutil.copytree(ROOT / name, place / name)
        pipeline = place / "pipelines/order-analytics/pipeline.yaml"
        right = pipeline.read_text()
        wrong = right.replace("data.total > 0", "data.totl > 0").replace("lateness: 2m", "lateness: 2 minutes")
        wrong = wrong.replace("add: [category]", "add: [categroy]").replace("fanout:\n", "fanuot:\n")
        pipeline.write_text(wrong)
        path = "pipelines/order-analytics/pipeline.yaml"
        svg("lint", f"hw lint {path}", run(hw, ["lint", path], place), 84)
        pipeline.write_text(right)
        explained = run(hw, ["explain", path], place).splitlines()
        start = next(n for n, line in enumerate(explained) if "stage 2" in line)
        svg("explain", f"hw explain {path}", "\n".join(explained[start : start + 42]), 84)
        # A wrong expectation stands in for a defect: both are reported alike.
        case = place / "pipelines/order-analytics/cases/revenue_per_minute/table.analytics.revenue_per_minute.jsonl"
        case.write_text(case.read_text().replace('"orders":2', '"orders":3', 1))
        svg("test", "hw test pipelines/*/pipeline.yaml", run(hw, ["test", *sorted(str(p.relative_to(place)) for p in place.glob("pipelines/*/pipeline.yaml"))], place), 120)
        (OUT / "graph.svg").write_text(run(hw, ["graph", path], place))


if __name__ == "__main__":
    main()
