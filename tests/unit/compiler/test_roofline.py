"""The least time of a step: each test is one way in which a part is forgotten, or counted twice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from timed_samples import GATHER, MODULE, V6E

from harness.compiler.cycles import operations
from harness.compiler.executions import Executions
from harness.compiler.hlo_text import parse
from harness.compiler.predicted import Predicted
from harness.compiler.roofline import least_time
from harness.compiler.schedule import KERNEL
from harness.compiler.target import Target

TILE = 64 * 64 * 2
"""Bytes of the module's arrays."""
PRODUCT = 2 * 64**3
"""FLOPs of its product."""


def least(
    text: str = MODULE, collectives: Any = (), cycles: Any = None, **changes: Any
) -> Predicted:
    module, on = parse(text), dataclasses.replace(V6E, **changes)
    runs = Executions.of(module)
    return least_time(module, runs, collectives, cycles or {}, on, Target("v6e:2x2"), 4)


def test_a_product_takes_its_flops_or_its_bytes() -> None:
    slow = least(peak_flops=1e9).parts
    assert slow.products == pytest.approx(5 * PRODUCT / 1e9)  # in a loop of five
    assert least().parts.products == pytest.approx(5 * 3 * TILE / V6E.hbm_bandwidth)


def test_anything_else_takes_its_bytes() -> None:
    found = least()
    assert found.parts.fusions == pytest.approx(2 * TILE / V6E.hbm_bandwidth)
    assert found.parts.copies == pytest.approx(2 * TILE / V6E.hbm_bandwidth)
    assert found.work["model/layers/*/mlp"].seconds == pytest.approx(found.parts.products)


def test_a_device_may_be_half_a_chip() -> None:
    whole, half = least(peak_flops=1e9), least(peak_flops=1e9, devices=2)
    assert half.parts.products == pytest.approx(2 * whole.parts.products)
    assert half.parts.copies == pytest.approx(2 * whole.parts.copies)


def test_kernels_take_their_own_time() -> None:
    line = next(line for line in MODULE.splitlines() if "%d = " in line)
    call = '  %k = bf16[64,64]{1,0} custom-call(%b), custom_call_target="tpu_custom_call"'
    text = MODULE.replace(line, f"{line}\n{call}")
    without = least(text)
    assert without.parts == least().parts
    assert without.missing == ("1 executions of hand-written kernels have no estimate",)
    (kernel,) = (of for _, i, of in operations(parse(text)) if i.target == KERNEL)
    found = least(text, cycles={kernel: 1750})
    assert not found.missing
    assert found.parts.kernels == pytest.approx(1e-6)
    assert found.parts.seconds == pytest.approx(without.parts.seconds + 1e-6)


def test_collectives_are_those_of_a_predicted_time() -> None:
    wire = 2 * 8_000_000 * 3 / 4
    assert least(collectives=[GATHER]).parts.exposed == pytest.approx(wire / 200e9)


def test_a_chip_that_is_not_known() -> None:
    module = parse(MODULE)
    found = least_time(module, Executions.of(module), (), {}, None, Target("v9:2x2"), 4)
    assert found.missing == ("the peak of v9 is not known",)
