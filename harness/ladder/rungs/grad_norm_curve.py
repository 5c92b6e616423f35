"""The rung of the gradient norm at every step."""

from __future__ import annotations

from harness.ladder.comparison import Comparison
from harness.ladder.curve import Curve, judge_curve
from harness.ladder.metric import IN_DTYPE, Floor, Metric
from harness.ladder.result import RungResult
from harness.ladder.rung import Rung
from harness.ladder.series import furthest_apart, gradient_norms
from harness.record.evidence import Record


def grad_norm_curve(c: Comparison) -> RungResult:
    """The gradient norm that each trainer measured, at every step."""
    seen = [any(n is not None for n in gradient_norms(r).values()) for r in (c.a, c.b)]
    if not any(seen) and any(_called(r) for r in (c.a, c.b)):
        text = "gradients were clipped, but no norm was observed"
        return RungResult.invalid("grad_norm_curve", text)
    if not any(seen):
        text = "neither trainer measures gradient norms in this case"
        return RungResult.not_exercised("grad_norm_curve", text)
    if not all(seen):
        silent = c.b if seen[0] else c.a
        if c.holds("clip") and not _called(silent):
            text = f"{silent.label} measures its norms by a function that is not watched"
            return RungResult.not_exercised("grad_norm_curve", text)
        text = f"{silent.label} measured no gradient norm"
        return RungResult.invalid("grad_norm_curve", text)
    return judge_curve(c, Curve("grad_norm_curve", "gradient norm", GRADIENT_NORM))


def _called(record: Record) -> bool:
    """Whether a function that clips to a norm was called at any step."""
    return any(step.max_norm is not None for step in record.steps)


def worst_norm_distance(a: Record, b: Record) -> float | None:
    """The largest relative difference of the gradient norms at any step."""
    return furthest_apart(gradient_norms(a), gradient_norms(b))


GRADIENT_NORM = Metric(
    name="gradient_norm",
    what="norm of a step, as the trainer measures it",
    distance=worst_norm_distance,
    unrelated=1.0,  # of two numbers of one sign
    series=gradient_norms,
    resolution=IN_DTYPE,
    floors=(
        Floor("CPU", "float32", "", 2.4e-7, "2 units in the last place; measured: perturbed "
              "weights 1.7e-7, hf against torchprime 1.7e-7"),
        Floor("CPU", "bfloat16", "", 8e-3, "1 unit in the last place, where that is largest; "
              "measured: perturbed weights 9.3e-3, hf against torchprime 9.8e-3"),
    ),
)  # fmt: skip

RUNG = Rung(
    name="grad_norm_curve",
    what="gradient norm at every step",
    judge=grad_norm_curve,
    needs=(
        "data", "init", "forward", "backward", "clip", "optimizer", "schedule", "loss_curve",
    ),
    follows=("environment", "sharding"),
    metrics=(GRADIENT_NORM,),
    from_numbers=True,
)  # fmt: skip
