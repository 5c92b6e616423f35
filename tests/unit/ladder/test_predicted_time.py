"""The predicted_time rung: each test is one way in which it could lie."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from builders import Trainer, comparison
from compiled_samples import sample_module, sample_step
from golden import Worded

from harness.compiler.compiled import CompiledStep
from harness.compiler.predicted import IN_TURN, Parts, Predicted
from harness.ladder.result import Result, RungResult
from harness.ladder.rungs.predicted_time import (
    WORTH,
    Ratio,
    judge_times,
    predicted_time,
    ratio,
)

NAMES = ("hf", "torchprime")
WORK = {
    "model/layers/*/mlp": Parts(products=0.8, fusions=0.1),
    "model/lm_head": Parts(products=0.05, exposed=0.05),
}


def step(missing: tuple[str, ...] = (), **more: dict[str, float]) -> CompiledStep:
    """The sample step, whose time is WORK's and `more` of it by part and path."""
    work = dict(WORK)
    for part, paths in more.items():
        for path, seconds in paths.items():
            work[path] = work.get(path, Parts()) + Parts(**{part: seconds})
    predicted = Predicted(work, missing)
    return sample_step(modules=(sample_module(predicted=predicted),))


def judged(b: CompiledStep, **options: Any) -> RungResult:
    return judge_times(NAMES, (step(), b), **options)


def test_nobody_asked() -> None:
    c = comparison(Trainer().record(), Trainer().record())
    assert predicted_time(c).result is Result.NOT_EXERCISED
    plain = dataclasses.replace(c, compiled=((sample_step(), sample_step()),))
    assert predicted_time(plain).result is Result.NOT_EXERCISED


def test_equal_steps() -> None:
    result = judged(step())
    assert (result.result, result.value) == (Result.PASS, 0)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (0.01, Result.PASS),
        (0.03, Result.INCONCLUSIVE),
        (0.1, Result.FAIL),
        (-0.01, Result.PASS),
        (-0.1, Result.FAIL),
    ],
)
def test_more_products(more: float, expected: Result) -> None:
    result = judged(step(products={"model/layers/*/mlp": more}))
    assert result.result is expected
    assert result.value == pytest.approx(abs(more))
    if expected is Result.FAIL:
        assert result.explanation.endswith(f"; {NAMES[more > 0]} is slower")


@pytest.mark.parametrize(
    ("other", "low", "high"),
    [(1.1, 1 + 0.09 / 1.1, 1 + 0.11 / 0.9), (0.9, 1 - 0.11 / 0.9, 1 - 0.09 / 1.1)],
)
def test_the_uncertainty_of_a_ratio(other: float, low: float, high: float) -> None:
    """Both what differs and the whole may take 0.9 to 1.1 of what is predicted."""
    found = ratio(*(Predicted({"a": Parts(products=p)}) for p in (1.0, other)))
    assert [found.value, found.low, found.high] == pytest.approx([other, low, high])


def test_nothing_is_known_of_a_ratio_to_no_time() -> None:
    assert ratio(Predicted({}), Predicted(WORK)) == Ratio(1.0, 0.0, float("inf"))


def test_what_makes_the_difference() -> None:
    """The largest first, and nothing below a thousandth of the step."""
    more = step(products={"model/lm_head": 0.1}, copies={"model/layers/*/mlp": 0.3})
    texts = [f.text for f in judged(more).findings[2:]]
    assert [text.split(" in ")[1] for text in texts] == [
        "model/layers/*/mlp (copies)", "model/lm_head (products)",
    ]  # fmt: skip
    long = step(products={"model/lm_head": 20.0})
    longer = step(products={"model/lm_head": 20.01})
    assert len(judge_times(NAMES, (long, longer)).findings) == 2


def test_what_is_known_badly_decides_less() -> None:
    """Nobody measured how long collectives take."""
    more = {"model/lm_head": 0.05}
    assert judged(step(products=more)).result is Result.FAIL
    assert judged(step(exposed=more)).result is Result.INCONCLUSIVE


def test_differences_that_cancel_out_leave_their_uncertainty() -> None:
    moved = step(products={"model/layers/*/mlp": 0.3, "model/lm_head": -0.04})
    equal = step(products={"model/layers/*/mlp": 0.3}, fusions={"model/layers/*/mlp": -0.1})
    for found in (moved, equal):
        value = judged(found)
        assert value.result is not Result.PASS
    level = ratio(
        Predicted({"a": Parts(products=0.5, copies=0.5)}),
        Predicted({"a": Parts(products=0.7, copies=0.3)}),
    )
    assert level.value == pytest.approx(1.0)
    assert level.low < 1.03 < level.high


def test_hidden_collectives_take_no_time() -> None:
    assert judged(step(hidden={"model/lm_head": 5.0})).value == 0


def test_of_another_compiler_less_time_is_no_failure(worded: Worded) -> None:
    faster = step(products={"model/layers/*/mlp": -0.3})
    assert judged(faster).result is Result.FAIL
    result = judged(faster, only_more=True)
    assert result.result is Result.PASS
    worded(result)
    slower = judged(step(products={"model/layers/*/mlp": 0.3}), only_more=True)
    assert slower.result is Result.FAIL
    assert slower.value == pytest.approx(0.3)
    slow = step(products={"model/layers/*/mlp": 20})
    assert judge_times(NAMES, (slow, step()), only_more=True).result is Result.PASS


def test_the_difference_is_named_by_its_module(worded: Worded) -> None:
    result = judged(step(copies={"model/layers/*/self_attn": 0.4}))
    assert result.result is Result.FAIL
    assert any("model/layers" in finding.text for finding in result.findings)
    worded(result)


def test_what_has_no_time(worded: Worded) -> None:
    result = judged(step(missing=("2 executions of hand-written kernels have no estimate",)))
    assert result.result is Result.INCONCLUSIVE
    worded(result)


@pytest.mark.parametrize("side", [0, 1])
def test_a_side_that_was_not_compiled(side: int) -> None:
    pair = [step(), step()]
    ended: tuple[tuple[dict[str, Any], str], ...] = (
        ({"modules": (), "error": "INTERNAL: no\nat v11"}, "INTERNAL: no"),
        ({"modules": (), "unknown": "its run crashed"}, "its run crashed"),
        ({}, "its time was not asked for"),
    )
    for fields, why in ended:
        pair[side] = sample_step(**fields)
        c = comparison(Trainer().record(), Trainer().record(), compiled=((pair[0], pair[1]),))
        result = predicted_time(c)
        assert result.result is Result.INVALID
        assert result.explanation.endswith(f": {why}")


def test_the_worst_target_is_the_result() -> None:
    c = comparison(Trainer().record(), Trainer().record())
    slow = step(products={"model/lm_head": 0.5})
    pairs = ((step(), step()), (step(), slow))
    assert predicted_time(dataclasses.replace(c, compiled=pairs)).result is Result.FAIL
    assert predicted_time(dataclasses.replace(c, compiled=pairs[:1])).result is Result.PASS


@pytest.mark.parametrize("turn", [1, -1])
def test_the_furthest_apart_is_what_a_pass_shows(turn: int) -> None:
    c = comparison(Trainer().record(), Trainer().record())
    near = step(), step(products={"model/lm_head": 0.005})
    pairs = ((step(), step()), near)[::turn]
    result = predicted_time(dataclasses.replace(c, compiled=pairs))
    assert result.result is Result.PASS
    assert result.value == judge_times(NAMES, near).value


def test_every_part_has_its_worth() -> None:
    assert set(WORTH) == {*IN_TURN}
    assert all(0 < low <= high for low, high in WORTH.values())
