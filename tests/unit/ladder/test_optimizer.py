"""The rung optimizer: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    Arrays,
    Trainer,
    as_training,
    comparison,
    fingerprint,
    round_bfloat16,
    tolerance,
    with_parameter,
    with_step,
    without,
)
from golden import Worded

from harness.ladder.comparison import Comparison
from harness.ladder.moments import moment_distances
from harness.ladder.result import Result
from harness.ladder.rungs.optimizer import optimizer, update_distances, worst_update_distance
from harness.record.evidence import Fingerprint, Group, Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


NOT_EXERCISED = Result.NOT_EXERCISED


ELSEWHERE = Path("/elsewhere")
ADAMW = "torch.optim.adamw.AdamW"


def with_hyper(run: Record, step: int = 0, group: int = 0, **hyper: Any) -> Record:
    """A Record in which an optimizer event at `step` says something else."""
    found = {since: (kind, list(groups)) for since, kind, groups in run.groups}
    kind, groups = found.get(step) or (ADAMW, list(run.groups[-1][2]))
    changed = {**groups[group].hyper, **hyper}
    changed = {key: value for key, value in changed.items() if value != "gone"}
    groups[group] = Group(changed, groups[group].parameters)
    found[step] = (kind, groups)
    events = tuple((since, kind, tuple(groups)) for since, (kind, groups) in sorted(found.items()))
    return dataclasses.replace(run, groups=events)


def with_states(run: Record, index: int, states: list[dict[str, Fingerprint]]) -> Record:
    """A Record in which the optimizer keeps something else of one parameter."""
    return with_parameter(run, index, state_after=tuple(states))


def without_states(run: Record) -> Record:
    """A Record that shows nothing of what the optimizer keeps."""
    for index in range(len(run.parameters)):
        run = with_states(run, index, [])
    return run


class TestHyperParameters:
    def test_equal_in_other_groups(self, worded: Worded, a: Record, b: Record) -> None:
        result = optimizer(comparison(a, b))
        assert result.result is PASS
        assert "one parameter's update that is off by 0.0017" in result.detects
        worded(optimizer(comparison(a, Trainer(label="b", groups=2).record())))
        worded(optimizer(comparison(a, a)))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("weight_decay", 0.1), ("eps", 1e-7), ("betas", [0.9, 0.95]), ("amsgrad", True),
            ("maximize", "gone"), ("decoupled", True),
        ],
    )  # fmt: skip
    def test_any_of_them(self, worded: Worded, a: Record, key: str, value: Any) -> None:
        b = with_hyper(Trainer(label="b").record(), **{key: value})
        for broken in ((), ("clip",)):
            result = optimizer(comparison(a, b, broken=broken))
            assert result.result is FAIL
            worded(result)
            assert (result.value, result.limit) == (1, 0)
            assert optimizer(comparison(b, a, broken=broken)).result is FAIL

    @pytest.mark.parametrize("key", ["foreach", "fused", "capturable", "differentiable"])
    def test_how_an_update_is_computed_is_not_what_it_is(self, a: Record, key: str) -> None:
        assert optimizer(comparison(a, with_hyper(a, **{key: True}))).result is PASS

    def test_of_the_norms_only(self, worded: Worded, a: Record, b: Record) -> None:
        """The Trainer decays no norms, torchprime does."""
        result = optimizer(comparison(a, with_hyper(b, group=1, weight_decay=0.1)))
        assert result.result is FAIL
        worded(result)
        assert result.findings[0].parameter == "model.norm.weight"

    def test_of_all_but_the_norms(self, worded: Worded, a: Record, b: Record) -> None:
        result = optimizer(comparison(a, with_hyper(b, group=0, weight_decay=0.1)))
        worded(result)
        assert result.findings[0].parameter is None

    def test_groups_whose_settings_trade_places(self, a: Record) -> None:
        """The set of all settings is the same; which parameter has which is not."""
        decays = [Trainer(label=label, groups=2).record() for label in "ab"]
        decays[0] = with_hyper(decays[0], group=0, weight_decay=0.1)
        decays[1] = with_hyper(decays[1], group=1, weight_decay=0.1)
        result = optimizer(comparison(*decays))
        assert result.result is FAIL
        assert result.value == 2

    def test_one_parameter_by_its_name(self, worded: Worded, a: Record) -> None:
        b = Trainer(label="b", groups=2).record()
        b = with_hyper(with_parameter(with_parameter(b, 1, group=0), 2, group=1), group=1, eps=1.0)
        worded(optimizer(comparison(a, b)))
        both = with_parameter(b, 1, group=1)
        assert "2 parameters (model.norm" in optimizer(comparison(a, both)).explanation

    def test_more_than_one_difference(self, worded: Worded, a: Record) -> None:
        result = optimizer(comparison(a, with_hyper(a, eps=1.0, weight_decay=1.0)))
        worded(result)
        assert len(result.findings) == 2

    @pytest.mark.parametrize("value", [math.nan, "nan", [0.9, math.nan], [["nan"]]])
    def test_nan_is_not_equal_to_nan(self, a: Record, value: Any) -> None:
        both = with_hyper(a, momentum=value), with_hyper(a, momentum=value)
        assert optimizer(comparison(*both, broken=("clip",))).result is FAIL

    def test_infinity_is(self, a: Record) -> None:
        both = with_hyper(a, clip="inf"), with_hyper(a, clip="inf")
        assert optimizer(comparison(*both)).result is PASS

    def test_another_class(self, a: Record) -> None:
        b = dataclasses.replace(a, groups=((0, "torch.optim.adam.Adam", a.groups[0][2]),))
        result = optimizer(comparison(a, b))
        assert result.result is FAIL

    def test_the_same_class_from_another_module(self, a: Record) -> None:
        b = dataclasses.replace(a, groups=((0, "torch_xla.amp.syncfree.AdamW", a.groups[0][2]),))
        assert optimizer(comparison(a, b)).result is PASS


class TestHyperParametersThatChange:
    def test_in_one_run(self, a: Record) -> None:
        for pair in ((a, with_hyper(a, step=4, eps=1.0)), (with_hyper(a, step=4, eps=1.0), a)):
            result = optimizer(comparison(*pair))
            assert result.result is FAIL
            assert result.findings[0].step == 4

    def test_to_other_values(self, worded: Worded, a: Record) -> None:
        """At the same step in both runs, but not to the same value."""
        pair = with_hyper(a, step=4, eps=1.0), with_hyper(a, step=4, eps=2.0)
        result = optimizer(comparison(*pair))
        assert result.result is FAIL
        worded(result)

    def test_at_another_step(self, a: Record) -> None:
        pair = with_hyper(a, step=4, eps=1.0), with_hyper(a, step=5, eps=1.0)
        result = optimizer(comparison(*pair))
        assert result.result is FAIL
        assert result.value == 1

    def test_alike(self, a: Record) -> None:
        """The case says what they are, all the way: both have left it."""
        pair = with_hyper(a, step=4, eps=1.0), with_hyper(a, step=4, eps=1.0)
        result = optimizer(comparison(*pair))
        assert (result.result, result.findings[0].step) == (FAIL, 4)

    def test_back_again(self, a: Record) -> None:
        b = with_hyper(with_hyper(a, step=4, eps=1.0), step=6, eps=1e-8)
        result = optimizer(comparison(a, b))
        assert result.result is FAIL
        assert [f.step for f in result.findings] == [4]

    def test_to_another_class(self, worded: Worded, a: Record) -> None:
        b = dataclasses.replace(a, groups=(*a.groups, (5, "torch.optim.SGD", a.groups[0][2])))
        result = optimizer(comparison(a, b))
        assert result.result is FAIL
        worded(result)


class TestWhatWasNotObserved:
    @pytest.mark.parametrize("updates", [True, False])
    def test_no_optimizer(self, worded: Worded, a: Record, b: Record, updates: bool) -> None:
        none = dataclasses.replace(a, groups=()), dataclasses.replace(b, groups=())
        for pair in ((none[0], b), (a, none[1]), none):
            result = optimizer(comparison(*pair, broken=updates))
            assert result.result is INVALID
            worded(result)

    def test_no_optimizer_at_step_0(self, a: Record) -> None:
        late = dataclasses.replace(a, groups=((3, ADAMW, a.groups[0][2]),))
        assert optimizer(comparison(late, late)).result is INVALID

    @pytest.mark.parametrize("updates", [True, False])
    def test_no_parameter(self, a: Record, updates: bool) -> None:
        none = dataclasses.replace(a, parameters=())
        assert optimizer(comparison(none, none, broken=updates)).result is INVALID
        free = a
        for index in range(3):
            free = with_parameter(free, index, group=None)
        assert optimizer(comparison(free, free, broken=updates)).result is INVALID

    @pytest.mark.parametrize("step", [0, 4])
    def test_no_hyper_parameters(self, worded: Worded, a: Record, step: int) -> None:
        event = (step, ADAMW, (Group({}, 3),))
        events = (event,) if step == 0 else (*a.groups, event)
        none = dataclasses.replace(a, groups=events)
        for pair in ((none, none), (a, none), (none, a)):
            result = optimizer(comparison(*pair, broken=("clip",)))
            assert result.result is INVALID
            worded(result)

    def test_a_group_that_is_not_there(self, a: Record) -> None:
        lost = with_parameter(a, 2, group=1)
        assert optimizer(comparison(lost, lost)).result is INVALID

    def test_a_parameter_that_only_one_optimizer_holds(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        for pair in (
            (a, with_parameter(b, 1, group=None)), (with_parameter(a, 1, group=None), b),
        ):  # fmt: skip
            result = optimizer(comparison(*pair, broken=("clip",)))
            assert result.result is FAIL
            assert [f.parameter for f in result.findings] == ["model.norm.weight"]
            worded(result)

    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_an_update(self, a: Record, b: Record, index: int) -> None:
        def one(run: Record) -> list[Record]:
            after = run.parameters[index].after
            return [
                with_parameter(run, index, after=()),
                with_parameter(run, index, after=after[:1]),
                with_parameter(run, index, initial=None),
            ]

        for x, y in zip(one(a), one(b), strict=True):
            for pair in ((x, b), (a, y), (x, y)):
                result = optimizer(comparison(*pair))
                assert result.result is INVALID

    def test_a_parameter_on_one_side(self, a: Record, b: Record) -> None:
        assert optimizer(comparison(a, without(b, "parameters", 0))).result is INVALID
        assert optimizer(comparison(without(a, "parameters", 0), b)).result is INVALID


class CounterAhead(Trainer):
    """Adam's step counter is advanced before training: the first updates are too small."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        state["step"] = max(state["step"], 1)
        return super().updated(weight, gradient, state, rate)


class Doubled(Trainer):
    """Two optimizer steps for each batch."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        once = super().updated(weight, gradient, state, rate)
        return super().updated(once, gradient, state, rate)


class Frozen(Trainer):
    """One parameter is not trained, though the optimizer holds it."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        return weight if weight.ndim == 1 else super().updated(weight, gradient, state, rate)


class Undone(Trainer):
    """The second step undoes what is wrong with the first: after two steps all is well."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        right = super().updated(weight, gradient, state, rate)
        nudge = 1e-3 * (state["step"] == 1) - 1e-3 * (state["step"] == 2)
        return right + nudge


class TestUpdates:
    @pytest.mark.parametrize("trainer", [CounterAhead, Doubled, Frozen])
    @pytest.mark.parametrize("warmup", [0, 2])
    def test_another_update(self, trainer: type[Trainer], warmup: int) -> None:
        a, b = Trainer(warmup=warmup).record(), trainer(label="b", warmup=warmup).record()
        for pair in ((a, b), (b, a)):
            result = optimizer(comparison(*pair))
            assert result.result is FAIL
            assert result.findings

    def test_the_furthest_comes_first(self, a: Record) -> None:
        b = Frozen(label="b").record()
        result = optimizer(comparison(without_states(a), without_states(b)))
        assert result.findings[0].parameter == "model.norm.weight"
        assert result.value == math.inf
        assert result.findings[0].b == 0

    def test_an_update_that_is_undone_by_the_next(self) -> None:
        a, b = Trainer(warmup=0).record(), Undone(label="b", warmup=0).record()
        assert optimizer(comparison(a, b)).result is FAIL
        assert optimizer(comparison(b, a)).result is FAIL

    def test_with_other_hyper_parameters_below_it(self, a: Record) -> None:
        class Decays(Trainer):
            """A weight decay that no hyper-parameter tells of."""

            def updated(self, weight: Any, gradient: Any, state: Any, rate: float) -> Any:
                return super().updated(weight, gradient, state, rate) - rate * 0.1 * weight

        assert optimizer(comparison(a, Decays(label="b").record())).result is FAIL

    def test_updates_that_have_to_differ_are_not_judged(self, worded: Worded, a: Record) -> None:
        b = CounterAhead(label="b").record()
        result = optimizer(comparison(a, b, broken=("clip",)))
        assert (result.result, result.value) == (PASS, 0)
        worded(result)
        assert "update" not in result.detects

    @pytest.mark.parametrize(("off", "expected"), [(0.5, PASS), (2.5, FAIL), (-2.5, FAIL)])
    @pytest.mark.parametrize("step", [0, 1])
    def test_the_limit(self, step: int, off: float, expected: Result) -> None:
        a = Trainer(warmup=0).record()
        limit, b = 1e-3, a
        for index, parameter in enumerate(a.parameters):
            assert parameter.initial is not None
            after = list(parameter.after)
            sketch = tuple(
                i + (f - i) * (1 + off * limit)
                for i, f in zip(parameter.initial.sketch, after[step].sketch, strict=True)
            )
            after[step] = dataclasses.replace(after[step], sketch=sketch)
            b = with_parameter(b, index, after=tuple(after))
        assert optimizer(comparison(a, b)).result is expected
        assert optimizer(comparison(b, a)).result is expected

    @pytest.mark.parametrize("step", [0, 1])
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_what_is_not_finite_is_never_equal(self, a: Record, step: int, value: float) -> None:
        after = list(a.parameters[0].after)
        after[step] = dataclasses.replace(after[step], sketch=(value, *after[step].sketch[1:]))
        b = with_parameter(a, 0, after=tuple(after))
        for pair in ((a, b), (b, a), (b, b)):
            result = optimizer(comparison(*pair))
            assert result.result is FAIL
            assert result.findings[0].parameter == "model.embed_tokens.weight"

    @pytest.mark.parametrize("size", [0, 7])
    def test_sketches_of_another_kind(self, a: Record, size: int) -> None:
        def cut(run: Record) -> Record:
            parameter = run.parameters[0]
            assert parameter.initial is not None
            after = tuple(dataclasses.replace(f, sketch=f.sketch[:size]) for f in parameter.after)
            initial = dataclasses.replace(parameter.initial, sketch=parameter.initial.sketch[:size])
            return with_parameter(run, 0, initial=initial, after=after)

        assert optimizer(comparison(a, cut(a))).result is FAIL
        assert optimizer(comparison(cut(a), a)).result is FAIL
        if size == 0:
            assert optimizer(comparison(cut(a), cut(a))).result is FAIL

    def test_nothing_moved(self) -> None:
        class Still(Trainer):
            def updated(self, weight: Any, gradient: Any, state: Any, rate: float) -> Any:
                return weight

        pair = Still().record(), Still(label="b").record()
        result = optimizer(comparison(*pair))
        assert result.result is NOT_EXERCISED
        assert worst_update_distance(*pair) is None

    def test_distances(self, a: Record) -> None:
        assert update_distances(a, a) == {p.name: 0.0 for p in a.parameters}
        moved = fingerprint(Trainer().initial()["model.norm.weight"] + 1)
        b = with_parameter(a, 1, after=(moved, moved))
        distances = update_distances(a, b)
        assert distances is not None
        assert distances["lm_head.weight"] == 0
        assert distances["model.norm.weight"] == math.inf  # the first step moves nothing in a
        assert worst_update_distance(a, b) == math.inf
        assert update_distances(a, without(a, "parameters", 1)) is None
        none = dataclasses.replace(a, parameters=())
        assert update_distances(none, none) is None

    def test_the_larger_of_the_two_steps_counts(self) -> None:
        a = Trainer(warmup=0).record()
        for step in (0, 1):
            after = list(a.parameters[1].after)
            sketch = tuple(s + 0.5 for s in after[step].sketch)
            after[step] = Fingerprint(0, sketch, after[step].norm)
            distances = update_distances(a, with_parameter(a, 1, after=tuple(after)))
            assert distances is not None
            assert distances["model.norm.weight"] > 0.5

    def test_the_noise_floor_widens_the_limit(self, a: Record) -> None:
        class Longer(Trainer):
            def updated(self, weight: Any, *rest: Any) -> Any:
                moved = super().updated(weight, *rest)
                return weight + 1.1 * (moved - weight)

        b = Longer(label="b").record()
        assert optimizer(comparison(a, b)).result is FAIL
        noise_floor = (a, Trainer(learning_rate=1.08e-2).record())
        result = optimizer(comparison(a, b, noise_floor=noise_floor, deterministic=True))
        assert result.result is PASS


class TestTolerance:
    def test_a_limit_of_nan_lets_nothing_pass(self, a: Record, b: Record) -> None:
        assert optimizer(Comparison(a, b, tolerance(margin=math.nan))).result is FAIL


def test_the_toy_really_trains() -> None:
    """The evidence above is of a training in which gradients are clipped and weights move."""

    class Watched(Trainer):
        def backward(self, gradients: Arrays) -> Arrays:
            assert all((g != 0).any() for g in gradients.values())
            return gradients

    run = Watched(steps=60, warmup=0, max_norm=1.0).record()
    losses = [step.loss or 0.0 for step in run.steps]
    assert sum(losses[-10:]) < sum(losses[:10]) * 0.98


class Uncorrected(Trainer):
    """AdamW without bias correction."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        b1, b2 = self.betas
        state["m"] = b1 * state["m"] + (1 - b1) * gradient
        state["v"] = b2 * state["v"] + (1 - b2) * gradient * gradient
        return weight - rate * state["m"] / (np.sqrt(state["v"]) + self.eps)


class Decays(Trainer):
    """Decays its weights, whatever its hyper-parameters say."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        return super().updated(weight, gradient, state, rate) - rate * 0.1 * weight


class EpsInside(Trainer):
    """Has eps within the root: nothing here explains that."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        moved = super().updated(weight, gradient, state, rate)
        return weight + (moved - weight) * (1 + 0.3 * np.sin(np.arange(weight.size))).reshape(
            weight.shape
        )


class TestWhy:
    @pytest.mark.parametrize("warmup", [0, 2])
    @pytest.mark.parametrize("trainer", [Uncorrected, Decays, EpsInside])
    def test_of_adamw(self, worded: Worded, warmup: int, trainer: type[Trainer]) -> None:
        right = Trainer(label="a", warmup=warmup).record()
        wrong = trainer(label="b", warmup=warmup).record()
        for pair in ((right, wrong), (wrong, right)):
            result = optimizer(comparison(*pair))
            assert result.result is FAIL
            worded(result)

    def test_of_the_others_where_neither_trains_a_parameter(self) -> None:
        class FrozenDecays(Frozen):
            def updated(self, weight: Any, gradient: Any, state: Any, rate: float) -> Any:
                moved = super().updated(weight, gradient, state, rate)
                return moved - rate * 0.1 * weight * (weight.ndim > 1)

        pair = Frozen(label="a").record(), FrozenDecays(label="b").record()
        assert "b decays 2 of 3 parameters" in optimizer(comparison(*pair)).explanation

    def test_of_another_class_nothing_is_told(self, a: Record) -> None:
        b = Decays(label="b").record()
        pair = [
            as_training(dataclasses.replace(r, groups=((0, "torch.optim.SGD", r.groups[0][2]),)))
            for r in (a, b)
        ]
        result = optimizer(comparison(*pair))
        assert result.result is FAIL
        assert "decays" not in result.explanation


class CoarseMoments(Trainer):
    """Keeps its moments in bfloat16."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        moved = super().updated(weight, gradient, state, rate)
        state.update(m=round_bfloat16(state["m"]), v=round_bfloat16(state["v"]))
        return moved


class TestMoments:
    """What an optimizer keeps of the first gradients."""

    def test_moments_in_a_coarser_dtype(self, worded: Worded, a: Record) -> None:
        b = CoarseMoments(label="b", sums=-1).record()
        result = optimizer(comparison(a, b))
        assert (result.result, result.metric) == (FAIL, "moment")
        assert {f.parameter for f in result.findings} == {p.name for p in a.parameters}
        worded(result)

    def test_what_a_pass_would_have_caught(self, a: Record, b: Record) -> None:
        result = optimizer(comparison(a, b))
        assert "one parameter's moment that is off by 6.8e-06" in result.detects

    @pytest.mark.parametrize("side", [0, 1])
    def test_one_moment_of_one_parameter(self, a: Record, b: Record, side: int) -> None:
        for step, kind in itertools.product((0, 1), ("exp_avg", "exp_avg_sq")):
            runs = [a, b]
            changed = runs[side].parameters[1]
            states = [dict(state) for state in changed.state_after]
            found = states[step][kind]
            sketch = tuple(1.001 * value for value in found.sketch)
            states[step][kind] = dataclasses.replace(found, sketch=sketch)
            runs[side] = with_states(runs[side], 1, states)
            result = optimizer(comparison(*runs))
            assert result.result is FAIL
            norms = [r.parameters[1].state_after[step][kind].norm for r in runs]
            assert [(f.parameter, f.step, f.a, f.b) for f in result.findings] == [
                (changed.name, step, *norms)
            ]

    @pytest.mark.parametrize("what", ["one kind", "one step", "not a number"])
    def test_a_moment_that_only_one_run_has(self, a: Record, b: Record, what: str) -> None:
        changed = b.parameters[0]
        first, second = changed.state_after
        bad = dataclasses.replace(first["exp_avg"], norm=math.nan)
        states = {
            "one kind": [first, {"exp_avg": second["exp_avg"]}],
            "one step": [first],
            "not a number": [{**first, "exp_avg": bad}, second],
        }[what]
        other = with_states(b, 0, states)
        for pair in ((a, other), (other, a)):
            result = optimizer(comparison(*pair))
            assert result.result is FAIL
            assert {f.parameter for f in result.findings} == {changed.name}
            if what != "not a number":
                assert {(f.a is None, f.b is None) for f in result.findings} == {
                    (pair[0] is other, pair[1] is other)
                }

    def test_of_one_run_alone(self, a: Record, b: Record) -> None:
        for run in (a, b):
            bare = without_states(run)
            other = b if run is a else a
            assert optimizer(comparison(bare, other)).result is INVALID
            assert optimizer(comparison(other, bare)).result is INVALID
            nothing_kept = optimizer(
                comparison(bare, dataclasses.replace(bare, directory=ELSEWHERE))
            )
            assert nothing_kept.result is PASS
            assert "moment" not in nothing_kept.detects

    def test_of_the_second_step_only_where_the_weights_are_still_equal(
        self, a: Record, b: Record
    ) -> None:
        """Otherwise they differ by what the first update was apart, which is much more."""
        changed = b.parameters[1]
        first, second = changed.state_after
        other = {k: dataclasses.replace(f, sketch=tuple(2 * s for s in f.sketch))
                 for k, f in second.items()}  # fmt: skip
        b = with_states(b, 1, [first, other])
        assert optimizer(comparison(a, b)).result is FAIL
        moved = [with_step(run, 0, learning_rates=(1e-2,)) for run in (a, b)]
        assert {step for _, step, _ in moment_distances(*moved)} == {0}

    def test_a_limit_that_decides_nothing_claims_nothing(self, a: Record, b: Record) -> None:
        floors = {"float32": {"moment": 1.0}}
        result = optimizer(comparison(a, b, tolerance=tolerance(floor=floors)))
        assert result.result is PASS
        assert "moment" not in result.detects
