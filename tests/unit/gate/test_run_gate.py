"""The gate's verdicts: every way in which a candidate could slip through, or be blamed wrongly."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gate_samples as samples
import pytest
from builders import compiled_step
from compiled_samples import sample_module, sample_step
from golden import Worded

from harness.base.errors import BadInput, CannotStart, CannotTrain
from harness.compiler.compiled import CompiledStep
from harness.compiler.libtpu import CompileLimits
from harness.compiler.target import Target
from harness.config.settings import Settings
from harness.environments.compilers import TpuCompiler
from harness.environments.interpreters import BaseInstallFailed, InstallFailed
from harness.gate import baselines
from harness.gate import gate as gating
from harness.gate.gate import NotCompared, judge_pair, run_gate
from harness.gate.refs import Ref
from harness.gate.selection import SMOKE, GatePair, chosen_cases, gate_pairs
from harness.gate.verdicts import with_defects_of_both
from harness.ladder.result import Finding, Result, RungResult
from harness.ladder.verdict import PairVerdict
from harness.record.evidence import Observed, Record
from harness.run import execute, noise, session
from harness.run.compiling import Compiling
from harness.run.noise import Noise
from harness.run.plan import Plan, workarounds_of
from harness.run.session import Outcome

OLD, NEW = Ref("transformers", "1.0"), Ref("transformers", "2.0")
FAILED = {"status": "failed", "reason": "ValueError: no", "code": 1, "log": ["ValueError: no"]}
TRACEBACK = """Traceback (most recent call last):
  File "/x/site-packages/transformers/trainer.py", line 12, in train
    self.step()
ValueError: no optimizer
"""

World = Callable[..., None]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """Records by Ref, in place of runs; a Ref that leads to an exception cannot be planned."""

    def make(**runs: Record | Exception) -> None:
        chosen = samples.settings(tmp_path)

        def plan(ref: Ref, settings: Settings, *rest: Any) -> Plan:
            name = ref.package if ref.source is None else f"v{ref.source[0]}"
            own = rest[2] if len(rest) > 2 else ()
            used = (*workarounds_of(settings.engine[ref.engine]), *own)
            found = runs["_with_".join([name, *used])]
            if isinstance(found, Exception):
                raise found
            return samples.plan(found.label, chosen)

        def run_or_reuse(wanted: Plan, *_: Any) -> Record:
            if wanted.role == "perturbed":
                return _record(runs["perturbed"])
            if wanted.role == "float64":
                raise AssertionError("no float64 reference is known here")
            return next(r for r in map(_record, runs.values()) if r.label == wanted.label)

        monkeypatch.setattr(gating, "plan_ref", plan)
        monkeypatch.setattr(gating, "run_or_reuse", run_or_reuse)
        for module in (session, execute, noise):
            monkeypatch.setattr(module, "run_or_reuse", run_or_reuse)
        monkeypatch.setattr(noise, "with_perturbed_weights", lambda inputs, dtype: inputs)

    return make


def _record(found: Record | Exception) -> Record:
    assert isinstance(found, Record), found
    return found


def gate_pair(
    tmp_path: Path, against: Ref | None = OLD, parity: bool = False, perturbed: str = "table",
    candidate: Ref = NEW,
) -> GatePair:  # fmt: skip
    words = ("float64=never", f"tolerance.noise_floor={perturbed}")
    chosen = samples.settings(tmp_path, *words)
    return GatePair(chosen, candidate, against, parity, tmp_path / "stored")


def judged(pair: GatePair) -> PairVerdict:
    outcome: Outcome = judge_pair(pair, samples.Silent())
    (verdict,) = outcome.verdict.pairs
    return verdict


class TestAgainstAVersion:
    def test_equal_runs_pass_and_say_how_equal(self, world: World, tmp_path: Path) -> None:
        world(v1=samples.run(tmp_path / "a", "hf@1.0"), v2=samples.run(tmp_path / "b", "hf@2.0"))
        verdict = judged(gate_pair(tmp_path))
        assert verdict.result is Result.PASS
        assert verdict.notes[0] == "final parameters: all 2 bitwise equal"
        assert (verdict.a, verdict.b) == ("hf@1.0", "hf@2.0")

    def test_another_loss_fails_at_its_rung(self, world: World, tmp_path: Path) -> None:
        losses = [loss * 127 / 128 for loss in samples.LOSSES]
        world(
            v1=samples.run(tmp_path / "a", "hf@1.0"),
            v2=samples.run(tmp_path / "b", "hf@2.0", losses, scale=127 / 128),
        )
        verdict = judged(gate_pair(tmp_path))
        assert verdict.headline_rung is not None
        assert verdict.headline_rung.rung == "forward"
        assert verdict.result is Result.FAIL

    def test_a_gradient_that_hides_behind_the_loss_fails(
        self, world: World, tmp_path: Path
    ) -> None:
        world(
            v1=samples.run(tmp_path / "a", "hf@1.0"),
            v2=samples.run(tmp_path / "b", "hf@2.0", scale=0.5),
        )
        verdict = judged(gate_pair(tmp_path))
        assert verdict.headline_rung is not None
        assert verdict.headline_rung.rung == "backward"

    def test_the_measured_floor_is_asked_for_only_where_the_documented_one_is_exceeded(
        self, world: World, tmp_path: Path
    ) -> None:
        noisy = [loss * (1 + 1e-6) for loss in samples.LOSSES]
        runs = {
            "v1": samples.run(tmp_path / "a", "hf@1.0"),
            "v2": samples.run(tmp_path / "b", "hf@2.0", noisy),
        }
        world(**runs)  # no perturbed run is known: asking for it would raise KeyError
        assert judged(gate_pair(tmp_path)).result is Result.FAIL
        with pytest.raises(KeyError, match="perturbed"):
            judged(gate_pair(tmp_path, perturbed="ulp"))
        noisier = [loss * (1 + 2e-6) for loss in samples.LOSSES]
        world(
            **runs,
            perturbed=samples.run(tmp_path / "c", "hf@1.0 perturbed", noisier, initial_bits=12),
        )
        assert judged(gate_pair(tmp_path, perturbed="ulp")).result is Result.PASS

    def test_a_pass_needs_no_perturbed_run(self, world: World, tmp_path: Path) -> None:
        world(v1=samples.run(tmp_path / "a", "hf@1.0"), v2=samples.run(tmp_path / "b", "hf@2.0"))
        assert judged(gate_pair(tmp_path, perturbed="ulp")).result is Result.PASS

    def test_a_candidate_that_does_not_train_fails_with_the_root(
        self, world: World, tmp_path: Path
    ) -> None:
        broken = samples.run(tmp_path / "b", "hf@2.0", (), ended=FAILED, log=TRACEBACK)
        world(v1=samples.run(tmp_path / "a", "hf@1.0"), v2=broken)
        verdict = judged(gate_pair(tmp_path))
        assert verdict.result is Result.FAIL
        assert verdict.headline == (
            "environment: hf@2.0 does not train: ValueError: no optimizer "
            "(transformers/trainer.py:12 in train); hf@1.0 still trains"
        )

    def test_one_that_dies_on_the_way_fails_at_the_curve(
        self, world: World, tmp_path: Path
    ) -> None:
        broken = samples.run(tmp_path / "b", "hf@2.0", samples.LOSSES[:2], ended=FAILED)
        world(v1=samples.run(tmp_path / "a", "hf@1.0"), v2=broken)
        verdict = judged(gate_pair(tmp_path))
        assert verdict.headline_rung is not None
        assert verdict.headline_rung.rung == "loss_curve"
        assert verdict.result is Result.FAIL

    def test_one_that_stops_early_and_exits_with_0_fails(
        self, world: World, tmp_path: Path
    ) -> None:
        short = {"status": "stopped early", "reason": "0 of 4 steps", "code": 0}
        broken = samples.run(tmp_path / "b", "hf@2.0", (), ended=short)
        world(v1=samples.run(tmp_path / "a", "hf@1.0"), v2=broken)
        assert judged(gate_pair(tmp_path)).result is Result.FAIL

    def test_nothing_is_known_where_the_baseline_does_not_train_either(
        self, world: World, tmp_path: Path
    ) -> None:
        world(
            v1=samples.run(tmp_path / "a", "hf@1.0", (), ended=FAILED),
            v2=samples.run(tmp_path / "b", "hf@2.0", (), ended=FAILED),
        )
        assert judged(gate_pair(tmp_path)).result is Result.INVALID

    @pytest.mark.parametrize(
        "ended",
        [
            {"status": "collectives starved", "reason": "busy", "code": -6},
            {"status": "killed", "reason": "SIGKILL", "code": -9},
        ],
    )
    def test_what_the_machine_did_is_not_the_candidates_fault(
        self, ended: dict[str, Any], world: World, tmp_path: Path
    ) -> None:
        broken = samples.run(tmp_path / "b", "hf@2.0", (), ended=ended)
        world(v1=samples.run(tmp_path / "a", "hf@1.0"), v2=broken)
        assert judged(gate_pair(tmp_path)).result is Result.INVALID

    def test_a_crash_by_a_signal_is(self, world: World, tmp_path: Path) -> None:
        ended = {"status": "killed", "reason": "it was ended by SIGSEGV", "code": -11}
        broken = samples.run(tmp_path / "b", "hf@2.0", (), ended=ended)
        world(v1=samples.run(tmp_path / "a", "hf@1.0"), v2=broken)
        assert judged(gate_pair(tmp_path)).result is Result.FAIL

    def test_one_that_cannot_be_installed_fails(self, world: World, tmp_path: Path) -> None:
        world(v1=samples.run(tmp_path / "a", "hf@1.0"), v2=InstallFailed("no such release"))
        verdict = judged(gate_pair(tmp_path))
        assert verdict.result is Result.FAIL
        assert "no such release hf@1.0 still trains." in verdict.headline

    def test_nor_one_whose_code_does_not_even_start(self, world: World, tmp_path: Path) -> None:
        broken = CannotStart("SyntaxError: invalid syntax (transformers/trainer.py:12)")
        world(v1=samples.run(tmp_path / "a", "hf@1.0"), v2=broken)
        verdict = judged(gate_pair(tmp_path))
        assert verdict.result is Result.FAIL
        assert verdict.headline_rung is not None
        assert verdict.headline_rung.rung == "environment"
        assert "transformers/trainer.py:12" in verdict.headline

    def test_nor_is_it_the_candidate_where_neither_works(
        self, world: World, tmp_path: Path
    ) -> None:
        base = samples.run(tmp_path / "a", "hf@1.0", (), ended=FAILED)
        world(v1=base, v2=InstallFailed("no such release"))
        assert judged(gate_pair(tmp_path)).result is Result.INVALID

    def test_a_network_that_is_down_is_bad_input(self, world: World, tmp_path: Path) -> None:
        world(v1=samples.run(tmp_path / "a"), v2=InstallFailed("error sending request for url"))
        with pytest.raises(BadInput, match="sending request"):
            judged(gate_pair(tmp_path))

    def test_an_environment_under_every_version_is_not_the_candidates_fault(
        self, world: World, tmp_path: Path
    ) -> None:
        world(v1=samples.run(tmp_path / "a"), v2=BaseInstallFailed("no space left on device"))
        for against in (OLD, None):
            with pytest.raises(BaseInstallFailed, match="no space"):
                judged(gate_pair(tmp_path, against))

    def test_a_case_that_the_package_cannot_train_is_not_compared(
        self, world: World, tmp_path: Path
    ) -> None:
        """Neither side's: `--cases all` goes on with the next one."""
        run = samples.run(tmp_path / "a", "hf@1.0")
        for runs in ({"v1": run, "v2": CannotTrain("no accumulation")},
                     {"v1": CannotTrain("no accumulation"), "v2": run}):  # fmt: skip
            world(**runs)
            pair = gate_pair(tmp_path)
            with pytest.raises(NotCompared, match="no accumulation"):
                judged(pair)
            outcome = run_gate([pair], samples.Silent())
            assert outcome.verdict.result is Result.INVALID
            assert "no accumulation" in outcome.verdict.notes[0]

    def test_a_baseline_that_cannot_be_installed_is_bad_input(
        self, world: World, tmp_path: Path
    ) -> None:
        world(v1=InstallFailed("no such release"), v2=samples.run(tmp_path / "b", "hf@2.0"))
        with pytest.raises(InstallFailed):
            judged(gate_pair(tmp_path))


def with_fallbacks(record: Record, a_step: float) -> Record:
    """The run with so many reads of a number on the host in each step."""
    windows = tuple(
        dataclasses.replace(
            w, fallbacks={"aten::_local_scalar_dense": int(a_step * w.steps)} if a_step else {}
        )
        for w in record.windows
    )
    return dataclasses.replace(record, windows=windows)


class TestWhatBothVersionsDo:
    def test_is_no_change_and_said(self, world: World, tmp_path: Path) -> None:
        world(
            v1=with_fallbacks(samples.run(tmp_path / "a", "hf@1.0"), 1),
            v2=with_fallbacks(samples.run(tmp_path / "b", "hf@2.0"), 1),
        )
        verdict = judged(gate_pair(tmp_path))
        assert verdict.result is Result.PASS
        assert verdict.rung("graph").result is Result.NOT_EXERCISED, "nothing is claimed for it"
        assert any("aten::_local_scalar_dense" in note for note in verdict.notes)

    def test_also_where_one_rung_was_not_judged_for_the_sake_of_the_other(self) -> None:
        def results(*rungs: tuple[str, Result, int, int]) -> list[Result]:
            built = tuple(
                RungResult(name, result, "x", findings=(Finding("n", None, None, x, y),))
                for name, result, x, y in rungs
            )
            return [
                r.result for r in with_defects_of_both(PairVerdict("a", "b", "", "", built)).rungs
            ]

        fails, invalid, excused = Result.FAIL, Result.INVALID, Result.NOT_EXERCISED
        sharding, graph = ("sharding", fails, 1, 1), ("graph", invalid, 2, 2)
        assert results(sharding, graph) == [excused, excused]
        assert results(graph) == [invalid], "for another reason"
        assert results(("sharding", fails, 1, 2), graph) == [fails, invalid]
        assert results(sharding, ("graph", invalid, 2, 3)) == [excused, invalid]
        assert results(sharding, ("data", fails, 1, 2), graph) == [excused, fails, invalid]

    def test_but_hides_no_compiled_step_that_was_to_be_compared(self) -> None:
        read = Finding("host reads a step: 1 in hf@1.0, 1 in hf@2.0", None, None, 1, 1)
        rung = RungResult("graph", Result.FAIL, "x", findings=(read,))
        pair = PairVerdict("hf@1.0", "hf@2.0", "", "", (rung,))
        assert with_defects_of_both(pair).rungs[0].result is Result.NOT_EXERCISED
        assert with_defects_of_both(pair, dumped=True).rungs[0].result is Result.INVALID

    @pytest.mark.parametrize("counts", [(1, 2), (0, 1), (1, 0)])
    def test_but_another_number_of_times_is(
        self, counts: tuple[int, int], world: World, tmp_path: Path
    ) -> None:
        runs = [samples.run(tmp_path / name, f"hf@{i}.0") for i, name in enumerate("ab", 1)]
        a, b = (with_fallbacks(run, n) for run, n in zip(runs, counts, strict=True))
        world(v1=a, v2=b)
        assert judged(gate_pair(tmp_path)).rung("graph").result is Result.FAIL

    def test_what_the_case_has_otherwise_is_no_change_where_neither_version_has_it(
        self, world: World, tmp_path: Path
    ) -> None:
        model = {**samples.case_asked()["model"], "options": {"a.weight": [4, 4]}}
        case = {"model": model, "sharding": {"a.weight": ["fsdp", None]}}
        world(
            v1=samples.run(tmp_path / "a", "hf@1.0", case=case),
            v2=samples.run(tmp_path / "b", "hf@2.0", case=case),
        )
        verdict = judged(gate_pair(tmp_path))
        assert verdict.rung("sharding").result is Result.NOT_EXERCISED
        assert any("b.weight" in note for note in verdict.notes)

    def test_what_only_one_has_otherwise_is(self) -> None:
        def failed(*findings: Finding, of: str = "sharding") -> Result:
            rung = RungResult(of, Result.FAIL, "x", findings=findings)
            pair = PairVerdict("hf", "hf@2.0", "", "", (rung,))
            return with_defects_of_both(pair).rungs[0].result

        first = Finding("hf has it", None, "w", [4], [8], "a", "shape")
        second = dataclasses.replace(first, run="b", text="hf@2.0 has it too")
        other = dataclasses.replace(second, parameter="v")
        assert failed(first, second) is failed(
            first, other, second, dataclasses.replace(other, run="a")
        )
        assert failed(first, second) is Result.NOT_EXERCISED
        assert failed(first) is failed(second) is failed(second, second) is Result.FAIL
        assert failed(first, first, second) is failed(first, first, second, other) is Result.FAIL
        for changed in (
            {"kind": "dtype"},
            {"step": 1},
            {"a": [5]},
            {"b": None},
            {"parameter": "v"},
        ):
            assert failed(first, dataclasses.replace(second, **changed)) is Result.FAIL
        assert failed(Finding("hf has 1, hf@2.0 has 2", a=1, b=2)) is Result.FAIL
        assert failed(Finding("hf has 1, hf@2.0 has 1", a=1, b=1)) is Result.NOT_EXERCISED
        assert failed(first, second, of="data") is Result.FAIL, "steps that both lack, perhaps"
        assert failed(Finding("something")) is failed() is Result.FAIL

    def test_beside_another_trainer_it_stays_a_finding(self, world: World, tmp_path: Path) -> None:
        world(
            torchprime=with_fallbacks(samples.run(tmp_path / "a", "torchprime"), 1),
            v2=with_fallbacks(samples.run(tmp_path / "b", "hf@2.0"), 1),
        )
        verdict = judged(gate_pair(tmp_path, Ref("torchprime"), parity=True))
        assert verdict.rung("graph").result is Result.FAIL


NO_OPTIMIZER = TRACEBACK.replace(
    "ValueError: no optimizer",
    "AttributeError: 'NoneType' object has no attribute 'param_groups'",
)
WORKAROUND = "fsdp_xla_wrap"


class TestWorkarounds:
    """A version that does not train for a known reason is looked at beyond it."""

    def failing(self, folder: Path, label: str) -> Record:
        return samples.run(folder, label, (), ended=FAILED, log=NO_OPTIMIZER)

    def worlds(self, tmp_path: Path, scale: float = 1.0) -> dict[str, Record]:
        return {
            "v1": samples.run(tmp_path / "a", "hf@1.0"),
            "v2": self.failing(tmp_path / "b", "hf@2.0"),
            f"v2_with_{WORKAROUND}": samples.run(
                tmp_path / "c", f"hf@2.0 with {WORKAROUND}", scale=scale
            ),
        }

    def test_a_candidate_that_needs_one_fails_and_says_what_it_does_with_it(
        self, worded: Worded, world: World, tmp_path: Path
    ) -> None:
        world(**self.worlds(tmp_path))
        verdict = judged(gate_pair(tmp_path))
        assert [r.rung for r in verdict.rungs if r.result is Result.FAIL] == ["environment"]
        assert verdict.rung("backward").result is Result.PASS
        assert verdict.b == f"hf@2.0 with {WORKAROUND}"
        worded(verdict.rung("environment"))

    def test_and_where_it_differs_beyond(self, world: World, tmp_path: Path) -> None:
        world(**self.worlds(tmp_path, scale=0.5))
        verdict = judged(gate_pair(tmp_path))
        failed = [r.rung for r in verdict.rungs if r.result is Result.FAIL]
        assert failed[:2] == ["environment", "backward"]
        assert "with it, backward: " in verdict.headline

    def test_where_both_need_it_the_verdict_is_of_both_with_it(
        self, world: World, tmp_path: Path
    ) -> None:
        world(
            **self.worlds(tmp_path)
            | {
                "v1": self.failing(tmp_path / "d", "hf@1.0"),
                f"v1_with_{WORKAROUND}": samples.run(tmp_path / "e", f"hf@1.0 with {WORKAROUND}"),
            }
        )
        verdict = judged(gate_pair(tmp_path))
        assert verdict.result is Result.PASS
        assert WORKAROUND in verdict.notes[0]

    def test_a_baseline_that_fails_otherwise_stays_what_it_is(
        self, world: World, tmp_path: Path
    ) -> None:
        base = samples.run(tmp_path / "d", "hf@1.0", (), ended=FAILED, log=TRACEBACK)
        world(**self.worlds(tmp_path) | {"v1": base})
        assert judged(gate_pair(tmp_path)).rung("forward").result is Result.INVALID

    def test_one_that_does_not_help_is_tried_once(self, world: World, tmp_path: Path) -> None:
        still = self.failing(tmp_path / "d", f"hf@2.0 with {WORKAROUND}")
        world(**self.worlds(tmp_path) | {f"v2_with_{WORKAROUND}": still})
        verdict = judged(gate_pair(tmp_path))
        assert verdict.result is Result.FAIL
        assert verdict.headline.startswith(f"environment: hf@2.0 with {WORKAROUND} does not train")

    def test_against_a_stored_baseline(self, world: World, tmp_path: Path) -> None:
        world(**self.worlds(tmp_path))
        stored = samples.run(tmp_path / "s", "hf@1.0")
        baselines.save(tmp_path / "stored", stored, Noise(None), by="me")
        verdict = judged(gate_pair(tmp_path, None))
        assert [r.rung for r in verdict.rungs if r.result is Result.FAIL] == ["environment"]
        assert verdict.rung("loss_curve").result is Result.PASS


class TestAnotherTorchXla:
    def test_differs_by_torch_and_torch_xla_alone(
        self, worded: Worded, world: World, tmp_path: Path
    ) -> None:
        versions = {"torch": "2.8.0", "torch_xla": "2.8.0"}
        label = "torch_xla@2.8.0"
        flags = {"XLA_FLAGS": "--xla_x=1 --set_by_itself"}
        own = samples.run(tmp_path / "b", label, observed={"versions": versions, "flags": flags})
        world(v1=samples.run(tmp_path / "a", "torch_xla@1"), v2=own)
        pair = gate_pair(tmp_path, Ref("torch_xla", "1.0"), candidate=Ref("torch_xla", "2.8"))
        verdict = judged(pair)
        assert verdict.result is Result.PASS
        assert verdict.rung("environment").result is Result.NOT_EXERCISED
        worded(verdict.rung("environment"))
        # The same difference is a failure where another package is gated.
        plain = dataclasses.replace(pair, candidate=NEW, against=OLD)
        assert judged(plain).result is Result.FAIL

    def test_other_devices_are_not_excused(self, world: World, tmp_path: Path) -> None:
        versions = {"torch": "2.8.0", "torch_xla": "2.8.0"}
        own = samples.run(
            tmp_path / "b", "torch_xla@2", observed={"versions": versions, "devices": 8}
        )
        world(v1=samples.run(tmp_path / "a", "torch_xla@1"), v2=own)
        pair = gate_pair(tmp_path, Ref("torch_xla", "1.0"), candidate=Ref("torch_xla", "2.0"))
        assert judged(pair).rung("environment").result is Result.FAIL

    @pytest.mark.parametrize("package", ["torch", "torch_xla"])
    def test_one_that_does_not_train_differs_in_more(
        self, world: World, tmp_path: Path, package: str
    ) -> None:
        broken = samples.run(tmp_path / "b", f"{package}@2.0", (), ended=FAILED, log=TRACEBACK)
        world(v1=samples.run(tmp_path / "a", f"{package}@1.0"), v2=broken)
        pair = gate_pair(tmp_path, Ref(package, "1.0"), candidate=Ref(package, "2.0"))
        verdict = judged(pair)
        assert verdict.result is Result.FAIL
        assert verdict.headline.startswith(f"environment: {package}@2.0 does not train: ValueError")

    def test_it_costs_no_perturbed_run(self, world: World, tmp_path: Path) -> None:
        own = samples.run(tmp_path / "b", "torch_xla@2", observed={"versions": {"torch": "2.8.0"}})
        world(v1=samples.run(tmp_path / "a", "torch_xla@1"), v2=own)  # no perturbed run is known
        ends = Ref("torch_xla", "1.0"), Ref("torch_xla", "2.0")
        assert judged(gate_pair(tmp_path, ends[0], candidate=ends[1], perturbed="ulp"))


class TestAgainstAStoredBaseline:
    def stored(self, tmp_path: Path, perturbed: Record | None = None, **changed: Any) -> None:
        record = samples.run(tmp_path / "base", "hf@1.0", **changed)
        floor = None if perturbed is None else (record, perturbed)
        baselines.save(tmp_path / "stored", record, Noise(floor), "Ada")

    def test_only_the_candidate_is_launched(self, world: World, tmp_path: Path) -> None:
        self.stored(tmp_path)
        world(v2=samples.run(tmp_path / "b", "hf@2.0"))
        verdict = judged(gate_pair(tmp_path, None, perturbed="ulp"))
        assert verdict.result is Result.PASS
        assert verdict.notes[0] == "final parameters: all 2 bitwise equal"

    def test_a_difference_fails(self, world: World, tmp_path: Path) -> None:
        self.stored(tmp_path)
        world(v2=samples.run(tmp_path / "b", "hf@2.0", scale=1.01))
        assert judged(gate_pair(tmp_path, None)).result is Result.FAIL

    def test_the_stored_floor_counts(self, world: World, tmp_path: Path) -> None:
        noisy, noisier = ([loss * (1 + e) for loss in samples.LOSSES] for e in (1e-6, 2e-6))
        self.stored(
            tmp_path, samples.run(tmp_path / "c", "hf@1.0 perturbed", noisier, initial_bits=12)
        )
        world(v2=samples.run(tmp_path / "b", "hf@2.0", noisy))
        assert judged(gate_pair(tmp_path, None, perturbed="ulp")).result is Result.PASS
        assert judged(gate_pair(tmp_path, None, perturbed="table")).result is Result.FAIL

    def test_a_missing_one_is_written_and_fails(self, world: World, tmp_path: Path) -> None:
        own = samples.run(tmp_path / "b", "hf@2.0")
        world(v2=own)
        first = judged(gate_pair(tmp_path, None))
        assert first.result is Result.FAIL
        assert (tmp_path / "stored" / "CPU" / "llama-tiny" / "hf-2.0.json").is_file()
        assert "to be reviewed" in first.headline
        assert judged(gate_pair(tmp_path, None)).result is Result.PASS

    def test_a_dirty_tree_that_would_be_written_is_refused_before_it_trains(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where there is a baseline to compare with, it is trained as any other."""
        chosen, trained = samples.settings(tmp_path), []
        dirty = samples.plan("hf@2.0", chosen, origin={"description": "x", "dirty": "0" * 64})

        def run_or_reuse(plan: Plan, *_: Any) -> Record:
            trained.append(plan.label)
            return samples.run(tmp_path / "b", "hf@2.0")

        monkeypatch.setattr(gating, "plan_ref", lambda *_: dirty)
        monkeypatch.setattr(gating, "run_or_reuse", run_or_reuse)
        with pytest.raises(BadInput, match="in no commit"):
            judged(gate_pair(tmp_path, None))
        assert trained == []
        self.stored(tmp_path)
        (tmp_path / "stored" / "CPU").rename(tmp_path / "stored" / "TPU-v6e")
        with pytest.raises(BadInput, match="in no commit"):  # that is no baseline here
            judged(gate_pair(tmp_path, None))
        assert trained == []
        self.stored(tmp_path)
        assert judged(gate_pair(tmp_path, None)).result is Result.PASS
        assert trained == ["hf@2.0"]

    def test_nothing_is_written_of_a_candidate_that_does_not_train(
        self, world: World, tmp_path: Path
    ) -> None:
        world(v2=samples.run(tmp_path / "b", "hf@2.0", (), ended=FAILED))
        assert judged(gate_pair(tmp_path, None)).result is Result.FAIL
        assert not (tmp_path / "stored").exists()

    def test_a_compiled_step_that_is_not_stored_is_not_passed_by(
        self, world: World, tmp_path: Path
    ) -> None:
        self.stored(tmp_path)
        world(v2=samples.run(tmp_path / "b", "hf@2.0"))
        pair = gate_pair(tmp_path, None)
        requested = dataclasses.replace(
            pair, settings=dataclasses.replace(pair.settings, graph="hlo")
        )
        verdict = judged(requested)
        assert verdict.result is Result.INVALID
        assert "it has no compiled step (bless it with graph=hlo)" in verdict.headline

    @pytest.mark.parametrize("changed", [False, True])
    def test_the_stored_compiled_step_is_compared(
        self, changed: bool, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = samples.run(tmp_path / "b", "hf@2.0")
        world(v2=run)
        pair = gate_pair(tmp_path, None)
        pair = dataclasses.replace(pair, settings=dataclasses.replace(pair.settings, graph="hlo"))
        steps = [compiled_step(fingerprint=text) for text in ("abc", "xyz")]
        dumped = iter([steps[0], steps[changed]])
        monkeypatch.setattr(
            gating, "compiled_step_of", lambda *_: dataclasses.replace(run, graph=next(dumped))
        )
        plan = gating.plan_candidate(pair, samples.Silent())
        record, _ = gating.measured(pair, plan, samples.Silent())
        baselines.save(tmp_path / "stored", record, Noise(), "Ada")
        rung = judged(pair).rung("graph")
        assert rung.result is (Result.FAIL if changed else Result.PASS)

    def for_target(self, tmp_path: Path, **changes: Any) -> GatePair:
        pair = gate_pair(tmp_path, None)
        settings = dataclasses.replace(pair.settings, target="v6e:2x2", **changes)
        return dataclasses.replace(pair, settings=settings)

    @pytest.fixture
    def compiles(self, monkeypatch: pytest.MonkeyPatch) -> list[CompiledStep]:
        """What steps compile to, one after the other."""
        steps: list[CompiledStep] = []
        targets, limits = (Target("v6e:2x2"),), CompileLimits(1, 1, 1)
        planned = Compiling("0.0.52", lambda: TpuCompiler(Path(), Path(), ""), targets, limits)
        monkeypatch.setattr(gating, "plan_compiling", lambda *_: planned)
        monkeypatch.setattr(gating, "_compiled_step", lambda *_: None)
        monkeypatch.setattr(gating, "compiled_for", lambda *_: steps.pop(0))
        return steps

    def test_a_step_that_is_compiled_for_no_such_target_is_not_passed_by(
        self, world: World, tmp_path: Path, compiles: list[CompiledStep]
    ) -> None:
        self.stored(tmp_path)
        world(v2=samples.run(tmp_path / "b", "hf@2.0"))
        verdict = judged(self.for_target(tmp_path))
        assert verdict.result is Result.INVALID
        assert "bless it with target=v6e:2x2" in verdict.headline

    @pytest.mark.parametrize("changed", [False, True])
    def test_the_step_that_was_compiled_for_a_target_is_compared(
        self, changed: bool, world: World, tmp_path: Path, compiles: list[CompiledStep]
    ) -> None:
        graph = {"fingerprint": "another"} if changed else {}
        compiles += [sample_step(), sample_step(modules=(sample_module(graph=graph),))]
        world(v2=samples.run(tmp_path / "b", "hf@2.0"))
        pair = self.for_target(tmp_path)
        assert "to be reviewed" in judged(pair).headline
        rung = judged(pair).rung("compiled")
        assert rung.result is (Result.FAIL if changed else Result.PASS)

    def test_what_is_staged_is_no_run_to_be_stored(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="stage=true"):
            gating.check_executed(self.for_target(tmp_path, stage=True).settings)

    @pytest.mark.parametrize("known", [True, False])
    def test_nothing_is_written_of_a_candidate_that_the_machine_ended(
        self, known: bool, world: World, tmp_path: Path
    ) -> None:
        """Killed before it told its device kind: the stored file must not be replaced."""
        if known:
            self.stored(tmp_path)
        before = {p: p.read_bytes() for p in (tmp_path / "stored").rglob("*.json")}
        ended = {"status": "killed", "reason": "SIGKILL", "code": -9}
        killed = samples.run(tmp_path / "b", "hf@2.0", (), ended=ended)
        nothing = dataclasses.replace(killed.manifest, observed=Observed())
        killed = dataclasses.replace(killed, manifest=nothing)
        world(v2=killed)
        verdict = judged(gate_pair(tmp_path, None))
        assert verdict.result is Result.INVALID
        assert "says nothing of its version: SIGKILL" in verdict.headline
        assert {p: p.read_bytes() for p in (tmp_path / "stored").rglob("*.json")} == before

    def test_the_version_that_worked_is_named(self, world: World, tmp_path: Path) -> None:
        self.stored(tmp_path)
        world(v2=samples.run(tmp_path / "b", "hf@2.0", (), ended=FAILED))
        assert judged(gate_pair(tmp_path, None)).headline.endswith("; hf 1.0 did")
        world(v2=InstallFailed("no such release."))
        assert judged(gate_pair(tmp_path, None)).headline.endswith("no such release. hf 1.0 did")

    @pytest.mark.parametrize(
        "changed",
        [
            {"case": {"seed": 7}},
            {"case": {"accumulation": 2}},
            {"inputs": "another"},
            {"observed": {"versions": {"torch": "2.8.0", "torch_xla": "2.8.0"}}},
            {"observed": {"devices": 8}},
        ],
    )
    def test_one_that_is_not_comparable_is_invalid(
        self, worded: Worded, changed: dict[str, Any], world: World, tmp_path: Path
    ) -> None:
        self.stored(tmp_path, **changed)
        world(v2=samples.run(tmp_path / "b", "hf@2.0", scale=1.01))
        verdict = judged(gate_pair(tmp_path, None))
        assert verdict.result is Result.INVALID
        assert verdict.headline_rung is verdict.rungs[0]
        worded(verdict.rungs[0])

    def test_nor_one_with_other_rows_or_weights(
        self, worded: Worded, world: World, tmp_path: Path
    ) -> None:
        self.stored(tmp_path)
        own = samples.run(tmp_path / "b", "hf@2.0")
        first = own.parameters[0]
        assert first.initial is not None
        moved = dataclasses.replace(
            first, initial=dataclasses.replace(first.initial, bits=first.initial.bits + 1)
        )
        world(v2=dataclasses.replace(own, parameters=(moved, *own.parameters[1:])))
        verdict = judged(gate_pair(tmp_path, None))
        assert verdict.result is Result.INVALID
        worded(verdict.rungs[0])

    def test_a_damaged_one_is_bad_input(self, world: World, tmp_path: Path) -> None:
        self.stored(tmp_path)
        (tmp_path / "stored" / "CPU" / "llama-tiny" / "hf-1.0.json").write_text("{")
        world(v2=samples.run(tmp_path / "b", "hf@2.0"))
        with pytest.raises(BadInput, match=r"hf-1\.0\.json is damaged"):
            judged(gate_pair(tmp_path, None))


class TestParity:
    def test_what_the_other_trainer_cannot_do_is_not_compared(
        self, world: World, tmp_path: Path
    ) -> None:
        world(torchprime=BadInput("it does not accumulate"), v2=samples.run(tmp_path / "b"))
        with pytest.raises(NotCompared, match="it does not accumulate"):
            judged(gate_pair(tmp_path, Ref("torchprime"), parity=True))

    def test_but_a_baseline_that_is_bad_input_is(self, world: World, tmp_path: Path) -> None:
        world(v1=BadInput("no such folder"), v2=samples.run(tmp_path / "b"))
        with pytest.raises(BadInput, match="no such folder") as raised:
            judged(gate_pair(tmp_path))
        assert not isinstance(raised.value, NotCompared)

    def test_the_candidate_comes_first(self, world: World, tmp_path: Path) -> None:
        other = samples.run(tmp_path / "a", "torchprime")
        world(torchprime=other, v2=samples.run(tmp_path / "b", "hf@2.0"))
        verdict = judged(gate_pair(tmp_path, Ref("torchprime"), parity=True))
        assert (verdict.a, verdict.b) == ("hf@2.0", "torchprime")


class TestWhatIsGated:
    def test_the_other_trainer_where_it_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TORCHPRIME_DIR", raising=False)
        assert [p.parity for p in gate_pairs([], NEW, OLD, ["llama-tiny"])] == [False]
        monkeypatch.setenv("TORCHPRIME_DIR", "/somewhere")
        both = gate_pairs([], NEW, OLD, ["llama-tiny"])
        assert [p.parity for p in both] == [False, True]
        assert both[1].against == Ref("torchprime")
        assert both[0].id == "llama-tiny-transformers@2.0-transformers@1.0"

    def test_another_torch_xla_is_judged_against_the_usual_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("TORCHPRIME_DIR", raising=False)
        (pair,) = gate_pairs([], Ref("torch_xla", "2.8.0"), None, ["llama-tiny"])
        assert pair.against == Ref("transformers")

    def test_another_torch_xla_is_not_judged_against_the_other_trainer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Which has the usual one: they would differ by what is gated."""
        monkeypatch.setenv("TORCHPRIME_DIR", "/tp")
        for other in (Ref("torch_xla", "2.8.0"), Ref("transformers", None, (Ref("jax", "0.7.2"),))):
            pairs = gate_pairs([], other, None, ["llama-tiny"])
            assert [(p.parity, str(p.against)) for p in pairs] == [(False, "transformers")]

    def test_overrides_are_for_every_case(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TORCHPRIME_DIR", raising=False)
        (pair,) = gate_pairs(["case.steps=5"], NEW, None, ["llama-tiny"])
        assert pair.settings.case.steps == 5
        assert pair.id.endswith("-baseline")

    def test_versions_of_different_packages_are_refused(self) -> None:
        with pytest.raises(BadInput, match="same package"):
            gate_pairs([], NEW, Ref("torchprime", "main"), ["smoke"])

    def test_a_case_that_does_not_exist_is_named(self) -> None:
        with pytest.raises(BadInput, match="llama-tny"):
            gate_pairs([], NEW, OLD, ["llama-tny"])

    def test_names_for_several_cases(self) -> None:
        some = chosen_cases(["smoke", "llama-tiny", "x"])
        assert some.versions == (*SMOKE, "llama-tiny", "x")
        assert some.trainers == ("llama-tiny", "x")
        every = chosen_cases(["all"])
        assert {*SMOKE, "llama-tiny"} <= {*every.versions}
        assert "llama-tiny-as-shipped" not in every.versions
        assert "llama-tiny-epochs" not in every.trainers

    def test_what_only_versions_of_one_trainer_agree_in_is_not_judged_between_two(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCHPRIME_DIR", "/somewhere")
        pairs = gate_pairs([], NEW, OLD, ["smoke"])
        assert [p.case for p in pairs if not p.parity] == [*SMOKE]
        assert [p.case for p in pairs if p.parity] == ["llama-tiny"]


class TestTheWholeGate:
    def test_the_worst_counts_and_names_its_case(self, world: World, tmp_path: Path) -> None:
        world(
            v1=samples.run(tmp_path / "a", "hf@1.0"),
            v2=samples.run(tmp_path / "b", "hf@2.0"),
            v3=samples.run(tmp_path / "c", "hf@3.0", scale=0.5),
            torchprime=BadInput("it cannot"),
        )
        good = gate_pair(tmp_path)
        named = dataclasses.replace(good.settings.case, name="other")
        bad = dataclasses.replace(
            good,
            settings=dataclasses.replace(good.settings, case=named),
            candidate=Ref("transformers", "3.0"),
        )
        parity = gate_pair(tmp_path, Ref("torchprime"), parity=True)
        outcome = gating.run_gate([good, bad, parity], samples.Silent())
        assert outcome.verdict.exit_code == 1
        assert [p.a for p in outcome.verdict.pairs] == ["llama-tiny: hf@1.0", "other: hf@1.0"]
        assert outcome.verdict.notes == ("llama-tiny: torchprime was not compared: it cannot",)
        assert outcome.verdict.case == "llama-tiny, other"

    def test_nothing_gated_is_no_pass(self) -> None:
        assert gating.run_gate([], samples.Silent()).verdict.exit_code != 0


def test_nothing_that_only_judges_is_imported_before_a_trainer_is_at_work() -> None:
    """Half a second of imports, which a gate is to spend while the candidate trains."""
    code = "import sys, harness.cli.main, harness.gate.gate; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "harness.run.execute" in loaded
    assert not loaded & {"numpy", "fsspec", "tensorboard", "jinja2"}
