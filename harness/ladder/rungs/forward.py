"""The rung of the loss of step 0, where nothing has been updated yet."""

from __future__ import annotations

import dataclasses
import math

from harness.ladder.beyond_case import beyond_case
from harness.ladder.comparison import ROUNDING, Comparison
from harness.ladder.distances import OPPOSITE, exceeds, largest, relative_difference
from harness.ladder.loss import first_loss
from harness.ladder.metric import IN_FLOAT32, UNRELATED, Floor, Metric
from harness.ladder.outputs import (
    CERTAINTY,
    last_output,
    last_output_distance,
    where_outputs_part,
    worst_output_distance,
)
from harness.ladder.result import Finding, Limit, RungResult
from harness.ladder.rung import Rung, Stage
from harness.ladder.series import losses
from harness.record.evidence import Record


def forward(c: Comparison) -> RungResult:
    """The loss of step 0, at full precision, and what it is made of.

    A loss is one number, and on a noisy device two models that compute otherwise may come to nearly
    the same. Their logits do not.
    """
    limit = c.limit(LOSS)
    if c.judges_per_run(*VALUES):
        return _forward_each(c)
    name_a, name_b = c.names
    x, y = first_loss(c.a), first_loss(c.b)
    if x is None or y is None:
        missing = name_a if x is None else name_b
        return RungResult.invalid("forward", f"{missing}: no loss was observed at step 0")
    if x == 0 and y == 0:
        text = "both losses of step 0 are exactly 0: nothing was predicted"
        return RungResult.invalid("forward", text)
    value = first_loss_distance(c.a, c.b)
    finding = Finding(f"loss of step 0: {name_a} {x:.9g}, {name_b} {y:.9g}", 0, None, x, y)
    if exceeds(value, limit.value):
        ratio = y / x if x else math.nan
        hint = _normalisation(c.a, x / y if y else math.nan) or _normalisation(c.b, ratio)
        text = f"step 0: loss {x:.7g} in {name_a}, {y:.7g} in {name_b} (ratio {ratio:.6g}){hint}"
        text += where_outputs_part(c.a, c.b, c.limit(OUTPUT).value)
        return RungResult.failed("forward", text, value, limit, (finding,))
    if (alike := _alike_in_error(c, (x, y))) is not None:
        return alike
    last, apart = last_output(c.a, c.b), c.limit(OUTPUT)
    if last is not None and exceeds(last[1], apart.value):
        text = f"step 0: the losses are within {limit.value:.2g} of each other, but the outputs of "
        text += f"{last[0]} {last[1]:.2g} apart"
        text += where_outputs_part(c.a, c.b, apart.value)
        return RungResult.failed("forward", text, last[1], apart, (finding,))
    same = "are bitwise equal" if x == y else f"differ by {value:.2g} of their size"
    return RungResult.passed(
        "forward", f"the losses of step 0 {same} ({x:.7g})", value, limit,
        detects=_detected(limit, last and apart), findings=(finding,),
    )  # fmt: skip


def _alike_in_error(c: Comparison, found: tuple[float, float]) -> RungResult | None:
    """FAIL where two losses that agree are both another than float64's; None where they are not.

    Not asked of runs that train what float64 does not: `harness.ladder.float64.silent`.
    """
    exact = None if c.first_float64 is None else first_loss(c.first_float64)
    if exact is None or beyond_case(c.a) or beyond_case(c.b):
        return None
    # What both round alike is in no difference of the two, nor in what perturbed weights do.
    limit = max((c.limit(LOSS), *(_rounded(c, r) for r in (c.a, c.b))), key=lambda m: m.value)
    value = min(relative_difference(x, exact) for x in found)
    if not exceeds(value, limit.value):
        return None
    hint = _normalisation(c.a, found[0] / exact if exact else math.nan)
    text = f"step 0: the losses agree ({found[0]:.7g} in {c.a.label}, {found[1]:.7g} in "
    text += f"{c.b.label}), and both are wrong: {exact:.7g} in float64{hint}"
    findings = tuple(
        Finding(f"{r.label}: loss {x:.9g}, in float64 {exact:.9g}", 0, None, x, exact)
        for r, x in zip((c.a, c.b), found, strict=True)
    )
    return RungResult.failed("forward", text, value, limit, findings)


def _rounded(c: Comparison, record: Record) -> Limit:
    """How far rounding can take the loss of a run from that of float64.

    On a device that was measured, as far as two runs are apart there: both are rounded by
    themselves. On another one as far as training in the least precise dtype takes it.
    """
    floor, where, _ = dataclasses.replace(c, a=record, b=record).documented(LOSS)
    if floor is None or record.observed.condition is not None:
        floor, where = ROUNDING * LOSS.coarsest(), f"{ROUNDING:g} times the least precise dtype's"
    margin = c.tolerance.margin
    return Limit(
        margin * floor, f"{margin:g} × {floor:.2g}, the floor documented for {where}", LOSS.name
    )


def _detected(loss: Limit, output: Limit | None) -> str:
    """What a pair of runs that passes would have failed by; no limit where there is no output."""
    text = f"a relative difference of {loss.value:.2g}"
    if output is None or CERTAINTY * output.value > OPPOSITE:
        return text
    return f"{text}, or logits that are off by {CERTAINTY * output.value:.2g}"


def first_loss_distance(a: Record, b: Record) -> float | None:
    """Relative difference of the losses of step 0."""
    x, y = first_loss(a), first_loss(b)
    return None if x is None or y is None else relative_difference(x, y)


def _normalisation(record: Record, ratio: float) -> str:
    """A cause that explains this ratio to the mean over the labels that are predicted."""
    targets = sum(b.targets for b in record.steps[0].batches)
    first = sum(b.first_targets for b in record.steps[0].batches)
    if first and targets and abs(ratio * (targets + first) / targets - 1) < 1e-3:
        length = record.steps[0].batches[0].shape[-1]
        return (
            f": {record.label} divides by all {targets + first} labels, also the first of each "
            f"row, which is never predicted, instead of {targets}"
            f" ((S-1)/S with S = {length} where every label counts)"
        )
    return ""


def _forward_each(c: Comparison) -> RungResult:
    """Each run against float64 from its own weights and batch, where these differ by themselves."""
    ratios, findings, hints = [], [], []
    for record in (c.a, c.b):
        own = c.float64_per_run.get(str(record.directory))
        x, exact = first_loss(record), None if own is None else first_loss(own)
        if x is None or exact is None or exact == 0:
            text = f"{record.label}: no loss at step 0, or none in float64"
            return RungResult.invalid("forward", text)
        ratios.append(x / exact)
        hints.append(_normalisation(record, x / exact))
        findings.append(
            Finding(f"{record.label}: loss {x:.7g}, {x / exact:.6f} × the float64 loss {exact:.7g} "
                    f"of its own weights and batch{hints[-1]}", 0, None, x, exact)
        )  # fmt: skip
    limit = c.limit(LOSS)
    deviations = [abs(r - 1) for r in ratios]
    value = largest(deviations)
    if exceeds(value, limit.value):
        worst_at = deviations.index(value)
        text = f"step 0: {findings[worst_at].text}"
        return RungResult.failed("forward", text, value, limit, tuple(findings))
    return RungResult.passed(
        "forward", "each loss of step 0 is that of float64 from its own weights and batch", value,
        limit, detects=f"a relative difference of {limit.value:.2g}", findings=tuple(findings),
    )  # fmt: skip


VALUES = ("data", "init")
"""The rungs that compare the batch and the weights that the loss follows from."""

LOSS = Metric(
    name="loss",
    what="loss of a step",
    distance=first_loss_distance,
    unrelated=1.0,  # of two numbers of one sign
    series=losses,
    resolution=IN_FLOAT32,
    by_float64=True,
    floors=(
        Floor("CPU", "float32", "", 2.4e-7, "2 units in the last place; measured: perturbed "
              "weights 1.5e-7, hf against torchprime 1.6e-7"),
        Floor("CPU", "bfloat16", "", 1e-4, "measured: hf against torchprime 1.3e-4, perturbed "
              "weights 5.1e-4"),
    ),
)  # fmt: skip

OUTPUT = Metric(
    name="output",
    what="last output that the models have in common at step 0",
    distance=last_output_distance,
    noise=worst_output_distance,
    unrelated=UNRELATED,
    by_float64=True,
    floors=(
        Floor("CPU", "float32", "", 3e-6, "measured: hf against torchprime 1.4e-6, perturbed "
              "weights 2.5e-6"),
        Floor("CPU", "bfloat16", "", 3e-2, "measured: hf against the reference 5.4e-3, perturbed "
              "weights 5.5e-2"),
    ),
)  # fmt: skip

RUNG = Rung(
    name="forward",
    what="loss of step 0, and the logits",
    judge=forward,
    needs=(*VALUES, "routing"),
    follows=("environment", "sharding"),
    metrics=(LOSS, OUTPUT),
    compares="loss",
    float64_per_run=VALUES,
    blamed_for=Stage.FIRST_STEP,
    from_numbers=True,
)
