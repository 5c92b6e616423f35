"""The rung graph, by a run's own counters: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from builders import (
    Trainer,
    as_training,
    comparison,
    compiled_step,
    with_manifest,
    with_observed,
    with_step,
    with_window,
    without,
)
from golden import Worded

from harness.ladder.result import Result
from harness.ladder.rungs.graph import (
    fallbacks_per_step,
    graph,
    per_step,
    recompilations,
    unobserved_steps,
)
from harness.record.evidence import Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


class TestWindows:
    def test_all_steps_are_told_once(self, a: Record) -> None:
        assert unobserved_steps(a) is None
        assert [w.first for w in a.steady_windows] == [2, 4, 6]
        assert a.windows[-1].steps == 2

    @pytest.mark.parametrize("index", range(5))
    def test_one_is_missing(self, a: Record, index: int) -> None:
        assert unobserved_steps(without(a, "windows", index)) is not None

    @pytest.mark.parametrize(
        "fields", [{"first": 3}, {"first": 5}, {"last": 4}, {"last": 3}, {"last": 6}]
    )
    def test_one_has_other_ends(self, a: Record, fields: dict[str, int]) -> None:
        assert unobserved_steps(with_window(a, 3, **fields)) is not None

    def test_one_is_told_twice(self, a: Record) -> None:
        twice = dataclasses.replace(a, windows=(*a.windows[:3], a.windows[2], *a.windows[3:]))
        assert unobserved_steps(twice) == "no window begins at step 4"

    def test_in_another_order(self, a: Record) -> None:
        assert unobserved_steps(dataclasses.replace(a, windows=a.windows[::-1])) is not None

    @pytest.mark.parametrize("requested", [7, 9])
    def test_another_number_of_steps(self, a: Record, requested: int) -> None:
        other = with_manifest(a, lambda m: m["case"].update(steps=requested))
        assert unobserved_steps(other) == f"windows tell of 8 of {requested} steps"

    def test_none(self, a: Record) -> None:
        assert unobserved_steps(dataclasses.replace(a, windows=())) is not None


@pytest.mark.parametrize("both", [False, True])
def test_steady_windows_in_which_nothing_is_executed(a: Record, b: Record, both: bool) -> None:
    for index, window in enumerate(b.windows):
        if window.steady:
            b = with_window(b, index, executions=0)
            a = with_window(a, index, executions=0) if both else a
    assert graph(comparison(a, b)).result is INVALID
    assert graph(comparison(b, a)).result is INVALID


class Recompiles(Trainer):
    """A compilation in mid-run, as when a learning rate meets another constant of the graph."""

    def compilations(self, window: int) -> int:
        return super().compilations(window) + (window == 3)


class FallsBack(Trainer):
    """The loss is read on the host at every step."""

    def fallbacks(self, window: int) -> dict[str, int]:
        return {"aten::_local_scalar_dense": 1 if window < 2 else 2}


class TestGraph:
    def test_equal(self, worded: Worded, a: Record, b: Record) -> None:
        result = graph(comparison(a, b))
        assert result.result is PASS
        worded(result)

    def test_a_recompilation(self, worded: Worded, a: Record) -> None:
        b = Recompiles(label="b").record()
        assert {k: w.compilations for k, w in recompilations(b).items()} == {"steps 4-5": 1}
        for pair in ((a, b), (b, a)):
            result = graph(comparison(*pair))
            assert result.result is FAIL
            assert [(f.step, f.a, f.b) for f in result.findings] == [(5, 1, 0)]
            worded(result)

    def test_batches_of_other_shapes_are_compiled_for(self, a: Record) -> None:
        """What is compiled where they begin follows from them; what was before does not."""
        recompiled = Recompiles(label="b").record()
        for step, expected in ((4, INVALID), (5, INVALID), (6, FAIL)):
            (batch,) = recompiled.steps[step].batches
            shorter = dataclasses.replace(batch, shape=(2, 6))
            b = with_step(recompiled, step, batches=(shorter,))
            assert graph(comparison(a, b)).result is expected

    def test_a_recompilation_of_one_step(self, worded: Worded, a: Record) -> None:
        pair = [Trainer(window=1).record(), Recompiles(label="b", window=1).record()]
        worded(graph(comparison(*pair)))

    @pytest.mark.parametrize("count", [1, 3])
    def test_more_of_them(self, a: Record, count: int) -> None:
        one = with_window(a, 3, compilations=2), with_window(a, 3, compilations=2 + count)
        assert graph(comparison(*one)).result is FAIL

    def test_at_another_step(self, a: Record) -> None:
        pair = with_window(a, 3, compilations=1), with_window(a, 2, compilations=1)
        result = graph(comparison(*pair))
        assert result.result is FAIL
        assert result.value == 2

    def test_both_compile_again(self, worded: Worded) -> None:
        pair = Recompiles().record(), Recompiles(label="b").record()
        result = graph(comparison(*pair))
        assert result.result is FAIL
        worded(result)
        twice = [with_window(run, 2, compilations=1) for run in pair]
        (finding,) = graph(comparison(*twice)).findings
        assert (finding.step, finding.a, finding.b) == (3, 2, 2)

    def test_the_first_two_steps_compile(self, a: Record) -> None:
        assert graph(comparison(a, with_window(a, 1, compilations=5))).result is PASS
        assert graph(comparison(a, with_window(a, 2, compilations=1))).result is FAIL

    def test_an_operation_on_the_host(self, a: Record) -> None:
        b = FallsBack(label="b").record()
        assert fallbacks_per_step(b) == {"aten::_local_scalar_dense": 1.0}
        for pair, times in (((a, b), (0.0, 1.0)), ((b, a), (1.0, 0.0))):
            result = graph(comparison(*pair))
            assert result.result is FAIL
            assert (result.findings[0].a, result.findings[0].b) == times
        assert graph(comparison(b, FallsBack(label="c").record())).result is FAIL

    def test_once_in_the_whole_run(self, a: Record) -> None:
        b = with_window(a, 4, fallbacks={"aten::item": 1})
        result = graph(comparison(a, b))
        assert result.result is FAIL
        assert (result.findings[0].a, result.findings[0].b) == (0, pytest.approx(1 / 6))

    def test_more_often(self, a: Record) -> None:
        pair = with_window(a, 4, fallbacks={"x": 1}), with_window(a, 4, fallbacks={"x": 2})
        assert graph(comparison(*pair)).result is FAIL

    def test_while_it_compiles_it_is_not_counted(self, a: Record) -> None:
        assert graph(comparison(a, with_window(a, 1, fallbacks={"x": 9}))).result is PASS

    def test_windows_of_another_length_make_no_difference(self, a: Record) -> None:
        class Each(Trainer):
            def fallbacks(self, window: int) -> dict[str, int]:
                return {"x": 3 * self.window}

        pair = Each().record(), Each(label="b", window=3).record()
        result = graph(comparison(*pair))
        assert [(f.a, f.b) for f in result.findings] == [(3, 3)]

    @pytest.mark.parametrize("index", range(5))
    def test_a_window_is_missing(self, worded: Worded, a: Record, b: Record, index: int) -> None:
        less = without(a, "windows", index), without(b, "windows", index)
        for pair in ((less[0], b), (a, less[1]), less):
            result = graph(comparison(*pair))
            assert result.result is INVALID
            worded(result)

    def test_no_window_is_steady(self, worded: Worded, a: Record) -> None:
        b = a
        for index in range(5):
            b = with_window(b, index, compilations=1)
        for pair in ((a, b), (b, a), (b, b)):
            # One that compiles in every window is the finding, not a want of evidence.
            result = graph(comparison(*pair))
            assert result.result is FAIL
            worded(result)

    @pytest.mark.parametrize("counter", ["executions", "transfers"])
    def test_one_engine_does_the_same_work_in_every_version(
        self, worded: Worded, a: Record, b: Record, counter: str
    ) -> None:
        other = with_window(a, 3, **{counter: 3})
        for pair in ((a, other), (other, a)):
            result = graph(comparison(*pair))
            assert result.result is FAIL
            assert [f.step for f in result.findings] == [5]
            worded(result)
        assert graph(comparison(a, with_window(a, 0, **{counter: 3}))).result is PASS

    @pytest.mark.parametrize(
        ("micro", "executions", "expected"),
        [(1, 4, PASS), (1, 5, FAIL), (2, 5, PASS), (2, 6, FAIL)],
    )
    def test_two_engines_may_cut_a_step_between_its_passes(
        self, a: Record, b: Record, micro: int, executions: int, expected: Result
    ) -> None:
        change = {"accumulation": micro}
        a, b = (with_manifest(r, lambda m: m["case"].update(change)) for r in (a, b))
        other = b
        for index in (2, 3, 4):
            steps = b.windows[index].steps
            other = with_window(other, index, executions=executions * steps)
        for pair in ((a, other), (other, a)):
            assert graph(comparison(*pair)).result is expected

    def test_since_when_it_executes_more(self, a: Record, b: Record) -> None:
        other = b
        for index, executions in ((2, 7), (3, 14), (4, 14)):
            other = with_window(other, index, executions=executions)
        for pair in ((a, other), (other, a)):
            result = graph(comparison(*pair))
            assert (result.result, [f.step for f in result.findings]) == (FAIL, [5])

    def test_the_more_micro_batches_count(self, a: Record, b: Record) -> None:
        """Where two cases ask for other ones, which `data` says."""
        other = with_manifest(b, lambda m: m["case"].update(accumulation=2))
        for index in (2, 3, 4):
            other = with_window(other, index, executions=5 * b.windows[index].steps)
        for pair in ((a, other), (other, a)):
            assert graph(comparison(*pair)).result is PASS

    def test_neither_cuts_a_pass(self, a: Record, b: Record) -> None:
        """A `torch_xla.sync` in a layer, for which the executions of two engines leave room."""
        cut = with_window(b, 3, inner_graphs=1, executions=b.windows[3].executions + 1)
        for pair in ((a, cut), (cut, a), (cut, cut)):
            result = graph(comparison(*pair))
            assert (result.result, len(result.findings)) == (FAIL, 1)
            (found,) = result.findings
            cuts = [pytest.approx(1 / 6) if run is cut else 0 for run in pair]
            assert ([found.a, found.b], found.step) == (cuts, b.windows[3].last)
        compiling = with_window(b, 0, inner_graphs=1)
        result = graph(comparison(a, compiling))
        assert result.result is PASS
        assert "one cut within a pass" in result.detects

    def test_what_was_not_counted_is_not_claimed(self, worded: Worded, a: Record) -> None:
        """A Record of before cuts were counted, or a trainer whose passes have no end."""
        known, unknown = a, with_window(a, 3, inner_graphs=None)
        for pair in ((known, unknown), (unknown, known), (unknown, unknown)):
            result = graph(comparison(*pair))
            assert result.result is PASS
            assert "cut" not in result.detects
            worded(result)
        cut = with_window(known, 2, inner_graphs=2)
        for pair in ((cut, unknown), (unknown, cut)):
            assert graph(comparison(*pair)).result is FAIL

    @pytest.mark.parametrize("both", [True, False])
    def test_transfers_to_the_host(self, worded: Worded, a: Record, b: Record, both: bool) -> None:
        first = with_window(a, 3, transfers=2) if both else a
        result = graph(comparison(first, with_window(b, 3, transfers=2)))
        assert (result.result, result.findings[0].step) == (FAIL, 5)
        worded(result)

    def test_counters_per_step(self, a: Record) -> None:
        assert per_step(with_window(a, 3, executions=8), "executions") == pytest.approx(2)
        assert per_step(with_window(a, 0, executions=8), "executions") == 1


class TestCheckpointing:
    """Layers that both recompute, or both do not: a step that takes other memory than was asked."""

    @staticmethod
    def of(run: Record, recomputed: dict[str, int] | None, remat: bool) -> Record:
        def change(manifest: dict[str, Any]) -> None:
            manifest["observed"]["recomputed"] = recomputed
            manifest["case"]["model"]["remat"] = remat

        return with_manifest(run, change)

    @pytest.mark.parametrize(
        ("remat", "recomputed", "expected"),
        [
            (True, {"model.layers.*": 2}, PASS), (True, {}, FAIL),
            (True, {"model.layers.*": 1}, FAIL), (False, {}, PASS),
            (False, {"model.layers.*": 2}, FAIL), (True, None, PASS),
        ],
    )  # fmt: skip
    def test_both_as_the_case_asks(
        self, a: Record, b: Record, remat: bool, recomputed: dict[str, int] | None, expected: Result
    ) -> None:
        result = graph(comparison(*(self.of(run, recomputed, remat) for run in (a, b))))
        assert result.result is expected
        if expected is FAIL:
            assert [(f.step, f.a, f.b) for f in result.findings] == [
                (0, sum((recomputed or {}).values()), 2 * remat)
            ] * 2

    def test_one_that_lost_it(self, a: Record, b: Record) -> None:
        x, y = self.of(a, {"model.layers.*": 2}, True), self.of(b, {}, True)
        for pair in ((x, y), (y, x)):
            result = graph(comparison(*pair))
            assert (result.result, len(result.findings)) == (FAIL, 1)

    def test_between_trainers_that_no_case_was_given(self, a: Record, b: Record) -> None:
        x, y = (
            as_training(with_observed(run, recomputed=seen))
            for run, seen in ((a, {"model.layers.*": 2}), (b, {}))
        )
        result = graph(comparison(x, y))
        assert (result.result, result.findings[0].step) == (FAIL, 0)
        assert graph(comparison(x, x)).result is PASS
        unknown = with_observed(x, recomputed=None)
        for pair in ((x, unknown), (unknown, x)):
            assert graph(comparison(*pair)).result is PASS

    def test_two_configurations_may_recompute_otherwise(self, a: Record, b: Record) -> None:
        x, y = self.of(a, {"model.layers.*": 2}, True), self.of(b, {}, False)
        assert graph(comparison(x, y, configurations=True)).result is PASS
        assert graph(comparison(x, y)).result is FAIL
        assert graph(comparison(x, self.of(y, {}, True), configurations=True)).result is FAIL

    @pytest.mark.parametrize("side", [0, 1])
    def test_the_compiled_step_of_one_that_lost_its_barriers(
        self, a: Record, b: Record, side: int
    ) -> None:
        steps = [compiled_step(remat=2 * (run != side)) for run in (0, 1)]
        pair = [
            dataclasses.replace(self.of(run, {"model.layers.*": 2}, True), graph=step)
            for run, step in zip((a, b), steps, strict=True)
        ]
        result = graph(comparison(*pair, graphs=(pair[0], pair[1])))
        assert (result.result, [f.run for f in result.findings]) == (FAIL, ["ab"[side]])

    @pytest.mark.parametrize(
        ("remat", "barriers", "expected"),
        [(True, 2, PASS), (True, 0, FAIL), (False, 0, PASS), (False, 2, PASS), (True, None, PASS)],
    )
    def test_barriers_of_the_compiled_step(
        self, a: Record, b: Record, remat: bool, barriers: int | None, expected: Result
    ) -> None:
        step = compiled_step(remat=barriers)
        seen = {"model.layers.*": 2} if remat else {}
        x, y = (dataclasses.replace(self.of(r, seen, remat), graph=step) for r in (a, b))
        assert graph(comparison(x, y, graphs=(x, y))).result is expected
