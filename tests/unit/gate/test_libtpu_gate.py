"""The gate for libtpu: each test is one way in which a release could be judged wrongly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from builders import Trainer
from compiled_samples import sample_module, sample_step

from harness.base.errors import BadInput, CannotTrain
from harness.compiler.compiled import CompiledStep
from harness.compiler.flags import CompilerFlags
from harness.compiler.libtpu import CompileLimits
from harness.compiler.target import Target
from harness.environments.compilers import PASSING, TpuCompiler
from harness.gate import libtpu
from harness.gate.bisect import FirstBad
from harness.gate.libtpu import bisect_libtpu, gate_libtpu
from harness.ladder.result import Result
from harness.ladder.rungs.compiled import judge_compilers
from harness.run.compiling import Compiling

COMPILER = TpuCompiler(Path(), Path(), "0.0.21")
OLD, NEW = "0.0.21", "0.0.52"
NAMES = (f"hf by libtpu@{OLD}", f"hf by libtpu@{NEW}")
ERROR = "FAILED_PRECONDITION: can't be fixed up\nInstruction: %v11"


def made(release: str, **changes: Any) -> CompiledStep:
    """The same step as `release` makes it, by default alike."""
    return sample_step(**{"libtpu": release, **changes})


def judged(a: CompiledStep, b: CompiledStep) -> Result:
    return judge_compilers(NAMES, (a, b)).result


class TestJudgement:
    def test_alike(self) -> None:
        assert judged(made(OLD), made(NEW)) is Result.PASS

    def test_it_no_longer_compiles(self) -> None:
        result = judge_compilers(NAMES, (made(OLD), made(NEW, error=ERROR)))
        assert result.result is Result.FAIL
        assert ERROR in result.findings[0].text

    def test_it_compiles_what_the_other_does_not(self) -> None:
        assert judged(made(OLD, error=ERROR, modules=()), made(NEW)) is Result.PASS

    def test_neither_compiles(self) -> None:
        assert judged(made(OLD, error=ERROR), made(NEW, error=ERROR)) is Result.INVALID

    def test_more_memory(self) -> None:
        module = sample_module()
        memory = dataclasses.replace(module.memory, temporaries=2 * module.memory.peak)
        more = made(NEW, modules=(dataclasses.replace(module, memory=memory),))
        assert judged(made(OLD), more) is Result.FAIL
        # Less is no failure of the second.
        assert judged(dataclasses.replace(more, libtpu=OLD), made(NEW)) is Result.PASS

    def test_a_kernel_of_one_compiler(self) -> None:
        """libtpu 0.0.52 puts a kernel in the place of a softmax on v5p."""
        module = sample_module(kernels={"online-softmax": 4})
        with_kernel = made(NEW, modules=(module,))
        assert judged(made(OLD), with_kernel) is Result.INCONCLUSIVE
        assert judged(with_kernel, with_kernel) is Result.PASS

    def test_it_no_longer_fits(self) -> None:
        module = sample_module()
        memory = dataclasses.replace(module.memory, temporaries=2**36)
        huge = made(NEW, modules=(dataclasses.replace(module, memory=memory),))
        assert judged(huge, huge) is Result.FAIL

    @pytest.mark.parametrize("side", [0, 1])
    def test_a_limit_of_ours_says_nothing(self, side: int) -> None:
        pair = [made(OLD), made(NEW)]
        pair[side] = dataclasses.replace(pair[side], unknown="over its limit", modules=())
        assert judged(pair[0], pair[1]) is Result.INVALID

    def test_other_modules_on_each_side(self) -> None:
        assert judged(made(OLD, digest="one"), made(NEW, digest="another")) is Result.INVALID

    def test_other_targets(self) -> None:
        assert judged(made(OLD), made(NEW, target="v5e:2x2")) is Result.INVALID


class Silent:
    def note(self, text: str) -> None:
        return None


class Compilers:
    """Releases of libtpu by what they make of a step; nothing is installed or traced."""

    steps: dict[str, CompiledStep]
    listed: list[str]
    asked: list[str]

    @pytest.fixture(autouse=True)
    def _traced(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.steps = {OLD: made(OLD), NEW: made(NEW)}
        self.listed, self.asked = [OLD, NEW], []
        record = Trainer().record()

        def compiling(settings: Any, _: Any, passing: Path | None = None) -> Any:
            if not settings.targets:
                return None
            targets = tuple(Target(topology) for topology in settings.targets)
            release = settings.compiler.libtpu
            return Compiling(release, lambda: COMPILER, targets, CompileLimits(1, 1, 1))

        def traced(replan: Any, *_: Any) -> Any:
            return replan(None, None) and record

        def planner(name: str, _: Any) -> Any:
            def plan(*_: Any) -> Any:
                if name == "torchprime":
                    raise CannotTrain("it cannot")
                return name

            return plan

        def compiled_for(_: Any, __: Any, flags: Any, by: Any, target: Any, ___: Any) -> Any:
            assert list((tmp_path / PASSING).iterdir()), "a release has a place to be installed"
            self.asked.append(by.release)
            if by.release not in self.steps:
                raise BadInput(f"libtpu {by.release} cannot be used")
            return self.steps[by.release]

        monkeypatch.setenv("PARITY_CACHE", str(tmp_path))
        monkeypatch.setattr(libtpu, "plan_compiling", compiling)
        monkeypatch.setattr(libtpu, "inputs_of", lambda *_: None)
        monkeypatch.setattr(libtpu, "planner", planner)
        monkeypatch.setattr(libtpu, "flags_of", lambda _: CompilerFlags())
        monkeypatch.setattr(libtpu, "compiled_step_of", traced)
        monkeypatch.setattr(libtpu, "compiled_for", compiled_for)
        monkeypatch.setattr(libtpu, "listed", lambda _: self.listed)


class TestGate(Compilers):
    def run(self, *words: str, candidate: str = NEW, baseline: str | None = OLD) -> Any:
        old = None if baseline is None else f"libtpu@{baseline}"
        reporter: Any = Silent()
        return gate_libtpu(words, f"libtpu@{candidate}", old, ["llama-tiny"], reporter).verdict

    def test_each_trainer_and_target(self) -> None:
        verdict = self.run("target=[v6e:2x2,v5e:2x2]", "engines=[hf,reference]")
        assert len(verdict.pairs) == 4
        assert verdict.result is Result.PASS
        assert NEW in verdict.pairs[0].b

    def test_a_release_that_fails(self) -> None:
        self.steps[NEW] = made(NEW, error=ERROR)
        verdict = self.run("target=v6e:2x2", "engines=[hf,reference]")
        assert verdict.result is Result.FAIL
        assert verdict.pairs[0].headline_rung.rung == "compiled"

    def test_a_case_that_one_trainer_cannot_train(self) -> None:
        verdict = self.run("target=v6e:2x2")
        assert len(verdict.pairs) == 1
        assert any("it cannot" in note for note in verdict.notes)

    @pytest.mark.parametrize(
        ("words", "fields"),
        [
            ((), {}),
            (("target=v6e:2x2",), {"baseline": None}),
            (("target=v6e:2x2",), {"baseline": ""}),
            (("target=v6e:2x2",), {"candidate": ""}),
        ],
    )
    def test_bad_input(self, words: tuple[str, ...], fields: dict[str, Any]) -> None:
        with pytest.raises(BadInput):
            self.run(*words, **fields)


class TestBisect(Compilers):
    BETWEEN = (*(f"0.0.{n}" for n in range(22, 51)), "0.0.50.1", "0.0.51")

    @pytest.fixture(autouse=True)
    def _releases(self, _traced: None) -> None:
        self.listed = [OLD, *self.BETWEEN, NEW]
        self.steps = {release: made(release) for release in self.listed}

    def broken(self, *releases: str) -> None:
        self.steps |= {release: made(release, error=ERROR) for release in releases}

    def run(
        self,
        good: str = f"libtpu@{OLD}",
        bad: str = f"libtpu@{NEW}",
        releases: list[str] | None = None,
    ) -> FirstBad:
        reporter: Any = Silent()
        words = ("target=v6e:2x2", "engines=[hf,reference]")
        return bisect_libtpu(words, good, bad, "llama-tiny", releases, reporter)

    def test_the_first_that_no_longer_compiles(self) -> None:
        self.broken("0.0.50", "0.0.50.1", "0.0.51", NEW)
        found = self.run()
        assert (str(found.last_good), str(found.first_bad)) == ("libtpu@0.0.49", "libtpu@0.0.50")
        assert found.rung == "compiled"
        assert len({*self.asked}) < 10
        verdict = found.outcome.verdict
        assert verdict.result is Result.FAIL
        assert verdict.pairs[0].a.endswith("libtpu@0.0.49")

    def test_a_fix_up_release(self) -> None:
        """0.0.50 is broken and 0.0.50.1 is not: found from the broken end."""
        self.broken("0.0.50")
        found = self.run(bad="libtpu@0.0.50", releases=[OLD, "0.0.50", "0.0.50.1"])
        assert str(found.first_bad) == "libtpu@0.0.50"
        with pytest.raises(BadInput, match="does not fail"):
            self.run(bad="libtpu@0.0.50.1")

    def test_one_that_cannot_be_used_is_skipped(self) -> None:
        self.broken("0.0.36", *self.BETWEEN[15:], NEW)
        del self.steps["0.0.36"]
        found = self.run()
        assert (str(found.last_good), str(found.first_bad)) == ("libtpu@0.0.35", "libtpu@0.0.37")
        assert found.skipped == ("0.0.36",)

    @pytest.mark.parametrize(
        ("good", "bad"),
        [("transformers@4.57.6", f"libtpu@{NEW}"), (f"libtpu@{OLD}", "libtpu")],
    )
    def test_bad_input(self, good: str, bad: str) -> None:
        with pytest.raises(BadInput, match="no release of libtpu"):
            self.run(good, bad)
