"""Bundles of a kernel: each test is one way in which its scalar unit is followed wrongly.

The text is cut from what libtpu 0.0.21 writes of flash attention.
"""

from __future__ import annotations

import pytest

from harness.base.errors import BadInput
from harness.compiler.bundles import executed_bundles

HEAD = """= control target key start
LH: loop header
LB: loop body
= control target key end

     0   :  { %s9_s0 = inlined_call_operand.hbm [shape: bf16[2,32], index: 0] /* operand 0 */ }
"""

BODY = """\
   0x1   :  { %s10_s12 = smov 0 /* copy for cssa */  ;;  %s11_s5 = smov 0 } /* Start region 8 */
   0x2 LB: > { %s12_s12 = sphi %s10_s12, %s22_s12  ;;  %s13_s6 = sadd.s32 1, %s14_s5 } /*
Start region 91 */
   0x3   : > { %p15_p0 = scmp.ge.s32.totalorder %s13_s6, 4 }
   0x4   : > { %s16_s6 = smov (%p15_p0, %s13_s6), 0  ;;  %v1_v2 = vld [vmem:[%s9_s1] sm:$0xff] }
   0x5   : > { %20 = sbr.rel (%p15_p0) target bundleno = 19 (0x13), region = 32 }
   0x6   : > { %99 = vst [vmem:[#allocation4 + $0x128] sm:$0xff] /* strides: 4
second: (0, 0) */ %v1_v2 }
   0x7   : > { }
   0x8   : > { }
   0x9   : > { }
   0xa   : > { %v1_v2 = vadd.f32 %v1_v2, %v1_v2 }
   0xb   : > { %v1_v2 = vadd.f32 %v1_v2, %v1_v2 }
   0xc PF: > { %s21_s5 = smov %s16_s6 } /* Start/End empty region 32 :: Start region 33 */
   0xd   : > { %113 = sst [smem:[#allocation7_spill]] %s12_s12 }
   0xe   : > { %s22_s12 = sld [smem:[#allocation7_spill]] }
   0xf   : > { %s22_s12 = sadd.s32 1, %s22_s12 }
  0x10   : > { %p19_p8 = scmp.ge.s32.totalorder %s22_s12, 10 /* loop exit test */ }
  0x11   : > { %21 = sbr.rel (!%p19_p8) target bundleno = 2 (0x2), region = 91 }
  0x12   :  {}
  0x13   :  {}
  0x14   :  {}
  0x15   :  {}
  0x16   :  { %44 = vsyncpa [#allocation6], 1 }
"""
LOOP = HEAD + BODY


def test_a_loop_with_blocks_that_are_jumped_over() -> None:
    """Of ten rounds two jump over bundles 0xa and 0xb, and every branch has four behind it."""
    assert executed_bundles(LOOP) == 2 + 10 * (0x16 - 0x2) - 2 * 2 + 1


def test_a_predicate_holds_only_for_its_instruction() -> None:
    """Without the reset, the counter reaches four once and stays beyond it."""
    always = LOOP.replace("smov (%p15_p0, %s13_s6), 0", "smov %s13_s6")
    assert executed_bundles(LOOP) - executed_bundles(always) == 2 * (7 - 2)


def test_straight_code() -> None:
    assert executed_bundles(HEAD + "   0x1   :  { %8 = vsyncpa [#allocation6], 0 }\n") == 2


def test_what_memory_holds_is_not_known() -> None:
    data = LOOP.replace("%s13_s6 = sadd.s32 1, %s14_s5", "%s13_s6 = sld [smem:[#allocation3 + 4]]")
    with pytest.raises(BadInput, match="depends on what it computes"):
        executed_bundles(data)


def test_one_predicate_may_decide_alone() -> None:
    known = "%p15_p0 = por %p7_p1, %p8_p2"
    data = LOOP.replace("%p15_p0 = scmp.ge.s32.totalorder %s13_s6, 4", known)
    with pytest.raises(BadInput, match="depends"):
        executed_bundles(data)
    sure = data.replace("%s11_s5 = smov 0", "%p8_p2 = scmp.eq.s32.totalorder 1, 1")
    assert executed_bundles(sure) == 2 + 10 * (0x16 - 0x2) - 10 * 2 + 1
    never = sure.replace("por %p7_p1, %p8_p2", "pnand %p8_p2, %p8_p2")
    assert executed_bundles(never) == 2 + 10 * (0x16 - 0x2) + 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "there are no bundles"),
        (LOOP[: LOOP.index("   0xc PF")], "there is no region 32"),
        (LOOP.replace("scmp.ge.s32.totalorder %s22_s12, 10", "scmp.ge.s32.totalorder 0, 10"),
         "do not end"),
        (LOOP.replace("sbr.rel (!%p19_p8) target", "sbr.abs (!%p19_p8) target"), "not known"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed(text: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.compiler.bundles.MOST", 1000)
    with pytest.raises(BadInput, match=why):
        executed_bundles(text)
