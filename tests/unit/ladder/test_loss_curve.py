"""The rung loss_curve, and where the parameters end."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from builders import (
    Trainer,
    comparison,
    tolerance,
    with_parameter,
    without,
)
from golden import Worded

from harness.ladder.result import Result
from harness.ladder.rungs.loss_curve import loss_curve
from harness.record.evidence import Fingerprint, Record, Reported
from harness.run import session

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID
ELSEWHERE = Path("/elsewhere")


class TestCourse:
    """Where the parameters end: the losses say nothing of it here, they are equal."""

    @staticmethod
    def ending(run: Record, index: int, share: float) -> Record:
        """The run with one parameter whose course is longer by `share`."""
        parameter = run.parameters[index]
        first, last = parameter.initial, parameter.final
        assert first is not None
        assert last is not None
        sketch = tuple(y + share * (y - x) for x, y in zip(first.sketch, last.sketch, strict=True))
        return with_parameter(run, index, final=Fingerprint(last.bits ^ 1, sketch, last.norm))

    def test_it_is_told(self, a: Record, b: Record) -> None:
        result = loss_curve(comparison(a, b))
        assert result.result is PASS
        assert "one parameter's course that is off by 0.00034" in result.detects
        assert "one parameter's last moment that is off by 3.4e-05" in result.detects

    def test_a_parameter_that_only_one_has_hides_no_other(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        """It fails at sharding, and its course is nobody's; those of the others are judged."""
        for left, right in ((a, b), (b, a)):
            elsewhere = self.ending(without(right, "parameters", 0), 0, 0.01)
            result = loss_curve(comparison(left, elsewhere))
            assert result.result is FAIL
            worded(result)
            (pair,) = session.compare(left, elsewhere, tolerance()).verdict.pairs
            assert pair.rung("sharding").result is FAIL
            assert pair.rung("loss_curve").result is not PASS

    def test_a_last_update_that_is_missing(self, worded: Worded, a: Record) -> None:
        """Seven steps' parameters under eight steps' losses: no loss tells of the last update."""
        short = Trainer(steps=7).record()
        ended = dataclasses.replace(
            a,
            parameters=tuple(
                dataclasses.replace(p, final=q.final)
                for p, q in zip(a.parameters, short.parameters, strict=True)
            ),
        )
        result = loss_curve(comparison(a, ended))
        assert result.result is FAIL
        worded(result)
        assert result.limit_source == "2 × 0.0001, the floor documented for float32 on CPU"
        assert {f.parameter for f in result.findings} == {p.name for p in a.parameters}

    @pytest.mark.parametrize("index", [0, 1, 2])
    @pytest.mark.parametrize(("share", "expected"), [(1e-4, PASS), (1e-3, FAIL), (-1e-3, FAIL)])
    def test_each_parameter_at_the_limit(
        self, a: Record, index: int, share: float, expected: Result
    ) -> None:
        for pair in ((a, self.ending(a, index, share)), (self.ending(a, index, share), a)):
            assert loss_curve(comparison(*pair)).result is expected

    @pytest.mark.parametrize("side", [0, 1])
    @pytest.mark.parametrize("key", ["initial", "final"])
    def test_not_observed(self, a: Record, side: int, key: str) -> None:
        pair = [a, a]
        pair[side] = with_parameter(a, 1, **{key: None})
        result = loss_curve(comparison(*pair))
        assert result.result is INVALID

    def test_no_parameter_in_common(self, a: Record) -> None:
        renamed = dataclasses.replace(
            a, parameters=tuple(dataclasses.replace(p, name=f"x.{p.name}") for p in a.parameters)
        )
        assert loss_curve(comparison(a, renamed)).result is INVALID

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    def test_not_a_number(self, a: Record, broken: float) -> None:
        last = a.parameters[1].final
        assert last is not None
        poisoned = Fingerprint(last.bits, (broken,) * len(last.sketch), broken)
        for pair in (
            (a, with_parameter(a, 1, final=poisoned)),
            (with_parameter(a, 1, final=poisoned), a),
            (with_parameter(a, 1, final=poisoned),) * 2,
        ):
            assert loss_curve(comparison(*pair)).result is FAIL

    def test_one_that_did_not_move(self, a: Record) -> None:
        still = with_parameter(a, 0, final=a.parameters[0].initial)
        assert loss_curve(comparison(a, still)).result is FAIL
        assert loss_curve(comparison(still, still)).result is PASS

    def test_other_sketches_cannot_be_compared(self, a: Record) -> None:
        last = a.parameters[0].final
        assert last is not None
        shorter = Fingerprint(last.bits, last.sketch[:-1], last.norm)
        assert loss_curve(comparison(a, with_parameter(a, 0, final=shorter))).result is FAIL

    def test_the_noise_floor_widens_it(self, a: Record) -> None:
        other = self.ending(a, 1, 1e-3)
        noise_floor = a, self.ending(a, 0, 1e-2)
        assert (
            loss_curve(comparison(a, other, noise_floor=noise_floor, deterministic=True)).result
            is PASS
        )
        assert (
            loss_curve(
                comparison(a, self.ending(a, 1, 0.1), noise_floor=noise_floor, deterministic=True)
            ).result
            is FAIL
        )

    def test_a_limit_that_nothing_could_exceed_judges_nothing(self, a: Record) -> None:
        noise_floor = a, self.ending(a, 0, -2.0)
        result = loss_curve(comparison(a, a, noise_floor=noise_floor, deterministic=True))
        assert "course" not in result.detects


class TestKept:
    """What the optimizer keeps at the end tells of every gradient before it."""

    @pytest.mark.parametrize("kind", ["exp_avg", "exp_avg_sq"])
    def test_of_one_parameter(self, a: Record, b: Record, kind: str) -> None:
        for pair in ((a, b), (b, a)):
            last = pair[1].parameters[1]
            found = last.state_final[kind]
            other = {**last.state_final, kind: dataclasses.replace(found, norm=1.01 * found.norm)}
            changed = with_parameter(pair[1], 1, state_final=other)
            result = loss_curve(comparison(pair[0], changed))
            assert (result.result, result.metric) == (FAIL, "kept")
            assert [f.parameter for f in result.findings] == [last.name]

    def test_of_one_run_alone(self, a: Record, b: Record) -> None:
        bare = b
        for index in range(len(b.parameters)):
            bare = with_parameter(bare, index, state_final={})
        assert loss_curve(comparison(a, bare)).result is INVALID
        assert loss_curve(comparison(bare, a)).result is INVALID
        neither = loss_curve(comparison(bare, dataclasses.replace(bare, directory=ELSEWHERE)))
        assert neither.result is PASS
        assert "moment" not in neither.detects

    @pytest.mark.parametrize("both", [False, True])
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("where", ["final", "exp_avg_sq"])
    def test_an_end_that_is_not_finite(
        self, a: Record, b: Record, where: str, value: float, both: bool
    ) -> None:
        def overflown(run: Record) -> Record:
            last = run.parameters[1]
            kept = last.final if where == "final" else last.state_final[where]
            assert kept is not None
            bad = dataclasses.replace(kept, sketch=(value, *kept.sketch[1:]))
            state = {**last.state_final, "exp_avg_sq": bad}
            if where == "final":
                return with_parameter(run, 1, final=bad)
            return with_parameter(run, 1, state_final=state)

        result = loss_curve(comparison(overflown(a) if both else a, overflown(b)))
        assert result.result is FAIL
        assert {f.parameter for f in result.findings} == {a.parameters[1].name}
        assert len(result.findings) == 1 + both


class TestReported:
    """What a trainer's own log says is held against what was observed."""

    def reporting(self, run: Record, *said: tuple[int, int, float, float | None]) -> Record:
        reported = tuple(Reported(*each) for each in said)
        return dataclasses.replace(
            run, manifest=dataclasses.replace(run.manifest, reported=reported)
        )

    def mean(self, run: Record, first: int, last: int) -> float:
        return float(np.mean([run.steps[i].loss for i in range(first, last + 1)]))

    def test_what_is_so(self, a: Record, b: Record) -> None:
        norm = a.steps[3].gradient_norm
        said = self.reporting(
            a, (0, 7, round(self.mean(a, 0, 7), 4), None), (3, 3, self.mean(a, 3, 3), norm)
        )
        assert loss_curve(comparison(said, b)).result is PASS

    @pytest.mark.parametrize(("first", "last"), [(0, 7), (5, 5)])
    def test_another_loss(
        self, worded: Worded, a: Record, b: Record, first: int, last: int
    ) -> None:
        said = self.reporting(a, (first, last, 1.01 * self.mean(a, first, last), None))
        for pair in ((said, b), (b, said), (said, said)):
            result = loss_curve(comparison(*pair))
            assert result.result is FAIL
            worded(result)
            assert result.findings[0].step == last

    @pytest.mark.parametrize("factor", [2.0, 0.5])
    def test_of_micro_batches(self, worded: Worded, factor: float) -> None:
        pair = [Trainer(label=label, accumulation=2).record() for label in "ab"]
        said = self.reporting(pair[0], (0, 7, factor * self.mean(pair[0], 0, 7), None))
        result = loss_curve(comparison(said, pair[1]))
        assert result.result is FAIL
        worded(result)

    def test_a_factor_that_no_number_of_micro_batches_explains(self) -> None:
        pair = [Trainer(label=label, accumulation=2).record() for label in "ab"]
        said = self.reporting(pair[0], (0, 7, 3 * self.mean(pair[0], 0, 7), None))
        result = loss_curve(comparison(said, pair[1]))
        assert result.result is FAIL
        assert "micro-batches" not in result.findings[0].text

    def test_another_norm(self, worded: Worded, a: Record, b: Record) -> None:
        result = loss_curve(comparison(self.reporting(a, (3, 3, self.mean(a, 3, 3), 9.0)), b))
        assert result.result is FAIL
        worded(result)

    def test_steps_that_were_not_trained_say_nothing(self, a: Record, b: Record) -> None:
        said = self.reporting(a, (0, 99, 1.0, None), (50, 50, 1.0, 1.0))
        assert loss_curve(comparison(said, b)).result is PASS

    def test_not_a_number(self, a: Record, b: Record) -> None:
        said = self.reporting(a, (2, 2, math.nan, None))
        assert loss_curve(comparison(said, b)).result is FAIL
