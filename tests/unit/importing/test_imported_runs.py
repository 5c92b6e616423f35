"""Records of runs that were not launched here: what they show, and what they cannot."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from builders import comparison
from evidence_samples import event_file, torchprime_log, trainer_log, trainer_state
from golden import Worded
from profiles import plane, steps

from harness.base.errors import BadInput
from harness.importing.make import Stated, make_record
from harness.ladder.judge import judge
from harness.ladder.ladder import names
from harness.ladder.result import Result
from harness.ladder.verdict import PairVerdict
from harness.record.evidence import Record
from harness.record.reader import read_record

STEPS = 8
SHOWN = {"forward", "schedule", "loss_curve", "grad_norm_curve", "step_time"}
"""Rungs that rest on numbers alone."""
ALL_ABOVE = ("data", "init", "backward", "clip", "optimizer", "schedule")
FLOORS = {"float32": {"loss": 1e-6, "gradient_norm": 1e-6}}


def imported(path: Path, **stated: Any) -> Record:
    return make_record(path, str(path), path.parent / "workspace", Stated(**stated))


def findings(record: Record) -> str:
    assert record.manifest.imported is not None
    return "\n".join(record.manifest.imported.findings)


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    return trainer_log(tmp_path / "hf.log", STEPS)


@pytest.fixture
def tp(tmp_path: Path) -> Path:
    return torchprime_log(tmp_path / "torchprime.log", STEPS)


def judged(a: Record, b: Record, floors: Any = FLOORS) -> PairVerdict:
    c = comparison(a, b)
    return judge(dataclasses.replace(c, tolerance=dataclasses.replace(c.tolerance, floor=floors)))


class TestRecord:
    def test_it_is_one_that_can_be_read_again(self, hf: Path) -> None:
        run = imported(hf, case="sft", dtype="float32", label="hf 4.57")
        assert read_record(run.directory) == run
        assert run.directory.parent.name == "sft"
        assert run.complete
        assert (run.label, run.case.dtype) == ("hf 4.57", "float32")
        assert not run.parameters

    def test_a_copy_is_called_by_where_it_came_from(self, hf: Path) -> None:
        url = "https://me:s3cret@host/run/hf.log"
        run = make_record(hf, url, hf.parent / "workspace", Stated())
        assert run.manifest.imported is not None
        told = (*run.manifest.imported.sources, run.manifest.origin.description)
        assert all("https://***@host/run/hf.log" in text for text in told)
        assert str(hf) not in (run.directory / "manifest.json").read_text()

    def test_the_same_evidence_is_the_same_record(self, hf: Path) -> None:
        first, again = imported(hf), imported(hf)
        assert first.directory == again.directory
        assert imported(hf, assumed=("data",)).directory != first.directory

    def test_nothing_that_was_counted_is_made_up(self, tp: Path) -> None:
        run = imported(tp)
        assert run.observed.known_answers is None
        assert run.observed.versions == {}
        assert all(step.max_norm is None and not step.batches for step in run.steps)

    def test_step_times_are_those_between_its_lines(self, tp: Path) -> None:
        run = imported(tp)
        assert [w.seconds for w in run.windows[1:]] == pytest.approx([0.5] * (STEPS - 1))
        assert run.windows[0].seconds == 0.4  # of the first only tracing is known

    def test_a_mean_of_several_steps_is_the_loss_of_none(self, tmp_path: Path) -> None:
        run = imported(trainer_state(tmp_path / "trainer_state.json", STEPS, every=4))
        assert all(step.loss is None for step in run.steps)
        assert [(m.first, m.last) for m in run.manifest.reported] == [(0, 3), (4, 7)]
        assert "mean of 4 steps" in findings(run)


class TestNoticed:
    def test_a_rate_that_is_logged_a_step_early(self, tp: Path, hf: Path) -> None:
        assert "a lag of one" in findings(imported(tp))
        assert "a lag of one" not in findings(imported(hf))

    def test_the_last_step_that_a_schedule_was_made_for(self, tmp_path: Path) -> None:
        path = torchprime_log(tmp_path / "tp.log", STEPS - 1, total=STEPS)
        run = imported(path)
        assert run.requested_steps == STEPS
        assert not run.complete
        assert f"step {STEPS - 1} (the last) of {STEPS} is not there" in findings(run)

    def test_a_whole_run_misses_nothing(self, tp: Path, hf: Path) -> None:
        for path in (tp, hf):
            assert imported(path).requested_steps == STEPS
            assert "not there" not in findings(imported(path))

    def test_steps_that_were_asked_for_in_words(self, hf: Path) -> None:
        run = imported(hf, steps=STEPS + 2)
        assert f"steps {STEPS}–{STEPS + 1} of {STEPS + 2} are not there" in findings(run)

    def test_a_trainer_that_logs_one_step_in_ten(self, tmp_path: Path) -> None:
        """As torchtitan does unless it is told otherwise: no step went missing."""
        rows = [("loss_metrics/global_avg_loss", step, 3.0) for step in (1, 10, 20, 30)]
        run = imported(event_file(tmp_path / "events.out.tfevents.1", rows), dtype="float32")
        assert "4 of 30 steps are there, most of them 10 apart" in findings(run)
        assert "not there" not in findings(run)

    def test_slow_steps_wherever_they_are_and_whether_it_was_tracing(self, tmp_path: Path) -> None:
        slow = {1: (60.0, 59.0), 5: (60.0, 59.0), 6: (9.0, 0.4)}
        said = findings(imported(torchprime_log(tmp_path / "tp.log", STEPS, slow=slow)))
        for step, what in ((1, "tracing and compiling"), (5, "tracing and compiling"),
                           (6, "a pause outside of tracing")):  # fmt: skip
            assert any(
                line.startswith(f"step {step} took") and line.endswith(what)
                for line in said.splitlines()
            )
        assert said.count("took") == 3


class TestJudged:
    def test_what_it_cannot_show_is_not_proven(self, hf: Path, tp: Path) -> None:
        verdict = judged(imported(hf, dtype="float32"), imported(tp, dtype="float32"))
        for name in set(names()) - SHOWN - {"routing"}:  # their model is not known to route
            assert verdict.rung(name).result is Result.INVALID
        assert verdict.result is not Result.PASS
        assert verdict.rung("forward").result is Result.INVALID  # it rests on data and init

    def test_what_is_assumed_is_said_and_passes_nothing(self, hf: Path, tp: Path) -> None:
        verdict = judged(
            imported(hf, dtype="float32", assumed=("data", "init")),
            imported(tp, dtype="float32", assumed=("init",)),
        )
        assert verdict.assumed == ("data", "init")
        assert "assumed, not proven: data, init" in verdict.headline
        for name in ("data", "init"):
            assert verdict.rung(name).result is Result.NOT_EXERCISED
        assert verdict.rung("forward").result is Result.PASS
        assert verdict.rung("backward").result is Result.INVALID

    def test_curves_that_agree_still_prove_no_weights(
        self, worded: Worded, tmp_path: Path, hf: Path
    ) -> None:
        other = trainer_log(tmp_path / "other.log", STEPS)
        a, b = (imported(p, dtype="float32", assumed=ALL_ABOVE, label=p.stem) for p in (hf, other))
        curve = judged(a, b).rung("loss_curve")
        assert curve.result is Result.INVALID
        worded(curve)

    @pytest.mark.parametrize("differs", [False, True])
    def test_a_run_without_its_last_step_is_judged_as_far_as_it_goes(
        self, worded: Worded, hf: Path, tmp_path: Path, differs: bool
    ) -> None:
        other = tmp_path / "other.log"
        lines = hf.read_text().splitlines(keepends=True)
        text = "".join(lines[:-3]) if len(lines) > 3 else ""
        other.write_text(text.replace("'loss': 2.", "'loss': 3.") if differs else text)
        assumed = (*ALL_ABOVE, "forward")
        a, b = (imported(p, dtype="float32", assumed=assumed, steps=STEPS) for p in (hf, other))
        curve = judged(a, b).rung("loss_curve")
        assert not b.complete
        if differs:
            assert judged(a, b).rung("forward").result is Result.FAIL
            assert judged(a, b).rung("grad_norm_curve").result is Result.INVALID
        else:
            assert curve.result is Result.INVALID
            worded(curve)

    def test_an_assumption_makes_no_failure_good(self, tmp_path: Path, hf: Path) -> None:
        other = tmp_path / "other.log"
        other.write_text(hf.read_text().replace("'loss': 2.", "'loss': 3."))
        assumed = (*ALL_ABOVE, "forward", "loss_curve")
        a, b = (imported(p, dtype="float32", assumed=assumed) for p in (hf, other))
        verdict = judged(a, b)
        assert verdict.result is Result.FAIL
        assert verdict.rung("forward").result is Result.FAIL
        assert verdict.rung("loss_curve").result is not Result.NOT_EXERCISED

    def test_the_digits_that_were_printed_are_no_difference(self, hf: Path, tmp_path: Path) -> None:
        """The log has four decimals, and a limit below them would fail two equal runs."""
        exact = tmp_path / "exact.log"
        exact.write_text(hf.read_text().replace("'loss': 2.5882", "'loss': 2.58823529"))
        assert exact.read_text() != hf.read_text()
        stated = {"dtype": "float32", "assumed": ("data", "init")}
        forward = judged(imported(hf, **stated), imported(exact, **stated)).rung("forward")
        assert forward.result is Result.PASS
        assert forward.value is not None
        assert forward.value > 1e-6
        assert "printed" in forward.limit_source

    def test_a_lag_in_what_is_logged_is_called_one(
        self, worded: Worded, hf: Path, tp: Path
    ) -> None:
        schedule = judged(imported(hf), imported(tp)).rung("schedule")
        assert schedule.result is Result.INVALID
        worded(schedule)

    def test_another_schedule_fails(self, hf: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.log"
        other.write_text(hf.read_text().replace("'learning_rate': 1e-05", "'learning_rate': 2e-05"))
        assert judged(imported(hf), imported(other)).rung("schedule").result is Result.FAIL

    def test_a_dtype_that_nobody_tells_has_no_limit(self, hf: Path, tmp_path: Path) -> None:
        other = trainer_log(tmp_path / "other.log", STEPS)
        a, b = (imported(path, assumed=("data", "init")) for path in (hf, other))
        assert judged(a, b).rung("forward").result is Result.INCONCLUSIVE

    def test_a_launched_run_can_be_held_against_an_imported_one(self, hf: Path) -> None:
        from builders import Trainer

        verdict = judged(Trainer().record(), imported(hf, dtype="float32"))
        assert verdict.rung("init").result is Result.INVALID
        assert verdict.result is not Result.PASS


def profile(path: Path, seconds: float) -> Path:
    """Two devices that run a step every so many seconds."""
    starts = [1000 * seconds * number for number in range(20)]
    planes = [plane(f"/device:TPU:{n}", steps("step(1)", starts)) for n in (0, 1)]
    path.write_bytes(b"".join(planes))
    return path


def test_a_profile_gives_the_device_s_own_step_times(tmp_path: Path) -> None:
    a, b = (
        imported(profile(tmp_path / f"{name}.xplane.pb", seconds), label=name)
        for name, seconds in (("a", 0.1), ("b", 0.12))
    )
    assert a.device_times is not None
    assert read_record(a.directory) == a
    judged_times = judged(a, b).rung("step_time")
    assert judged_times.value == pytest.approx(1.2)
    assert judged(a, b).rung("loss_curve").result is Result.INVALID
    assert judged(a, b).result is not Result.PASS


def test_a_profile_beside_a_log_is_named_and_left_out(hf: Path) -> None:
    profile(hf.parent / "x.xplane.pb", 0.1)
    run = imported(hf.parent)
    assert run.device_times is None
    assert "x.xplane.pb is left out" in findings(run)


def test_only_known_rungs_are_assumed(tmp_path: Path) -> None:
    from harness.cli.import_ import _rungs

    assert _rungs("data, init,data") == ("data", "init")
    with pytest.raises(BadInput, match="--assume weights: it is no rung"):
        _rungs("weights")
