"""The ladder on other devices' numerics: clean pairs pass, and seeded faults are caught, or not.

`python benchmarks/conditions.py [--only CONDITION:DTYPE]… [--no-faults] [KEY=VALUE]…` runs every
condition (`launcher.condition`, and the CPU mesh as it is), dtype and pair, then seeds faults
into hf under each, and writes docs/findings/conditions.md, anew after each session. Records are
kept in the workspace: what was run before is not run again, and what is missing is told as missing.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.base.conditions import CONDITIONS, title_of
from harness.config.compose import load
from harness.ladder.ladder import names
from harness.ladder.result import Result, RungResult
from harness.ladder.verdict import PairVerdict
from harness.report.progress import ConsoleReporter
from harness.run import session

PAGE = Path(__file__).parents[1] / "docs" / "findings" / "conditions.md"
HERE = "none"
"""The CPU mesh as it is."""
GPU = "tf32_products+random_scatter"
"""As an NVIDIA GPU is by default."""
CASES = {"float32": "llama-tiny", "bfloat16": "llama-tiny-bf16"}
PAIRS = ("torchprime", "reference")

FAULTS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("data", "swap_batches", {}),
    ("forward", "rope_theta", {}),
    ("forward", "attention_scale", {}),
    ("forward", "rms_norm_eps", {}),
    ("forward", "loss_dtype", {}),
    ("clip", "no_clipping", {}),
    ("optimizer", "hyper_parameter", {"name": "betas", "value": [0.9, 0.95]}),
    ("schedule", "learning_rate", {}),
)
"""The rung that each belongs to, its name and its arguments."""


@dataclass(frozen=True)
class Clean:
    """What a session without a fault came to, by the engine that hf was compared with."""

    compared: str
    pairs: Mapping[str, PairVerdict]


def words_of(condition: str, dtype: str) -> list[str]:
    """Overrides of a condition: a device whose products are narrow is asked for no more."""
    words = [f"case={CASES[dtype]}"]
    if condition != HERE:
        words += [f"launcher.condition={condition}", "case.precision=default"]
    return words


def clean(condition: str, dtype: str, more: list[str], reporter: ConsoleReporter) -> Clean:
    """Run hf against each of PAIRS."""
    words = [*words_of(condition, dtype), f"engines=[hf,{','.join(PAIRS)}]", *more]
    planned = session.plan(load(words), reporter, may_substitute=False)
    reporter.note(planned.compared)
    verdict = session.run(planned, reporter).verdict
    return Clean(planned.compared, dict(zip(PAIRS, verdict.pairs, strict=True)))


def faulty(
    condition: str, dtype: str, fault: str, arguments: Mapping[str, Any], more: list[str],
    reporter: ConsoleReporter,
) -> PairVerdict:  # fmt: skip
    """Run the reference, whose runs are there already, against hf with a fault."""
    seeded = f"[{{name: {fault}, arguments: {json.dumps(dict(arguments))}}}]".replace('"', "")
    words = ["engines=[reference,hf]", f"engine.hf.faults={seeded}", "float64=never"]
    planned = session.plan(load([*words_of(condition, dtype), *words, *more]), reporter)
    reporter.note(f"{planned.compared}, with {fault}")
    return session.run(planned, reporter).verdict.pairs[0]


def number(value: float | None) -> str:
    """A value or limit as a cell shows it."""
    return "" if value is None else f"{value:.2g}"


def cell(rung: RungResult) -> str:
    """One rung's value and limit, or what it came to where it does not hold."""
    if rung.result is Result.NOT_EXERCISED:
        return "–"
    numbers = f"{number(rung.value)} / {number(rung.limit)}"
    return numbers if rung.result is Result.PASS else f"**{rung.result.value}** {numbers}"


def without_folders(compared: str) -> str:
    """Who was compared, by commit alone: a checkout's folder means nothing on another machine."""
    return re.sub(r"/\S+ \((\w+)\)", r"\1", compared)


def title(condition: str) -> str:
    """What a table calls a condition."""
    return "CPU mesh" if condition == HERE else title_of(condition)


def clean_table(found: Mapping[tuple[str, str], Clean]) -> Iterator[str]:
    """A row for each rung, a column for each condition, dtype and pair."""
    for (condition, dtype), session_ in found.items():
        yield f"### {title(condition)}, {dtype}"
        yield ""
        yield f"`{without_folders(session_.compared)}`"
        yield ""
        yield "| rung | " + " | ".join(f"hf, {other}" for other in session_.pairs) + " |"
        yield "|---" * (1 + len(session_.pairs)) + "|"
        for name in names():
            cells = (cell(pair.rung(name)) for pair in session_.pairs.values())
            yield f"| {name} | " + " | ".join(cells) + " |"
        results = (f"**{pair.result.value}**" for pair in session_.pairs.values())
        yield "| in all | " + " | ".join(results) + " |"
        for note in dict.fromkeys(n for pair in session_.pairs.values() for n in pair.notes):
            yield ""
            yield f"Note: {note}"
        yield ""


def fault_cell(wanted: str, verdict: PairVerdict | None) -> str:
    """Where a fault was caught: at its rung, at another one, or not."""
    if verdict is None:
        return "not run"
    first = verdict.headline_rung
    if first is None:
        return "not seen"
    if first.result is not Result.FAIL:
        return f"{first.result.value} at {first.rung}"
    numbers = f" ({number(first.value)} / {number(first.limit)})"
    return ("caught" if first.rung == wanted else f"FAIL at {first.rung}") + numbers


def fault_table(
    conditions: list[tuple[str, str]], found: Mapping[tuple[str, str, str], PairVerdict]
) -> Iterator[str]:
    """A row for each fault, a column for each condition and dtype."""
    yield "| fault | rung | " + " | ".join(f"{title(c)}, {d}" for c, d in conditions) + " |"
    yield "|---" * (2 + len(conditions)) + "|"
    for rung, fault, _ in FAULTS:
        cells = (fault_cell(rung, found.get((c, d, fault))) for c, d in conditions)
        yield f"| `{fault}` | {rung} | " + " | ".join(cells) + " |"


INTRODUCTION = """# The ladder on other devices' numerics

`benchmarks/conditions.py` makes this page. `launcher.condition` has both trainers compute like
another device ([launchers](../launchers.md)): products in bfloat16 as on a TPU, in TF32 as on a
GPU, or scatter-adds in an order of their own in every launch. Under each, hf was compared with
torchprime and with the reference, and then hf with a seeded fault with the reference. Each cell is
value / limit.
"""


def write(
    sessions: Mapping[tuple[str, str], Clean], faults: Mapping[tuple[str, str, str], PairVerdict]
) -> None:
    """The page, with what was found so far."""
    columns = list(sessions)
    lines = [INTRODUCTION, "## Clean pairs", "", *clean_table(sessions), "## Seeded faults", ""]
    lines += [
        "Caught: the first rung that fails is the fault's own. A fault that is not seen does not "
        "stand out of that device's noise.",
        "",
        *fault_table(columns, faults),
    ]
    PAGE.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = [f"{condition}:{dtype}" for dtype in CASES for condition in (HERE, *CONDITIONS, GPU)]
    parser.add_argument("--only", action="append", choices=every, help="may be repeated")
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    reporter = ConsoleReporter(Console(stderr=True))
    chosen = [(c, d) for c, _, d in (one.partition(":") for one in options.only or every)]
    sessions: dict[tuple[str, str], Clean] = {}
    faults: dict[tuple[str, str, str], PairVerdict] = {}
    try:
        for condition, dtype in chosen:
            sessions[condition, dtype] = clean(condition, dtype, options.overrides, reporter)
            write(sessions, faults)
        for condition, dtype in [] if options.no_faults else chosen:
            for _, fault, arguments in FAULTS:
                more = options.overrides
                found = faulty(condition, dtype, fault, arguments, more, reporter)
                faults[condition, dtype, fault] = found
                write(sessions, faults)
    finally:
        reporter.close()


if __name__ == "__main__":
    main()
