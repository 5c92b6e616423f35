"""What is exchanged between slices: each test is one way in which it is missed, or miscounted."""

from __future__ import annotations

import dataclasses

import pytest
from compiled_samples import texts
from timed_samples import GATHER, MODULE

from harness.base.errors import BadInput
from harness.compiler.executions import Executions
from harness.compiler.hlo import parse_module
from harness.compiler.hlo_text import parse
from harness.compiler.slices import Exchange, exchanges, groups_of, within_a_slice
from harness.record.graph import Collective

REAL = texts("0.0.52-two-slices")["optimized"]

SEND = """
  %tok = token[] after-all()
  %s = (bf16[64,64]{1,0}, u32[], token[]) send(%b, %tok), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="r",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %sd = token[] send-done(%s), channel_id=1, is_host_transfer=true
  %rv = (bf16[64,64]{1,0}, u32[], token[]) recv(%tok), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="r"}
  %rd = (bf16[64,64]{1,0}, token[]) recv-done(%rv), channel_id=2, is_host_transfer=true
  %back = bf16[64,64]{1,0} get-tuple-element(%rd), index=0
  %used = bf16[64,64]{1,0} negate(%back), metadata={op_name="model/layers/7/norm.2/aten__mul"}"""  # noqa: E501


def after(name: str, text: str) -> str:
    """The sample module with more instructions after one of them."""
    line = next(line for line in MODULE.splitlines() if f"%{name} = " in line)
    return MODULE.replace(line, f"{line}{text}")


def found(text: str, *collectives: Collective, slices: int = 2) -> tuple[Exchange, ...]:
    module = parse(text)
    return exchanges(module, Executions.of(module), collectives, 4 * slices, slices)


def test_a_real_step_for_two_slices() -> None:
    """Two rows of inputs are gathered, one weight's gradient and what goes with it is reduced."""
    of_real = exchanges(
        parse(REAL), Executions.of(parse(REAL)), parse_module(REAL).collectives, 4, 2
    )
    assert [(e.kind, e.shape, e.slices, e.bytes, e.count) for e in of_real] == [
        ("all-gather", "f32[1,1,8]", 2, 32, 2),
        ("all-reduce", "f32[1,1,128]", 2, 512, 1),
        ("all-reduce", "f32[1,2,128]", 2, 1024, 1),
    ]


def test_one_slice_exchanges_nothing() -> None:
    assert found(texts("0.0.52")["optimized"], GATHER, slices=1) == ()


@pytest.mark.parametrize(
    ("kind", "among", "times"),
    [
        ("ALL_REDUCE", "{1,2}", 1.0), ("ALL_REDUCE", "{0:3}", 1.5), ("ALL_GATHER", "{0:3}", 3.0),
        ("REDUCE_SCATTER", "{1,2}", 0.5), ("ALL_TO_ALL", "{0:3}", 0.75),
        ("ONE_TO_ONE", "{1,2}", 1.0),
    ],
)  # fmt: skip
def test_what_a_device_receives_of_what_it_sends(kind: str, among: str, times: float) -> None:
    (one,) = found(after("d", SEND.replace("ALL_REDUCE", kind).replace("{1,2}", among)))
    assert one.total_bytes == times * 64 * 64 * 2
    assert (one.kind, one.count) == (kind.lower().replace("_", "-"), 1)
    assert one.slices == {"{1,2}": 2, "{0:3}": 4}[among]


LISTED = "_xla_megascale_target={{100000,100001,100002,100003,200000,200001,200002,200003}}"
"""How libtpu 0.0.21 writes an all-to-all of all devices of two slices."""


def listed(devices: str = LISTED) -> str:
    """The sample with an exchange that lists its devices."""
    said = SEND.replace('_xla_megascale_target="{1,2}x{0:3}"', devices)
    return after("d", said.replace("ALL_REDUCE", "ALL_TO_ALL"))


def test_one_that_lists_its_devices() -> None:
    (one,) = found(listed())
    assert (one.kind, one.slices, one.bytes) == ("all-to-all", 2, 64 * 64 * 2 // 2)
    (four,) = found(listed("_xla_megascale_target={{100000,200000,300000,400000}}"))
    assert (four.slices, four.bytes) == (4, 64 * 64 * 2 * 3 // 4)
    fewer = listed(LISTED.replace(",200003", ""))
    assert parse_module(fewer).fingerprint != parse_module(listed()).fingerprint


def test_in_a_loop_as_often_as_it_runs() -> None:
    sent = SEND.replace("send(%b,", "send(%y,")
    (one,) = found(after("y", sent.replace("%used", "%used.1")))
    assert one.count == 5


def test_not_what_is_never_executed() -> None:
    dead = """
%dead (b: bf16[64,64]) -> token[] {
  %b = bf16[64,64]{1,0} parameter(0)"""
    ends = SEND.replace("  %sd =", "  ROOT %sd =")
    text = MODULE.replace("\nENTRY", f"{dead}{ends}\n}}\n\nENTRY")
    assert found(text) == ()


def test_a_transfer_to_the_host_itself_is_none() -> None:
    assert found(after("d", SEND.replace("xla_megascale_runtime", "tf_rendezvous"))) == ()


@pytest.mark.parametrize(
    "unsaid", ['_xla_megascale_target="{1,2}x{0:3}",', ',_xla_megascale_transfer_type="ALL_REDUCE"']
)
def test_one_of_a_form_that_is_not_known_is_not_passed_over(unsaid: str) -> None:
    assert unsaid in SEND
    with pytest.raises(BadInput, match="%s"):
        found(after("d", SEND.replace(unsaid, "")))


def test_a_collective_that_is_left_as_it_is() -> None:
    across = dataclasses.replace(GATHER, groups="{{0,4},{1,5},{2,6},{3,7}}")
    (one,) = found(MODULE, across)
    assert (one.bytes, one.count, one.slices) == (GATHER.bytes // 2, GATHER.count, 2)
    assert within_a_slice(across, 8, 2) is None
    within = dataclasses.replace(GATHER, groups="{{0,1},{2,3},{4,5},{6,7}}")
    assert found(MODULE, within) == ()
    assert within_a_slice(within, 8, 2) == 2


def test_one_group_across_is_enough() -> None:
    ragged = dataclasses.replace(GATHER, groups="{{0,1},{2,4},{3,5},{6,7}}")
    assert found(MODULE, ragged) != ()


@pytest.mark.parametrize("groups", ["", "{{0,1,2,3,4,5,6,7}}", "[1,8]<=[8]"])
def test_one_that_joins_all_devices(groups: str) -> None:
    assert found(MODULE, dataclasses.replace(GATHER, groups=groups)) != ()


def test_where_it_comes_from() -> None:
    """What computed that which is sent; of an argument, what it is for."""
    (computed,) = found(after("y", SEND.replace("send(%b,", "send(%y,")))
    assert computed.op_name == "model/layers/3/mlp/aten__mm"
    wrapped = "\n  %w = bf16[64,64]{1,0} bitcast(%y)" + SEND.replace("send(%b,", "send(%w,")
    assert found(after("y", wrapped))[0].op_name == "model/layers/3/mlp/aten__mm"
    (argument,) = found(after("a", SEND.replace("send(%b,", "send(%a,")))
    assert argument.op_name == "model/layers/7/norm/aten__mul"


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("", []),
    ],
)
def test_groups(text: str, groups: list[list[int]]) -> None:
    assert groups_of(text) == groups


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ('transfer_type="ALL_REDUCE"', 'transfer_type="REDUCE_SCATTER"'),
        ('target="{1,2}x{0:1}"', 'target="{1,3}x{0:1}"'),
        ('reduce_operation="SUM"', 'reduce_operation="MAX"'),
    ],
)
def test_another_exchange_is_another_step(said: str, instead: str) -> None:
    other = REAL.replace(said, instead)
    assert other != REAL
    assert parse_module(other).fingerprint != parse_module(REAL).fingerprint


def test_another_name_of_an_exchange_is_the_same_step() -> None:
    other = REAL.replace("all-reduce_0", "all-reduce_9")
    assert other != REAL
    assert parse_module(other).fingerprint == parse_module(REAL).fingerprint
