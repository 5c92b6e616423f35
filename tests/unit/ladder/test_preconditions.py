"""Rungs environment, sharding, data and init: each way in which they could pass and should not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from builders import (
    DEVICES,
    IGNORED,
    Trainer,
    comparison,
    fingerprint,
    round_bfloat16,
    with_manifest,
    with_observed,
    with_parameter,
    with_step,
    without,
)

from harness.ladder.result import Result, RungResult
from harness.ladder.rungs.data import data
from harness.ladder.rungs.environment import environment
from harness.ladder.rungs.init import init
from harness.ladder.rungs.sharding import sharding
from harness.record.files import Batch, Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


@pytest.fixture(scope="module")
def b() -> Record:
    return Trainer(label="torchprime", groups=2, sums=-1).record()


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
        assert result.explanation == "4 CPU devices, torch_xla 2.9.0, equal flags"
        assert result.detects == "any difference"

    @pytest.mark.parametrize(
        ("path", "value", "text"),
        [
            (("device",), "TPU", "PJRT device: hf has CPU, torchprime has TPU"),
            (("device_kind",), "TPU v6e", "device kind: hf has CPU, torchprime has TPU v6e"),
            (("devices",), 8, "number of devices: hf has 4, torchprime has 8"),
            (("versions", "torch"), "2.8.0", "torch: hf has 2.9.0, torchprime has 2.8.0"),
            (("versions", "torch_xla"), "2.8", "torch_xla: hf has 2.9.0, torchprime has 2.8"),
            (("versions", "libtpu"), "0.0.21", "libtpu: hf has None, torchprime has 0.0.21"),
            (("flags", "XLA_FLAGS"), "--xla_x=2", "XLA_FLAGS: hf has --xla_x=1, torchprime has"),
            (("flags", "XLA_NEW"), "1", "XLA_NEW: hf has None, torchprime has 1"),
        ],
    )
    def test_different(
        self, a: Record, b: Record, path: tuple[str, ...], value: Any, text: str
    ) -> None:
        result = environment(comparison(a, nested(b, *path, value=value)))
        assert result.result is FAIL
        assert text in result.explanation
        assert (result.value, result.limit, len(result.findings)) == (1, 0, 1)

    def test_a_flag_that_only_one_has(self, a: Record, b: Record) -> None:
        result = environment(comparison(a, nested(b, "flags", "XLA_FLAGS")))
        assert result.result is FAIL
        assert "XLA_FLAGS: hf has --xla_x=1, torchprime has None" in result.explanation

    def test_another_number_of_processes(self, a: Record, b: Record) -> None:
        result = environment(comparison(a, nested(b, "processes", value=2)))
        texts = [finding.text for finding in result.findings]
        assert result.result is FAIL
        assert "number of processes: hf has 1, torchprime has 2" in texts
        assert any("the Record of only one of them" in text for text in texts)

    def test_more_than_one_difference_is_counted(self, a: Record, b: Record) -> None:
        other = nested(nested(b, "devices", value=8), "device_kind", value="TPU v6e")
        result = environment(comparison(a, other))
        assert "(and 1 more)" in result.explanation
        assert result.value == 2

    @pytest.mark.parametrize(
        "path",
        [
            ("device",), ("device_kind",), ("devices",), ("processes",), ("versions",), ("flags",),
            ("versions", "torch"), ("versions", "torch_xla"),
        ],
    )  # fmt: skip
    def test_unknown_and_unknown_are_not_equal(
        self, a: Record, b: Record, path: tuple[str, ...]
    ) -> None:
        without_a, without_b = nested(a, *path), nested(b, *path)
        for x, y in ((without_a, b), (a, without_b), (without_a, without_b)):
            result = environment(comparison(x, y))
            assert result.result is INVALID
            assert "was observed" in result.explanation
            assert result.explanation.startswith("hf" if x is without_a else "torchprime")

    def test_no_flags_are_not_equal_flags(self, a: Record, b: Record) -> None:
        a, b = (with_observed(r, flags={}) for r in (a, b))
        assert environment(comparison(a, b)).result is INVALID

    def test_attention_as_the_case_asks(self, a: Record, b: Record) -> None:
        pair = [with_observed(r, attention="eager") for r in (a, b)]
        assert environment(comparison(*pair)).result is PASS
        for which in (0, 1):
            other = list(pair)
            other[which] = with_observed(other[which], attention="sdpa")
            result = environment(comparison(*other))
            assert result.result is FAIL
            assert "is sdpa, but the case asks for eager" in result.explanation
        both = [with_observed(r, attention="sdpa") for r in (a, b)]
        assert environment(comparison(*both)).result is FAIL
        shipped = [with_manifest(r, lambda m: m["case"].update(kind="as_shipped")) for r in both]
        assert environment(comparison(*shipped)).result is PASS

    def test_attention_that_was_not_observed(self, a: Record, b: Record) -> None:
        """Only transformers has names for it: elsewhere nothing can be missing."""
        for pair in ((with_observed(a, attention=None), b), (b, with_observed(a, attention=None))):
            result = environment(comparison(*pair))
            assert result.result is INVALID
            assert "hf: no attention implementation was observed" in result.explanation
        other = with_manifest(b, lambda m: m.update(engine="torchprime"))
        assert environment(comparison(a, with_observed(other, attention=None))).result is PASS

    def test_nothing_was_observed(self, a: Record, b: Record) -> None:
        a, b = (with_manifest(r, lambda m: m.update(observed=None)) for r in (a, b))
        assert environment(comparison(a, b)).result is INVALID


class TestSharding:
    def test_equal(self, a: Record, b: Record) -> None:
        result = sharding(comparison(a, b))
        assert result.result is PASS
        assert "3 parameters" in result.explanation
        assert "the mesh fsdp 4" in result.explanation

    def test_axes_of_one_device_change_nothing(self, a: Record, b: Record) -> None:
        mesh = {"axes": {"data": 1, "fsdp": 4, "expert": 1}, "device_order": [0, 1, 2, 3]}
        assert sharding(comparison(a, with_observed(b, mesh=mesh))).result is PASS

    @pytest.mark.parametrize(
        ("what", "value"),
        [
            ("shape", (8, 16)), ("dtype", "bfloat16"), ("sharding", "{devices=[1,4]0,1,2,3}"),
            ("sharding", ""), ("sharding", "{replicated}"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_one_parameter_is_different(
        self, a: Record, b: Record, what: str, value: Any, index: int
    ) -> None:
        result = sharding(comparison(a, with_parameter(b, index, **{what: value})))
        assert result.result is FAIL
        assert any(f.parameter == b.parameters[index].name for f in result.findings)
        assert f"{what} is" in " ".join(f.text for f in result.findings)

    @pytest.mark.parametrize(
        "mesh",
        [
            {"axes": {"fsdp": 2, "tensor": 2}, "device_order": [0, 1, 2, 3]},
            {"axes": {"tensor": 4}, "device_order": [0, 1, 2, 3]},
            {"axes": {"fsdp": 4}, "device_order": [3, 2, 1, 0]},
        ],
    )
    def test_another_mesh(self, a: Record, b: Record, mesh: dict[str, Any]) -> None:
        result = sharding(comparison(a, with_observed(b, mesh=mesh)))
        assert result.result is FAIL
        assert any("mesh: hf has the mesh fsdp 4, torchprime" in f.text for f in result.findings)

    def test_the_order_of_devices_is_shown_where_it_is_not_the_usual_one(
        self, a: Record, b: Record
    ) -> None:
        mesh = {"axes": {"fsdp": 4}, "device_order": [3, 2, 1, 0]}
        assert (
            "in the order [3, 2, 1, 0]"
            in sharding(comparison(a, with_observed(b, mesh=mesh))).explanation
        )

    def test_input_tokens_are_sharded_otherwise(self, a: Record, b: Record) -> None:
        for one, other in (
            (a, with_observed(b, input_sharding="")),
            (with_observed(a, input_sharding=""), b),
        ):
            result = sharding(comparison(one, other))
            assert result.result is FAIL
            assert "input tokens: " in result.explanation
            assert "not at all" in result.explanation

    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_a_parameter_that_only_one_has(self, a: Record, b: Record, index: int) -> None:
        name = a.parameters[index].name
        result = sharding(comparison(a, without(b, "parameters", index)))
        assert result.result is FAIL
        assert result.explanation == f"{name}: hf has this parameter, torchprime does not"
        result = sharding(comparison(without(a, "parameters", index), b))
        assert result.explanation == f"{name}: torchprime has this parameter, hf does not"

    def test_no_parameter_at_all(self, a: Record, b: Record) -> None:
        none = dataclasses.replace(a, parameters=()), dataclasses.replace(b, parameters=())
        for x, y in ((none[0], b), (a, none[1]), none):
            assert sharding(comparison(x, y)).result is INVALID

    @pytest.mark.parametrize(
        "path", [("mesh",), ("mesh", "axes"), ("mesh", "device_order"), ("input_sharding",)]
    )
    def test_unknown_and_unknown_are_not_equal(
        self, a: Record, b: Record, path: tuple[str, ...]
    ) -> None:
        for x, y in (
            (nested(a, *path), b),
            (a, nested(b, *path)),
            (nested(a, *path), nested(b, *path)),
        ):
            result = sharding(comparison(x, y))
            assert result.result is INVALID
            assert "observed" in result.explanation


class TestShardingAgainstTheCase:
    """Two runs that both train something else are equal, but are not what was asked for."""

    def test_both_on_another_mesh(self, a: Record, b: Record) -> None:
        mesh = {"fsdp": 2, "tensor": 2}
        a, b = (with_manifest(r, lambda m: m["case"].update(mesh=mesh)) for r in (a, b))
        result = sharding(comparison(a, b))
        assert result.result is FAIL
        text = "hf trains on the mesh fsdp 4, but the case asks for the mesh fsdp 2 × tensor 2"
        assert text in result.explanation
        assert len(result.findings) == 2

    def test_both_in_another_dtype(self, a: Record, b: Record) -> None:
        a, b = (with_manifest(r, lambda m: m["case"].update(dtype="bfloat16")) for r in (a, b))
        result = sharding(comparison(a, b))
        assert result.result is FAIL
        assert "3 parameters of hf are not bfloat16, as the case asks" in result.explanation

    def test_one_parameter_in_another_dtype_on_both_sides(self, a: Record, b: Record) -> None:
        a, b = (with_parameter(r, 1, dtype="float64") for r in (a, b))
        assert sharding(comparison(a, b)).result is FAIL

    def test_a_mesh_that_nobody_asked_for(self, a: Record, b: Record) -> None:
        """`parity train` on a TPU takes the mesh that its trainer makes."""
        a, b = (with_manifest(r, lambda m: m["case"].update(mesh=None)) for r in (a, b))
        assert sharding(comparison(a, b)).result is PASS

    def test_one_device(self, a: Record, b: Record) -> None:
        mesh = {"axes": {"fsdp": 1}, "device_order": [0]}
        alone = []
        for run in (a, b):
            asked = with_manifest(run, lambda m: m["case"].update(mesh={"fsdp": 1}))
            alone.append(with_observed(asked, mesh=mesh, devices=1))
        result = sharding(comparison(*alone))
        assert result.result is PASS
        assert "one device" in result.explanation


class Swapped(Trainer):
    """Two batches trade places."""

    def batch(self, micro_step: int) -> Any:
        return super().batch({2: 3, 3: 2}.get(micro_step, micro_step))


class Behind(Trainer):
    """Every step trains on the batch of the step before."""

    def batch(self, micro_step: int) -> Any:
        return super().batch(micro_step + 99 if micro_step == 0 else micro_step - 1)


class RowsSwapped(Trainer):
    """Two rows of one batch trade places."""

    def batch(self, micro_step: int) -> Any:
        tokens, labels = super().batch(micro_step)
        if micro_step == 3:
            tokens, labels = tokens[[1, 0, 2, 3]], labels[[1, 0, 2, 3]]
        return tokens, labels


class RowsOfTwoBatchesSwapped(Trainer):
    """A row of one batch trades places with a row of another one."""

    def batch(self, micro_step: int) -> Any:
        tokens, labels = super().batch(micro_step)
        if micro_step in (2, 5):
            others = super().batch(7 - micro_step)
            tokens[0], labels[0] = others[0][0], others[1][0]
        return tokens, labels


class AnotherText(Trainer):
    def batch(self, micro_step: int) -> Any:
        return super().batch(micro_step + 1000)


class OtherLabels(Trainer):
    """One label of one batch is masked."""

    def batch(self, micro_step: int) -> Any:
        tokens, labels = super().batch(micro_step)
        if micro_step == 5:
            labels[3, 3] = IGNORED
        return tokens, labels


class LastBatch(Trainer):
    """Only the last batch differs, by one token."""

    def batch(self, micro_step: int) -> Any:
        tokens, labels = super().batch(micro_step)
        if micro_step == 7:
            tokens[3, 5] += 1
        return tokens, labels


class Shorter(Trainer):
    def batch(self, micro_step: int) -> Any:
        tokens, labels = super().batch(micro_step)
        return tokens[:, :5], labels[:, :5]


def with_batch(run: Record, step: int, **fields: Any) -> Record:
    batches: tuple[Batch, ...] = run.steps[step].batches
    changed = (dataclasses.replace(batches[0], **fields), *batches[1:])
    return with_step(run, step, batches=changed)


def judged(a: Record, b: Record) -> RungResult:
    return data(comparison(a, b))


class TestData:
    def test_equal(self, a: Record, b: Record) -> None:
        result = judged(a, b)
        assert result.result is PASS
        assert result.explanation == "8 batches with equal tokens, labels and masks"

    @pytest.mark.parametrize(
        ("trainer", "overview", "step", "found"),
        [
            (Swapped, "the same batches in another order (micro-steps 2, 3 differ)", 2, "tokens"),
            (Behind, "b's batches lag one step behind hf's", 0, "other tokens"),
            (RowsSwapped, "the same rows over the whole run, in another order", 3,
             "the same rows in another order within the batch"),
            (RowsOfTwoBatchesSwapped, "the same rows over the whole run, in another order", 2,
             "other tokens"),
            (AnotherText, "0 of 32 rows are in both runs", 0, "other tokens"),
            (OtherLabels, "equal tokens in equal order, but labels, masks or shapes differ", 5,
             "equal tokens, but other labels (19 and 18 count)"),
            (LastBatch, "31 of 32 rows are in both runs", 7, "other tokens"),
            (Shorter, "0 of 32 rows are in both runs", 0, "hf has a batch of [4, 6], b of [4, 5]"),
        ],
    )  # fmt: skip
    def test_different(
        self, a: Record, trainer: type[Trainer], overview: str, step: int, found: str
    ) -> None:
        b = trainer(label="b").record()
        result = judged(a, b)
        assert result.result is FAIL
        assert result.explanation.startswith(overview)
        assert result.findings[1].step == step
        assert found in result.findings[1].text
        assert judged(b, a).result is FAIL

    def test_who_lags_behind_whom(self, a: Record) -> None:
        late = Behind(label="late").record()
        assert judged(a, late).explanation.startswith("late's batches lag one step behind hf's")
        assert judged(late, a).explanation.startswith("late's batches lag one step behind hf's")

    def test_a_swap_in_a_short_run_is_no_lag(self) -> None:
        runs = [t(steps=4, label=t.__name__).record() for t in (Trainer, Swapped)]
        assert judged(*runs).explanation.startswith("the same batches in another order")

    def test_equal_batches_in_every_step_are_no_lag(self) -> None:
        class Same(Trainer):
            def batch(self, micro_step: int) -> Any:
                return super().batch(0)

        class Masked(Same):
            def batch(self, micro_step: int) -> Any:
                tokens, labels = super().batch(0)
                labels[3, 3] = IGNORED
                return tokens, labels

        result = judged(Same().record(), Masked().record())
        assert result.explanation.startswith("equal tokens in equal order")

    @pytest.mark.parametrize("step", [0, 4, 7])
    @pytest.mark.parametrize(
        ("field", "value"),
        [("tokens", "0" * 16), ("labels", "0" * 16), ("mask", "0" * 16), ("shape", (4, 7))],
    )
    def test_any_field_of_any_batch(
        self, a: Record, b: Record, step: int, field: str, value: Any
    ) -> None:
        result = judged(a, with_batch(b, step, **{field: value}))
        assert result.result is FAIL
        assert result.findings[1].step == step

    @pytest.mark.parametrize("field", ["tokens", "labels"])
    def test_what_neither_run_has_is_not_equal(self, a: Record, b: Record, field: str) -> None:
        result = judged(with_batch(a, 3, **{field: ""}), with_batch(b, 3, **{field: ""}))
        assert result.result is INVALID
        assert result.explanation == "step 3: tokens or labels of hf were not observed"

    def test_no_batch_at_all(self, a: Record, b: Record) -> None:
        none = []
        for run in (a, b):
            steps = tuple(dataclasses.replace(s, batches=()) for s in run.steps)
            none.append(dataclasses.replace(run, steps=steps))
        for x, y in ((none[0], b), (a, none[1]), (none[0], none[1])):
            assert judged(x, y).result is INVALID

    @pytest.mark.parametrize("step", [0, 7])
    def test_a_batch_that_is_missing_on_both_sides(self, a: Record, b: Record, step: int) -> None:
        result = judged(with_step(a, step, batches=()), with_step(b, step, batches=()))
        assert result.result is INVALID
        assert "0 of hf's 1 micro-batches were observed" in result.explanation


@pytest.fixture(scope="module")
def pair() -> tuple[Record, Record]:
    return Trainer(accumulation=2).record(), Trainer(accumulation=2, label="b").record()


class TestDataOfMicroBatches:
    def test_equal(self, pair: tuple[Record, Record]) -> None:
        assert judged(*pair).explanation.startswith("16 batches")

    @pytest.mark.parametrize("kept", [0, 1])
    def test_one_is_missing_on_both_sides(self, pair: tuple[Record, Record], kept: int) -> None:
        a, b = (with_step(r, 3, batches=(r.steps[3].batches[kept],)) for r in pair)
        result = judged(a, b)
        assert result.result is INVALID
        assert "1 of hf's 2 micro-batches were observed" in result.explanation

    def test_another_number_of_them(self, pair: tuple[Record, Record]) -> None:
        result = judged(pair[0], Trainer(label="b").record())
        assert result.result is FAIL
        assert "step 0: hf consumed 2 micro-batches, b 1" in result.findings[1].text

    def test_the_second_one_differs(self, pair: tuple[Record, Record]) -> None:
        b = pair[1]
        first, second = b.steps[4].batches
        other = dataclasses.replace(second, tokens="0" * 16, rows=("0" * 16,) * 4)
        result = judged(pair[0], with_step(b, 4, batches=(first, other)))
        assert result.findings[1].text == "step 4, micro-batch 1: other tokens"

    def test_two_trade_places(self, pair: tuple[Record, Record]) -> None:
        b = pair[1]
        result = judged(pair[0], with_step(b, 4, batches=b.steps[4].batches[::-1]))
        assert result.result is FAIL
        assert result.explanation.startswith("the same batches in another order (micro-steps 8, 9")


class TestDataAsTheCaseAsks:
    """Two runs that both train on something else agree, on something else than their name says."""

    def asking(self, run: Record, **fields: Any) -> Record:
        return with_manifest(run, lambda m: m["case"].update(fields))

    @pytest.mark.parametrize(
        "fields", [{"global_batch": 8}, {"accumulation": 2}, {"data": {"sequence_length": 7}}]
    )
    def test_both_are_served_otherwise(self, a: Record, b: Record, fields: dict[str, Any]) -> None:
        x, y = self.asking(a, **fields), self.asking(b, **fields)
        for pair in ((x, y), (y, x)):
            result = judged(*pair)
            assert result.result is FAIL
            assert "was served [[4, 6]], but the case asks for" in result.explanation

    def test_as_shipped_a_trainer_serves_itself(self, a: Record, b: Record) -> None:
        x, y = (self.asking(r, kind="as_shipped", global_batch=8) for r in (a, b))
        assert judged(x, y).result is PASS

    def test_the_same_rows_cut_otherwise(self, pair: tuple[Record, Record]) -> None:
        """One batch of both micro-batches' rows: not another order."""
        a, b = pair
        joined = tuple(
            dataclasses.replace(
                step,
                batches=(
                    dataclasses.replace(
                        step.batches[0],
                        rows=step.batches[0].rows + step.batches[1].rows,
                        tokens="joined",
                    ),
                ),
                micro_losses=(0.0,),
            )
            for step in b.steps
        )
        result = judged(a, dataclasses.replace(b, steps=joined))
        assert result.explanation.startswith(
            "the same rows in the same order, cut into other micro-batches"
        )


class TestDataOfTruncatedRuns:
    """Equal as far as both go is not equal."""

    def test_one_stopped_early(self, a: Record) -> None:
        b = Trainer(label="b", steps=3, asked=8).record()
        for result in (judged(a, b), judged(b, a)):
            assert result.result is FAIL
            assert result.explanation.startswith("b trained 3 of 8 steps, not step 3")

    def test_both_stopped_early(self) -> None:
        a, b = (Trainer(label=label, steps=3, asked=8).record() for label in "ab")
        result = judged(a, b)
        assert result.result is FAIL
        assert result.explanation.startswith("a trained 3 of 8 steps")

    @pytest.mark.parametrize("step", [0, 3, 7])
    def test_a_step_is_missing(self, a: Record, b: Record, step: int) -> None:
        for x, y in (
            (without(a, "steps", step), b),
            (a, without(b, "steps", step)),
            (without(a, "steps", step), without(b, "steps", step)),
        ):
            result = judged(x, y)
            assert result.result is FAIL
            assert f"not step {step}" in result.explanation
            assert len(result.findings) == 2

    def test_steps_that_only_one_has(self, a: Record) -> None:
        b = Trainer(label="b", steps=10, asked=8).record()
        result = judged(a, b)
        assert result.result is FAIL
        assert "step 8: b has it, hf does not" in [f.text for f in result.findings]
        assert "step 8: b has it, hf does not" in [f.text for f in judged(b, a).findings]

    def test_a_step_that_was_not_finished(self, a: Record, b: Record) -> None:
        result = judged(a, with_step(b, 7, finished=False))
        assert result.result is FAIL

    def test_a_gap_does_not_shift_what_follows(self, a: Record, b: Record) -> None:
        """Steps are compared by their number, not by their place."""
        result = judged(a, without(b, "steps", 2))
        assert not any("tokens" in f.text for f in result.findings)


class TestInit:
    def test_equal(self, a: Record, b: Record) -> None:
        result = init(comparison(a, b))
        assert result.result is PASS
        assert result.explanation == "3 parameters are bitwise equal"
        assert result.detects == "one bit of one weight"

    def test_one_bit_of_one_weight(self, a: Record, b: Record) -> None:
        weights = Trainer().initial()["lm_head.weight"].copy()
        bits = weights.view(np.uint32)
        bits[5, 5] ^= 1
        result = init(comparison(a, with_parameter(b, 2, initial=fingerprint(weights))))
        assert result.result is FAIL
        assert result.findings[0].parameter == "lm_head.weight"
        assert result.value is not None
        assert 0 < result.value < 1e-6

    def test_two_weights_trade_places(self, a: Record, b: Record) -> None:
        weights = Trainer().initial()["model.norm.weight"].copy()
        weights[[0, 1]] = weights[[1, 0]]
        assert (
            init(comparison(a, with_parameter(b, 1, initial=fingerprint(weights)))).result is FAIL
        )

    def test_heads_in_another_order(self, a: Record, b: Record) -> None:
        """Mean, norm and extrema are the same; only the order is not."""
        weights = Trainer().initial()["lm_head.weight"]
        other = weights.reshape(2, -1)[::-1].reshape(weights.shape)
        result = init(comparison(a, with_parameter(b, 2, initial=fingerprint(other))))
        assert result.result is FAIL
        assert "1 of 3 parameters start from other values" in result.explanation
        assert "1 are unrelated draws" in result.explanation

    def test_bits_that_collide(self, a: Record, b: Record) -> None:
        """A sum of bit patterns is the same after an even number of sign flips."""
        weights = Trainer().initial()["lm_head.weight"]
        negated = fingerprint(-weights)
        for bits in (negated.bits, fingerprint(weights).bits):
            other = dataclasses.replace(negated, bits=bits)
            assert init(comparison(a, with_parameter(b, 2, initial=other))).result is FAIL

    def test_sums_in_another_order_are_no_difference(self, a: Record, b: Record) -> None:
        exact = a.parameters[0].initial
        assert exact is not None
        for error, expected in ((1e-6, PASS), (-1e-6, PASS), (3e-3, FAIL)):
            sketch = tuple(s + error * exact.norm for s in exact.sketch)
            other = dataclasses.replace(exact, sketch=sketch)
            assert init(comparison(a, with_parameter(b, 0, initial=other))).result is expected

    def test_every_weight_is_drawn_anew(self, a: Record) -> None:
        result = init(comparison(a, Trainer(label="b", seed=1).record()))
        assert "3 of 3 parameters start from other values" in result.explanation
        assert "unrelated draws" in result.explanation
        assert result.value is not None
        assert result.value > 0.5

    def test_the_furthest_is_named_first(self, a: Record, b: Record) -> None:
        weights = Trainer().initial()
        near = fingerprint(weights["model.embed_tokens.weight"] * np.float32(1.001))
        far = fingerprint(weights["lm_head.weight"] * np.float32(2))
        other = with_parameter(with_parameter(b, 0, initial=near), 2, initial=far)
        result = init(comparison(a, other))
        assert [f.parameter for f in result.findings] == [
            "lm_head.weight", "model.embed_tokens.weight",
        ]  # fmt: skip
        assert "most: lm_head.weight" in result.explanation
        assert result.value == pytest.approx(0.5, rel=0.01)
        assert "unrelated" not in result.explanation

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_never_equal(self, a: Record, b: Record, value: float) -> None:
        exact = a.parameters[1].initial
        assert exact is not None
        for broken in (
            dataclasses.replace(exact, norm=value),
            dataclasses.replace(exact, sketch=(value,) * 8),
            dataclasses.replace(exact, sketch=(*exact.sketch[:7], value)),
        ):
            x, y = with_parameter(a, 1, initial=broken), with_parameter(b, 1, initial=broken)
            for one, other in ((x, b), (a, y), (x, y), (x, x)):
                result = init(comparison(one, other))
                assert result.result is FAIL
                assert result.value is not None
                assert math.isnan(result.value)
                assert result.findings[0].parameter == "model.norm.weight"

    def test_a_value_that_was_not_observed(self, a: Record, b: Record) -> None:
        x, y = with_parameter(a, 1, initial=None), with_parameter(b, 1, initial=None)
        for one, other, name in ((x, b, "hf"), (a, y, "torchprime"), (x, y, "hf")):
            result = init(comparison(one, other))
            assert result.result is INVALID
            assert result.explanation == f"{name}: model.norm.weight was not observed"

    def test_a_parameter_that_is_missing(self, a: Record, b: Record) -> None:
        none = dataclasses.replace(a, parameters=())
        for one, other in ((a, without(b, "parameters", 0)), (none, none), (a, none), (none, b)):
            assert init(comparison(one, other)).result is INVALID

    @pytest.mark.parametrize("sketch", [(), (1.0,) * 7])
    def test_sketches_of_another_kind(
        self, a: Record, b: Record, sketch: tuple[float, ...]
    ) -> None:
        exact = a.parameters[1].initial
        assert exact is not None
        other = with_parameter(b, 1, initial=dataclasses.replace(exact, sketch=sketch))
        assert init(comparison(a, other)).result is FAIL


class TestFingerprints:
    """What the tests rest on: a perturbed array has a fingerprint that says by how much."""

    @pytest.mark.parametrize("size", [1, 7, 64, 4096])
    def test_a_difference_is_estimated(self, size: int) -> None:
        generator = np.random.default_rng(size)
        ratios = []
        for _ in range(50):
            x, d = generator.standard_normal((2, size)).astype(np.float32)
            one, other = fingerprint(x), fingerprint(x + d)
            square = sum((s - t) ** 2 for s, t in zip(one.sketch, other.sketch, strict=True)) / 8
            ratios.append(square / float((d * d).sum()))
        assert 0.8 < float(np.mean(ratios)) < 1.2

    def test_bfloat16_has_bits_of_its_own(self) -> None:
        values = round_bfloat16(np.linspace(-1, 1, 64, dtype=np.float32))
        assert fingerprint(values, "bfloat16").bits != fingerprint(values).bits
        assert fingerprint(values, "bfloat16").sketch == fingerprint(values).sketch

    def test_what_the_toy_observes_is_what_the_probe_describes(self) -> None:
        assert DEVICES["mesh"] == {"axes": {"fsdp": 4, "tensor": 1}, "device_order": [0, 1, 2, 3]}
