"""The charts of a pair of runs."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.record.evidence import Record
from harness.report import figures
from harness.report.series import (
    ByStep,
    broken,
    difference,
    finite,
    learning_rates,
    series,
    spell,
)
from harness.report.tables import Table, number_table
from harness.report.text import format_number


@dataclass(frozen=True)
class ChartedRun:
    """One side of a pair, as it is drawn."""

    name: str
    record: Record
    colour: str
    dash: str


@dataclass(frozen=True)
class Chart:
    """One chart. Without a figure, its notes say why there is nothing to draw.

    numbers: what it draws, for those who cannot see it
    by_step: its horizontal axis is the optimizer step: such charts of a pair are zoomed together
    linear:  its vertical axis is linear and positive, and can be made logarithmic
    """

    title: str
    notes: tuple[str, ...]
    figure: dict[str, Any] | None
    numbers: Table | None = None
    by_step: bool = True
    linear: bool = False


def charts(
    names: tuple[str, str],
    a: Record | None,
    b: Record | None,
    limit: float | None,
    perturbed: Record | None = None,
) -> tuple[Chart, ...]:
    """Every chart of a pair.

    names:     what to call the two runs
    a, b:      their Records; None for one that could not be read
    limit:     on the relative difference of the losses, from the rung that judged it
    perturbed: `a` again from weights that are perturbed in their last place, where it was run: its
               distance from `a` is the noise of the case
    """
    sides = ((names[0], a, figures.A, "solid"), (names[1], b, figures.B, "dash"))
    runs = [
        ChartedRun(name, record, colour, dash) for name, record, colour, dash in sides if record
    ]
    if not runs:
        return ()
    losses = [(run, series(run.record, lambda step: step.loss)) for run in runs]
    return (
        _curves("Loss", "loss", losses),
        _loss_difference(names, losses, limit, perturbed),
        _gradient_norms(runs),
        _learning_rates(runs),
        _timeline(runs),
        _distribution(runs),
    )


def _loss_difference(
    names: tuple[str, str], losses: Sequence[tuple[ChartedRun, ByStep]], limit: float | None,
    perturbed: Record | None,
) -> Chart:  # fmt: skip
    """Relative |Δ loss| on a log scale.

    Steps that are equal are drawn on a floor a decade below the rest, under a mark of their own,
    since a log scale has no zero.
    """
    title = "Difference of the losses"
    if len(losses) < 2:
        return Chart(title, ("One of the two Records is missing.",), None)
    gaps = difference(losses[0][1], losses[1][1])
    known = finite(gaps)
    noise: ByStep = {}
    if perturbed is not None:
        noise = difference(losses[0][1], series(perturbed, lambda step: step.loss))
    line = limit if limit is not None and math.isfinite(limit) and limit > 0 else None
    drawn = [gap for gap in (*known.values(), *finite(noise).values(), line) if gap]
    floor = 10.0 ** (math.floor(math.log10(min(drawn))) - 1) if drawn else 1e-9
    ceiling = max(drawn, default=floor * 10)
    equal = [step for step, gap in known.items() if gap == 0]
    notes = []
    if equal:
        notes.append(
            f"{len(equal)} of {len(known)} steps are equal to the last bit. A log scale has no "
            f"zero: they are drawn at {format_number(floor)} (triangles)."
        )
    if line is not None:
        over = [step for step, gap in known.items() if gap > line]
        where = f"over it: {spell(over)}" if over else "no step is over it"
        notes.append(f"The limit is {format_number(line)}; {where}.")
    elif limit == 0:
        notes.append("The limit is 0: any difference is over it.")
    if bad := broken(gaps):
        notes.append(f"A loss is not finite at {spell(bad)} (crosses).")
    if alone := [step for step, gap in gaps.items() if gap is None]:
        notes.append(f"Not both runs have a loss at {spell(alone)}.")
    if not known and not bad:
        return Chart(title, tuple(notes), None)
    if noise:
        notes.append(
            f"The band is what one unit in the last place of the initial weights does to "
            f"{names[0]}: the noise of this case."
        )
    heights = {step: floor if gap == 0 else gap for step, gap in gaps.items()}
    band = {step: max(gap, floor) for step, gap in finite(noise).items()}
    traces = [figures.band("noise", band, figures.GREY)] if band else []
    traces += figures.line(
        f"|{names[0]} − {names[1]}|",
        heights,
        figures.DIFFERENCE,
        hover={step: format_number(gap, 6) for step, gap in gaps.items()},
        broken_at=ceiling,
    )
    if equal:
        marks = [floor] * len(equal)
        traces.append(figures.marks("equal", equal, marks, figures.GOOD, "triangle-down-open"))
    if line is not None:
        traces.append(
            figures.rule(f"limit {format_number(line)}", list(gaps), line, figures.BAD, "dash")
        )
    scale = {
        "type": "log",
        "range": [math.log10(floor) - 0.4, math.log10(ceiling) + 0.5],
        "exponentformat": "power",
        "dtick": max(1, math.ceil(math.log10(ceiling / floor) / 6)),
    }
    columns = {f"|{names[0]} − {names[1]}|": gaps, **({"noise": noise} if noise else {})}
    numbers = number_table(title, "step", columns)
    figure = figures.figure(traces, "|Δ loss| / loss", yaxis=scale)
    return Chart(title, tuple(notes), figure, numbers)


def _curves(title: str, axis: str, curves: Sequence[tuple[ChartedRun, ByStep]]) -> Chart:
    traces, notes = [], []
    for run, values in curves:
        if all(value is None for value in values.values()):
            notes.append(f"{run.name}: not observed.")
            continue
        traces += figures.line(run.name, values, run.colour, run.dash)
        if bad := broken(values):
            notes.append(f"{run.name}: not finite at {spell(bad)} (crosses).")
    if len({len(values) for _, values in curves}) > 1:
        counts = ", ".join(f"{run.name} {len(values)}" for run, values in curves)
        notes.append(f"The runs have different numbers of steps: {counts}.")
    numbers = number_table(title, "step", {run.name: values for run, values in curves})
    return Chart(title, tuple(notes), figures.figure(traces, axis), numbers, linear=True)


def _gradient_norms(runs: Sequence[ChartedRun]) -> Chart:
    """Norms before clipping, with the thresholds."""
    curves = [(run, series(run.record, lambda step: step.gradient_norm)) for run in runs]
    chart = _curves("Gradient norm before clipping", "L2 norm", curves)
    notes = list(chart.notes)
    clipping: defaultdict[float, list[str]] = defaultdict(list)
    for run in runs:
        thresholds = {step.max_norm for step in run.record.steps if step.max_norm is not None}
        if not thresholds:
            notes.append(f"{run.name}: never clipped.")
        for threshold in sorted(filter(math.isfinite, thresholds)):
            clipping[threshold].append(run.name)
    if chart.figure is None:
        return Chart(chart.title, tuple(notes), None)
    steps = sorted({step for _, values in curves for step in values})
    rules = [
        figures.rule(f"max {format_number(t)} ({', '.join(who)})", steps, t, figures.GREY, "dot")
        for t, who in clipping.items()
    ]
    figure = {**chart.figure, "data": [*chart.figure["data"], *rules]}
    return replace(chart, notes=tuple(notes), figure=figure)


def _learning_rates(runs: Sequence[ChartedRun]) -> Chart:
    traces, notes = [], []
    columns: dict[str, ByStep] = {}
    for run in runs:
        groups = learning_rates(run.record)
        if not groups:
            notes.append(f"{run.name}: not observed.")
        for group, values in enumerate(groups):
            name = run.name if len(groups) == 1 else f"{run.name}, group {group}"
            traces += figures.line(name, values, run.colour, run.dash)
            columns[name] = values
    title = "Learning rate that each step used"
    figure = figures.figure(traces, "learning rate")
    return Chart(title, tuple(notes), figure, number_table(title, "step", columns), linear=True)


def _timeline(runs: Sequence[ChartedRun]) -> Chart:
    """Seconds a step of every window, those that are excluded too."""
    traces, notes = [], []
    for run in runs:
        calm = run.record.steady_windows
        excluded = [window for window in run.record.windows if not window.steady]
        if not run.record.windows:
            notes.append(f"{run.name}: no window was timed.")
        if excluded:
            where = ", ".join(f"{window.first}–{window.last}" for window in excluded)
            notes.append(
                f"{run.name}: steps {where} are not steady, as XLA compiled or a profiler ran: "
                "excluded (thin, crossed)."
            )
        traces += figures.spans(run.name, calm, run.colour, True)
        traces += figures.spans(f"{run.name}, excluded", excluded, run.colour, False)
    figure = figures.figure(
        traces,
        "seconds a step",
        yaxis={"type": "log", "tickformat": "~g", "dtick": "D2"},
        hovermode="closest",
    )
    title = "Step time of every window"
    columns = {
        run.name: {window.first: window.seconds / window.steps for window in run.record.windows}
        for run in runs
    }
    return Chart(title, tuple(notes), figure, number_table(title, "first step", columns))


def _distribution(runs: Sequence[ChartedRun]) -> Chart:
    """Seconds a step of the steady windows."""
    traces, notes = [], []
    for run in runs:
        calm = [window for window in run.record.steady_windows if math.isfinite(window.seconds)]
        if not calm:
            notes.append(f"{run.name}: no steady window.")
            continue
        median = statistics.median(window.seconds / window.steps for window in calm)
        notes.append(
            f"{run.name}: {len(calm)} of {len(run.record.windows)} windows are steady, "
            f"median {format_number(median)} s a step."
        )
        traces.append(figures.box(run.name, calm, run.colour))
    figure = figures.figure(
        traces, "seconds a step", xaxis={}, hovermode="closest", showlegend=False
    )
    return Chart("Step time of the steady windows", tuple(notes), figure, by_step=False)
