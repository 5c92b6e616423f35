"""The ladder: every rung, in causal order. The first that fails names the cause."""

from __future__ import annotations

from functools import cache

from harness.base import registry
from harness.base.errors import BadInput
from harness.base.nearest import did_you_mean
from harness.config.settings import Tolerance
from harness.ladder.metric import Metric
from harness.ladder.rung import Rung, Stage
from harness.ladder.rungs import (
    backward,
    checkpoint,
    clip,
    compiled,
    data,
    environment,
    forward,
    grad_norm_curve,
    graph,
    init,
    loss_curve,
    optimizer,
    predicted_time,
    routing,
    schedule,
    sharding,
    step_time,
)

LADDER = (
    environment.RUNG,
    sharding.RUNG,
    data.RUNG,
    init.RUNG,
    routing.RUNG,
    forward.RUNG,
    backward.RUNG,
    clip.RUNG,
    optimizer.RUNG,
    schedule.RUNG,
    loss_curve.RUNG,
    grad_norm_curve.RUNG,
    checkpoint.RUNG,
    graph.RUNG,
    compiled.RUNG,
    predicted_time.RUNG,
    step_time.RUNG,
)
"""The rungs of this package. `rungs` is what is judged: packages add theirs (`parity.rungs`)."""


@cache
def rungs() -> tuple[Rung, ...]:
    """`LADDER`, and the rungs of other packages, each at the place that it names.

    Raises BadInput where a package's rung cannot be imported or has no place.
    """
    added = [_loaded(name) for name in registry.names(registry.RUNGS)]
    return with_added(LADDER, added)


def with_added(ladder: tuple[Rung, ...], added: list[Rung]) -> tuple[Rung, ...]:
    """`ladder` with the `added` rungs: each right after the one that it names, or at the end.

    Raises BadInput for a name that is there already, a place that is not there, needs that are not
    above, and a metric that is another one elsewhere.
    """
    ordered, waiting = list(ladder), list(added)
    while waiting:
        names = [rung.name for rung in ordered]
        # One that follows another added rung waits for it.
        rung = next((r for r in waiting if not r.after or r.after in names), waiting[0])
        waiting.remove(rung)
        if rung.name in names:
            raise BadInput(f"rung {rung.name}: there is one of that name already")
        if rung.after and rung.after not in names:
            raise BadInput(f"rung {rung.name}: after={rung.after!r} is none of {', '.join(names)}")
        ordered.insert(names.index(rung.after) + 1 if rung.after else len(ordered), rung)
    _check(ordered)
    return tuple(ordered)


def names() -> tuple[str, ...]:
    """Names of all rungs, in order."""
    return tuple(rung.name for rung in rungs())


def rung(name: str) -> Rung:
    """The rung of that name."""
    return next(rung for rung in rungs() if rung.name == name)


def preconditions(name: str) -> tuple[str, ...]:
    """The rungs above one without which it is not judged as a whole, in the ladder's order."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        below = rung(waiting.pop())
        above = {*below.needs, *below.partly} - found
        found |= above
        waiting += above
    return tuple(name for name in names() if name in found)


def blamed_for(stage: Stage) -> Rung:
    """The rung that a version fails which fails at this stage."""
    return next(rung for rung in rungs() if rung.blamed_for is stage)


def metrics() -> dict[str, Metric]:
    """Every metric that has a noise floor, by name; those of one name have the same floors."""
    return {metric.name: metric for rung in rungs() for metric in rung.metrics}


def check_floors(tolerance: Tolerance) -> None:
    """Raise BadInput for a floor of a metric that no rung has: it would never be asked for."""
    known = metrics()
    for dtype, floors in tolerance.floor.items():
        for name in floors:
            if name not in known:
                raise BadInput(
                    f"tolerance.floor.{dtype}.{name}: the metrics are {', '.join(known)}"
                    f"{did_you_mean(name, known)}"
                )


def _loaded(name: str) -> Rung:
    found = registry.load(registry.RUNGS, name, registry.RUNGS)
    if not isinstance(found, Rung):
        raise BadInput(f"{registry.RUNGS}: {name} is a {type(found).__name__}, and no Rung")
    return found


def _check(ladder: list[Rung]) -> None:
    above: set[str] = set()
    floors: dict[str, Metric] = {}
    for rung in ladder:
        for need in (*rung.needs, *rung.partly, *rung.follows):
            if need not in above:
                raise BadInput(f"rung {rung.name} needs {need}, which is no rung above it")
        for metric in rung.metrics:
            if floors.setdefault(metric.name, metric).floors != metric.floors:
                raise BadInput(f"rung {rung.name}: metric {metric.name} has other floors elsewhere")
        above.add(rung.name)
