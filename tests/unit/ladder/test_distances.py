"""How far numbers, tensors and sets of them are apart."""

from __future__ import annotations

import math

import pytest

from harness.ladder.distances import exceeds, largest, relative_difference, sketch_norm, worst


class TestDistances:
    def test_relative_difference(self) -> None:
        assert relative_difference(4.0, 3.0) == relative_difference(3.0, 4.0) == 0.25
        assert relative_difference(-4.0, 4.0) == 2
        assert relative_difference(0.0, 0.0) == relative_difference(0.0, -0.0) == 0
        assert relative_difference(0.0, 1.0) == 1

    @pytest.mark.parametrize("value", [None, math.nan, math.inf])
    def test_relative_difference_to_nothing(self, value: float | None) -> None:
        for pair in ((value, 1.0), (1.0, value), (value, value)):
            assert math.isnan(relative_difference(*pair))

    def test_exceeds(self) -> None:
        assert not exceeds(1.0, 1.0)
        assert exceeds(math.nextafter(1.0, 2.0), 1.0)
        assert exceeds(None, 1.0)
        assert exceeds(math.nan, math.inf)
        assert exceeds(0.0, math.nan)

    @pytest.mark.parametrize("values", [(math.nan, 1.0), (1.0, math.nan), (1.0, math.nan, 2.0)])
    def test_a_nan_is_the_largest(self, values: tuple[float, ...]) -> None:
        assert math.isnan(largest(values))
        name, value = worst({str(i): v for i, v in enumerate(values)})
        assert math.isnan(value)
        assert math.isnan(values[int(name)])

    def test_the_largest(self) -> None:
        assert largest([1.0, 3.0, 2.0]) == 3
        assert worst({"a": 1.0, "b": 3.0, "c": 2.0}) == ("b", 3.0)

    def test_the_norm_behind_a_sketch(self) -> None:
        assert sketch_norm((3.0, -3.0)) == 3
        assert math.isnan(sketch_norm(()))
