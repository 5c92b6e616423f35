"""The rung of what is done with gradients: class, hyper-parameters and updates of the optimizer."""

from __future__ import annotations

import math
from typing import Any

from harness.ladder import against_case
from harness.ladder.comparison import Comparison
from harness.ladder.distances import (
    by_name,
    detected,
    exceeds,
    largest,
    nan_last,
    sketch_difference,
    sketch_distance,
    sketch_norm,
    worst,
    worst_of,
)
from harness.ladder.metric import UNRELATED, Floor, Metric
from harness.ladder.moments import moment_distances, observed_alone
from harness.ladder.result import EQUAL, Finding, RungResult, summary
from harness.ladder.rung import Rung
from harness.ladder.rungs.backward import worst_gradient_distance
from harness.ladder.rungs.schedule import schedule
from harness.ladder.updates import decayed, uncorrected
from harness.record.evidence import Group, Parameter, Record
from harness.record.writer import encode

IMPLEMENTATION = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""Hyper-parameters that choose how an update is computed, not what it is."""

MADE_OF = ("data", "init", "forward", "backward", "clip")
"""What an update is made of, beside a learning rate."""


def optimizer(c: Comparison) -> RungResult:
    """Class, hyper-parameters of every parameter, the first moments and the first updates.

    Moments and updates are compared only where all that they are made of is alike;
    hyper-parameters always.
    """
    name_a, name_b = c.names
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        unknown = _unobserved(record)
        if unknown is not None:
            return RungResult.invalid("optimizer", f"{name}: {unknown} was not observed")
    findings = tuple(_compare_settings(c)) or tuple(
        finding for record in (c.a, c.b) for finding in against_case.optimizer(record)
    )
    if findings:
        return RungResult.failed("optimizer", summary(findings), len(findings), EQUAL, findings)
    groups = tuple(len(record.groups[0][2]) for record in (c.a, c.b))
    settings = f"{_class(c.a, 0)}, every parameter with equal hyper-parameters"
    if groups[0] != groups[1]:
        settings += f" ({groups[0]} groups in {name_a}, {groups[1]} in {name_b})"
    # An update is made of a learning rate too, although that rung comes below.
    if not (c.holds(*MADE_OF) and schedule(c).holds):
        text = f"{settings}; updates were not compared, as what they are made of differs"
        return RungResult.passed("optimizer", text, 0, EQUAL, detects="any other hyper-parameter")
    return _judge_updates(c, settings)


def _unobserved(record: Record) -> str | None:
    """The first thing about an optimizer that is not known: unknown and unknown are not equal."""
    if not record.groups or record.groups[0][0] != 0:
        return "the optimizer of step 0"
    held = [p for p in record.parameters if p.group is not None]
    if not held:
        return "any parameter that the optimizer holds"
    for step, _, groups in record.groups:
        for parameter in held:
            known = parameter.group is not None and parameter.group < len(groups)
            if not known or not _hyper(record, parameter, step):
                return f"what the optimizer does with {parameter.name} at step {step}"
    return None


def _compare_settings(c: Comparison) -> list[Finding]:
    name_a, name_b = c.names
    findings = []
    left, right = by_name(c.a), by_name(c.b)
    both = [name for name in left if name in right]
    for name in both:
        held = [side[name].group is not None for side in (left, right)]
        if held[0] != held[1]:
            who = name_b if held[0] else name_a
            findings.append(Finding(f"{name}: {who}'s optimizer does not hold it", None, name))
    for step in sorted({step for record in (c.a, c.b) for step, _, _ in record.groups}):
        kinds = _class(c.a, step), _class(c.b, step)
        if kinds[0] != kinds[1]:
            text = f"step {step}: {name_a} trains with {kinds[0]}, {name_b} with {kinds[1]}"
            findings.append(Finding(text, step, None, *kinds))
        differing: dict[tuple[str, str, str], list[str]] = {}
        for name in both:
            x, y = _hyper(c.a, left[name], step), _hyper(c.b, right[name], step)
            if x is None or y is None:
                continue
            for key in sorted({*x, *y} - IMPLEMENTATION):
                p, q = x.get(key, "nothing"), y.get(key, "nothing")
                if p != q or _has_nan(p):
                    differing.setdefault((key, str(p), str(q)), []).append(name)
        for (key, p, q), names in sorted(differing.items()):
            text = f"step {step}: {key} of {_which(names, len(left))}: {p} in {name_a}, {q} in "
            only = names[0] if len(names) == 1 else None
            findings.append(Finding(text + name_b, step, only, p, q))
    return findings


def _which(names: list[str], total: int) -> str:
    """A person's name for a set of parameters."""
    if len(names) == total:
        return "every parameter"
    if len(names) == 1:
        return names[0]
    if all("norm" in name for name in names):
        return f"the {len(names)} norm weights"
    return f"{len(names)} parameters ({names[0]}, …)"


def _has_nan(value: Any) -> bool:
    """Whether a hyper-parameter is, or holds, the NaN that `record.writer.encode` makes a text."""
    plain = encode(value)
    return plain == "nan" or (isinstance(plain, list) and any(map(_has_nan, plain)))


def _optimizer_at(record: Record, step: int) -> tuple[str, tuple[Group, ...]]:
    """Class and groups of the optimizer at a step: they are recorded where they change."""
    return [(kind, groups) for since, kind, groups in record.groups if since <= step][-1]


def _class(record: Record, step: int) -> str:
    return _optimizer_at(record, step)[0].rsplit(".", 1)[-1]


def _hyper(record: Record, parameter: Parameter, step: int) -> dict[str, Any] | None:
    if parameter.group is None:
        return None
    return _optimizer_at(record, step)[1][parameter.group].hyper


def _judge_updates(c: Comparison, settings: str) -> RungResult:
    limit = c.limit(UPDATE)
    distances = update_distances(c.a, c.b)
    if distances is None:
        return RungResult.invalid("optimizer", f"{settings}, but an update was not observed")
    if not distances:
        text = f"{settings}, but no parameter moved in the first two steps of either run"
        return RungResult.not_exercised("optimizer", text)
    moments = moment_distances(c.a, c.b)
    if (otherwise := _judge_moments(c, settings, moments)) is not None:
        return otherwise
    name, value = worst(distances)
    findings = tuple(
        Finding(_update_text(c, key, distance), None, key, *_update_norms(c, key))
        for key, distance in sorted(distances.items(), key=lambda item: -nan_last(item[1]))
        if exceeds(distance, limit.value)
    )
    if findings:
        text = f"{settings}, but {len(findings)} parameters were updated otherwise; most: "
        text += findings[0].text + _cause(c)
        return RungResult.failed("optimizer", text, value, limit, findings)
    text, detects = f"{settings}; first updates agree, furthest apart: {name}, {value:.2g}", ""
    if moments:
        (kept, _, kind), furthest = worst(moments)
        most = c.limit(MOMENT)
        if most.blind_to(furthest):
            text += f"; first moments are not judged: {most.blind}"
        else:
            text += f"; first moments agree, furthest apart: {kind} of {kept}, {furthest:.2g}"
            detects = f", {detected(most.value, 'moment')}"
    return RungResult.passed(
        "optimizer", text, value, limit,
        detects=f"any other hyper-parameter{detects}, or {detected(limit.value, 'update')}",
    )  # fmt: skip


def _judge_moments(
    c: Comparison, settings: str, moments: dict[tuple[str, int, str], float]
) -> RungResult | None:
    """Where what the optimizers keep of the first gradients differs, or of one was not seen."""
    if alone := observed_alone(c.a, c.b, lambda p: p.state_after):
        text = f"{settings}, but of {alone} alone was observed what the optimizer keeps"
        return RungResult.invalid("optimizer", text)
    limit = c.limit(MOMENT)
    findings = tuple(
        Finding(
            f"{name}: {kind} after step {step} is {distance:.2g} apart, relatively", step, name,
            *_moment_norms(c, name, step, kind),
        )
        for (name, step, kind), distance in sorted(moments.items(), key=lambda i: -nan_last(i[1]))
        if exceeds(distance, limit.value)
    )  # fmt: skip
    if not findings:
        return None
    text = f"{settings}, but {len(findings)} of its {len(moments)} first moments differ; most: "
    text += findings[0].text
    return RungResult.failed("optimizer", text, worst(moments)[1], limit, findings)


def _moment_norms(
    c: Comparison, name: str, step: int, kind: str
) -> tuple[float | None, float | None]:
    kept = [by_name(record)[name].state_after for record in (c.a, c.b)]
    first, second = (
        s[step][kind].norm if step < len(s) and kind in s[step] else None for s in kept
    )
    return first, second


def _cause(c: Comparison) -> str:
    """What of AdamW explains the difference of the first updates, in words that follow others.

    Both runs have an optimizer of one class: `_compare_settings` says so otherwise.
    """
    if _class(c.a, 0) not in ("Adam", "AdamW"):
        return ""
    sides = by_name(c.a), by_name(c.b)
    # Where a warm-up starts from zero, the first step is none, and the first two are the second.
    for step in (0, 1):
        x, y = (
            {n: u[step] for n, p in side.items() if (u := _sketches_of_updates(p))}
            for side in sides
        )
        if any(sketch_norm(update) for update in (*x.values(), *y.values())):
            hyper = next((h for p in c.a.parameters if (h := _hyper(c.a, p, 0))), {})
            rates = [max(s.learning_rates) for s in c.a.steps[: step + 1] if s.learning_rates]
            weights = {n: p.initial.sketch for n, p in sides[0].items() if p.initial}
            why = uncorrected(c.names, x, y, hyper.get("betas"), step + 1)
            why = why or decayed(c.names, x, y, weights, math.fsum(rates))
            return f": {why}" if why else ""
    return ""


def _sketches_of_updates(parameter: Parameter) -> list[tuple[float, ...]] | None:
    """Sketches of what the first step, and the first two, did to a parameter."""
    if parameter.initial is None or len(parameter.after) < 2:
        return None
    return [sketch_difference(after, parameter.initial) for after in parameter.after[:2]]


def update_distances(a: Record, b: Record) -> dict[str, float] | None:
    """Estimate, by parameter, of |update_a - update_b| / |update|.

    The larger one of the update of the first step and that of the first two: where a warm-up
    starts from zero, the first is none. Parameters that neither run moved are left out; one that
    only one run moved is infinitely far. None where an update was not observed.
    """
    left, right = by_name(a), by_name(b)
    if not left or left.keys() != right.keys():
        return None
    distances: dict[str, float] = {}
    for name in left:
        mine, theirs = _sketches_of_updates(left[name]), _sketches_of_updates(right[name])
        if mine is None or theirs is None:
            return None
        for x, y in zip(mine, theirs, strict=True):
            norms = sketch_norm(x), sketch_norm(y)
            if norms != (0.0, 0.0):
                distance = sketch_distance(x, y) if 0.0 not in norms else math.inf
                distances[name] = largest([distance, distances.get(name, 0.0)])
    return distances


def worst_update_distance(a: Record, b: Record) -> float | None:
    """The largest of `update_distances`."""
    return worst_of(update_distances(a, b))


def _update_norms(c: Comparison, name: str) -> tuple[float | None, float | None]:
    updates = [_sketches_of_updates(by_name(record)[name]) for record in (c.a, c.b)]
    first, second = (None if u is None else sketch_norm(u[1]) for u in updates)
    return first, second


def _update_text(c: Comparison, name: str, distance: float) -> str:
    x, y = _update_norms(c, name)
    return (
        f"{name}: by about {x:.3g} in {c.a.label}, {y:.3g} in {c.b.label}, relative distance "
        f"{distance:.2g}"
    )


SIGNS = 8.0
"""Adam's first update has the size of the learning rate and the signs of the gradient. Where a
gradient is d away, relatively, elements smaller than d change their sign. Of normally distributed
ones these are a share of about d/2, and the update is 2·sqrt(d/2) = 1.4·sqrt(d) away; measured is
0.8 to 2.3 (docs/tolerances.md). Gradients with heavier tails have more small elements: 8 allows for
30 times as many."""


def most_of_rounding(a: Record, b: Record) -> float | None:
    """The most that two runs' first updates can be apart by what their gradients are apart."""
    distance = worst_gradient_distance(a, b)
    return None if distance is None else SIGNS * math.sqrt(distance)


UPDATE = Metric(
    name="update",
    what="worst parameter's first two updates",
    distance=worst_update_distance,
    unrelated=UNRELATED,
    bound=most_of_rounding,
    floors=(
        Floor("CPU", "float32", "", 5e-4, "measured: hf against torchprime 3.7e-4, perturbed "
              "weights 9.3e-4"),
        Floor("CPU", "bfloat16", "", 3e-1, "measured: hf against torchprime 0.36, perturbed "
              "weights 0.56"),
    ),
)  # fmt: skip

MOMENT = Metric(
    name="moment",
    what="worst moment that the optimizer keeps of the first gradients",
    distance=lambda a, b: worst_of(moment_distances(a, b)),
    unrelated=UNRELATED,
    floors=(
        Floor("CPU", "float32", "", 2e-6, "measured: hf against torchprime 1.6e-6, perturbed "
              "weights 1.9e-6"),
        Floor("CPU", "bfloat16", "", 5e-2, "measured: hf against torchprime 0, perturbed weights "
              "8.8e-2"),
    ),
)  # fmt: skip

RUNG = Rung(
    name="optimizer",
    what="class, hyper-parameters of every parameter, first moments and updates",
    judge=optimizer,
    partly=MADE_OF,
    metrics=(UPDATE, MOMENT),
    compares="first update",
)
