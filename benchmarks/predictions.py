"""Predicted step times against those that were measured on TPUs.

    python benchmarks/predictions.py compile [--only PART] workspace=… engine.torchprime.source=…
    python benchmarks/predictions.py fit
    python benchmarks/predictions.py table
    python benchmarks/predictions.py afterwards --only PART

The workloads are in predictions.yaml beside this file. `compile` stages and compiles each that is
not in --results yet, and appends the least time that its step could take by the chip's peak, part
by part. `fit` finds the shares of the peak that the workloads of role `fitted` reach, of which
predictions.yaml keeps the rounded ones. `table` predicts all by these, and prints the tables of
docs/predictions.md. `afterwards` fits a share of kernels too, to the fitted ones and those with
PART in their name, which are blind no more, and prints what comes out of either.

A step is compiled with two numbers of layers, and extended to its own: each layer more takes as
long (memory could not be extended so; times can).

    step = products / share of products + others / share of memory
           + kernels + collectives that nothing hides + transfers between slices

products: the larger of FLOPs at the peak and bytes at HBM's bandwidth, operation by operation;
others: bytes of all other operations; kernels: their bundles at the clock (see
harness/compiler/roofline.py and kernels.py).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import resumable
import yaml
from compiled_faults import compiled

from harness.base.typed import STRICT, typed
from harness.compiler.predicted import Parts
from harness.config.compose import load

WORKLOADS = Path(__file__).with_suffix(".yaml")
RESULTS = Path("workspace/predictions.jsonl")
FITTED, BLIND = "fitted", "blind"


@dataclass(frozen=True)
class Shares:
    """Of the chip's peak that a step reaches: FLOP/s in products, HBM's bandwidth elsewhere.

    kernels: the same of hand-written kernels, of which a bundle takes a cycle at least
    """

    __pydantic_config__ = STRICT

    products: float
    memory: float
    kernels: float = 1.0


@dataclass(frozen=True)
class Workload:
    """A step whose time was measured, in seconds.

    role:       FITTED or BLIND
    half_width: of the bounds that its authors keep; None where they tell none
    words:      Hydra overrides that stage it, after those that all have in common
    engine:     that trained it
    pair:       the workload that it is held against, trained by another engine
    """

    __pydantic_config__ = STRICT

    name: str
    role: str
    measured: float
    words: list[str]
    half_width: float | None = None
    engine: str = "torchprime"
    note: str = ""
    pair: str | None = None


@dataclass(frozen=True)
class Workloads:
    """What predictions.yaml holds."""

    __pydantic_config__ = STRICT

    shares: Shares | None
    depths: list[int]
    common: list[str]
    workloads: list[Workload] = field(default_factory=list)


def predict(parts: Parts, shares: Shares) -> float:
    """Seconds of a step, from the least that each part of it could take."""
    others = parts.fusions + parts.copies + parts.unestimated
    kernels, at_peak = parts.kernels / shares.kernels, parts.exposed + parts.dcn
    return parts.products / shares.products + others / shares.memory + kernels + at_peak


def fit(steps: Sequence[tuple[Parts, float]]) -> Shares:
    """The shares by which steps come nearest to their measured times: least squares of the relative
    error, which is linear in what the shares divide by. No share is above 1."""
    rows = [
        (p.products / t, (p.fusions + p.copies + p.unestimated) / t,
         1 - (p.kernels + p.exposed + p.dcn) / t)
        for p, t in steps
    ]  # fmt: skip
    matrix, wanted = np.array([row[:2] for row in rows]), np.array([row[2] for row in rows])
    candidates = [np.linalg.lstsq(matrix, wanted, rcond=None)[0]]
    for held, free in ((0, 1), (1, 0)):  # where one would be above 1, it is 1
        rest = wanted - matrix[:, held]
        column = matrix[:, free]
        found = np.ones(2)
        found[free] = max(1.0, float(column @ rest / (column @ column)))
        candidates.append(found)
    allowed = [c for c in candidates if min(c) >= 1.0]
    best = min(allowed, key=lambda c: float(np.sum((matrix @ c - wanted) ** 2)))
    return Shares(products=1 / float(best[0]), memory=1 / float(best[1]))


def fit_with_kernels(steps: Sequence[tuple[Parts, float]]) -> tuple[Shares, float]:
    """The same with a share of kernels, and how ill they are told apart (the condition number)."""
    rows = [
        (p.products / t, (p.fusions + p.copies + p.unestimated) / t, p.kernels / t)
        for p, t in steps
    ]
    wanted = [1 - (p.exposed + p.dcn) / t for p, t in steps]
    best = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
    products, memory, kernels = (1 / float(x) for x in best)
    return Shares(products, memory, kernels), float(np.linalg.cond(np.array(rows)))


def afterwards(known: Sequence[tuple[Workload, Parts]], shares: Shares, part: str) -> Iterator[str]:
    """Lines that hold the prediction against that of a fit with kernels."""
    steps = {
        also: [(p, w.measured) for w, p in known if w.role == FITTED or (also and also in w.name)]
        for also in ("", part)
    }
    for also, chosen in steps.items():
        found, condition = fit_with_kernels(chosen)
        of = f"the fitted ones and {also}" if also else "the fitted ones"
        yield f"{of}: {asdict(found)}, condition {condition:.0f}"
    yield "| workload | kernels over products, at the peak | off | off with kernels |"
    yield "|---|---|---|---|"
    for w, p in known:
        offs = (f"{off(predict(p, one), w.measured):+.1%}" for one in (shares, found))
        yield f"| {w.name} | {p.kernels / p.products:.2f} | {' | '.join(offs)} |"


def off(predicted: float, measured: float) -> float:
    """Relative error."""
    return predicted / measured - 1


def rows(known: Iterable[tuple[Workload, Parts]], shares: Shares) -> list[str]:
    """Lines of the table of times."""
    lines = [
        "| workload | | predicted, s | measured, s | off | products | others | kernels "
        "| exposed | between slices | hidden |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for workload, parts in known:
        seconds = predict(parts, shares)
        others = (parts.fusions + parts.copies + parts.unestimated) / shares.memory
        width = "" if workload.half_width is None else f" ± {workload.half_width:.2g}"
        cells = [
            workload.name, workload.role, f"{seconds:.3f}", f"{workload.measured:.4g}{width}",
            f"{off(seconds, workload.measured):+.1%}",
            *(f"{part:.3f}" for part in (parts.products / shares.products, others, parts.kernels,
              parts.exposed, parts.dcn, parts.hidden)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def ratios(known: Sequence[tuple[Workload, Parts]], shares: Shares) -> list[str]:
    """How far ratios between two workloads of one set are off: the worst of each set."""
    lines = []
    for role in (FITTED, BLIND):
        one = [(w, predict(p, shares) / w.measured) for w, p in known if w.role == role]
        found = sorted(
            (abs(math.log(a[1] / b[1])), a[0].name, b[0].name) for a, b in combinations(one, 2)
        )
        if found:
            worst, a, b = found[-1]
            median = found[len(found) // 2][0]
            lines.append(
                f"Ratios between two of the {len(one)} {role} ones: half are within "
                f"{math.expm1(median):.1%}, the worst is {math.expm1(worst):.1%} off ({a}; {b})."
            )
    return lines


def pairs(known: Sequence[tuple[Workload, Parts]], shares: Shares) -> list[str]:
    """Lines of the table of pairs: another trainer's time over torchprime's."""
    by_name = {w.name: (w, p) for w, p in known}
    lines = ["| pair | predicted ratio | measured ratio | off |", "|---|---|---|---|"]
    for workload, parts in known:
        if workload.pair in by_name:
            other, of_other = by_name[workload.pair]
            ratio = predict(parts, shares) / predict(of_other, shares)
            measured = workload.measured / other.measured
            cells = (
                workload.name,
                f"{ratio:.3f}",
                f"{measured:.3f}",
                f"{off(ratio, measured):+.1%}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


def extended(shallow: Parts, deep: Parts, depths: tuple[int, int], layers: int) -> Parts:
    """A step of `layers` layers from two that have fewer: each layer more takes as long."""
    more = (layers - depths[0]) / (depths[1] - depths[0])
    return shallow + Parts(
        **{f.name: more * (getattr(deep, f.name) - getattr(shallow, f.name)) for f in fields(deep)}
    )


def stage(workload: Workload, read: Workloads, words: list[str]) -> dict[str, Any]:
    """What `compile` keeps of a workload."""
    own = [*read.common, *workload.words, *words]
    layers = load(own).case.model.layers
    depths = (read.depths[0], read.depths[1])
    found: dict[str, Any] = {"name": workload.name, "layers": layers, "depths": list(depths)}
    steps = []
    for depth in depths:
        step = compiled(workload.engine, [*own, f"case.model.layers={depth}"], None)
        if not step.compiles or step.least is None:
            return {**found, "failed": step.error or step.unknown}
        steps.append(step)
    shallow, deep = (step.least for step in steps)
    assert shallow is not None
    assert deep is not None
    parts = extended(shallow.parts, deep.parts, depths, layers)
    missing = list(dict.fromkeys(shallow.missing + deep.missing))
    return {
        **found, "parts": asdict(parts), "missing": missing,
        "of_depths": [asdict(shallow.parts), asdict(deep.parts)],
        "seconds": [round(step.seconds, 1) for step in steps],
    }  # fmt: skip


def main() -> None:
    """Compile, fit or print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("compile", "fit", "table", "afterwards"))
    parser.add_argument("--only", default="", help="workloads with this in their name or role")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("words", nargs="*", help="Hydra overrides")
    given = parser.parse_intermixed_args()
    read = typed(Workloads, yaml.safe_load(WORKLOADS.read_text()))
    done = {row["name"]: row for row in resumable.read(given.results)}
    chosen = [w for w in read.workloads if given.only in f"{w.role} {w.name}"]
    if given.what == "compile":
        for workload in chosen:
            if workload.name not in done:
                made = stage(workload, read, given.words)
                resumable.append(given.results, made)
                print(made, flush=True)
        return
    # Without what is missing it is no step's time.
    whole = {name for name, row in done.items() if "parts" in row and not row["missing"]}
    if given.what == "afterwards":
        chosen = read.workloads
    known = [(w, Parts(**done[w.name]["parts"])) for w in chosen if w.name in whole]
    if given.what == "fit":
        fitted = [(p, w.measured) for w, p in known if w.role == FITTED]
        print(asdict(fit(fitted)))
    elif given.what == "afterwards" and read.shares is not None:
        print(*afterwards(known, read.shares, given.only), sep="\n")
    elif read.shares is not None:
        print(*rows(known, read.shares), "", *ratios(known, read.shares), sep="\n")
        print("", *pairs(known, read.shares), sep="\n")
        for name, row in done.items():
            if name not in whole:
                print(f"\n{name}: {row.get('failed') or '; '.join(row['missing'])}")


if __name__ == "__main__":
    main()
