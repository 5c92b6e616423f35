"""One-line mutants of the ladder, and whether its unit tests find each.

    python benchmarks/mutants.py [--results FILE] [--number N] [--seed S] [--seconds T]
    python benchmarks/mutants.py --results FILE --summary

A mutant changes one operator, constant or boolean of one line in `harness/ladder/`. Its tests are
collected and run once, which has to pass, and tells which tests call which function. Each mutant is
a fork of that process: the functions that it changes get their new code, and the tests that call
them are run, those of the module and the fastest first, until one fails or five seconds of the
processor have passed. Lines that are executed on import are left out: constants and tables.

FILE keeps one line of JSON for each mutant that was tried, which the next call does not try again.
What no test finds is printed with its line: it is equivalent, or a test is missing.
"""

from __future__ import annotations

import argparse
import ast
import functools
import gc
import os
import random
import re
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
import resumable

ROOT = Path(__file__).resolve().parents[1]
LADDER = "harness/ladder"
TESTS = "tests/unit/ladder"
TESTED = 5.0
"""Seconds of the processor for the tests of one mutant, the fastest first; one that is not found by
then has survived."""
HANGS = 30
"""Seconds of the processor after which a mutant hangs, and is found: no test takes half of them."""

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


class Sweep:
    """A pytest plugin that tries mutants in place of running the tests that were collected."""

    def __init__(self, sample: list[Mutant], results: Path, seconds: float) -> None:
        self._sample, self._results, self._seconds = sample, results, seconds
        self._callers: dict[CodeType, set[str]] = defaultdict(set)
        self._seconds_of: dict[str, float] = {}
        self._cached: list[Any] = []
        self._now = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Learn which tests call which functions, then try one mutant after the other."""
        items = session.items
        sys.setprofile(self._called)
        failed = self._run(items, until_one_fails=False)
        sys.setprofile(None)
        if slow := {name for name in failed if self._run([i for i in items if i.nodeid == name])}:
            raise SystemExit(f"they fail without a mutant: {', '.join(sorted(slow))}")
        functions: dict[str, list[FunctionType]] = defaultdict(list)
        for each in gc.get_objects():
            if isinstance(each, functools._lru_cache_wrapper):
                self._cached.append(each)
            elif isinstance(each, FunctionType) and not each.__closure__:
                functions[each.__code__.co_filename].append(each)
        gc.freeze()  # so that a fork's collector copies nothing
        began = time.monotonic()
        for mutant in self._sample:
            if time.monotonic() - began > self._seconds:
                break
            of_file = functions[str(ROOT / mutant.file)]
            if (found := self._is_found(mutant, items, of_file)) is not None:
                resumable.append(self._results, {**asdict(mutant), "survived": not found})
        return True

    def _called(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and LADDER in frame.f_code.co_filename:
            self._callers[frame.f_code].add(self._now)

    def _run(self, items: list[pytest.Item], until_one_fails: bool = True) -> list[str]:
        """Run tests; those that failed, or the first one within TESTED seconds."""
        failed = []
        began = time.process_time()
        for item, following in zip(items, [*items[1:], None], strict=True):
            if until_one_fails and time.process_time() - began > TESTED:
                break
            self._now = item.nodeid
            last = time.process_time()
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            reports = _protocol(item, following)
            self._seconds_of[item.nodeid] = time.process_time() - last
            if any(report.failed for report in reports):
                failed.append(item.nodeid)
                if until_one_fails:
                    break
        return failed

    def _is_found(
        self, mutant: Mutant, items: list[pytest.Item], functions: list[FunctionType]
    ) -> bool | None:
        """Whether a test fails, or does not end; None for a line that no function has.

        functions: those of the mutant's file, without those that are made within others
        """
        path = ROOT / mutant.file
        changed = [f for f in functions if mutant.number in _lines(f.__code__)]
        if not changed:
            return None
        lines = path.read_text().splitlines()
        lines[mutant.number - 1] = mutant.line
        try:
            code = _codes(compile("\n".join(lines) + "\n", str(path), "exec"))
        except SyntaxError:
            return True
        names = {n for f in changed for inner in _inner(f.__code__) for n in self._callers[inner]}
        mine = sorted(
            (item for item in items if item.nodeid in names),
            key=lambda item: (path.stem not in item.nodeid, self._seconds_of[item.nodeid]),
        )

        def fails() -> bool:
            _change(changed, code)
            for cached in self._cached:
                cached.cache_clear()
            return bool(self._run(mine))

        return _fails_in_a_fork(fails)


def _change(functions: list[FunctionType], codes: dict[tuple[str, int], CodeType]) -> None:
    """Give functions their new code."""
    for function in functions:
        code = function.__code__
        function.__code__ = codes[code.co_qualname, code.co_firstlineno]


def _protocol(item: pytest.Item, following: pytest.Item | None) -> list[pytest.TestReport]:
    from _pytest.runner import runtestprotocol

    return runtestprotocol(item, log=False, nextitem=following)


def _inner(code: CodeType) -> Iterator[CodeType]:
    """A code and all that is made within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _inner(constant)


def _codes(module: CodeType) -> dict[tuple[str, int], CodeType]:
    """By name and first line, every code of a module."""
    return {(code.co_qualname, code.co_firstlineno): code for code in _inner(module)}


def _lines(code: CodeType) -> set[int]:
    """The numbers of all lines of a function's body."""
    return {n for inner in _inner(code) for _, _, n in inner.co_lines() if n is not None}


def _fails_in_a_fork(test: Any) -> bool:
    """Whether `test` is true in a fork, raises, or hangs."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (HANGS, HANGS))
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        survives = False
        try:
            survives = not test()
        finally:
            os._exit(0 if survives else 1)
    _, status = os.waitpid(child, 0)
    return status != 0


def read(results: Path) -> dict[Mutant, bool]:
    """Mutants that were tried, and whether each survived."""
    rows = resumable.read(results)
    return {Mutant(row["file"], row["number"], row["line"]): row["survived"] for row in rows}


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
    tried = read(results)
    left = [mutant for mutant in dict.fromkeys(mutants()) if mutant not in tried]
    sample = random.Random(seed).sample(left, min(number, len(left)))
    os.chdir(ROOT)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", TESTS]
    pytest.main(options, [Sweep(sample, results, seconds)])
    print(summary(read(results)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("workspace/mutants.jsonl"))
    parser.add_argument("--number", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--summary", action="store_true", help="only print what was tried")
    given = parser.parse_args()
    if given.summary:
        print(summary(read(given.results)))
    else:
        main(given.results.resolve(), given.number, given.seed, given.seconds)
