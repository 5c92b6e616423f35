"""Fifteen ways in which comparators of training runs lie, and that none of them is true here.

Each was found in a real system: a comparison that was inverted for half a year, a gate that passed
a log ending in `loss: nan`, a metric that vanished and passed. The class of each number shows that
this comparator is not deceived in that way; the tests of the single rungs have every variant.

Most evidence below is of `builders.Trainer`, a trainer in numpy that really trains.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    IGNORED,
    TOLERANCE,
    Array,
    Arrays,
    Trainer,
    comparison,
    fingerprint,
    in_turns,
    tolerance,
    with_loss,
    with_manifest,
    with_observed,
    with_parameter,
    with_step,
    without,
)
from golden import Worded

import harness.ladder
from harness.base.errors import BadInput
from harness.config.compose import load
from harness.inputs.prepared import prepare
from harness.ladder.distances import exceeds
from harness.ladder.equivalence import Decision, confidence_of_round, judge_samples
from harness.ladder.judge import judge
from harness.ladder.ladder import LADDER, metrics, names
from harness.ladder.ladder import rung as rung_of
from harness.ladder.result import Result
from harness.ladder.rungs import backward, loss_curve
from harness.ladder.rungs import step_time as speed
from harness.ladder.timed import by_host
from harness.ladder.verdict import EXIT_CODES, PairVerdict, overall
from harness.record import termination
from harness.record.evidence import Record, Window
from harness.record.layout import STEPS
from harness.record.reader import read_record
from harness.run import execute as running
from harness.run.workspace import key_of, slot

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID
INCONCLUSIVE, NOT_EXERCISED = Result.INCONCLUSIVE, Result.NOT_EXERCISED

A = Trainer().record()
B = Trainer(label="b", groups=2, sums=-1).record()


def judged(a: Record, b: Record, **given: Any) -> PairVerdict:
    return judge(comparison(a, b, **given))


def test_the_pair_that_all_of_this_starts_from_is_at_parity() -> None:
    assert judged(A, B).result is PASS


class TestLie01TheComparatorIsWrongItself:
    """A comparison was inverted for 189 days, and its mending was off by one."""

    def test_the_only_inequality_of_limits(self) -> None:
        assert not exceeds(0.0, 1.0)
        assert not exceeds(1.0, 1.0)
        assert exceeds(1.0000001, 1.0)

    @pytest.mark.parametrize("step", range(8))
    def test_each_step_alone_is_judged(self, step: int) -> None:
        """Neither the first nor the last is left out, and there is no budget of failures."""
        loss = A.steps[step].loss
        assert loss is not None
        assert judged(A, with_loss(B, step, loss * 1.001)).result is FAIL

    @pytest.mark.parametrize("name", [p.name for p in A.parameters])
    def test_each_parameter_alone_is_judged(self, name: str) -> None:
        class Off(Trainer):
            def backward(self, gradients: Arrays) -> Arrays:
                return gradients | {name: gradients[name] * np.float32(1.001)}

        assert judged(A, Off(label="b").record()).result is FAIL

    def test_all_steps_wrong_but_one(self) -> None:
        other = B
        for step in range(1, 8):
            other = with_loss(other, step, 9.0)
        assert judged(A, other).result is FAIL

    def test_equal_is_not_called_different(self) -> None:
        assert judged(A, A).result is PASS


class TestLie02NaNEqualsNaN:
    """Gates pass NaN because it equals itself, or because a regular expression reads past it."""

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_in_both_runs(self, value: float) -> None:
        changes: list[Callable[[Record], Record]] = [
            lambda r: with_loss(r, 7, value),
            lambda r: with_step(r, 7, gradient_norm=value),
            lambda r: with_step(r, 7, learning_rates=(value,) * len(r.steps[7].learning_rates)),
            lambda r: with_parameter(r, 2, initial=fingerprint(np.full(8, value, np.float32))),
            lambda r: with_parameter(r, 2, gradient=fingerprint(np.full(8, value, np.float32))),
        ]
        for change in changes:
            assert judged(change(A), change(B)).result is FAIL

    def test_a_run_whose_last_loss_is_nan(self, tmp_path: Path) -> None:
        class Diverges(Trainer):
            def updated(self, weight: Array, gradient: Array, state: Any, rate: float) -> Array:
                return weight * np.float32(math.nan if state["step"] == 6 else 1) + super().updated(
                    weight, gradient, state, rate
                ) * np.float32(0)

        run = read_record(Diverges(label="b").write(tmp_path))
        assert run.steps[7].loss is not None
        assert math.isnan(run.steps[7].loss)
        assert judged(A, run).result is FAIL
        assert judged(run, run).result is FAIL

    def test_nan_survives_the_file(self, tmp_path: Path) -> None:
        folder = Trainer().write(tmp_path)
        text = (folder / STEPS).read_text()
        (folder / STEPS).write_text(
            text.replace(f'"losses": [{A.steps[3].loss}]', '"losses": ["nan"]')
        )
        assert math.isnan(read_record(folder).steps[3].loss or 0.0)


class TestLie03WhatIsMissingIsSkipped:
    """A missing loss defaults to 0.0 on both sides; a key that one side lacks is skipped."""

    REMOVE: list[tuple[str, Callable[[Record], Record]]] = [  # noqa: RUF012
        ("loss_curve", lambda r: with_loss(r, 4, None)),
        ("loss_curve", lambda r: without(r, "steps", 4)),
        ("data", lambda r: with_step(r, 4, batches=())),
        ("schedule", lambda r: with_step(r, 4, learning_rates=())),
        ("grad_norm_curve", lambda r: with_step(r, 4, gradient_norm=None)),
        ("environment", lambda r: with_observed(r, versions={})),
        ("sharding", lambda r: with_observed(r, mesh=None)),
        ("init", lambda r: with_parameter(r, 1, initial=None)),
        ("backward", lambda r: with_parameter(r, 1, gradient=None)),
        ("clip", lambda r: with_parameter(r, 1, clipped_norm=None)),
        ("optimizer", lambda r: with_parameter(r, 1, after=())),
        ("graph", lambda r: without(r, "windows", 3)),
    ]

    @pytest.mark.parametrize(("rung", "remove"), REMOVE, ids=[r for r, _ in REMOVE])
    def test_on_one_side_or_on_both(self, rung: str, remove: Any) -> None:
        for pair in ((remove(A), B), (A, remove(B)), (remove(A), remove(B))):
            verdict = judged(*pair)
            assert verdict.result in (FAIL, INVALID)
            assert verdict.rung(rung).result in (FAIL, INVALID)

    def test_a_parameter_on_one_side(self) -> None:
        assert judged(A, without(B, "parameters", 1)).rung("sharding").result is FAIL

    def test_losses_of_zero_on_both_sides(self) -> None:
        assert judged(with_loss(A, 0, 0.0), with_loss(B, 0, 0.0)).result is INVALID

    def test_a_field_that_is_missing_from_a_file_has_no_default(self, tmp_path: Path) -> None:
        folder = Trainer().write(tmp_path)
        events = [json.loads(line) for line in (folder / STEPS).read_text().splitlines()]
        for event in events:
            if event["event"] == "window":
                del event["window"]["compilations"]
        (folder / STEPS).write_text("".join(json.dumps(e) + "\n" for e in events))
        with pytest.raises(BadInput, match="compilations"):
            read_record(folder)


class TestLie04ABudgetOfFailuresSwallowsTheTellingOne:
    """With a budget of 1 % of the steps, the first step may be wrong by 200 % and pass."""

    @pytest.mark.parametrize("step", [0, 1, 150, 199])
    def test_one_step_of_two_hundred(self, step: int) -> None:
        a = Trainer(steps=200).record()
        loss = a.steps[step].loss
        assert loss is not None
        verdict = judged(a, with_loss(a, step, loss * 1.01))
        assert verdict.result is FAIL
        rung = verdict.headline_rung
        assert rung is not None
        assert rung.findings[0].step == step


class TestLie05AStatisticThatIsBlindToTheBug:
    """Means, norms, extrema and final values are the same for a permuted tensor."""

    def test_a_permuted_tensor(self) -> None:
        class Permuted(Trainer):
            def initial(self) -> Arrays:
                weights = super().initial()
                head = weights["lm_head.weight"].reshape(2, -1)[::-1]
                return weights | {"lm_head.weight": head.reshape(16, 8).copy()}

        b = Permuted(label="b").record()
        norms = [r.parameters[2].initial.norm for r in (A, b) if r.parameters[2].initial]
        assert norms[0] == pytest.approx(norms[1], rel=1e-6)
        assert judged(A, b).rung("init").result is FAIL

    def test_losses_in_another_order(self) -> None:
        other = with_loss(with_loss(B, 2, B.steps[3].loss), 3, B.steps[2].loss)
        assert judged(A, other).rung("loss_curve").result is FAIL

    def test_a_fault_that_is_over_before_the_end(self) -> None:
        assert A.steps[4].loss is not None
        other = with_loss(B, 4, A.steps[4].loss * 2)
        assert other.steps[-1].loss == B.steps[-1].loss
        assert judged(A, other).result is FAIL

    def test_the_same_rates_for_other_parameters(self) -> None:
        pair = [Trainer(label=label, groups=2).record() for label in "ab"]
        pair[0] = with_step(pair[0], 5, learning_rates=(1e-3, 1e-4))
        pair[1] = with_step(pair[1], 5, learning_rates=(1e-4, 1e-3))
        assert judged(*pair).rung("schedule").result is FAIL

    def test_rows_that_trade_places_within_a_batch(self) -> None:
        """The loss of the batch is the same to the last digit or two."""

        class Swapped(Trainer):
            def batch(self, micro_step: int) -> Any:
                tokens, labels = super().batch(micro_step)
                return (tokens[::-1], labels[::-1]) if micro_step == 4 else (tokens, labels)

        b = Swapped(label="b").record()
        assert b.steps[4].loss == pytest.approx(A.steps[4].loss, rel=1e-6)
        assert judged(A, b).rung("data").result is FAIL

    def test_one_gradient_that_the_total_norm_cannot_see(self) -> None:
        gradient = A.parameters[1].gradient
        assert gradient is not None
        small = dataclasses.replace(
            gradient, norm=gradient.norm * 1.001, sketch=tuple(s * 1.001 for s in gradient.sketch)
        )
        assert judged(A, with_parameter(B, 1, gradient=small)).rung("backward").result is FAIL


class TestLie06OneSidedChecks:
    """Too fast, too small and too few are findings too."""

    def test_every_rung_gives_the_same_result_either_way(self) -> None:
        for other in (
            with_loss(B, 5, 1.0), with_step(B, 5, gradient_norm=9.0),
            with_step(B, 5, learning_rates=(1.0, 1.0)), with_observed(B, devices=8),
            without(B, "steps", 7), without(B, "parameters", 0), without(B, "windows", 2),
            Trainer(label="b", max_norm=None).record(), Trainer(label="b", seed=3).record(),
        ):  # fmt: skip
            forth, back = judged(A, other), judged(other, A)
            assert forth.result is not PASS
            assert [r.result for r in forth.rungs] == [r.result for r in back.rungs]

    def test_a_trainer_that_is_faster(self) -> None:
        slow = [[level + 0.01 * (i % 3) for i in range(40)] for level in (1.0, 1.01, 1.02)]
        fast = [[t / 1.3 for t in launch] for launch in slow[::-1]]
        judged = judge_samples(slow, fast, 0.05, in_turns=False)
        assert judged.decision is Decision.FAIL_FASTER
        back = judge_samples(fast, slow, 0.05, in_turns=False)
        assert back.decision is Decision.FAIL_SLOWER
        assert back.located.low == pytest.approx(1 / judged.located.high)
        assert back.located.high == pytest.approx(1 / judged.located.low)


class TestLie07TolerancesWithoutANoiseModel:
    """Tolerances that were guessed are raised until everything passes."""

    def test_a_limit_is_a_multiple_of_a_measured_floor(self) -> None:
        noise_floor = A, Trainer(ulp=True).record()
        noise = backward.worst_gradient_distance(*noise_floor)
        assert noise is not None
        limit = comparison(A, B, noise_floor=noise_floor).limit(backward.GRADIENT)
        documented = 2e-6
        assert limit.value == TOLERANCE.margin * max(noise, documented)

    def test_every_limit_says_where_it_comes_from(self) -> None:
        for rung in judged(A, B).rungs:
            if rung.result is PASS:
                assert rung.limit is not None
                assert rung.limit_source
                assert rung.detects

    def test_a_limit_that_nothing_could_exceed_does_not_pass(self) -> None:
        floors = {dtype: dict.fromkeys(metrics(), 1.0) for dtype in ("float32", "bfloat16")}
        verdict = judged(A, B, tolerance=tolerance(floor=floors))
        assert verdict.result in (INCONCLUSIVE, INVALID)
        assert verdict.rung("forward").result is INCONCLUSIVE

    @pytest.mark.parametrize("value", ["nan", "inf", "0", "-1"])
    def test_a_margin_that_is_none_is_refused(self, value: str) -> None:
        with pytest.raises(BadInput, match=r"tolerance\.margin"):
            load([f"tolerance.margin={value}"])

    def test_noise_alone_leads_neither_to_pass_nor_to_fail(self) -> None:
        wild = [[seconds] * 6 for seconds in (0.1, 0.4, 0.2, 0.3, 0.15, 0.35)]
        judged = judge_samples(wild, wild[::-1], 0.05, in_turns=False)
        assert judged.decision is Decision.INCONCLUSIVE


class TestLie08GoldensThatDriftWithADependency:
    """Stored numbers are blessed anew with each release, until nobody reads them any more."""

    def test_the_ladder_knows_no_stored_numbers(self) -> None:
        """It is given two runs, and nothing in it reads a file."""
        folder = Path(harness.ladder.__file__).parent
        for path in folder.glob("*.py"):
            calls = {
                node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
            }
            assert not calls & {"open", "read_text", "read_bytes", "read_record"}, path.name

    def test_another_version_on_one_side_is_said_before_any_number(self, worded: Worded) -> None:
        versions = {**B.observed.versions, "torch": "2.10.0"}
        verdict = judged(A, with_observed(with_loss(B, 5, 9.0), versions=versions))
        assert verdict.headline_rung is verdict.rung("environment")
        worded(verdict.rung("environment"))


class TestLie09StaleOrContaminatedBaselines:
    """What is compared with was made by other code, or is of another run."""

    def test_a_changed_run_has_another_name(self) -> None:
        facts = {"case": {"steps": 20}, "origin": {"commit": "a"}, "environment": {"XLA_FLAGS": ""}}
        keys = {key_of(facts)}
        keys.add(key_of({**facts, "case": {"steps": 21}}))
        keys.add(key_of({**facts, "origin": {"commit": "b"}}))
        keys.add(key_of({**facts, "environment": {"XLA_FLAGS": "--x"}}))
        assert len(keys) == 4

    def test_a_folder_that_is_not_this_runs_is_not_used(self, tmp_path: Path) -> None:
        trainer = Trainer(key="0123456789ab")
        trainer.write(tmp_path / "toy" / "hf-0123456789ab")
        assert slot(tmp_path, "toy", "hf", "0123456789ab").complete_record() is not None
        trainer.write(tmp_path / "toy" / "hf-ba9876543210")
        assert slot(tmp_path, "toy", "hf", "ba9876543210").complete_record() is None

    def test_two_runs_in_one_file_are_an_error(self, tmp_path: Path) -> None:
        folder = Trainer().write(tmp_path)
        text = (folder / STEPS).read_text()
        (folder / STEPS).write_text(text + text)
        with pytest.raises(BadInput, match="is there twice"):
            read_record(folder)

    def test_a_noise_floor_that_is_something_else_widens_no_limit(self) -> None:
        other = Trainer(seed=1).record()
        verdict = judged(A, B, noise_floor=(A, other))
        assert "the perturbed run says nothing of noise" in verdict.notes[0]
        assert verdict.rung("loss_curve").limit == judged(A, B).rung("loss_curve").limit


def _requested(requested: dict[str, Any], manifest: dict[str, Any]) -> None:
    manifest["case"].update(requested)


class TestLie10PreconditionsAreAssumed:
    """Equal curves of unequal things: seeds, weights, data and devices are believed to be equal."""

    @pytest.mark.parametrize(
        ("rung", "other"),
        [
            ("environment", with_observed(B, devices=1)),
            ("sharding", with_parameter(B, 0, sharding="{replicated}")),
            ("data", with_step(B, 7, batches=B.steps[0].batches)),
            ("init", with_parameter(B, 0, initial=fingerprint(np.ones((16, 8), np.float32)))),
        ],
        ids=["environment", "sharding", "data", "init"],
    )
    def test_they_are_judged_and_what_rests_on_them_says_nothing(
        self, rung: str, other: Record
    ) -> None:
        verdict = judged(A, other)
        assert verdict.result is FAIL
        assert verdict.headline_rung is not None
        assert verdict.headline_rung.rung == rung
        if rung in ("data", "init"):
            assert verdict.rung("loss_curve").result is INVALID

    def test_two_runs_that_both_are_not_what_was_asked_for(self) -> None:
        """Both on one mesh, both in one dtype, both without clipping: but not as the case says."""
        others: list[dict[str, Any]] = [
            {"mesh": {"fsdp": 2, "tensor": 2}}, {"dtype": "bfloat16"}, {"max_norm": 1.0},
        ]  # fmt: skip
        for requested in others:
            altered = functools.partial(_requested, requested)
            pair = [with_manifest(run, altered) for run in (A, B)]
            assert judged(*pair).result is FAIL

    def test_unknown_is_not_equal_to_unknown(self) -> None:
        pair = [with_manifest(r, lambda m: m.update(observed={})) for r in (A, B)]
        verdict = judged(*pair)
        assert verdict.result is INVALID
        assert verdict.rung("environment").result is INVALID


class TestLie11DataTooEasyToExposeTheBug:
    """Full blocks hide a wrong mean under accumulation; tiny weights hide what attention does."""

    def test_rows_of_our_cases_count_unevenly(self, tmp_path: Path) -> None:
        case = dataclasses.replace(load([]).case, steps=4)
        with np.load(prepare(case, tmp_path).rows) as arrays:
            counts = (arrays["labels"] != IGNORED).sum(1).reshape(4, 2, 4).sum(2)
        assert (counts[:, 0] != counts[:, 1]).all()

    def test_a_mean_of_means_shows_on_uneven_rows_only(self) -> None:
        class MeanOfMeans(Trainer):
            def divisor(self, batches: list[tuple[Any, Any]], index: int) -> float:
                return float((batches[index][1][:, 1:] != IGNORED).sum() * len(batches))

        class Even(Trainer):
            def batch(self, micro_step: int) -> Any:
                tokens, _ = super().batch(micro_step)
                labels = tokens.copy()
                labels[:, 0] = IGNORED
                return tokens, labels

        class EvenMeanOfMeans(Even, MeanOfMeans):
            pass

        uneven = [t(accumulation=2, label=t.__name__).record() for t in (Trainer, MeanOfMeans)]
        assert judged(*uneven).rung("forward").result is FAIL
        easy = [
            Even(accumulation=2, label="a").record(),
            EvenMeanOfMeans(accumulation=2, label="b").record(),
        ]
        assert judged(*easy).rung("forward").result is PASS

    def test_weights_of_our_cases_are_not_tiny(self) -> None:
        model = load([]).case.model
        assert model.init_std == 0.1
        assert model.norm_std == 0.2
        assert model.kv_heads < model.heads

    def test_a_threshold_that_no_gradient_exceeds_is_told(self) -> None:
        pair = [Trainer(label=label, max_norm=9.0).record() for label in "ab"]
        rung = judged(*pair).rung("clip")
        assert rung.result is NOT_EXERCISED

    def test_training_that_changes_nothing_is_told(self) -> None:
        with pytest.raises(BadInput, match=r"case\.optimizer\.learning_rate"):
            load(["case.optimizer.learning_rate=0"])

        class Still(Trainer):
            def rate(self, step: int) -> float:
                return 0.0

        verdict = judged(Still().record(), Still(label="b").record())
        assert verdict.rung("schedule").result is FAIL


class TestLie12AWarmUpOfFixedLength:
    """A compilation may come at step 10, a hundred times as long as a step."""

    def test_windows_are_left_out_by_what_was_compiled_in_them(self, worded: Worded) -> None:
        def run(label: str, late: bool) -> Record:
            windows = [Window(i, i, 5.0, 5.0, 1, 1, 0, {}, False, 0.0) for i in (0, 1)]
            windows += [
                Window(i, i, 0.1 + i * 1e-5, 0.1, 0, 1, 0, {}, False, 0.0) for i in range(2, 40)
            ]
            if late:
                windows[10] = dataclasses.replace(windows[10], seconds=9.7, compilations=1)
            made = dataclasses.replace(A, windows=tuple(windows))
            return with_manifest(
                made, lambda m: (m["case"].update(steps=40), m.update(label=label))
            )

        pair = in_turns(run("a", False), run("b", True))
        assert len(pair[1].steady_windows) == 37
        c = comparison(*pair, tolerance=tolerance(step_time=0.02), timing=(pair,) * 3)
        assert speed.step_time(c).result is PASS
        worded(speed.step_time(c))

    def test_and_the_compilation_itself_is_a_finding(self, worded: Worded) -> None:
        class Late(Trainer):
            def compilations(self, window: int) -> int:
                return super().compilations(window) + (window == 4)

        rung = judged(A, Late(label="b").record()).rung("graph")
        assert rung.result is FAIL
        worded(rung)


class TestLie13RetriesUntilGreen:
    """A flaky test is run again until it passes."""

    def test_only_the_machines_own_failure_is_tried_again(self) -> None:
        source = inspect.getsource(running)
        assert "termination.STARVED" in source
        for status in (
            termination.FAILED,
            termination.KILLED,
            termination.TIMED_OUT,
            termination.STOPPED_EARLY,
        ):
            name = next(k for k, v in vars(termination).items() if v == status)
            assert f"status == termination.{name}" not in source
            assert f"status != termination.{name}" not in source

    def test_judging_twice_gives_the_same(self) -> None:
        a, b = Trainer(steps=30, window=1).record(), Trainer(steps=30, window=1, seed=0).record()
        limits = tolerance(step_time=0.02)
        assert judged(a, b, tolerance=limits) == judged(a, b, tolerance=limits)

    def test_looking_again_asks_for_more(self) -> None:
        assert confidence_of_round(1) < confidence_of_round(2) < confidence_of_round(10) < 1


class TestLie14GreenBecauseSkipped:
    """Nothing was judged, and so nothing failed."""

    def test_nothing_judged_is_not_passed(self) -> None:
        assert overall([]) is INVALID
        assert overall([NOT_EXERCISED] * len(names())) is INVALID

    @pytest.mark.parametrize("name", names())
    def test_a_rung_that_was_left_out_is_not_passed(self, name: str) -> None:
        verdict = judged(A, B)
        rungs = tuple(r for r in verdict.rungs if r.rung != name)
        assert dataclasses.replace(verdict, rungs=rungs).result is INVALID

    def test_only_a_pass_exits_with_0(self) -> None:
        assert EXIT_CODES[PASS] == 0
        assert all(EXIT_CODES[r] != 0 for r in (FAIL, INVALID, INCONCLUSIVE))

    def test_a_run_that_broke_or_did_nothing_makes_nothing_green(self) -> None:
        killed = with_manifest(B, lambda m: m.update(ended={"status": "killed"}))
        idle = dataclasses.replace(B, steps=())
        for other in (killed, idle):
            verdict = judged(A, other)
            assert {r.result for r in verdict.rungs} == {INVALID}

    def test_what_could_not_be_seen_says_so(self, worded: Worded) -> None:
        pair = [Trainer(label=label, max_norm=None).record() for label in "ab"]
        for rung in judged(*pair).rungs:
            if rung.result is NOT_EXERCISED:
                worded(rung)
                assert not rung.detects


class TestLie15MisalignedSeries:
    """Two series that are a step apart are compared as they lie, or shifted until they fit."""

    def test_a_learning_rate_that_is_one_step_late(self, worded: Worded) -> None:
        class Late(Trainer):
            def rate(self, step: int) -> float:
                return super().rate(max(0, step - 1))

        rung = judged(A, Late(label="b").record()).rung("schedule")
        assert rung.result is FAIL
        worded(rung)

    def test_a_loss_that_is_one_step_late(self, worded: Worded) -> None:
        late = B
        for step in range(1, 8):
            late = with_loss(late, step, A.steps[step - 1].loss)
        rung = loss_curve.loss_curve(comparison(A, late))
        assert rung.result is FAIL
        worded(rung)

    def test_batches_that_are_one_step_late(self, worded: Worded) -> None:
        class Behind(Trainer):
            def batch(self, micro_step: int) -> Any:
                return super().batch(micro_step - 1 if micro_step else 99)

        rung = judged(A, Behind(label="b").record()).rung("data")
        assert rung.result is FAIL
        worded(rung)

    @pytest.mark.parametrize("step", range(8))
    def test_a_gap_shifts_nothing(self, worded: Worded, step: int) -> None:
        """Steps are matched by their number: what follows a gap still meets its own."""
        for name in ("data", "schedule", "loss_curve", "grad_norm_curve"):
            rung = rung_of(name).judge(comparison(A, without(B, "steps", step)))
            assert rung.result is not PASS
            worded(rung)
            assert all(f.step in (None, step) for f in rung.findings)

    def test_windows_that_took_turns_are_matched_by_their_steps(self) -> None:
        windows = [Window(i, i, float(i + 1), 1.0, 0, 1, 0, {}, False, 0.0) for i in range(12)]
        a = with_manifest(dataclasses.replace(A, windows=tuple(windows)), lambda m: None)
        b = dataclasses.replace(a, windows=(*windows[:4], dataclasses.replace(
            windows[4], compilations=1), *windows[5:]))  # fmt: skip
        timed = by_host((in_turns(a, b),))
        assert timed.a == timed.b
        assert len(timed.a[0]) == 9


def test_every_rung_is_judged_by_a_function_of_its_own() -> None:
    """So that none can stand in for another one."""
    assert len({rung.judge for rung in LADDER}) == len(LADDER)
    for rung in LADDER:
        assert rung.judge(comparison(A, B)).rung == rung.name
