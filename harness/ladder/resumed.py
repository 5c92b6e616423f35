"""What a training that was saved and resumed on its way differs by from one without a break.

What comes back is compared bit by bit. What is computed from it may be rounded otherwise: a resumed
run's first step is compiled by itself, as a first step, where it is a later one without a break.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.ladder.comparison import Resumption
from harness.ladder.distances import (
    by_name,
    exceeds,
    relative_difference,
    relative_distance,
    sketch_difference,
    sketch_distance,
    sketch_norm,
)
from harness.ladder.result import Finding
from harness.record.evidence import Fingerprint, Loaded, Record, Step
from harness.record.termination import OF_MACHINE, OK, STOPPED_EARLY


class NotObserved(Exception):
    """What would have to be known is not, for the reason that it is raised with."""


@dataclass(frozen=True)
class Limits:
    """How far, relatively, what is computed may be apart by rounding; 0 where nothing tells.

    course: of what the steps after the save did to a parameter
    """

    loss: float
    gradient_norm: float
    course: float


def save_at(r: Resumption) -> int:
    """Optimizer steps before the save. Raises NotObserved where the case names none."""
    found = getattr(r.straight.case, "save_at", None)
    if not isinstance(found, int):
        raise NotObserved("its case saves nothing")
    return found


def differences(r: Resumption, limits: Limits) -> list[Finding]:
    """Everything that did not come back, what other things follow from first.

    Raises NotObserved.
    """
    ended = _ended(r)
    if ended is not None:
        return [*_loads(r), ended] if r.resumed is not None else [ended]
    assert r.resumed is not None
    found = [
        *_loads(r),
        *_weights(r, r.resumed),
        *_state(r, r.resumed),
        *_placed(r, r.resumed),
    ]
    seeded = _seeded(r)
    for (index, straight), resumed in zip(_rest(r), r.resumed.steps, strict=True):
        found += _given(index, straight, resumed, seeded if index == save_at(r) else None)
    return [*found, *_disturbed(r, limits), *_trained(r, r.resumed, limits)]


def _rest(r: Resumption) -> list[tuple[int, Step]]:
    """The steps without a break that come after the save, by their numbers in the case."""
    return [(step.index, step) for step in r.straight.steps[save_at(r) :]]


def _ended(r: Resumption) -> Finding | None:
    """That one of the runs did not train what it was to train; None where both did."""
    if not r.straight.complete:
        raise NotObserved(f"{r.straight.label}: its run without a break is not whole")
    for record, what, kind in (
        (r.saving, "does not train to its end where it saves", "saving_ended"),
        (r.resumed, "does not resume", "resume_ended"),
    ):
        if record is None:
            raise NotObserved("nothing was resumed")
        ended = record.ended
        if ended.status in OF_MACHINE:
            raise NotObserved(f"{record.label} {ended.status}: {ended.reason}")
        if ended.status == STOPPED_EARLY and record.trained_steps > record.requested_steps:
            text = f"trains {record.trained_steps} steps where {record.requested_steps} were left"
            return Finding(f"{text}: it does not go on where it was saved", kind=kind)
        if ended.status != OK:
            return Finding(f"{what}: {ended.status}, {ended.reason}", kind=kind)
        if not record.complete:
            raise NotObserved(f"{record.label} is not whole")
    return None


def _disturbed(r: Resumption, limits: Limits) -> Iterator[Finding]:
    """Training that goes on otherwise, in the very process that saves."""
    later = zip(r.straight.steps[save_at(r) :], r.saving.steps[save_at(r) :], strict=True)
    for x, y in later:
        if _differ(x.micro_losses, y.micro_losses, limits.loss):
            text = f"step {x.index}: after it saved, its loss is {y.loss!r}, and {x.loss!r} where "
            text += "nothing is saved: saving changes its training"
            yield Finding(text, x.index, None, x.loss, y.loss, kind="disturbed")
            break
    x, y = r.straight.steps[save_at(r)], r.saving.steps[save_at(r)]
    for name in _other(x, y, _seeded(r)):
        text = f"step {x.index}: after it saved, {GENERATORS.get(name, name)} is in another state "
        text += "than where nothing is saved"
        states = x.generators[name], y.generators.get(name)
        yield Finding(text, x.index, None, *states, kind=f"disturbed_{name}")


def _loads(r: Resumption) -> Iterator[Finding]:
    """What a user finds who loads what was saved."""
    loaded, model = r.saving.loaded, by_name(r.saving)
    if loaded is None:
        raise NotObserved(f"{r.saving.label}: what was saved was not loaded")
    foreign = [name for name in loaded.stored if name not in model]
    if foreign:
        text = f"what was saved calls its tensors {_some(foreign)}, which is none of the model's"
        yield Finding(text, None, None, foreign[0], next(iter(model), None), kind="keys")
    if loaded.refused is not None:
        text = f"what was saved cannot be loaded by {loaded.how}: {loaded.refused}"
        yield Finding(text, kind="refused")
        return
    for kind, names in (("missing", loaded.missing), ("unexpected", loaded.unexpected)):
        if names:
            yield Finding(f"{loaded.how}: {kind} {_some(names)}", None, names[0], kind=kind)
    yield from _loaded_values(r.saving, loaded)


def _loaded_values(saving: Record, loaded: Loaded) -> Iterator[Finding]:
    for name, parameter in by_name(saving).items():
        if parameter.saved is None:
            raise NotObserved(f"{saving.label}: {name} was not observed when it was saved")
        value = loaded.parameters.get(name)
        if value is None and name not in loaded.missing:
            raise NotObserved(f"{saving.label}: {name} was not observed when it was loaded")
        if value is not None and value.bits != parameter.saved.bits:
            text = f"{name}: what was saved loads with another value than it had, "
            yield Finding(text + _apart(parameter.saved, value), None, name, kind="loaded")


def _weights(r: Resumption, resumed: Record) -> Iterator[Finding]:
    """Weights that training resumes from, and that are not those that were saved."""
    for name, saved in by_name(r.saving).items():
        now = by_name(resumed).get(name)
        if saved.saved is None or now is None or now.initial is None:
            raise NotObserved(f"{resumed.label}: {name} was not observed")
        if now.initial.bits == saved.saved.bits:
            continue
        text = f"{name}: training resumes from another value than was saved, "
        text += _apart(saved.saved, now.initial)
        if saved.initial is not None and now.initial.bits == saved.initial.bits:
            text = f"{name}: training resumes from its initial value, and not from the saved one"
        yield Finding(text, save_at(r), name, saved.saved.norm, now.initial.norm, kind="weights")


def _state(r: Resumption, resumed: Record) -> Iterator[Finding]:
    """What the optimizer keeps, such as moments, that did not come back."""
    for name, saved in by_name(r.saving).items():
        now = by_name(resumed)[name]
        for key, value in saved.state_saved.items():
            loaded = now.state_loaded.get(key)
            if loaded is None:
                text = f"{name}: the optimizer resumes without its {key}"
                yield Finding(text, save_at(r), name, value.norm, None, kind=key)
            elif loaded.bits != value.bits:
                text = f"{name}: the optimizer resumes with another {key} than was saved, "
                text += _apart(value, loaded)
                yield Finding(text, save_at(r), name, value.norm, loaded.norm, kind=key)
        if saved.counted_saved != now.counted_loaded:
            text = f"{name}: the optimizer had counted {_number(saved.counted_saved)} updates, and "
            text += f"resumes with {_number(now.counted_loaded)}"
            yield Finding(
                text, save_at(r), name, saved.counted_saved, now.counted_loaded, kind="counted"
            )


def _placed(r: Resumption, resumed: Record) -> Iterator[Finding]:
    """Parameters, and inputs, that lie on the devices otherwise than without a break."""
    for name, straight in by_name(r.straight).items():
        now = by_name(resumed)[name]
        if straight.sharding != now.sharding:
            text = f"{name}: resumed it is sharded {now.sharding or 'not at all'}, without a break "
            text += straight.sharding or "not at all"
            yield Finding(text, save_at(r), name, straight.sharding, now.sharding, kind="sharding")
    before, after = r.straight.observed.input_sharding, resumed.observed.input_sharding
    if before != after:
        text = f"resumed its inputs are sharded {after or 'not at all'}, without a break "
        text += before or "not at all"
        yield Finding(text, save_at(r), None, before, after, kind="input_sharding")


def _seeded(r: Resumption) -> set[str]:
    """The generators that training may draw from: one that no trainer seeds is in another state in
    every process, those of equal runs among them."""
    pairs = zip(r.straight.steps[: save_at(r)], r.saving.steps, strict=False)
    states = [(x.generators, y.generators) for x, y in pairs]
    names = {name for x, _ in states for name in x}
    return {name for name in names if all(x.get(name) == y.get(name) for x, y in states)}


def _given(index: int, straight: Step, resumed: Step, seeded: set[str] | None) -> Iterator[Finding]:
    """Of one step: batches and learning rates, and at the first the `seeded` generators."""
    for number, (x, y) in enumerate(zip(straight.batches, resumed.batches, strict=False)):
        if (x.own, x.tokens, x.labels, x.mask) != (y.own, y.tokens, y.labels, y.mask):
            text = f"step {index}: resumed it trains on another batch (micro-batch {number})"
            yield Finding(text, index, None, x.own or x.tokens, y.own or y.tokens, kind="batch")
            break
    if len(straight.batches) != len(resumed.batches):
        counts = len(straight.batches), len(resumed.batches)
        text = (
            f"step {index}: resumed it has {counts[1]} micro-batches, without a break {counts[0]}"
        )
        yield Finding(text, index, None, *counts, kind="batch")
    if straight.learning_rates != resumed.learning_rates:
        x_rates, y_rates = (", ".join(map(str, s.learning_rates)) for s in (straight, resumed))
        text = f"step {index}: resumed its learning rate is {y_rates}, without a break {x_rates}"
        yield Finding(text, index, None, x_rates, y_rates, kind="learning_rate")
    if seeded is None:
        return
    if not straight.generators:
        raise NotObserved(f"the generators of step {index} were not observed")
    for name in _other(straight, resumed, seeded):
        text = f"step {index}: resumed, {GENERATORS.get(name, name)} is in another state"
        states = straight.generators[name], resumed.generators.get(name)
        yield Finding(text, index, None, *states, kind=f"generator_{name}")


def _other(x: Step, y: Step, names: set[str]) -> list[str]:
    """Those of the generators `names` that are in another state in `y`."""
    return [n for n in x.generators if n in names and x.generators[n] != y.generators.get(n)]


GENERATORS = {
    "python": "Python's random number generator",
    "numpy": "numpy's random number generator",
    "torch": "torch's random number generator on the host",
    "device": "the device's random number generator",
}


def _trained(r: Resumption, resumed: Record, limits: Limits) -> Iterator[Finding]:
    """What is computed after the resume: losses and gradient norms, and where weights end."""
    pairs = list(zip(_rest(r), resumed.steps, strict=True))
    for (index, x), y in pairs:
        if x.loss is None or y.loss is None:
            raise NotObserved(f"the loss of step {index} was not observed")
        if _differ(x.micro_losses, y.micro_losses, limits.loss):
            text = f"step {index}: resumed its loss is {y.loss!r}, without a break {x.loss!r}"
            yield Finding(text, index, None, x.loss, y.loss, kind="loss")
            break
    for (index, x), y in pairs:
        both = (x.gradient_norm, y.gradient_norm)
        if both != (None, None) and exceeds(relative_difference(*both), limits.gradient_norm):
            text = f"step {index}: resumed its gradient norm is {y.gradient_norm!r}, without a "
            text += f"break {x.gradient_norm!r}"
            yield Finding(text, index, None, *both, kind="gradient_norm")
            break
    last = r.straight.case.steps - 1
    for name, distance in _courses(r, resumed).items():
        if exceeds(distance, limits.course):
            text = f"{name}: resumed it ends elsewhere, by {distance:.2g} of what the steps after "
            yield Finding(text + "the save did to it", last, name, kind="end")


def _courses(r: Resumption, resumed: Record) -> dict[str, float]:
    """By parameter how far apart both ends are, over the way that was left to them."""
    found = {}
    for name, straight in by_name(r.straight).items():
        saved, x, y = by_name(r.saving)[name].saved, straight.final, by_name(resumed)[name].final
        if saved is None or x is None or y is None:
            raise NotObserved(f"where {name} ends was not observed")
        if x.bits == y.bits:
            found[name] = 0.0
            continue
        ways = sketch_difference(x, saved), sketch_difference(y, saved)
        # Of one that only one of them moved, all of the way.
        found[name] = sketch_distance(*ways) if any(map(sketch_norm, ways)) else math.inf
    return found


def _differ(x: Sequence[float], y: Sequence[float], limit: float) -> bool:
    if len(x) != len(y):
        return True
    return any(exceeds(relative_difference(p, q), limit) for p, q in zip(x, y, strict=True))


def _apart(x: Fingerprint, y: Fingerprint) -> str:
    distance = relative_distance(x, y)
    return f"relative distance {distance:.2g}" if distance else "in less than its sketch shows"


def _some(names: Iterable[str]) -> str:
    first, *others = names
    return f"{first} (and {len(others)} more)" if others else first


def _number(count: float | None) -> str:
    return "none" if count is None else f"{count:g}"


def compared(r: Resumption) -> str:
    """What of a Resumption that holds was equal, in words."""
    assert r.resumed is not None
    parameters = by_name(r.saving)
    kept = {key: None for parameter in parameters.values() for key in parameter.state_saved}
    text = f"{len(parameters)} weights" + (f" with {', '.join(kept)}" if kept else "")
    pairs = list(zip(_rest(r), r.resumed.steps, strict=True))
    apart = max((relative_difference(x.loss, y.loss) for (_, x), y in pairs), default=0.0)
    losses = f"losses within {apart:.2g} of those" if apart else "the losses"
    return (
        f"{text} come back at step {save_at(r)}, and {len(pairs)} steps have the batches and "
        f"learning rates, and {losses}, of a run without a break"
    )
