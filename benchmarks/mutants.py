"""One-line mutants of the ladder, and whether its unit tests find each.

    python benchmarks/mutants.py [--results FILE] [--number N] [--seed S] [--seconds T]
    python benchmarks/mutants.py --results FILE --summary

A mutant changes one operator, constant or boolean of one line in `harness/ladder/`, in a copy of
this checkout. First the tests are run that call its function, the module's own before others, and
where none fails all of `tests/unit/ladder`: so a survivor has survived everything. Each mutant is a
fork of one process that has imported what the tests need from elsewhere. A copy without a mutant
goes first: it has to pass, and tells which tests execute which line.

FILE keeps one line of JSON for each mutant that was tried, which the next call does not try again.
What no test finds is printed with its line: it is equivalent, or a test is missing.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
LADDER = "harness/ladder"
TESTS = "tests/unit/ladder"
TIME_LIMIT = 240.0
"""Seconds for the tests of one mutant: the whole room takes 30. One that hangs is found."""
OWN = ("harness", "tests", "conftest", "builders", "test_", "golden")
"""Beginnings of the modules' names that a fork imports by itself: a mutant is among them."""

OPTIONS = ("-q", "-p", "no:cacheprovider", "-W", "ignore:Module already imported")
"""Of pytest, whose plugins are imported already."""

CHANGES = (
    (r" < ", " <= "), (r" <= ", " < "), (r" > ", " >= "), (r" >= ", " > "), (r" == ", " != "),
    (r" != ", " == "), (r" and ", " or "), (r" or ", " and "), (r" is None", " is not None"),
    (r" is not None", " is None"), (r" not in ", " in "), (r"\bnot ", ""), (r" \+ ", " - "),
    (r" - ", " + "), (r" \* ", " / "), (r"\bmin\(", "max("), (r"\bmax\(", "min("),
    (r"\ball\(", "any("), (r"\bany\(", "all("), (r"\b0\b", "1"), (r"\b1\b", "2"),
    (r"\bTrue\b", "False"), (r"\bFalse\b", "True"), (r"\[0\]", "[-1]"),
)  # fmt: skip
"""Patterns, and what takes their place."""


@dataclass(frozen=True)
class Mutant:
    """One line of a file, its number from 1, and what takes its place."""

    file: str
    number: int
    line: str


def mutants() -> Iterator[Mutant]:
    """Every mutant of the ladder, file by file."""
    for path in sorted((ROOT / LADDER).rglob("*.py")):
        text = path.read_text()
        skipped = _texts(text)
        for number, line in enumerate(text.splitlines(), 1):
            if number in skipped or line.lstrip().startswith(("#", "from ", "import ", "@")):
                continue
            for pattern, replacement in CHANGES:
                for match in re.finditer(pattern, line):
                    if line[: match.start()].count('"') % 2 == 0:  # not within a text
                        other = line[: match.start()] + replacement + line[match.end() :]
                        yield Mutant(str(path.relative_to(ROOT)), number, other)


def _texts(source: str) -> set[int]:
    """Lines of docstrings, and of other texts of several lines."""
    tree = ast.parse(source)
    texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    documentation = {
        id(n.value)
        for n in ast.walk(tree)
        if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
    }
    spans = [(n, n.lineno, n.end_lineno or n.lineno) for n in texts]
    return {
        number
        for node, first, last in spans
        if first != last or id(node) in documentation
        for number in range(first, last + 1)
    }


class Executed:
    """A pytest plugin: which tests call which functions of the ladder of one copy."""

    def __init__(self, copy: Path) -> None:
        self._ladder, self._copy = f"{copy / LADDER}{os.sep}", copy
        self._called: dict[CodeType, set[str]] = defaultdict(set)
        self._now = ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Another test begins."""
        self._now = nodeid
        sys.setprofile(self._call)

    def pytest_runtest_logfinish(self) -> None:
        """It has ended, its fixtures included."""
        sys.setprofile(None)

    def _call(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(self._ladder):
            self._called[frame.f_code].add(self._now)

    def tests(self) -> dict[tuple[str, int], set[str]]:
        """By file and line number, the tests that call a function which the line is of."""
        found: dict[tuple[str, int], set[str]] = defaultdict(set)
        for code, tests in self._called.items():
            file = os.path.relpath(code.co_filename, self._copy)
            for number in {line for _, _, line in code.co_lines() if line is not None}:
                found[file, number] |= tests
        return dict(found)


class Only:
    """A pytest plugin: of what was collected, these tests."""

    def __init__(self, tests: set[str]) -> None:
        self._tests = tests

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out the others."""
        items[:] = [item for item in items if item.nodeid in self._tests]


def run(tests: list[str], *plugins: object) -> bool:
    """Whether these tests pass, in this process."""
    import pytest

    return pytest.main([*OPTIONS, *tests], list(plugins)) == 0


def survives(mutant: Mutant, executed: dict[tuple[str, int], set[str]]) -> bool:
    """Whether all tests pass in this process, whose copy has the mutant."""
    mine = executed.get((mutant.file, mutant.number), set())
    stem = Path(mutant.file).stem
    files = sorted({t.partition("::")[0] for t in mine}, key=lambda f: (stem not in f, f))
    return (not mine or run(["-x", *files], Only(mine))) and run(["-x", TESTS])


def forked(call: Any, *arguments: Any) -> Any:
    """What a call returns in a fork; None where it ends otherwise, or takes too long."""
    receive, send = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        send.send(_quietly(call, *arguments))
        send.close()
        os._exit(0)
    send.close()
    try:
        return receive.recv() if receive.poll(TIME_LIMIT) else None
    except EOFError:
        return None
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def _quietly(call: Any, *arguments: Any) -> Any:
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        return call(*arguments)


def _learn(copy: Path) -> tuple[dict[tuple[str, int], set[str]], list[str]]:
    """Which tests execute which lines, and which modules of others are imported.

    Whether they pass does not matter here: those that measure time need not.
    """
    executed = Executed(copy)
    run([TESTS], executed)
    others = [name for name in sys.modules if not name.startswith((*OWN, "__"))]
    return executed.tests(), others


def try_all(copy: Path, sample: list[Mutant], results: Path, seconds: float) -> None:
    """Try these in a copy that this process imports from, and write each outcome."""
    began = time.monotonic()
    executed, modules = forked(_learn, copy)
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:  # made by another module, and no import of its own
            continue
    sys.dont_write_bytecode = (
        True  # a mutant may be as long, and as old, as what it takes the place of
    )
    if not forked(run, ["-x", TESTS]):
        raise SystemExit("the tests fail without a mutant")
    for mutant in sample:
        if time.monotonic() - began > seconds:
            return
        path = copy / mutant.file
        text = path.read_text()
        lines = text.splitlines(keepends=True)
        lines[mutant.number - 1] = mutant.line + "\n"
        path.write_text("".join(lines))
        Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
        survived = bool(forked(survives, mutant, executed))
        path.write_text(text)
        with results.open("a") as stream:
            stream.write(json.dumps({**asdict(mutant), "survived": survived}) + "\n")
        if survived:
            print(f"survives: {mutant.file}:{mutant.number}: {mutant.line.strip()}", flush=True)


def read(results: Path) -> dict[Mutant, bool]:
    """Mutants that were tried, and whether each survived."""
    lines = results.read_text().splitlines() if results.is_file() else []
    told = [json.loads(line) for line in lines]
    return {Mutant(t["file"], t["number"], t["line"]): t["survived"] for t in told}


def summary(tried: dict[Mutant, bool]) -> str:
    """Files with how many of their mutants were tried and found, and every survivor."""
    every = Counter(m.file for m in mutants())
    rows = ["| file | mutants | tried | found |", "|---|---|---|---|"]
    for file, number in sorted(every.items()):
        outcomes = [survived for m, survived in tried.items() if m.file == file]
        rows.append(f"| {file} | {number} | {len(outcomes)} | {outcomes.count(False)} |")
    survivors = sorted((m for m in tried if tried[m]), key=lambda m: (m.file, m.number))
    found = len(tried) - len(survivors)
    rows += [f"{m.file}:{m.number}: {m.line.strip()}" for m in survivors]
    rows.append(f"{found} of {len(tried)} mutants found, of {sum(every.values())} that there are")
    return "\n".join(rows)


def main(results: Path, number: int, seed: int, seconds: float) -> None:
    """Try a seeded sample of what was not tried yet, and print what came of all."""
    left = [m for m in dict.fromkeys(mutants()) if m not in read(results)]
    sample = random.Random(seed).sample(left, min(number, len(left)))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve() / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(
            ".git", ".venv", "workspace", "__pycache__", ".*_cache"))  # fmt: skip
        # In a process that imports the harness from the copy.
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        task = json.dumps([[asdict(m) for m in sample], str(results.resolve()), seconds])
        command = [sys.executable, str(copy / Path(__file__).resolve().relative_to(ROOT)), "--task"]
        subprocess.run(command, cwd=copy, env=environment, input=task, text=True, check=True)
    print(summary(read(results)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("workspace/mutants.jsonl"))
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--summary", action="store_true", help="only print what was tried")
    parser.add_argument("--task", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        told, results, seconds = json.load(sys.stdin)
        try_all(Path.cwd(), [Mutant(**m) for m in told], Path(results), seconds)
    elif given.summary:
        print(summary(read(given.results)))
    else:
        given.results.parent.mkdir(parents=True, exist_ok=True)
        main(given.results, given.number, given.seed, given.seconds)
