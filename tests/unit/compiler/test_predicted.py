"""Predicted times: each test is one way in which a part is forgotten, or counted twice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from timed_samples import GATHER, MODULE, V6E

from harness.compiler.cycles import estimates
from harness.compiler.executions import Executions
from harness.compiler.hlo_text import parse
from harness.compiler.predicted import Parts, Predicted, link_bandwidth, predicted
from harness.compiler.target import Target
from harness.devices.tpu import chip


def made(text: str = MODULE, collectives: Any = (), slices: int = 1, **changes: Any) -> Predicted:
    module = parse(text)
    target = Target("v6e:2x2", slices)
    on = dataclasses.replace(V6E, **changes)
    cycles = estimates(module)
    runs = Executions.of(module)
    return predicted(module, runs, collectives, cycles, on, target, 4 * slices)


def test_each_part_by_its_cycles_and_loops() -> None:
    found = made()
    assert found.missing == ()
    assert found.parts.products == pytest.approx(5e-6)
    assert found.parts.fusions == pytest.approx(1e-7)
    assert found.parts.copies == pytest.approx(1e-5)
    assert found.parts.seconds == pytest.approx(1.51e-5)
    assert found.work["model/layers/*/mlp"].seconds == pytest.approx(5e-6)


def test_what_has_no_estimate_by_its_bytes() -> None:
    text = MODULE.replace(', backend_config={"window_config":{"estimated_cycles":"17500"}}', "")
    small = made(text)
    assert small.parts.unestimated == 0.0  # 16 kB take no time that counts
    large = made(text, hbm_bandwidth=1e9)
    assert large.parts.unestimated == pytest.approx(2 * 64 * 64 * 2 / 1e9)


def test_what_was_not_compiled_is_missing() -> None:
    module = parse(MODULE)
    cycles = {s: c for s, c in estimates(module).items() if c != 1750}
    target = Target("v6e:2x2")
    found = predicted(module, Executions.of(module), (), cycles, V6E, target, 4)
    assert found.missing == ("5 executions of fusion have no estimate yet",)


def test_a_kernel_has_no_time() -> None:
    line = next(line for line in MODULE.splitlines() if "%d = " in line)
    call = '  %k = bf16[64,64]{1,0} custom-call(%b), custom_call_target="tpu_custom_call"'
    found = made(MODULE.replace(line, f"{line}\n{call}"))
    assert found.missing == ("1 executions of hand-written kernels have no estimate",)


def test_a_collective_within_a_slice() -> None:
    # Two of four links, 100 GB/s each way.
    wire = 2 * 8_000_000 * 3 / 4
    assert made(collectives=[GATHER]).parts.exposed == pytest.approx(wire / 200e9)
    hidden = made(collectives=[dataclasses.replace(GATHER, overlapped=True)])
    assert hidden.parts.exposed == 0
    assert hidden.parts.hidden == pytest.approx(wire / 200e9)
    assert hidden.parts.seconds == pytest.approx(made().parts.seconds)
    assert made(collectives=[GATHER]).work["model/lm_head"].exposed > 0


@pytest.mark.parametrize(
    ("kind", "times"),
    [("all-reduce", 1.5), ("reduce-scatter", 3.0), ("all-to-all", 0.75), ("collective-permute", 1)],
)
def test_bytes_on_the_wire(kind: str, times: float) -> None:
    one = dataclasses.replace(GATHER, kind=kind, count=1)
    assert made(collectives=[one]).parts.exposed == pytest.approx(times * 8e6 / 200e9)


def test_between_slices() -> None:
    across = dataclasses.replace(GATHER, groups="{{0,4},{1,5},{2,6},{3,7}}", count=1)
    found = made(collectives=[across], slices=2)
    assert found.parts.exposed == 0
    assert found.parts.dcn == pytest.approx(4_000_000 / 12.5e9)
    within = dataclasses.replace(GATHER, groups="{{0,1},{2,3},{4,5},{6,7}}")
    assert made(collectives=[within], slices=2).parts.dcn == 0
    nobody_knows = made(collectives=[across], slices=2, dcn_bandwidth=None)
    assert "between slices" in nobody_knows.missing[0]


SEND = """
  %tok = token[] after-all()
  %s = (bf16[64,64]{1,0}, u32[], token[]) send(%b, %tok), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %sd = token[] send-done(%s), channel_id=1, is_host_transfer=true"""  # noqa: E501


@pytest.mark.parametrize(
    ("kind", "among", "times"),
    [
        ("ALL_REDUCE", "{1,2}", 1.0), ("ALL_REDUCE", "{0:3}", 1.5), ("ALL_GATHER", "{0:3}", 3.0),
        ("REDUCE_SCATTER", "{1,2}", 0.5), ("ONE_TO_ONE", "{1,2}", 1.0),
    ],
)  # fmt: skip
def test_what_libtpu_hands_to_the_hosts(kind: str, among: str, times: float) -> None:
    line = next(line for line in MODULE.splitlines() if "%d = " in line)
    send = SEND.replace("ALL_REDUCE", kind).replace("{1,2}", among)
    found = made(MODULE.replace(line, f"{line}{send}"), slices=2)
    assert found.parts.dcn == pytest.approx(times * 64 * 64 * 2 / 12.5e9)
    assert found.parts.seconds == pytest.approx(made().parts.seconds + found.parts.dcn)
    assert found.missing == ()


def test_a_chip_without_a_clock() -> None:
    assert made(clock=None).missing == ("the clock of v6e is not published",)


def test_links_of_a_slice() -> None:
    v5p = chip("v5p")
    assert v5p is not None
    assert link_bandwidth(V6E, Target("v6e:2x2")) == 200e9
    assert link_bandwidth(V6E, Target("v6e:16x16")) == 400e9
    assert link_bandwidth(v5p, Target("v5p:2x2x1")) == pytest.approx(200e9)


def test_modules_of_a_step_add_up() -> None:
    one = Predicted({"a": Parts(products=1.0), "b": Parts(hidden=1.0)}, ("x",))
    both = one.times(2) + Predicted({"a": Parts(copies=1.0)}, ("x", "y"))
    assert both.parts == Parts(products=2.0, copies=1.0, hidden=2.0)
    assert both.missing == ("x", "y")
