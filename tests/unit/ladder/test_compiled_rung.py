"""The compiled rung: each test is one way in which it could lie."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from builders import Trainer, comparison
from compiled_samples import sample_module, sample_step
from golden import Worded

from harness.compiler.compiled import NOT_WAITED_FOR, CompiledStep, Work
from harness.compiler.slices import Exchange
from harness.ladder.judge import judge
from harness.ladder.result import Result, RungResult
from harness.ladder.rungs.compiled import (
    RUNG,
    compiled,
    does_not_compile,
    does_not_fit,
    judge_compilers,
    judge_pair,
)

NAMES = ("hf", "torchprime")


def judged(a: CompiledStep, b: CompiledStep, one_engine: bool = False) -> RungResult:
    return judge_pair(NAMES, (a, b), one_engine)


def other(**changes: Any) -> CompiledStep:
    """The sample step with its module changed."""
    return sample_step(modules=(sample_module(**changes),))


def heavier(factor: float, what: str) -> CompiledStep:
    """The sample step with `factor` times of something."""
    module = sample_module()
    if what == "flops":
        return other(graph={"flops": round(module.graph.flops * factor)})
    if what == "hbm":
        more = round(module.memory.peak * (factor - 1))
        held = module.memory.temporaries + more
        return other(memory=dataclasses.replace(module.memory, temporaries=held))
    if what == "bytes":
        work = {p: Work(w.flops, round(w.bytes * factor)) for p, w in module.work.items()}
        return other(work=work)
    assert what == "collectives"
    (*_, last) = module.graph.collectives
    grown = dataclasses.replace(last, bytes=round(10000 * factor))
    return other(graph={"collectives": (*module.graph.collectives[:-1], grown)})


class TestEvidence:
    def test_no_target(self) -> None:
        c = comparison(Trainer().record(), Trainer().record())
        assert compiled(c).result is Result.NOT_EXERCISED

    @pytest.mark.parametrize("side", [0, 1])
    def test_a_side_of_which_nothing_is_known(self, worded: Worded, side: int) -> None:
        pair = [sample_step(), sample_step()]
        pair[side] = sample_step(modules=(), unknown="its run crashed")
        result = judged(pair[0], pair[1])
        assert result.result is Result.INVALID
        worded(result)

    def test_neither_side_is_known(self) -> None:
        nothing = sample_step(modules=(), unknown="its run crashed")
        assert judged(nothing, nothing, True).result is Result.INVALID

    @pytest.mark.parametrize("one_engine", [False, True])
    def test_no_module_and_no_error(self, one_engine: bool) -> None:
        empty = sample_step(modules=())
        assert judged(empty, empty, one_engine).result is Result.INVALID

    @pytest.mark.parametrize("one_engine", [False, True])
    def test_a_step_that_multiplies_nothing(self, one_engine: bool) -> None:
        idle = other(graph={"flops": 0})
        assert judged(idle, idle, one_engine).result is Result.INVALID

    @pytest.mark.parametrize("one_engine", [False, True])
    def test_another_libtpu_on_each_side(self, worded: Worded, one_engine: bool) -> None:
        result = judged(sample_step("0.0.21"), sample_step("0.0.52"), one_engine)
        assert result.result is Result.INVALID
        worded(result)

    def test_another_target_on_each_side(self) -> None:
        result = judged(sample_step(), sample_step(target="v5e:2x2"))
        assert result.result is Result.INVALID

    def test_a_limit_of_ours_is_no_error_of_the_trainer(self, worded: Worded) -> None:
        slow = sample_step(modules=(), unknown="not compiled within its limit of 9 s")
        result = judged(sample_step(), slow)
        assert result.result is Result.INVALID
        worded(result)


@pytest.mark.parametrize(
    "changes", [{"unknown": "not compiled within its limit of 9 s"}, {"error": "INTERNAL: no"}]
)
def test_the_other_rungs_are_judged_all_the_same(changes: dict[str, str]) -> None:
    """Whatever becomes of a compilation: it says nothing of what the runs did."""
    runs = comparison(Trainer().record(), Trainer().record())
    bad = dataclasses.replace(runs, compiled=((sample_step(), sample_step(**changes)),))
    with_it, without = ({r.rung: r.result for r in judge(c).rungs} for c in (bad, runs))
    assert with_it.pop(RUNG.name) in (Result.FAIL, Result.INVALID)
    without.pop(RUNG.name)
    assert with_it == without
    assert Result.PASS in without.values()


class TestCompiles:
    ERROR = "INTERNAL: no\nInstruction: %v11"

    @pytest.mark.parametrize("side", [0, 1])
    @pytest.mark.parametrize("one_engine", [False, True])
    def test_one_side_does_not(self, worded: Worded, side: int, one_engine: bool) -> None:
        pair = [sample_step(), sample_step()]
        pair[side] = sample_step(modules=(), error=self.ERROR)
        result = judged(pair[0], pair[1], one_engine)
        assert (result.result, result.value, result.limit) == (Result.FAIL, 1, 0)
        worded(result)

    @pytest.mark.parametrize("one_engine", [False, True])
    def test_both_alike_do_not(self, one_engine: bool) -> None:
        broken = sample_step(modules=(), error=self.ERROR)
        result = judged(broken, broken, one_engine)
        assert result.result is Result.FAIL
        assert len(result.findings) == 2

    def test_facts_that_were_there_do_not_make_up_for_it(self) -> None:
        """libtpu 0.0.52 on v5p: everything is there but the code, which cannot be generated."""
        broken = sample_step(error=self.ERROR)
        assert judged(broken, sample_step(), True).result is Result.FAIL

    def test_the_flag_that_it_names(self, worded: Worded) -> None:
        flags = "--xla_one=true --xla_tpu_two=false"
        error = "FAILED_PRECONDITION: disable it with xla_tpu_two=false"
        result = judged(sample_step(), sample_step(modules=(), error=error, flags=flags))
        worded(result)

    def test_a_flag_whose_name_only_begins_alike_is_not_named(self) -> None:
        step = sample_step(error="disable xla_one_more", flags="--xla_one=true")
        assert "because" not in does_not_compile("hf", step)
        given = dataclasses.replace(step, xla_flags="--xla_one_more=1")
        assert "because of the flag --xla_one_more" in does_not_compile("hf", given)


class TestFlags:
    """Flags that one side alone has are told, whatever the verdict."""

    @pytest.mark.parametrize("one_engine", [False, True])
    def test_beside_a_difference(self, one_engine: bool) -> None:
        module = sample_module(graph={"fingerprint": "another"})
        memory = dataclasses.replace(module.memory, temporaries=2 * module.memory.peak)
        other = sample_step(
            modules=(dataclasses.replace(module, memory=memory),), flags="--xla_one=1 --xla_two=2"
        )
        result = judged(sample_step(flags="--xla_two=2"), other, one_engine)
        assert result.result is Result.FAIL
        assert result.findings[0].text.endswith("alone is compiled with --xla_one=1")

    def test_beside_a_pass(self) -> None:
        result = judged(sample_step(), sample_step(xla_flags="--xla_one=1"))
        assert result.result is Result.PASS
        assert "--xla_one=1" in result.findings[0].text

    def test_none_where_they_are_the_same(self) -> None:
        flags = "--xla_one=1"
        result = judged(sample_step(flags=flags), sample_step(flags=flags))
        assert result.findings == ()


class TestTwoCompilers:
    """One step by two of them: the second has to be as good."""

    COMPILERS = ("libtpu@1", "libtpu@2")
    BROKEN = sample_step(modules=(), error="INTERNAL: no")

    def test_one_that_compiles_what_the_other_does_not(self) -> None:
        result = judge_compilers(self.COMPILERS, (self.BROKEN, sample_step()))
        assert (result.result, result.value, result.limit) == (Result.PASS, 0, 0)
        result = judge_compilers(self.COMPILERS, (sample_step(), self.BROKEN))
        assert (result.result, result.value, result.limit) == (Result.FAIL, 1, 0)
        assert result.explanation.startswith("libtpu@2 does not")
        assert result.explanation.endswith("libtpu@1 does")
        neither = judge_compilers(self.COMPILERS, (self.BROKEN, self.BROKEN))
        assert neither.result is Result.INVALID
        assert "libtpu@1 does not compile" in neither.explanation

    def test_one_whose_step_does_not_fit(self) -> None:
        large = heavier(2**35 / sample_module().memory.peak + 1, "hbm")
        result = judge_compilers(self.COMPILERS, (sample_step(), large))
        assert (result.result, result.value, result.limit) == (Result.FAIL, 1, 0)
        assert judge_compilers(self.COMPILERS, (large, sample_step())).result is Result.PASS


class TestFits:
    def test_all_of_what_the_chip_has(self) -> None:
        full = heavier(2**35 / sample_module().memory.peak, "hbm")
        assert full.peak_bytes == 2**35
        assert judged(full, full).result is Result.PASS

    def test_more_than_the_chip_has(self) -> None:
        large = heavier(2**35 / sample_module().memory.peak + 1, "hbm")
        result = judged(large, large)
        assert (result.result, result.value, result.limit) == (Result.FAIL, 2, 0)
        assert result.explanation.startswith(NAMES[0])
        assert judged(large, large, True).result is Result.FAIL

    @pytest.mark.parametrize("side", [0, 1])
    def test_one_side_alone(self, side: int) -> None:
        pair = [sample_step(), sample_step()]
        pair[side] = heavier(2**35 / sample_module().memory.peak + 1, "hbm")
        result = judged(pair[0], pair[1])
        assert (result.result, result.value) == (Result.FAIL, 1)
        assert NAMES[side] in result.explanation

    def test_each_chip_has_its_own(self) -> None:
        large = heavier(20 * 2**30 / sample_module().memory.peak, "hbm")
        for target, fits in (("v5e:2x2", False), ("v6e:2x2", True), ("2 × v5e:2x2", False),
                             ("tpu7x:1x2x1", True), ("v9x:2x2", True)):  # fmt: skip
            text = does_not_fit("hf", dataclasses.replace(large, target=target))
            assert (text is None) is fits

    def test_a_core_has_half_of_a_chip(self) -> None:
        large = heavier(100 * 2**30 / sample_module().memory.peak, "hbm")
        assert does_not_fit("hf", dataclasses.replace(large, target="tpu7x:1x2x1")) is not None


class TestTwoEngines:
    def test_alike(self) -> None:
        result = judged(sample_step(), heavier(1.005, "flops"))
        assert result.result is Result.PASS
        assert result.detects

    @pytest.mark.parametrize(
        ("what", "within", "beyond"),
        [("flops", 1.005, 1.02), ("hbm", 1.2, 1.4), ("bytes", 1.2, 1.4), ("collectives", 1.2, 1.4)],
    )
    def test_each_quantity_both_ways(self, what: str, within: float, beyond: float) -> None:
        for factor, expected in ((within, Result.PASS), (beyond, Result.FAIL)):
            step = heavier(factor, what)
            assert judged(heavier(1.0, what), step).result is expected
            assert judged(step, heavier(1.0, what)).result is expected

    def test_a_kernel_on_one_side_hides_what_it_multiplies(self) -> None:
        flash = other(kernels={"flash": 2}, graph={"flops": sample_module().graph.flops // 2})
        assert judged(sample_step(), flash).result is Result.INCONCLUSIVE
        heavy = dataclasses.replace(heavier(1.4, "hbm").modules[0], kernels={"flash": 2})
        assert judged(sample_step(), sample_step(modules=(heavy,))).result is Result.FAIL

    def test_no_collectives_at_all_on_one_side(self) -> None:
        alone = other(graph={"collectives": ()})
        assert judged(sample_step(), alone).result is Result.FAIL
        result = judged(alone, alone)
        assert result.result is Result.PASS
        assert "no collectives" in result.explanation
        assert "between" not in result.explanation

    def test_a_module_more(self) -> None:
        twice = sample_step(modules=(sample_module(), sample_module()))
        assert judged(sample_step(), twice).result is Result.FAIL

    def test_code_that_was_not_waited_for_is_said(self) -> None:
        result = judged(sample_step(), other(code=NOT_WAITED_FOR))
        assert result.result is Result.PASS
        assert NOT_WAITED_FOR in result.detects
        assert NOT_WAITED_FOR not in judged(sample_step(), sample_step()).detects

    def test_the_causes_are_its_evidence(self) -> None:
        result = judged(sample_step(), heavier(2.0, "flops"))
        assert result.result is Result.FAIL
        none = other(graph={"collectives": ()})
        for pair, name in (((sample_step(), none), NAMES[0]), ((none, sample_step()), NAMES[1])):
            texts = [finding.text for finding in judged(*pair).findings]
            assert texts
            assert all(text.startswith(f"{name}: ") for text in texts)


class TestSlices:
    """What crosses between slices is compared, and is never taken for nothing."""

    def step(self, factor: float = 1.0, **changes: Any) -> CompiledStep:
        """The sample for two slices, exchanging `factor` times as much."""
        module = sample_module("0.0.52-two-slices", slices=2)
        assert module.exchanges is not None
        more = tuple(
            dataclasses.replace(e, bytes=round(1000 * e.bytes * factor)) for e in module.exchanges
        )
        given: dict[str, Any] = {"exchanges": more, **changes}
        modules = (dataclasses.replace(module, **given),)
        return sample_step(target="2 × v6e:1x2", modules=modules)

    def test_alike(self, worded: Worded) -> None:
        result = judged(self.step(), self.step(1.2))
        assert result.result is Result.PASS
        worded(result)

    def test_more_of_one_side_fails(self, worded: Worded) -> None:
        for pair in ((self.step(), self.step(1.4)), (self.step(1.4), self.step())):
            assert judged(*pair).result is Result.FAIL
        worded(judged(self.step(), self.step(exchanges=self.exchanges()[:1])))

    def exchanges(self) -> tuple[Exchange, ...]:
        found = self.step().exchanges
        assert found is not None
        return found

    def test_one_side_that_forgets_them_all_fails(self) -> None:
        """Each slice would train a model of its own."""
        none = self.step(exchanges=())
        assert judged(self.step(), none).result is Result.FAIL
        assert judged(none, self.step()).result is Result.FAIL

    @pytest.mark.parametrize("one_engine", [False, True])
    def test_none_at_all_were_not_recognized(self, worded: Worded, one_engine: bool) -> None:
        none = self.step(exchanges=())
        result = judged(none, none, one_engine)
        assert result.result is Result.INVALID
        worded(result)

    @pytest.mark.parametrize("one_engine", [False, True])
    @pytest.mark.parametrize("side", [0, 1])
    def test_those_of_an_older_record_are_not_known(
        self, worded: Worded, side: int, one_engine: bool
    ) -> None:
        pair = [self.step(), self.step()]
        pair[side] = self.step(exchanges=None)
        result = judged(pair[0], pair[1], one_engine)
        assert result.result is Result.INVALID
        worded(result)

    def test_on_one_slice_there_are_none_to_be_known(self) -> None:
        assert judged(other(exchanges=None), other(exchanges=None)).result is Result.PASS
        assert judged(other(exchanges=()), sample_step()).result is Result.PASS

    def test_an_error_comes_before(self) -> None:
        broken = dataclasses.replace(self.step(exchanges=()), error="INTERNAL: no")
        assert judged(broken, self.step()).result is Result.FAIL

    def test_a_compiler_that_makes_none_of_them_is_not_the_better_one(self) -> None:
        names, none = ("libtpu@1", "libtpu@2"), self.step(exchanges=())
        for pair in ((self.step(), none), (none, self.step()), (none, none)):
            assert judge_compilers(names, pair).result is Result.INVALID
        assert judge_compilers(names, (self.step(), self.step(0.5))).result is Result.PASS
        assert judge_compilers(names, (self.step(), self.step(2.0))).result is Result.FAIL

    def test_kernels_on_one_side_do_not_hide_them(self) -> None:
        assert judged(self.step(), self.step(kernels={"f": 1})).result is Result.INCONCLUSIVE
        assert judged(self.step(), self.step(2.0, kernels={"f": 1})).result is Result.FAIL


class TestOneEngine:
    def test_identical(self) -> None:
        assert judged(sample_step(), sample_step(), True).result is Result.PASS

    def test_anything_else_fails(self) -> None:
        """Within every tolerance, and yet not the same step."""
        changed = other(graph={"fingerprint": "f" * 64})
        assert judged(sample_step(), changed).result is Result.PASS
        result = judged(sample_step(), changed, True)
        assert (result.result, result.value) == (Result.FAIL, 1)

    def test_the_cause_names_the_version_that_has_more(self) -> None:
        fewer = other(graph={"collectives": (), "fingerprint": "f" * 64})
        for pair, name in (((sample_step(), fewer), NAMES[0]), ((fewer, sample_step()), NAMES[1])):
            result = judged(*pair, one_engine=True)
            assert result.findings
            assert all(f.text.startswith(f"{name}: ") for f in result.findings)

    def test_as_many_executions(self) -> None:
        assert judged(sample_step(), other(executions=2), True).result is Result.FAIL


class TestTargets:
    def pairs(self, *pairs: tuple[CompiledStep, CompiledStep]) -> RungResult:
        c = comparison(Trainer().record(), Trainer("torchprime").record())
        return compiled(dataclasses.replace(c, compiled=pairs))

    def test_one_bad_target_is_enough(self) -> None:
        good = (sample_step(), sample_step())
        bad = (sample_step(), sample_step(error="no"))
        missing = (sample_step(), sample_step(unknown="gone"))
        assert self.pairs(good, good).result is Result.PASS
        assert self.pairs(good, missing).result is Result.INVALID
        assert self.pairs(missing, good, bad).result is Result.FAIL
        later = (sample_step(), sample_step(error="later"))
        assert self.pairs(bad, later).explanation == self.pairs(bad).explanation

    def test_the_furthest_apart_is_what_a_pass_shows(self) -> None:
        """By the share of its limit; one that is equal is nothing apart."""
        equal, near = (sample_step(), sample_step()), (sample_step(), heavier(1.005, "flops"))
        for pairs in ((equal, near), (near, equal)):
            result = self.pairs(*pairs)
            assert result.result is Result.PASS
            assert result.value == judged(*near).value

    def test_its_name(self) -> None:
        assert RUNG.name == "compiled"
        assert self.pairs((sample_step(), sample_step())).rung == RUNG.name

    def test_equal_is_equal_in_versions_of_one_engine(self) -> None:
        c = comparison(Trainer().record(), Trainer().record())
        result = compiled(dataclasses.replace(c, compiled=((sample_step(), sample_step()),)))
        assert (result.result, result.value, result.limit) == (Result.PASS, 0, 0)
