"""Kernels by themselves: each test is one way in which another one would be compiled."""

from __future__ import annotations

from harness.compiler.cycles import estimates, operations
from harness.compiler.hlo_text import parse
from harness.compiler.kernels import alone
from harness.compiler.schedule import KERNEL

STEP = """HloModule step

ENTRY %main (a: bf16[2,8], b: s32[4]) -> bf16[2,8] {
  %b = s32[4]{0:T(128)S(6)} parameter(1)
  %a = bf16[2,8]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %k = (bf16[2,8]{1,0:T(8,128)(2,1)}, f32[2]{0:T(128)}) custom-call(%b, %a), custom_call_target="tpu_custom_call", operand_layout_constraints={s32[4]{0}, bf16[2,8]{1,0}}, metadata={op_name="model/layers.1"}, backend_config={"custom_call_config":{"body":"AAAA"}}
  %l = (bf16[2,8]{1,0:T(8,128)(2,1)}, f32[2]{0:T(128)}) custom-call(%b, %a), custom_call_target="tpu_custom_call", operand_layout_constraints={s32[4]{0}, bf16[2,8]{1,0}}, metadata={op_name="model/layers.2"}, backend_config={"custom_call_config":{"body":"AAAA"}}
  %m = (bf16[2,8]{1,0:T(8,128)(2,1)}, f32[2]{0:T(128)}) custom-call(%b, %a), custom_call_target="tpu_custom_call", operand_layout_constraints={s32[4]{0}, bf16[2,8]{1,0}}, metadata={op_name="model/layers.3"}, backend_config={"custom_call_config":{"body":"BBBB"}}
  ROOT %r = bf16[2,8]{1,0:T(8,128)(2,1)} get-tuple-element(%m), index=0
}
"""  # noqa: E501


def test_a_module_of_nothing_but_the_kernel() -> None:
    module = parse(STEP)
    kernel = module.entry.by_name["k"]
    text = alone(module.entry, kernel)
    assert text.splitlines() == [
        "HloModule kernel",
        "",
        "ENTRY main {",
        "  p0 = s32[4]{0} parameter(0)",
        "  p1 = bf16[2,8]{1,0} parameter(1)",
        "  ROOT k = (bf16[2,8]{1,0}, f32[2]{0}) custom-call(p0, p1), "
        'custom_call_target="tpu_custom_call", '
        "operand_layout_constraints={s32[4]{0}, bf16[2,8]{1,0}}, "
        'backend_config={"custom_call_config":{"body":"AAAA"}}',
        "}",
    ]


def test_kernels_are_told_apart_by_their_code() -> None:
    found = [of for _, i, of in operations(parse(STEP)) if i.target == KERNEL]
    assert found[0] == found[1] != found[2]


def test_libtpu_estimates_none() -> None:
    assert estimates(parse(STEP)) == {}
