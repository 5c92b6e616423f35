"""Are the runs that measure noise what they are taken for? They loosen every limit.

The perturbed run starts from weights that are one unit in the last place away, the repeat from
equal ones. `checked` leaves out what is not such a run, and what cannot be rounding.
"""

from __future__ import annotations

import dataclasses

from harness.config.settings import Tolerance
from harness.devices.device import deterministic
from harness.ladder.comparison import Comparison, RecordPair
from harness.ladder.distances import by_name, exceeds, relative_distance, worst
from harness.ladder.ladder import rungs
from harness.ladder.metric import Metric
from harness.ladder.result import Result
from harness.ladder.rungs.backward import GRADIENT
from harness.ladder.rungs.data import data
from harness.ladder.rungs.forward import LOSS
from harness.record.evidence import Fingerprint, Record

LAST_PLACE = {"float32": 2.0**-23, "bfloat16": 2.0**-7}
"""Largest relative distance of a weight from its neighbour, by dtype."""

ESTIMATE = 4.0
"""How far a distance may be beyond that: it is estimated (see `distances.SKETCH_CERTAINTY`)."""


def checked(c: Comparison) -> tuple[Comparison, tuple[str, ...]]:
    """The comparison with what its noise runs really tell, and notes of what they do not."""
    notes: list[str] = []
    c = dataclasses.replace(c, deterministic=None)
    if c.repeat is not None:
        c, shown = _with_repeat(c, *c.repeat)
        notes += shown
    if c.noise_floor is not None:
        fault = _fault_of_both(c, c.noise_floor) or _not_perturbed(*c.noise_floor)
        if fault is not None:
            notes.append(f"the perturbed run says nothing of noise and was left out: {fault}")
            return dataclasses.replace(c, noise_floor=None), tuple(notes)
        notes += [_unbelieved_text(*found) for found in _unbelieved(c)]
    return c, tuple(notes)


def needs_repeat(pair: RecordPair, tolerance: Tolerance) -> bool:
    """Whether a repeat is needed to believe what the perturbed run, the second, measured.

    It is where equal runs on this device are not known to have equal bits, and where the perturbed
    run differs by more than rounding can do on an engine about which no more is known.
    """
    first = pair[0]
    c = Comparison(first, first, tolerance, noise_floor=pair)
    return not deterministic(first.observed) or bool(_unbelieved(c))


def _unbelieved(c: Comparison) -> list[tuple[Metric, float, float]]:
    """Metrics in which the perturbed run is further away than rounding can take it, and how far."""
    assert c.noise_floor is not None
    found = []
    for metric in _measured():
        value, repeated = c.noise(metric, c.noise_floor), c.noise(metric, c.repeat)
        most = c.most(metric, c.documented(metric)[0], repeated)
        if value is not None and exceeds(value, most):
            found.append((metric, value, most))
    return found


def _measured() -> list[Metric]:
    """Every metric that two runs have; the loss of step 0 and that of any step share a name."""
    return [m for rung in rungs() for m in rung.metrics if m.distance is not None]


def _unbelieved_text(metric: Metric, value: float, most: float) -> str:
    return (
        f"{metric.name}: the perturbed run is {value:.2g} away, and rounding takes it {most:.2g} "
        "at most: not believed without a repeat that has equal bits (tolerance.repeat=always)"
    )


# --- the repeat -------------------------------------------------------------------------------


def _with_repeat(c: Comparison, first: Record, again: Record) -> tuple[Comparison, list[str]]:
    """The comparison with what a repeat tells of the engine: alike to the last bit, or not."""
    alone = dataclasses.replace(c, repeat=None, deterministic=None)
    fault = _fault_of_both(c, (first, again)) or _other_start(first, again)
    if fault is not None:
        return alone, [f"the repeat says nothing of noise and was left out: {fault}"]
    where = first_difference(first, again)
    if where is None:
        return dataclasses.replace(c, deterministic=True), []
    text = f"{first.label} does not train alike twice from equal weights: it begins at {where}"
    if deterministic(first.observed):
        # Not the device's rounding: a mask, or a batch, that is drawn anew at each launch.
        return alone, [f"{text}. {first.observed.device_kind} is deterministic: this is no noise"]
    draws = _draws(c, first, again)
    if draws is not None:
        return alone, [f"{text}. {draws}: this is no noise"]
    return dataclasses.replace(c, deterministic=False), [text]


def first_difference(first: Record, again: Record) -> str | None:
    """Where two runs of one engine part, in the order of training; None for equal bits.

    What was not observed is not equal.
    """
    left, right = by_name(first), by_name(again)

    def parted(what: str) -> str | None:
        for name in left:
            x, y = getattr(left[name], what), getattr(right[name], what)
            held = left[name].group is not None or x is not None or y is not None
            if held and not _equal(x, y):
                return name
        return None

    steps = list(zip(first.steps, again.steps, strict=False))
    if len(first.steps) != len(again.steps) or not steps:
        return "the number of its steps"
    for index, (x, y) in enumerate(steps):
        if x.loss is None or (x.loss, x.micro_losses) != (y.loss, y.micro_losses):
            return f"the loss of step {index}"
        if index == 0:
            for what, shown in (
                ("gradient", "the gradient of step 0"),
                ("clipped_norm", "the clipped gradient of step 0"),
                ("after", "the first updates"),
            ):
                if (name := parted(what)) is not None:
                    return f"{shown} of {name}"
        if x.gradient_norm != y.gradient_norm:
            return f"the gradient norm of step {index}"
    name = parted("final")
    return None if name is None else f"the final value of {name}"


def _equal(x: object, y: object) -> bool:
    """Equal bits, sketch and norm: an empty or missing value equals nothing."""
    return x is not None and x != () and x == y


def _other_start(first: Record, again: Record) -> str | None:
    """The parameter from whose value the repeat does not start as the first run does."""
    left, right = by_name(first), by_name(again)
    for name in left:
        if not _equal(left[name].initial, right[name].initial):
            return f"it does not start from the first run's {name}"
    return None


def _draws(c: Comparison, first: Record, again: Record) -> str | None:
    """Why a repeat differs by more than a device's rounding: already in step 0, by too much."""
    pair = dataclasses.replace(c, a=first, b=again, deterministic=False)
    for metric in (LOSS, GRADIENT):
        assert metric.distance is not None
        value, most = metric.distance(first, again), pair.most(metric, None)
        if value is not None and exceeds(value, most):
            return f"its {metric.name} of step 0 is {value:.2g} away, more than rounding can do"
    return None


# --- both -------------------------------------------------------------------------------------


def _fault_of_both(c: Comparison, pair: RecordPair) -> str | None:
    """Why two runs are not the first engine of the comparison, twice, on the same batches."""
    first, second = pair
    for record in pair:
        if not record.complete:
            return f"{record.label} is not complete"
    for compared in (first, c.a, c.b):
        if same_run(second, compared):
            return f"it is the run of {compared.label} itself"
    if first.case not in (c.a.case, c.b.case) or first.case != second.case:
        return "it is of another case"
    if first.engine not in (c.a.engine, c.b.engine) or first.engine != second.engine:
        return f"it is of {second.engine}"
    for record in (second, c.a, c.b):
        if _conditions(record) != _conditions(first):
            return (
                f"it is of {_shown(first)}, {record.label} of {_shown(record)}"
                if record is not second
                else f"it is of {_shown(second)}, the first run of {_shown(first)}"
            )
    same = data(dataclasses.replace(c, a=first, b=second))
    if same.result is not Result.PASS:
        return f"data: {same.explanation}"
    left, right = by_name(first), by_name(second)
    if not left or left.keys() != right.keys():
        return "its two runs do not have the same parameters"
    return None


def same_run(x: Record, y: Record) -> bool:
    """Whether two Records are one launch, or copies of it: they show nothing of each other.

    A launch that differs in what it does has a key of its own, and so has a repeat
    (`harness.run.plan`).
    """
    if x.directory == y.directory:
        return True
    return x.engine == y.engine and (
        x.manifest.key == y.manifest.key or x.manifest.started == y.manifest.started
    )


def _conditions(record: Record) -> tuple[str | int | None, ...]:
    """What the noise of a run depends on, beside its case and its engine."""
    seen = record.observed
    return record.case.computed_in, seen.device_kind, seen.matmul_precision, seen.devices


def _shown(record: Record) -> str:
    return ", ".join(str(value) for value in _conditions(record) if value is not None)


def _not_perturbed(first: Record, second: Record) -> str | None:
    """Why the second run does not start one unit in the last place from the first."""
    place = LAST_PLACE.get(first.case.computed_in)
    if place is None:
        return f"no perturbed run is known in {first.case.computed_in}"
    left, right = by_name(first), by_name(second)
    distances = {}
    for name in left:
        x, y = left[name].initial, right[name].initial
        if x is None or y is None:
            return f"{name} was not observed before the first step"
        if _unmoved(x, y):
            return f"its {name} was not perturbed"
        distances[name] = relative_distance(x, y)
    name, distance = worst(distances)
    if exceeds(distance, ESTIMATE * place):
        return f"{name} starts {distance:.2g} away, which is more than one unit in the last place"
    return None


def _unmoved(x: Fingerprint, y: Fingerprint) -> bool:
    """Whether no element was moved; a tensor of zeros has no last place."""
    return x.bits == y.bits and x.norm > 0
