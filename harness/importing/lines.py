"""Reads what trainers print of each step: transformers' Trainer, and torchprime."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.importing.numbers import QUANTITIES, LoggedSource, Point, RunFacts, rounding

LONGEST_LINE = 65_536
"""Bytes of a line that are read; no line of a step is longer."""

_TRAINER = re.compile(r"\{'loss': [^{}]*\}")
_ENTRY = re.compile(r"'(\w+)': '?([^,'}]+)'?")
_TORCHPRIME = re.compile(
    r"(?:^\[(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+)\])?.*?"
    r"Epoch: \S+ step: (?P<step>\d+), loss: (?P<loss>\S+), "
    r"(?:grad_norm: (?P<gradient_norm>\S+), )?(?:lr: (?P<learning_rate>\S+), )?"
    r"trace time: (?P<tracing>\S+) ms"
)
_NAMES = {"loss": "loss", "learning_rate": "learning_rate", "grad_norm": "gradient_norm"}


@dataclass(frozen=True)
class _Line:
    """One line of a step, as printed."""

    printed: Mapping[str, str]
    step: int | None = None
    at: float | None = None
    tracing: float | None = None


def read_lines(path: Path) -> LoggedSource | None:
    """The steps in the log of a trainer; None where no line is one of those that are known."""
    for engine, parse in PARSERS.items():
        lines = [found for line in _lines(path) for found in parse(line)]
        if lines:
            return _source(engine, path, lines)
    return None


def _lines(path: Path) -> Iterator[str]:
    """Lines of a log. What a progress bar overwrote counts as a line of its own."""
    with path.open("rb") as stream:
        while line := stream.readline(LONGEST_LINE):
            yield from line.decode(errors="replace").replace("\r", "\n").splitlines()


def _trainer(line: str) -> Iterator[_Line]:
    for found in _TRAINER.findall(line):
        printed = dict(_ENTRY.findall(found))
        yield _Line({_NAMES[key]: v.strip() for key, v in printed.items() if key in _NAMES})


def _torchprime(line: str) -> Iterator[_Line]:
    if found := _TORCHPRIME.search(line):
        at = found["at"] and datetime.strptime(found["at"], "%Y-%m-%d %H:%M:%S,%f")
        yield _Line(
            {name: found[name] for name in QUANTITIES if found[name]},
            int(found["step"]),
            at.replace(tzinfo=UTC).timestamp() if at else None,
            float(found["tracing"]) / 1000,
        )


PARSERS: dict[str, Callable[[str], Iterator[_Line]]] = {"hf": _trainer, "torchprime": _torchprime}
"""By engine: what a line of a log says of steps."""


def _source(engine: str, path: Path, lines: list[_Line]) -> LoggedSource:
    notes = []
    if lines[0].step is None:
        notes.append(
            f"{path.name}: its lines have no step numbers: they are taken for steps 0 to "
            f"{len(lines) - 1}, one after the other"
        )
    points: dict[int, Point] = {}
    again = 0
    for index, line in enumerate(lines):
        step = index if line.step is None else line.step
        again += step in points
        numbers = {name: float(text) for name, text in line.printed.items()}
        points[step] = Point(step, at=line.at, tracing=line.tracing, **numbers)
    if again:
        notes.append(f"{path.name}: {again} steps are there twice: the last of each is read")
    printed = {
        name: [line.printed[name] for line in lines if name in line.printed] for name in QUANTITIES
    }
    return LoggedSource(
        f"{len(points)} log lines of {engine} in {path}",
        tuple(points[step] for step in sorted(points)),
        rounding={name: rounding(texts) for name, texts in printed.items() if texts},
        facts=RunFacts(engine=engine),
        notes=tuple(notes),
    )
