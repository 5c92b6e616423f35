"""One-line mutants of the ladder, and whether its unit tests find each: a seeded sample.

    python benchmarks/mutants.py [--number N] [--seed S] [--seconds T]

A mutant changes one operator, constant or boolean of one line in `harness/ladder/`. It is tried in
a copy of this checkout, by `pytest -x tests/unit/ladder`. What no test finds is printed with its
line: it is equivalent, or a test is missing. A broken copy finds every mutant, so the
copy without one is tried first.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LADDER = "harness/ladder"
CHANGES = (
    (r" < ", " <= "), (r" <= ", " < "), (r" > ", " >= "), (r" >= ", " > "), (r" == ", " != "),
    (r" != ", " == "), (r" and ", " or "), (r" or ", " and "), (r" is None", " is not None"),
    (r" is not None", " is None"), (r" not in ", " in "), (r"\bnot ", ""), (r" \+ ", " - "),
    (r" - ", " + "), (r" \* ", " / "), (r"\bmin\(", "max("), (r"\bmax\(", "min("),
    (r"\ball\(", "any("), (r"\bany\(", "all("), (r"\b0\b", "1"), (r"\b1\b", "2"),
    (r"\bTrue\b", "False"), (r"\bFalse\b", "True"), (r"\[0\]", "[-1]"),
)  # fmt: skip
"""Patterns, and what takes their place."""


def mutants() -> list[tuple[Path, int, str]]:
    """File, line number (from 0) and the line in its place, of every mutant."""
    found = []
    for path in sorted((ROOT / LADDER).rglob("*.py")):
        text = path.read_text()
        lines, skipped = text.splitlines(), _texts(text)
        for number, line in enumerate(lines):
            if number in skipped or line.lstrip().startswith(("#", "from ", "import ", "@")):
                continue
            for pattern, replacement in CHANGES:
                for match in re.finditer(pattern, line):
                    if line[: match.start()].count('"') % 2 == 0:  # not within a text
                        other = line[: match.start()] + replacement + line[match.end() :]
                        found.append((path.relative_to(ROOT), number, other))
    return found


def _texts(source: str) -> set[int]:
    """Lines of docstrings, and of other texts of several lines."""
    texts = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant))
    spans = ((n.lineno, n.end_lineno or n.lineno) for n in texts if isinstance(n.value, str))
    documentation = (
        (n.lineno, n.end_lineno or n.lineno)
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
    )
    several = [span for span in spans if span[0] != span[1]]
    return {i - 1 for first, last in (*several, *documentation) for i in range(first, last + 1)}


def found(copy: Path) -> bool:
    """Whether a test fails in this copy; one that hangs is found too."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
               "tests/unit/ladder"]  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=copy, capture_output=True, timeout=300, env={"PYTHONPATH": str(copy)}
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def main(number: int, seed: int, seconds: float) -> int:
    """Try a sample, print survivors, and return how many there are."""
    every = mutants()
    sample = random.Random(seed).sample(every, min(number, len(every)))
    survivors, tried, began = [], 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(
            ".git", ".venv", "workspace", "__pycache__", ".*_cache"))  # fmt: skip
        if found(copy):
            raise SystemExit("the tests fail without a mutant")
        for path, at, line in sample:
            if time.monotonic() - began > seconds:
                break
            text = (ROOT / path).read_text()
            lines = text.splitlines(keepends=True)
            lines[at] = line + "\n"
            (copy / path).write_text("".join(lines))
            if not found(copy):
                survivors.append((path, at, line))
                print(f"survives: {path}:{at + 1}: {line.strip()}", flush=True)
            (copy / path).write_text(text)
            tried += 1
    print(f"{tried - len(survivors)} of {tried} mutants found (of {len(every)} that there are)")
    return len(survivors)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0)
    given = parser.parse_args()
    main(given.number, given.seed, given.seconds)
