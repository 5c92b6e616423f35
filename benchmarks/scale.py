"""How judging grows with the run that is judged: with its steps, and with its parameters.

`python benchmarks/scale.py [--steps 20,200,1000] [--layers 2,8,32] [KEY=VALUE]...` trains the
reference twice for each number of steps (at the fewest layers), then for each number of layers (at
the fewest steps), and prints for each: the size of a Record, and the seconds that it takes to read
both, to judge them, and to write the HTML report, with its size. On a real model there are
thousands of steps and a thousand parameters: nothing may grow faster than they do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from harness.config.compose import load
from harness.record.reader import read_record
from harness.report.html import render
from harness.report.made import made_by
from harness.report.progress import ConsoleReporter
from harness.run import session

T = TypeVar("T")

COLUMNS = ("steps", "parameters", "Record MB", "read s", "judge s", "HTML s", "HTML MB")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` returns, and its wall seconds."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def size_of(folder: Path) -> float:
    """Megabytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def measure(steps: int, layers: int, overrides: list[str], console: Console) -> tuple[str, ...]:
    """Train twice, and judge; a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load(
            [
                "engines=[reference,reference]",
                "tolerance.noise_floor=table",
                "float64=never",
                "case.data.stride=1",
                f"case.steps={steps}",
                f"case.model.layers={layers}",
                f"workspace={folder}",
                *overrides,
            ]
        )
        reporter = ConsoleReporter(console)
        outcome = session.run(session.plan(settings, reporter), reporter)
        (pair,) = outcome.verdict.pairs
        places = [Path(place) for place in (pair.a_record, pair.b_record)]
        records, reading = timed(lambda: [read_record(place) for place in places])
        a, b = records
        judged, judging = timed(lambda: session.compare(a, b, settings.tolerance))
        html, made = Path(folder) / "report.html", made_by("parity", overrides)
        _, writing = timed(
            lambda: html.write_text(render(judged.verdict, dict(judged.records), made))
        )
        if judged.verdict.exit_code != 0:
            raise SystemExit(f"{steps} steps, {layers} layers: the reference is not like itself")
        size = html.stat().st_size / 1e6
        numbers = (size_of(places[0]), reading, judging, writing, size)
        return str(steps), str(len(a.parameters)), *(f"{number:.2f}" for number in numbers)


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", default="20,200,1000")
    parser.add_argument("--layers", default="2,8,32")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    steps, layers = (
        sorted(int(number) for number in words.split(","))
        for words in (options.steps, options.layers)
    )
    console, table = Console(), Table(*COLUMNS, box=None)
    for count, depth in [(s, layers[0]) for s in steps] + [(steps[0], n) for n in layers[1:]]:
        table.add_row(*measure(count, depth, options.overrides, console))
    console.print(table)


if __name__ == "__main__":
    main()
