"""The rung environment: each way in which it could pass and should not."""

from __future__ import annotations

from typing import Any

import pytest
from builders import (
    Trainer,
    comparison,
    with_manifest,
    with_observed,
)
from golden import Worded

from harness.ladder.judge import judge
from harness.ladder.result import Result
from harness.ladder.rungs.environment import environment
from harness.models.family import FLASH_ATTENTION
from harness.record.evidence import Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


@pytest.fixture(scope="module")
def b() -> Record:
    return Trainer(label="torchprime", groups=2, sums=-1).record()


def asking(run: Record, fields: dict[str, Any]) -> Record:
    """The run with other fields in its case."""
    return with_manifest(run, lambda manifest: manifest["case"].update(fields))


def nested(run: Record, *path: str, value: Any = None) -> Record:
    """A Record with something deep in `observed` changed; None removes it."""

    def change(manifest: dict[str, Any]) -> None:
        holder = manifest["observed"]
        for key in path[:-1]:
            holder = holder[key]
        if value is None:
            del holder[path[-1]]
        else:
            holder[path[-1]] = value

    return with_manifest(run, change)


class TestEnvironment:
    def test_equal(self, a: Record, b: Record) -> None:
        result = environment(comparison(a, b))
        assert result.result is PASS
        assert result.findings == ()

    @pytest.mark.parametrize(
        ("path", "ours", "theirs"),
        [
            (("device",), "CPU", "TPU"),
            (("device_kind",), "CPU", "TPU v6e"),
            (("devices",), 4, 8),
            (("versions", "torch"), "2.9.0", "2.8.0"),
            (("versions", "torch_xla"), "2.9.0", "2.8"),
            (("versions", "libtpu"), None, "0.0.21"),
            (("flags", "XLA_FLAGS"), "--xla_x=1", "--xla_x=2"),
            (("flags", "XLA_FLAGS"), "--xla_x=1", None),
            (("flags", "XLA_NEW"), None, "1"),
        ],
    )
    def test_different(
        self, a: Record, b: Record, path: tuple[str, ...], ours: Any, theirs: Any
    ) -> None:
        result = environment(comparison(a, nested(b, *path, value=theirs)))
        assert result.result is FAIL
        assert [(finding.a, finding.b) for finding in result.findings] == [(ours, theirs)]
        assert (result.value, result.limit) == (1, 0)

    def test_another_number_of_processes(self, a: Record, b: Record) -> None:
        """It is a difference, and a Record without its other hosts is one too."""
        result = environment(comparison(a, nested(b, "processes", value=2)))
        assert result.result is FAIL
        assert len(result.findings) == 2
        assert (1, 2) in [(finding.a, finding.b) for finding in result.findings]

    def test_more_than_one_difference_is_counted(self, a: Record, b: Record) -> None:
        other = nested(nested(b, "devices", value=8), "device_kind", value="TPU v6e")
        result = environment(comparison(a, other))
        assert (result.value, len(result.findings)) == (2, 2)

    @pytest.mark.parametrize(
        "path",
        [
            ("device",), ("device_kind",), ("devices",), ("processes",), ("matmul_precision",),
            ("products",),
            ("versions",), ("flags",),
            ("versions", "torch"), ("versions", "torch_xla"),
        ],
    )  # fmt: skip
    def test_unknown_and_unknown_are_not_equal(
        self, worded: Worded, a: Record, b: Record, path: tuple[str, ...]
    ) -> None:
        without_a, without_b = nested(a, *path), nested(b, *path)
        for x, y in ((without_a, b), (a, without_b), (without_a, without_b)):
            result = environment(comparison(x, y))
            assert result.result is INVALID
            worded(result)

    def test_no_flags_are_not_equal_flags(self, a: Record, b: Record) -> None:
        a, b = (with_observed(r, flags={}) for r in (a, b))
        assert environment(comparison(a, b)).result is INVALID

    @pytest.mark.parametrize("found", ["default", "high"])
    def test_both_below_the_precision_that_the_case_asks_for(
        self, found: str, a: Record, b: Record
    ) -> None:
        pair = [with_observed(r, matmul_precision=found) for r in (a, b)]
        result = environment(comparison(*pair))
        assert (result.result, result.value) == (FAIL, 2)
        assert {(f.a, f.b) for f in result.findings} == {(found, "highest")}

    @pytest.mark.parametrize(
        "requested", [{"dtype": "bfloat16"}, {"kind": "as_shipped"}, {"precision": "default"}]
    )
    def test_what_the_case_leaves_to_the_trainers_is_theirs_but_equal(
        self, requested: dict[str, str], a: Record, b: Record
    ) -> None:
        a, b = (with_manifest(r, lambda m: m["case"].update(requested)) for r in (a, b))
        a = with_observed(a, matmul_precision="high")
        assert environment(comparison(a, b)).result is FAIL
        assert environment(comparison(a, with_observed(b, matmul_precision="high"))).result is PASS

    def test_an_operation_that_does_not_ask_for_what_was_set(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        """torch_xla was told "highest" in both, and einsum of one asks for nothing."""
        products = {"aten::bmm": "highest", "aten::einsum": "default"}
        without = with_observed(b, products=products)
        result = environment(comparison(a, without))
        assert (result.result, result.value) == (FAIL, 1)
        worded(result)
        assert environment(comparison(without, without)).value == 2  # both alike: each is told of

    def test_other_operations_that_ask_for_the_same(self, a: Record, b: Record) -> None:
        b = with_observed(b, products={"aten::einsum": "highest"})
        assert environment(comparison(a, b)).result is PASS

    @pytest.mark.parametrize("operation", ["aten::mm", "aten::of_another_version"])
    @pytest.mark.parametrize(
        ("asked", "expected"), [("highest", PASS), ("high", FAIL), ("default", FAIL)]
    )
    def test_each_operation_that_was_observed_is_judged_whatever_its_name(
        self, a: Record, b: Record, operation: str, asked: str, expected: Result
    ) -> None:
        """The probe's own list is what it looks at, and not what this rung knows of."""
        result = environment(comparison(a, with_observed(b, products={operation: asked})))
        assert result.result is expected
        assert all(f"{operation} of {b.label} asks" in finding.text for finding in result.findings)

    def test_a_run_that_multiplies_by_nothing_that_is_looked_at_is_not_judged(
        self, a: Record, b: Record
    ) -> None:
        """By convolutions alone, say: their precision is not observed, and equals no other."""
        for pair in ((a, with_observed(b, products={})), (with_observed(a, products={}), b)):
            result = environment(comparison(*pair))
            assert result.result is INVALID
            assert "no product of matrices was observed" in result.explanation

    def test_trainers_that_are_left_to_themselves_ask_for_the_same(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        a, b = (with_manifest(r, lambda m: m["case"].update(precision="default")) for r in (a, b))
        assert environment(comparison(a, b)).result is PASS
        products = {"aten::mm": "highest", "aten::einsum": "default"}
        result = environment(comparison(a, with_observed(b, products=products)))
        assert (result.result, result.value) == (FAIL, 1)
        worded(result)

    def test_attention_as_the_case_asks(self, a: Record, b: Record) -> None:
        pair = [with_observed(r, attention="eager") for r in (a, b)]
        assert environment(comparison(*pair)).result is PASS
        for which in (0, 1):
            other = list(pair)
            other[which] = with_observed(other[which], attention="sdpa")
            result = environment(comparison(*other))
            assert result.result is FAIL
        both = [with_observed(r, attention="sdpa") for r in (a, b)]
        assert environment(comparison(*both)).result is FAIL
        shipped = [with_manifest(r, lambda m: m["case"].update(kind="as_shipped")) for r in both]
        assert environment(comparison(*shipped)).result is PASS

    def test_a_kernel_has_no_name_among_the_implementations(self, a: Record, b: Record) -> None:
        def with_kernel(manifest: Any) -> None:
            manifest["case"]["model"] = {**manifest["case"]["model"], "attention": FLASH_ATTENTION}

        pair = [with_observed(with_manifest(r, with_kernel), attention="eager") for r in (a, b)]
        assert environment(comparison(*pair)).result is PASS
        other = with_observed(pair[1], attention="sdpa")
        assert environment(comparison(pair[0], other)).result is FAIL

    def test_attention_that_was_not_observed(self, a: Record, b: Record) -> None:
        """Only transformers has names for it: elsewhere nothing can be missing."""
        for pair in ((with_observed(a, attention=None), b), (b, with_observed(a, attention=None))):
            result = environment(comparison(*pair))
            assert result.result is INVALID
        shipped = [with_observed(asking(r, {"kind": "as_shipped"}), attention=None) for r in (a, b)]
        assert environment(comparison(*shipped)).result is PASS
        other = with_observed(b, names_attention=False, attention=None)
        assert environment(comparison(a, other)).result is PASS

    def test_nothing_was_observed(self, a: Record, b: Record) -> None:
        a, b = (with_manifest(r, lambda m: m.update(observed={})) for r in (a, b))
        assert environment(comparison(a, b)).result is INVALID


@pytest.fixture(scope="module")
def pair() -> tuple[Record, Record]:
    return Trainer(accumulation=2).record(), Trainer(accumulation=2, label="b").record()


def given(run: Record, **arguments: str) -> Record:
    """The run of an engine that its user gave these arguments."""
    return with_manifest(run, lambda manifest: manifest.update(beyond_case=arguments))


class TestBeyondTheCase:
    """What a run trains that its case does not say."""

    @pytest.mark.parametrize(
        "arguments",
        [
            {"label_smoothing_factor": "0.1"},
            {"bf16": "True"},
            {"optim": "sgd", "max_grad_norm": "9"},
        ],
    )
    def test_arguments_of_one_engine(self, a: Record, b: Record, arguments: dict[str, str]) -> None:
        for pair in ((given(a, **arguments), b), (b, given(a, **arguments))):
            result = environment(comparison(*pair))
            assert result.result is FAIL
            assert [f.a for f in result.findings] == [{k: v} for k, v in arguments.items()]

    def test_the_same_arguments_of_one_engine_are_a_part_of_the_question(
        self, worded: Worded, a: Record
    ) -> None:
        x, y = (given(run, bf16="True") for run in (a, Trainer().record()))
        result = environment(comparison(x, y))
        assert result.result is PASS
        worded(result)
        other = given(Trainer().record(), bf16="False")
        assert environment(comparison(x, other)).result is FAIL

    def test_the_same_name_means_nothing_in_two_engines(self, a: Record, b: Record) -> None:
        result = environment(comparison(given(a, seed="7"), given(b, seed="7")))
        assert len(result.findings) == 2

    @pytest.mark.parametrize(
        "observed",
        [
            {"autocast": "bfloat16"},
            {"dropout": {"model.layers.*.self_attn.attention_dropout": 0.1}},
        ],
    )
    def test_what_the_model_computes_on_both_sides(
        self, a: Record, b: Record, observed: dict[str, Any]
    ) -> None:
        """Found in the process: no argument need have said it."""
        x, y = with_observed(a, **observed), with_observed(b, **observed)
        assert len(environment(comparison(x, y)).findings) == 2
        assert len(environment(comparison(a, y)).findings) == 1

    def test_what_the_case_asks_for(self, a: Record, b: Record) -> None:
        """Neither too much nor too little."""
        x, y = (asking(run, {"autocast": "bfloat16"}) for run in (a, b))
        assert len(environment(comparison(x, y)).findings) == 2
        y = with_observed(y, autocast="bfloat16")
        (finding,) = environment(comparison(x, y)).findings
        assert "which the case asks for" in finding.text
        x = with_observed(x, autocast="bfloat16")
        assert environment(comparison(x, y)).result is PASS

    def test_dropout_that_the_case_asks_for(self, a: Record, b: Record) -> None:
        options = {"attention_dropout": 0.1}
        pair = [
            with_manifest(r, lambda m: m["case"]["model"].update(family="llama", options=options))
            for r in (a, b)
        ]
        for share, result in ((0.1, PASS), (0.2, FAIL)):
            seen = {"model.layers.*.self_attn.attention_dropout": share}
            dropping = (with_observed(run, dropout=seen) for run in pair)
            assert environment(comparison(*dropping)).result is result

    def test_autocasting_to_the_dtype_itself_casts_nothing(self, a: Record, b: Record) -> None:
        x, y = (with_observed(run, autocast="float32") for run in (a, b))
        assert environment(comparison(x, y)).result is PASS


class TestFloat64:
    """It trains what the case says, and accused the side that does not do more than that."""

    class Smoothed(Trainer):
        def gradients(self, *given: Any) -> Any:
            loss, gradients = super().gradients(*given)
            return loss * 1.2, gradients

    def test_is_silent(self, a: Record) -> None:
        exact = Trainer(label="float64").record()
        smoothed = given(self.Smoothed(label="b").record(), label_smoothing_factor="0.1")
        verdict = judge(comparison(a, smoothed, float64=exact))
        assert verdict.headline_rung is verdict.rung("environment")
        assert verdict.rung("forward").result is INVALID
        assert len(verdict.notes) == 1
        assert "not asked" in verdict.notes[0]
        assert "label_smoothing_factor=0.1" in verdict.notes[0]

    def test_accuses_where_nothing_is_beyond_the_case(self, a: Record) -> None:
        exact = Trainer(label="float64").record()
        verdict = judge(comparison(a, self.Smoothed(label="b").record(), float64=exact))
        assert "b is the one that deviates" in verdict.notes[0]
