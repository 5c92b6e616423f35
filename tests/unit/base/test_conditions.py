"""What a `launcher.condition` may be."""

from __future__ import annotations

import pytest

from harness.base.conditions import CONDITIONS, is_condition, title_of
from harness.base.errors import BadInput
from harness.config.compose import load

BAD = ("", "+", "fp8_products", "tf32_products+", "tf32_products+tf32_products")


@pytest.mark.parametrize("condition", [*CONDITIONS, "bf16_products+random_scatter"])
def test_what_can_be_had_together(condition: str) -> None:
    assert is_condition(condition)
    assert load([f"launcher.condition={condition}"]).launcher.condition == condition


@pytest.mark.parametrize("condition", [*BAD, "random_scatter+bf16_products+tf32_products"])
def test_what_cannot(condition: str) -> None:
    assert not is_condition(condition)
    with pytest.raises(BadInput, match=r"launcher\.condition="):
        load([f"launcher.condition='{condition}'"])


def test_what_is_told_of_a_record_of_another_harness() -> None:
    assert title_of("random_scatter+fp8_products") == "scatter-adds in random order, fp8_products"
