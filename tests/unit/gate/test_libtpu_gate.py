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
from harness.compiler.libtpu import CompileLimits
from harness.compiler.target import Target
from harness.environments.compilers import TpuCompiler
from harness.gate import libtpu
from harness.gate.libtpu import gate_libtpu
from harness.ladder.result import Result
from harness.ladder.rungs.compiled import judge_compilers
from harness.run.compiling import Compiling

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


class TestGate:
    steps: dict[str, CompiledStep]

    @pytest.fixture(autouse=True)
    def _traced(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.steps = {OLD: made(OLD), NEW: made(NEW)}
        record = Trainer().record()

        def compiling(settings: Any, _: Any) -> Any:
            if not settings.targets:
                return None
            compiler = TpuCompiler(Path(), Path(), settings.compiler.libtpu)
            targets = tuple(Target(topology) for topology in settings.targets)
            return Compiling(compiler, targets, CompileLimits(1, 1, 1))

        def traced(plan: Any, *_: Any) -> Any:
            if plan == "torchprime":
                raise CannotTrain("it cannot")
            return record

        monkeypatch.setattr(libtpu, "plan_compiling", compiling)
        monkeypatch.setattr(libtpu, "inputs_of", lambda *_: None)
        monkeypatch.setattr(libtpu, "planner", lambda name, _: name)
        monkeypatch.setattr(libtpu, "compiled_step_of", traced)
        monkeypatch.setattr(libtpu, "tpu_compiler", lambda r, *_: TpuCompiler(Path(), Path(), r))
        monkeypatch.setattr(
            libtpu, "compiled_for", lambda _, __, by, target, ___: self.steps[by.compiler.release]
        )

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
