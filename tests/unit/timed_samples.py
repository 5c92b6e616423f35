"""A compiled module with its estimates of cycles, for the tests of predicted times."""

from __future__ import annotations

from harness.devices.tpu import CHIPS
from harness.record.graph import Collective

V6E = CHIPS["tpu v6e"]

MODULE = """HloModule m

%product (p0: bf16[64,64], p1: bf16[64,64]) -> bf16[64,64] {
  %p0 = bf16[64,64]{1,0} parameter(0)
  %p1 = bf16[64,64]{1,0} parameter(1)
  ROOT %convolution.1 = bf16[64,64]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%loop (p0: bf16[64,64]) -> bf16[64,64] {
  %p0 = bf16[64,64]{1,0} parameter(0)
  ROOT %negate.1 = bf16[64,64]{1,0} negate(%p0)
}

%body (t: (s32[], bf16[64,64])) -> (s32[], bf16[64,64]) {
  %t = (s32[], bf16[64,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = bf16[64,64]{1,0} get-tuple-element(%t), index=1
  %y = bf16[64,64]{1,0} fusion(%x, %x), kind=kOutput, calls=%product, metadata={op_name="model/layers/3.5/mlp.2/aten__mm"}, backend_config={"window_config":{"estimated_cycles":"1750"}}
  ROOT %r = (s32[], bf16[64,64]{1,0}) tuple(%i, %y)
}

%condition (t: (s32[], bf16[64,64])) -> pred[] {
  %t = (s32[], bf16[64,64]{1,0}) parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (a: bf16[64,64]) -> bf16[64,64] {
  %a = bf16[64,64]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %b = bf16[64,64]{1,0} fusion(%a), kind=kLoop, calls=%loop, backend_config={"window_config":{"estimated_cycles":"175"}}
  %d = bf16[64,64]{0,1} copy(%b), backend_config={"window_config":{"estimated_cycles":"17500"}}
  %t = (s32[], bf16[64,64]{1,0}) tuple(%zero, %b)
  %w = (s32[], bf16[64,64]{1,0}) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %z = bf16[64,64]{1,0} get-tuple-element(%w), index=1
}
"""  # noqa: E501

GATHER = Collective("all-gather", "f32[4]", "f32", 8_000_000, "{{0,1,2,3}}", "model/lm_head/x", 2)
