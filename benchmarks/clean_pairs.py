"""Pairs of runs that have nothing wrong with them, of every kind of case: each has to PASS.

    python benchmarks/clean_pairs.py [--results FILE] [--seconds T] [--torchprime SOURCE]

trains cases of eight steps over seeds, dtypes, meshes, optimizers' settings, epochs and shapes in
the Hugging Face Trainer (twice), torchprime and the reference, and judges all pairs by the
documented floors. One line a pair: its verdict, and where it came nearest to a limit. FILE keeps a
line of JSON for each, which the next call does not judge again; Records are kept in the workspace.
The last lines are a table in Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import resumable
from overhead import QUIET

from harness.base.errors import BadInput
from harness.config.compose import load
from harness.ladder.result import RungResult
from harness.ladder.verdict import PairVerdict
from harness.run import session

COMMON = ("case.steps=8", "case.window=2", "tolerance.noise_floor=table")
ALL = ("hf", "torchprime", "reference", "hf")
"""Each is compared with the first, and the second with the third."""
ACCUMULATING = ("hf", "reference", "hf")
"""torchprime cannot accumulate gradients."""

CASES: dict[tuple[str, ...], tuple[str, ...]] = {
    **{("case=llama-tiny", f"case.seed={seed}"): ALL for seed in (42, 1, 2)},
    **{("case=llama-tiny-bf16", f"case.seed={seed}"): ALL for seed in (42, 1, 2)},
    ("case=llama-tiny-2d",): ALL,
    ("case=llama-tiny-2d", "case.dtype=bfloat16"): ALL,
    ("case=llama-tiny", "case.mesh={fsdp: 2}"): ALL,
    ("case=llama-tiny", "case.global_batch=16", "case.seed=3"): ALL,
    ("case=llama-tiny", "case.schedule.name=cosine"): ALL,
    ("case=llama-tiny", "case.schedule.name=constant", "case.max_norm=null"): ALL,
    ("case=llama-tiny", "case.model.remat=false"): ALL,
    ("case=llama-tiny", "case.model.layers=4", "case.model.kv_heads=4"): ALL,
    ("case=llama-tiny", "case.optimizer.betas=[0.9,0.95]", "case.optimizer.eps=1e-6"): ALL,
    ("case=llama-tiny-bf16", "case.max_norm=0.5", "case.schedule.name=cosine"): ALL,
    ("case=llama-tiny-accumulated",): ACCUMULATING,
    ("case=llama-tiny-accumulated", "case.dtype=bfloat16"): ACCUMULATING,
    ("case=llama-tiny-accumulated", "case.accumulation=4", "case.global_batch=16"): ACCUMULATING,
    ("case=llama-tiny-adafactor",): ("hf", "torchprime", "hf"),
}
"""Overrides, and the engines that can train what they compose."""


@dataclass(frozen=True)
class Pair:
    """What came of one pair; `nearest` is the rung that came nearest to its limit."""

    case: str
    pair: str
    result: str
    headline: str
    nearest: str
    share: float


def sessions(engines: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The engines of each session of one case: all are held against the first."""
    yield engines
    if engines == ALL:
        yield engines[1:3]


def share(result: RungResult) -> float:
    """How much of its limit a rung's value is; 0 where there is none to come near to."""
    return (result.value or 0.0) / result.limit if result.limit else 0.0


def row(case: str, pair: PairVerdict, engines: str) -> Pair:
    """The line of one pair."""
    nearest = max(pair.rungs, key=share)
    return Pair(case, engines, pair.result.name, pair.headline, nearest.rung, share(nearest))


def judged(words: list[str], shown: str) -> Iterator[Pair]:
    """The pairs of one session."""
    settings = load([*COMMON, *words])
    outcome = session.run(session.plan(settings, QUIET, may_substitute=False), QUIET)
    first, *others = settings.engines
    for other, pair in zip(others, outcome.verdict.pairs, strict=True):
        yield row(shown, pair, f"{first}–{other}")


def table(pairs: list[Pair]) -> str:
    """All pairs, in Markdown."""
    rows = [
        "| case | pair | verdict | nearest to its limit | share of it |", "|---|---|---|---|---|",
        *(f"| `{p.case}` | {p.pair} | {p.result} | {p.nearest} | {p.share:.0%} |" for p in pairs),
    ]  # fmt: skip
    passed = sum(pair.result == "PASS" for pair in pairs)
    return "\n".join([*rows, "", f"{passed} of {len(pairs)} pairs PASS"])


def main(results: Path, seconds: float, torchprime: list[str]) -> None:
    """Judge what was not judged yet, for so long."""
    pairs = [Pair(**row) for row in resumable.read(results)]
    done, began = {(pair.case, pair.pair) for pair in pairs}, time.monotonic()
    for case, engines in CASES.items():
        shown = " ".join(word.removeprefix("case=") for word in case)
        for first, *others in sessions(engines):
            if all((shown, f"{first}–{other}") in done for other in others):
                continue
            if time.monotonic() - began > seconds:
                print(f"{len(pairs)} pairs so far; the same command goes on")
                return
            try:
                named = f"engines=[{','.join((first, *others))}]"
                for pair in judged([*case, named, *torchprime], shown):
                    pairs.append(pair)
                    resumable.append(results, asdict(pair))
                    where = f"{pair.nearest} at {pair.share:.0%} of its limit"
                    print(f"{pair.result}  {shown}  {pair.pair}: {where}", flush=True)
            except BadInput as error:
                print(f"not trained: {shown}: {error}", flush=True)
    print(table(pairs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("workspace/clean-pairs.jsonl"))
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--torchprime", default=None, help="as of parity run; also TORCHPRIME_DIR")
    given = parser.parse_args()
    source = [] if given.torchprime is None else [f"engine.torchprime.source={given.torchprime}"]
    main(given.results, given.seconds, source)
