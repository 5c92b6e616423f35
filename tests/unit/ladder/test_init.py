"""The rung init: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from builders import (
    DEVICES,
    Trainer,
    comparison,
    fingerprint,
    round_bfloat16,
    with_parameter,
    without,
)
from golden import Worded

from harness.ladder.exchanged import explanations
from harness.ladder.result import Result
from harness.ladder.rungs.init import init
from harness.record.evidence import Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


@pytest.fixture(scope="module")
def b() -> Record:
    return Trainer(label="torchprime", groups=2, sums=-1).record()


class TestInit:
    def test_equal(self, worded: Worded, a: Record, b: Record) -> None:
        result = init(comparison(a, b))
        assert (result.result, result.value) == (PASS, 0)
        worded(result)

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

    def test_heads_in_another_order(self, worded: Worded, a: Record, b: Record) -> None:
        """Mean, norm and extrema are the same; only the order is not."""
        weights = Trainer().initial()["lm_head.weight"]
        other = weights.reshape(2, -1)[::-1].reshape(weights.shape)
        result = init(comparison(a, with_parameter(b, 2, initial=fingerprint(other))))
        assert result.result is FAIL
        worded(result)

    def test_bits_that_collide(self, a: Record, b: Record) -> None:
        """A sum of bit patterns is the same after an even number of sign flips."""
        weights = Trainer().initial()["lm_head.weight"]
        negated = fingerprint(-weights)
        for bits in (negated.bits, fingerprint(weights).bits):
            other = dataclasses.replace(negated, bits=bits)
            assert init(comparison(a, with_parameter(b, 2, initial=other))).result is FAIL

    def test_sums_that_cannot_tell_a_bit_do_not_hide_it(self, a: Record, b: Record) -> None:
        exact = b.parameters[2].initial
        assert exact is not None
        other = dataclasses.replace(exact, bits=exact.bits ^ 1)
        result = init(comparison(a, with_parameter(b, 2, initial=other)))
        assert (result.result, result.value) == (FAIL, 1e-12)
        assert "most: lm_head.weight" in result.explanation
        assert [f.parameter for f in result.findings] == ["lm_head.weight"]

    def test_sums_in_another_order_are_no_difference(self, a: Record, b: Record) -> None:
        exact = a.parameters[0].initial
        assert exact is not None
        for error, expected in ((1e-6, PASS), (-1e-6, PASS), (3e-3, FAIL)):
            sketch = tuple(s + error * exact.norm for s in exact.sketch)
            other = dataclasses.replace(exact, sketch=sketch)
            assert init(comparison(a, with_parameter(b, 0, initial=other))).result is expected

    def test_every_weight_is_drawn_anew(self, worded: Worded, a: Record) -> None:
        result = init(comparison(a, Trainer(label="b", seed=1).record()))
        worded(result)
        assert result.value is not None
        assert result.value > 0.5

    def test_the_furthest_is_named_first(self, worded: Worded, a: Record, b: Record) -> None:
        weights = Trainer().initial()
        near = fingerprint(weights["model.embed_tokens.weight"] * np.float32(1.001))
        far = fingerprint(weights["lm_head.weight"] * np.float32(2))
        other = with_parameter(with_parameter(b, 0, initial=near), 2, initial=far)
        result = init(comparison(a, other))
        assert [f.parameter for f in result.findings] == [
            "lm_head.weight", "model.embed_tokens.weight",
        ]  # fmt: skip
        assert result.value == pytest.approx(0.5, rel=0.01)
        worded(result)

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

    def test_a_value_that_was_not_observed(self, worded: Worded, a: Record, b: Record) -> None:
        x, y = with_parameter(a, 1, initial=None), with_parameter(b, 1, initial=None)
        for pair in ((x, b), (a, y), (x, y)):
            result = init(comparison(*pair))
            assert result.result is INVALID
            worded(result)

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


class TestWhy:
    """Weights of one run that are those of another parameter in the other run."""

    def test_tied(self, worded: Worded, a: Record, b: Record) -> None:
        tied = with_parameter(b, 2, initial=b.parameters[0].initial)
        for pair in ((a, tied), (tied, a)):
            result = init(comparison(*pair))
            assert result.result is FAIL
            worded(result)

    def test_two_parameters_are_exchanged(self, worded: Worded, a: Record, b: Record) -> None:
        first, second = b.parameters[0].initial, b.parameters[2].initial
        other = with_parameter(with_parameter(b, 0, initial=second), 2, initial=first)
        result = init(comparison(a, other))
        assert result.result is FAIL
        worded(result)

    NAMES = ("layers.0.q.weight", "layers.0.up.weight", "layers.1.q.weight", "layers.1.up.weight")

    def explained(self, *bits: int) -> str:
        x, y = (
            dict(zip(self.NAMES, (1, 2, 3, 4), strict=True)),
            dict(zip(self.NAMES, bits, strict=True)),
        )
        return explanations(("a", "b"), x, y, [n for n in self.NAMES if x[n] != y[n]])

    def test_layers(self) -> None:
        assert self.explained(3, 4, 1, 2) == "layers 0 and 1 are exchanged"
        assert self.explained(3, 2, 1, 4) == "layers 0 and 1 are exchanged in layers.*.q.weight"
        assert self.explained(2, 1, 3, 4) == f"{self.NAMES[0]} and {self.NAMES[1]} are exchanged"
        assert self.explained(3, 4, 1, 9) == "layers 0 and 1 are exchanged in layers.*.q.weight"

    def test_layers_of_experts(self) -> None:
        """Two numbers are in their names: the first is the layer's."""
        x = {f"layers.{i}.experts.{k}.w": 10 * i + k for i in (0, 1) for k in (3, 4)}
        y = {name: (bits + 10) % 20 for name, bits in x.items()}
        assert explanations(("a", "b"), x, y, list(x)) == "layers 0 and 1 are exchanged"
        one = {**x, "layers.0.experts.4.w": 14, "layers.1.experts.4.w": 4}
        assert explanations(
            ("a", "b"), x, one, ["layers.0.experts.4.w", "layers.1.experts.4.w"]
        ) == ("layers 0 and 1 are exchanged in layers.*.experts.4.w")

    def test_tied_layers(self) -> None:
        assert (
            self.explained(1, 2, 1, 4)
            == "b's layers.1.q.weight holds the bits of layers.0.q.weight: tied"
        )

    def test_other_values_are_not_explained(self, worded: Worded, a: Record) -> None:
        assert self.explained(1, 2, 3, 9) == ""
        drawn = Trainer(label="b", seed=1).record()
        result = init(comparison(a, drawn))
        worded(result)
