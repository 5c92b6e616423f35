"""The compiled graph: each class is one way in which reading an HLO dump could lie."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.errors import BadInput
from harness.base.typed import typed_json
from harness.compiler.buffers import read_memory
from harness.compiler.compare import describe_difference
from harness.compiler.dump import read_dump, steady_state_module
from harness.compiler.flops import meeting_positions
from harness.compiler.hlo import parse_module
from harness.record.graph import Collective, ModuleGraph

# A busy machine makes a fast test slow, which is no failure.
patient = settings(deadline=None, max_examples=50)

DATA = Path(__file__).parent / "data" / "hlo"
CPU = DATA / "cpu_two_steps"
TPU = DATA / "tpu_scan"
STEP = (CPU / "module_0001.SyncTensorsGraph.58.cpu_after_optimizations.txt").read_text()
SCAN = (TPU / "module_0001.jit_step.cl_789893895.after_optimizations.txt").read_text()

ADD = """%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}
"""


def hlo(entry: str, called: str = "") -> str:
    """A module with these lines in its entry; the last one is its root."""
    *lines, root = entry.strip().splitlines()
    body = "\n".join([*(f"  {line.strip()}" for line in lines), f"  ROOT {root.strip()}"])
    return f"HloModule m, is_scheduled=true\n\n{called}\nENTRY %main () -> f32[] {{\n{body}\n}}\n"


def only(graph: ModuleGraph) -> Collective:
    (collective,) = graph.collectives
    return collective


def collective(kind: str = "all-gather", shape: str = "f32[4]", **changes: Any) -> Collective:
    base = Collective(kind, shape, "f32", 16, "{{0,1}}", "model/lm_head/aten__mm", 1)
    return dataclasses.replace(base, **changes)


def graph(*collectives: Collective, **changes: Any) -> ModuleGraph:
    base = ModuleGraph(
        name="m",
        instructions=9,
        opcodes={"add": 4, "dot": 5},
        collectives=collectives,
        flops=1000,
        peak_memory_bytes=100,
        parameters_bytes=50,
        remat=0,
        xla_remat=0,
        unbounded_loops=0,
        custom_calls={},
        fingerprint="f",
    )
    return dataclasses.replace(base, **changes)


class TestRealDumps:
    """Expected numbers follow from the programs (data/hlo/README.md), not from the parser."""

    def test_cpu(self) -> None:
        first, later = read_dump(CPU)
        assert (first.name, later.name) == ("SyncTensorsGraph.47", "SyncTensorsGraph.58")
        assert (
            first.flops == later.flops == 4 * (2 * 4 * 8 * 4)
        )  # forward, again, and two gradients
        assert (first.remat, later.remat) == (1, 1)
        # The momentum, f32[4,8], exists from the second step on; with it its factor, f32[].
        assert later.parameters_bytes - first.parameters_bytes == 4 * 8 * 4 + 4
        assert (first.peak_memory_bytes, later.peak_memory_bytes) == (840, 1032)
        assert later.collectives == (
            Collective("all-gather", "f32[4,8]", "f32", 128, "{{0,1,2,3}}", "lm_head/aten__mm", 2),
            Collective(
                "all-gather",
                "f32[8,4]",
                "f32",
                128,
                "{{0,1,2,3}}",
                "aten__mm (autograd/graph.py)",
                1,
            ),
            Collective(
                "all-reduce",
                "f32[4,8]",
                "f32",
                128,
                "{{0,1,2,3}}",
                "aten__mm (autograd/graph.py)",
                1,
            ),
            Collective("all-reduce", "f32[]", "f32", 4, "{{0,1,2,3}}", "aten__sum (mini.py)", 1),
        )
        assert later.instructions == STEP.count(" = ") == sum(later.opcodes.values())

    def test_tpu(self) -> None:
        (module,) = read_dump(TPU)
        assert module.flops == 5 * 2 * (2 * 128 * 512 * 512) + 2 * 512 * 512 * 128
        assert module.unbounded_loops == 0
        assert module.collectives == (
            Collective(
                "all-gather",
                "bf16[1,512,512]",
                "bf16",
                512 * 512 * 2,
                "[1,4]<=[4]",
                "jit(step)/while/body/closed_call/mlp/dot_general",
                5,
            ),
            Collective(
                "reduce-scatter",
                "bf16[128,512]",
                "bf16",
                128 * 512 * 2,
                "{{0,1,2,3}}",
                "jit(step)/head/dot_general",
                1,
            ),
        )
        # All but the colours 1 and 2, which are VMEM and SMEM.
        assert module.peak_memory_bytes == 1871876 - 917504 - 4


class TestTruncatedText:
    @pytest.mark.parametrize("text", [STEP, SCAN], ids=["cpu", "tpu"])
    def test_every_line(self, text: str) -> None:
        lines = text.rstrip().splitlines(keepends=True)
        for n in range(len(lines)):
            with pytest.raises(BadInput):
                parse_module("".join(lines[:n]))

    @patient
    @given(st.integers(0, len(STEP.rstrip()) - 1))
    def test_any_character(self, end: int) -> None:
        with pytest.raises(BadInput):
            parse_module(STEP[:end])

    @patient
    @given(st.data())
    def test_a_line_lost_in_the_middle(self, data: st.DataObject) -> None:
        """Lost: a line whose result is used, a computation's head or its end."""
        lines = STEP.splitlines()
        used = [
            n
            for n, line in enumerate(lines)
            if (m := re.match(r"\s+%([\w.-]+) = ", line))
            and re.search(rf"%{re.escape(m[1])}[,)]", "\n".join(lines[n + 1 :]).split("\n}")[0])
        ]
        structure = [n for n, line in enumerate(lines) if line.endswith("{") or line == "}"]
        n = data.draw(st.sampled_from(used + structure))
        with pytest.raises(BadInput):
            parse_module("\n".join(lines[:n] + lines[n + 1 :]))

    def test_the_message_says_where(self) -> None:
        with pytest.raises(BadInput, match=r"cut off.*%SyncTensorsGraph\.58_spmd"):
            parse_module(STEP.rstrip().removesuffix("}"))


class TestNotHlo:
    @pytest.mark.parametrize(
        "text", ["", "\n", "loss: 1.0\n", "BufferAssignment:\n", "HloModule m\n", "HloModule m\n{}"]
    )
    def test_is_an_error(self, text: str) -> None:
        with pytest.raises(BadInput):
            parse_module(text)

    def test_two_modules_in_one_file(self) -> None:
        with pytest.raises(BadInput):
            parse_module(STEP + STEP)

    def test_two_definitions_of_a_name(self) -> None:
        with pytest.raises(BadInput, match="twice"):
            parse_module(hlo("%a = f32[] parameter(0)\n%a = f32[] negate(%a)"))

    def test_two_definitions_of_a_computation(self) -> None:
        with pytest.raises(BadInput, match="twice"):
            parse_module(hlo("%p = f32[] parameter(0)", ADD + ADD))

    def test_no_root_and_two_roots(self) -> None:
        for lines in ("  %a = f32[] parameter(0)\n", "  ROOT %a = f32[] parameter(0)\n" * 2):
            with pytest.raises(BadInput, match="ROOT"):
                parse_module(f"HloModule m\n\nENTRY %main () -> f32[] {{\n{lines}}}\n")

    @pytest.mark.parametrize("called", ["", ADD.replace("%add", "%other")])
    def test_call_of_what_is_not_there(self, called: str) -> None:
        with pytest.raises(BadInput, match="%add"):
            parse_module(hlo("%p = f32[] parameter(0)\n%c = f32[] call(%p), to_apply=%add", called))

    def test_computation_after_its_caller(self) -> None:
        text = hlo("%p = f32[] parameter(0)\n%c = f32[] call(%p), to_apply=%add")
        with pytest.raises(BadInput, match="%add"):
            parse_module(f"{text}\n{ADD}")

    def test_unknown_form_of_an_instruction(self) -> None:
        text = "%a = f32[2,2] parameter(0)\n%c = f32[2,2] convolution(%a, %a)"
        with pytest.raises(BadInput, match="form"):
            parse_module(hlo(text))

    def test_unoptimized_text_is_read_as_strictly(self) -> None:
        with pytest.raises(BadInput):
            parse_module(STEP, unoptimized="")


class TestStringsAreNotStructure:
    def test_brackets_commas_and_names_in_metadata(self) -> None:
        name = 'a{b(c,\\"%nowhere\\" = f32[] all-gather('
        text = hlo(
            f'%p = f32[2] parameter(0)\n%n = f32[2] negate(%p), metadata={{op_name="{name}"}}'
        )
        assert parse_module(text).opcodes == {"negate": 1, "parameter": 1}

    def test_literals(self) -> None:
        text = hlo("%c = f32[2,2] constant({ { 1, 2 }, { 3, 4 } })\n%n = f32[2,2] negate(%c)")
        assert parse_module(text).instructions == 2

    def test_operands_with_shapes(self) -> None:
        text = hlo("%p = f32[3,4] parameter(0)\n%d = f32[3,3] dot(f32[3,4]{1,0} %p, f32[3,4] %p), "
                   "lhs_contracting_dims={1}, rhs_contracting_dims={1}")  # fmt: skip
        assert parse_module(text).flops == 2 * 3 * 3 * 4

    def test_tables_of_source_positions(self) -> None:
        header, rest = STEP.split("\n", 1)
        table = '\n\nFileNames\n1 "a.py"\n\nStackFrames\n1 {file_location_id=1 parent_frame_id=1}\n'
        assert parse_module(header + table + rest) == parse_module(STEP)


class TestAsynchronousPairs:
    """A start and its done are one collective, with the size of the result."""

    @pytest.mark.parametrize(
        ("kind", "start", "done"),
        [
            ("all-gather", "(f32[4], f32[16])", "f32[16]"),
            ("all-gather", "((f32[4], f32[2]), (f32[16], f32[8]))", "(f32[16], f32[8])"),
            ("all-reduce", "f32[4]", "f32[4]"),
            ("all-reduce", "(f32[4], f32[2])", "(f32[4], f32[2])"),
            ("collective-permute", "(f32[4], f32[4], u32[], u32[])", "f32[4]"),
            ("reduce-scatter", "((f32[4]), f32[1], u32[])", "f32[1]"),
            ("all-to-all", "((f32[4]{0:T(8,128)}), f32[4]{0:T(8,128)}, u32[])", "f32[4]"),
        ],
    )
    def test_counted_once(self, kind: str, start: str, done: str) -> None:
        to_apply = ", to_apply=%add" if "reduce" in kind else ""
        text = hlo(
            f"%p = f32[4] parameter(0)\n"
            f"%s = {start} {kind}-start(%p), replica_groups={{{{0,1}}}}{to_apply}\n"
            f"%d = {done} {kind}-done(%s)",
            ADD,
        )
        found = only(parse_module(text))
        assert (found.kind, found.count, found.shape) == (kind, 1, done)
        assert found.bytes == sum(4 * int(n) for n in re.findall(r"\d+", done.replace("f32", "")))

    def test_wrapped_in_a_computation(self) -> None:
        wrapped = """%wrapped (p: f32[4]) -> f32[4] {
  %q = f32[4] parameter(0)
  ROOT %a = f32[4] all-to-all(%q), replica_groups={{0,1}}
}, execution_thread="parallel"
"""
        text = hlo(
            """%p = f32[4] parameter(0)
            %s = ((f32[4]), f32[4], u32[]) async-start(%p), calls=%wrapped
            %u = ((f32[4]), f32[4], u32[]) async-update(%s), calls=%wrapped
            %d = f32[4] async-done(%u), calls=%wrapped""",
            wrapped,
        )
        found = only(parse_module(text))
        assert (found.kind, found.count, found.bytes) == ("all-to-all", 1, 16)

    def test_a_tpu_repeats_it_in_each_fusion(self) -> None:
        def part(name: str, end: str) -> str:
            return f"""%{name} (p: f32[4]) -> f32[16] {{
  %{name}.p = f32[4] parameter(0)
  %{name}.g = f32[16] all-gather(%{name}.p), channel_id=7, replica_groups=[1,4]<=[4], \
backend_config={{"async_collective_fusion_config":{{"flag_start":"2"}}}}
  ROOT %{name}.r = f32[16] {end}
}}
"""

        parts = [
            part("begin", 'custom-call(%begin.g), custom_call_target="AsyncCollectiveStart"'),
            part("go_on", "negate(%go_on.g)"),
            part("end", 'custom-call(%end.g), custom_call_target="AsyncCollectiveDone"'),
        ]
        entry = """%p = f32[4] parameter(0)
            %a = f32[16] fusion(%p), kind=kCustom, calls=%begin
            %b = f32[16] fusion(%p), kind=kOutput, calls=%go_on
            %c = f32[16] fusion(%p), kind=kCustom, calls=%end"""
        assert only(parse_module(hlo(entry, "".join(parts)))).count == 1
        # Without that note it is no repetition, but three collectives.
        plain = "".join(parts).replace("async_collective_fusion_config", "x")
        assert only(parse_module(hlo(entry, plain))).count == 3


LOOP = """%body (b: (s32[], f32[4])) -> (s32[], f32[4]) {{
  %b = (s32[], f32[4]) parameter(0)
  %b.i = s32[] get-tuple-element(%b), index=0
  %b.step = s32[] constant({step})
  %b.next = s32[] add(%b.i, %b.step)
  %b.v = f32[4] get-tuple-element(%b), index=1
  %b.sum = f32[4] all-reduce(%b.v), replica_groups={{{{0,1}}}}, to_apply=%add
  %b.dot = f32[] dot(%b.sum, %b.sum), lhs_contracting_dims={{0}}, rhs_contracting_dims={{0}}
  %b.call = f32[] custom-call(%b.dot), custom_call_target="kernel"
  ROOT %b.out = (s32[], f32[4]) tuple(%b.next, %b.sum)
}}

%condition (c: (s32[], f32[4])) -> pred[] {{
  %c = (s32[], f32[4]) parameter(0)
  %c.i = s32[] get-tuple-element(%c), index=0
  %c.n = s32[] constant({limit})
  ROOT %c.more = pred[] compare(%c.i, %c.n), direction={direction}
}}
"""

HALVES = """%body (b: (u32[], u32[], f32[4])) -> (u32[], u32[], f32[4]) {
  %b = (u32[], u32[], f32[4]) parameter(0)
  %b.low = u32[] get-tuple-element(%b), index=0
  %b.one = u32[] constant(1)
  %b.next = u32[] add(%b.low, %b.one)
  %b.moved = u32[] copy(%b.next)
  %b.high = u32[] get-tuple-element(%b), index=1
  %b.carry = u32[] add(%b.high, %b.one)
  %b.over = pred[] compare(%b.next, %b.one), direction=LT
  %b.above = u32[] select(%b.over, %b.carry, %b.high)
  %b.v = f32[4] get-tuple-element(%b), index=2
  %b.sum = f32[4] all-reduce(%b.v), replica_groups={{0,1}}, to_apply=%add
  ROOT %b.out = (u32[], u32[], f32[4]) tuple(%b.moved, %b.above, %b.sum)
}

%condition (c: (u32[], u32[], f32[4])) -> pred[] {
  %c = (u32[], u32[], f32[4]) parameter(0)
  %c.low = u32[] get-tuple-element(%c), index=0
  %c.high = u32[] get-tuple-element(%c), index=1
  %c.zero = s32[] constant(0)
  %c.none = u32[] constant(0)
  %c.n = u32[] constant(7)
  %c.signed = s32[] bitcast-convert(%c.high)
  %c.negative = pred[] compare(%c.signed, %c.zero), direction=LT
  %c.equal = pred[] compare(%c.high, %c.none), direction=EQ
  %c.less = pred[] compare(%c.low, %c.n), direction=LT
  %c.within = pred[] and(%c.equal, %c.less)
  ROOT %c.more = pred[] or(%c.negative, %c.within)
}
"""


def loop(
    *, start: int = 0, limit: int = 7, step: int = 1, direction: str = "LT", config: str = ""
) -> ModuleGraph:
    entry = f"""%v = f32[4] parameter(0)
        %zero = s32[] constant({start})
        %i = s32[] copy(%zero)
        %t = (s32[], f32[4]) tuple(%i, %v)
        %w = (s32[], f32[4]) while(%t), condition=%condition, body=%body{config}"""
    body = LOOP.format(limit=limit, step=step, direction=direction)
    return parse_module(hlo(entry, ADD + body))


class TestLoops:
    """A loop's body counts as often as it runs, not once."""

    def test_stated_trip_count(self) -> None:
        found = loop(limit=99, config=', backend_config={"known_trip_count":{"n":"5"}}')
        assert (only(found).count, found.flops, found.custom_calls) == (5, 5 * 8, {"kernel": 5})
        assert found.unbounded_loops == 0

    @pytest.mark.parametrize("step", [1, 2, 3])
    @pytest.mark.parametrize("start", [-1, 0, 2])
    @pytest.mark.parametrize("limit", [5, 6, 7])
    def test_counted_from_its_condition(self, start: int, limit: int, step: int) -> None:
        found = loop(start=start, limit=limit, step=step)
        assert only(found).count == len(range(start, limit, step))
        assert found.unbounded_loops == 0

    @pytest.mark.parametrize("unknown", [{"direction": "GT"}, {"step": 0}, {"step": -1}])
    def test_unknown_length_is_said(self, unknown: dict[str, Any]) -> None:
        found = loop(**unknown)
        assert (only(found).count, found.unbounded_loops) == (1, 1)

    def test_a_counter_that_is_not_the_loop_s_own(self) -> None:
        """The body adds to something else than the value that the condition tests."""
        swapped = LOOP.format(limit=7, step=1, direction="LT").replace("add(%b.i,", "add(%b.step,")
        entry = """%v = f32[4] parameter(0)
            %i = s32[] constant(0)
            %t = (s32[], f32[4]) tuple(%i, %v)
            %w = (s32[], f32[4]) while(%t), condition=%condition, body=%body"""
        assert parse_module(hlo(entry, ADD + swapped)).unbounded_loops == 1

    @pytest.mark.parametrize(("start", "high", "counted"), [(0, 0, 7), (3, 0, 4), (0, 1, None)])
    def test_a_counter_of_64_bits_is_two_of_32_on_a_tpu(
        self, start: int, high: int, counted: int | None
    ) -> None:
        entry = f"""%v = f32[4] parameter(0)
            %start = u32[] constant({start})
            %h = u32[] constant({high})
            %i = u32[] copy(%start)
            %t = (u32[], u32[], f32[4]) tuple(%i, %h, %v)
            %w = (u32[], u32[], f32[4]) while(%t), condition=%condition, body=%body"""
        found = parse_module(hlo(entry, ADD + HALVES))
        assert only(found).count == (counted or 1)
        assert found.unbounded_loops == (counted is None)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("direction=EQ", "direction=NE"),
            ("%c.zero = s32[] constant(0)", "%c.zero = s32[] constant(1)"),
            ("compare(%c.low, %c.n)", "compare(%c.n, %c.low)"),
            ("compare(%c.high, %c.none)", "compare(%c.low, %c.none)"),
            ("and(%c.equal, %c.less)", "and(%c.equal, %c.equal)"),
        ],
    )
    def test_another_condition_of_two_halves_is_not_read(self, one: str, other: str) -> None:
        entry = """%v = f32[4] parameter(0)
            %i = u32[] constant(0)
            %t = (u32[], u32[], f32[4]) tuple(%i, %i, %v)
            %w = (u32[], u32[], f32[4]) while(%t), condition=%condition, body=%body"""
        assert one in HALVES
        found = parse_module(hlo(entry, ADD + HALVES.replace(one, other)))
        assert found.unbounded_loops == 1

    @pytest.mark.parametrize("sites", [1, 2])
    def test_a_start_that_is_an_argument_of_a_call(self, sites: int) -> None:
        """As torch_xla writes a scan; called in two places, it may start at two numbers."""
        called = """%called (p: s32[], q: f32[4]) -> (s32[], f32[4]) {
  %p = s32[] parameter(0)
  %q = f32[4] parameter(1)
  %t = (s32[], f32[4]) tuple(%p, %q)
  ROOT %w = (s32[], f32[4]) while(%t), condition=%condition, body=%body
}
"""
        calls = [f"%r{n} = (s32[], f32[4]) call(%from, %v), to_apply=%called" for n in range(sites)]
        entry = "\n".join(["%v = f32[4] parameter(0)", "%from = s32[] constant(2)", *calls])
        found = parse_module(
            hlo(entry, ADD + LOOP.format(limit=7, step=1, direction="LT") + called)
        )
        assert (only(found).count, found.unbounded_loops) == ((5, 0) if sites == 1 else (2, 2))

    def test_loop_in_a_loop(self) -> None:
        outer = """%outer (o: (s32[], f32[4])) -> (s32[], f32[4]) {
  %o = (s32[], f32[4]) parameter(0)
  ROOT %o.w = (s32[], f32[4]) while(%o), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
}
"""
        entry = """%t = (s32[], f32[4]) parameter(0)
            %w = (s32[], f32[4]) while(%t), condition=%condition, body=%outer, \
backend_config="{\\"known_trip_count\\":{\\"n\\":\\"2\\"}}\""""
        body = LOOP.format(limit=1, step=1, direction="LT")
        assert only(parse_module(hlo(entry, ADD + body + outer))).count == 6


class TestShapes:
    @pytest.mark.parametrize(
        ("shape", "size", "text", "dtype"),
        [
            ("f32[3,4]{1,0}", 48, "f32[3,4]", "f32"),
            ("bf16[3,4]{1,0:T(8,128)(2,1)S(1)}", 24, "bf16[3,4]", "bf16"),
            ("pred[5]", 5, "pred[5]", "pred"),
            ("s4[5]", 3, "s4[5]", "s4"),
            ("f8e4m3fn[6]", 6, "f8e4m3fn[6]", "f8e4m3fn"),
            ("f32[<=8,2]", 64, "f32[8,2]", "f32"),
            ("f32[]", 4, "f32[]", "f32"),
            ("f32[0,7]", 0, "f32[0,7]", "f32"),
            ("(f32[2], f32[2], bf16[3])", 22, "(f32[2]×2, bf16[3])", "bf16+f32"),
            ("(f32[2]{0:T(8,128)}, /*index=1*/(s8[3], s8[1]))", 12, "(f32[2], s8[3], s8[1])",
             "f32+s8"),
        ],
    )  # fmt: skip
    def test_bytes(self, shape: str, size: int, text: str, dtype: str) -> None:
        entry = f"%p = f32[2] parameter(0)\n%g = {shape} all-reduce(%p), to_apply=%add"
        found = only(parse_module(hlo(entry, ADD)))
        assert (found.bytes, found.shape, found.dtype) == (size, text, dtype)

    @pytest.mark.parametrize("shape", ["f77[2]", "(f32[2], f77[2])"])
    def test_unknown_dtype_is_an_error(self, shape: str) -> None:
        entry = f"%p = f32[2] parameter(0)\n%g = {shape} all-reduce(%p), to_apply=%add"
        with pytest.raises(BadInput, match="f77"):
            parse_module(hlo(entry, ADD))

    def test_unknown_dtype_of_a_parameter_is_an_error(self) -> None:
        with pytest.raises(BadInput, match="f77"):
            parse_module(hlo("%p = f77[2] parameter(0)"))

    def test_unbounded_dimension_is_an_error(self) -> None:
        with pytest.raises(BadInput, match="size is not known"):
            parse_module(hlo("%p = f32[?,2] parameter(0)"))


class TestCollectives:
    @pytest.mark.parametrize(
        ("line", "groups"),
        [
            ("all-gather(%p), replica_groups={{0,1},{2,3}}, dimensions={0}", "{{0,1},{2,3}}"),
            ("all-gather(%p), replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}",
             "[2,2]<=[2,2]T(1,0)"),
            ("collective-permute(%p), source_target_pairs={{0,1},{1,0}}", "{{0,1},{1,0}}"),
            ("all-to-all(%p)", ""),
        ],
    )  # fmt: skip
    def test_groups(self, line: str, groups: str) -> None:
        assert only(parse_module(hlo(f"%p = f32[2] parameter(0)\n%g = f32[8] {line}"))).groups == (
            groups
        )

    def test_in_fusions_calls_and_branches(self) -> None:
        part = """%part (p: f32[4]) -> f32[4] {
  %q = f32[4] parameter(0)
  ROOT %a = f32[4] all-reduce(%q), to_apply=%add
}
"""
        entry = """%p = f32[4] parameter(0)
            %i = s32[] parameter(1)
            %f = f32[4] fusion(%p), kind=kLoop, calls=%part
            %c = f32[4] call(%f), to_apply=%part
            %s = f32[4] conditional(%i, %c, %c), branch_computations={%part, %part}"""
        assert only(parse_module(hlo(entry, ADD + part))).count == 4

    def test_what_is_never_called_does_not_count(self) -> None:
        dead = """%dead (p: f32[4]) -> f32[4] {
  %q = f32[4] parameter(0)
  ROOT %a = f32[4] all-reduce(%q), to_apply=%add
}
"""
        found = parse_module(hlo("%p = f32[4] parameter(0)\n%n = f32[4] negate(%p)", ADD + dead))
        assert found.collectives == ()

    @pytest.mark.parametrize(
        ("metadata", "origin"),
        [
            ('op_name="LlamaModel.2/LlamaMLP.17/aten__mm"', "LlamaModel/LlamaMLP/aten__mm"),
            ('op_name="model.1/layers.0.2/aten__mm"', "model/layers.0/aten__mm"),
            ('op_name="aten__mm" source_file="/a/b/nn/linear.py" source_line=9',
             "aten__mm (nn/linear.py)"),
            ('op_name="aten__mm"', "aten__mm"),
            ("", ""),
        ],
    )  # fmt: skip
    def test_origin(self, metadata: str, origin: str) -> None:
        text = hlo(f"%p = f32[2] parameter(0)\n%g = f32[8] all-gather(%p), metadata={{{metadata}}}")
        assert only(parse_module(text)).op_name == origin


class TestFlops:
    @patient
    @given(*[st.integers(1, 9)] * 4)
    def test_batched_dot(self, b: int, m: int, k: int, n: int) -> None:
        text = hlo(
            f"""%l = f32[{b},{m},{k}] parameter(0)
            %r = f32[{b},{k},{n}] parameter(1)
            %d = f32[{b},{m},{n}] dot(%l, %r), lhs_batch_dims={{0}}, lhs_contracting_dims={{2}}, \
rhs_batch_dims={{0}}, rhs_contracting_dims={{1}}"""
        )
        assert parse_module(text).flops == b * 2 * m * n * k

    def test_dot_within_a_fusion(self) -> None:
        fused = """%fused (l: f32[3,5]) -> f32[3,3] {
  %l = f32[3,5] parameter(0)
  %d = f32[3,3] dot(%l, %l), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  ROOT %n = f32[3,3] negate(%d)
}
"""
        text = hlo(
            """%p = f32[3,5] parameter(0)
            %f = f32[3,3] fusion(%p), kind=kOutput, calls=%fused
            %g = f32[3,3] fusion(%p), kind=kOutput, calls=%fused""",
            fused,
        )
        assert parse_module(text).flops == 2 * (2 * 3 * 3 * 5)

    def test_convolution_as_xla_counts_it(self) -> None:
        """XLA's own cost analysis (JAX 0.7.1, CPU) gives 10080 for this one."""
        text = hlo(
            """%x = f32[2,9,8,6] parameter(0)
            %k = f32[3,3,3,4] parameter(1)
            %c = f32[2,4,21,4] convolution(%x, %k), window={size=3x3 stride=2x1 pad=1_2x0_1 \
lhs_dilate=1x3 rhs_dilate=2x1}, dim_labels=b01f_01io->b01f, feature_group_count=2"""
        )
        assert parse_module(text).flops == 10080

    @patient
    @given(*[st.integers(1, 6)] * 4)
    def test_a_tpu_s_batched_product(self, b: int, m: int, k: int, n: int) -> None:
        """The batch becomes a spatial dimension whose kernel is as long as the batch."""
        window = f"size={b} stride={max(1, b - 1)} pad=0_0 lhs_dilate={b}" if b > 1 else "size=1"
        text = hlo(
            f"""%l = bf16[{b},{m},{k}] parameter(0)
            %r = bf16[{b},{k},{n}] parameter(1)
            %c = bf16[{b},{m},{n}] convolution(%l, %r), window={{{window}}}, \
dim_labels=0bf_0io->0bf"""
        )
        assert parse_module(text).flops == b * 2 * m * n * k

    @patient
    @given(
        st.integers(1, 9),
        st.integers(1, 5),
        st.integers(1, 12),
        st.integers(1, 4),
        st.integers(-3, 3),
        st.integers(1, 4),
        st.integers(1, 3),
    )
    def test_meeting_positions(
        self, size: int, kernel: int, output: int, stride: int, pad: int, dilate: int, spread: int
    ) -> None:
        holds = {i * dilate for i in range(size)}
        expected = sum(
            o * stride + k * spread - pad in holds for o in range(output) for k in range(kernel)
        )
        found = meeting_positions(
            size=size,
            kernel=kernel,
            output=output,
            stride=stride,
            pad=pad,
            dilate=dilate,
            kernel_dilate=spread,
        )
        assert found == expected

    @patient
    @given(*[st.integers(1, 9)] * 4)
    def test_library_call(self, b: int, m: int, k: int, n: int) -> None:
        text = hlo(
            f"""%l = f32[{b},{m},{k}] parameter(0)
            %r = f32[{b},{k},{n}] parameter(1)
            %d = f32[{b},{m},{n}] custom-call(%l, %r), custom_call_target="__onednn$matmul\""""
        )
        assert parse_module(text).flops == b * 2 * m * n * k

    def test_library_call_whose_shapes_do_not_tell(self) -> None:
        text = hlo(
            """%l = f32[2,3] parameter(0)
            %d = f32[4,4] custom-call(%l, %l), custom_call_target="__cublas$gemm\""""
        )
        with pytest.raises(BadInput, match="gemm"):
            parse_module(text)

    def test_other_custom_calls_are_listed_and_not_guessed(self) -> None:
        text = hlo('%l = f32[2,3] parameter(0)\n%d = f32[2,2] custom-call(%l, %l), '
                   'custom_call_target="tpu_custom_call"')  # fmt: skip
        found = parse_module(text)
        assert (found.flops, found.custom_calls) == (0, {"tpu_custom_call": 1})


class TestRemat:
    def test_is_not_known_from_optimized_text(self) -> None:
        assert parse_module(STEP).remat is None

    def test_barriers_in_a_loop_count_as_often_as_it_runs(self) -> None:
        body = LOOP.format(limit=4, step=1, direction="LT").replace(
            "%b.sum = f32[4] all-reduce(%b.v), replica_groups={{0,1}}, to_apply=%add",
            "%b.sum = f32[4] opt-barrier(%b.v)",
        )
        text = hlo(
            """%v = f32[4] parameter(0)
            %i = s32[] constant(0)
            %t = (s32[], f32[4]) tuple(%i, %v)
            %w = (s32[], f32[4]) while(%t), condition=%condition, body=%body""",
            body,
        )
        assert parse_module(STEP, unoptimized=text).remat == 4

    def test_by_xla(self) -> None:
        text = hlo(
            """%t = (f32[2]) parameter(0)
            %gte.remat = f32[2] get-tuple-element(%t), index=0
            %n.remat.2 = f32[2] negate(%gte.remat)
            %m = f32[2] negate(%n.remat.2)"""
        )
        assert parse_module(text).xla_remat == 1


class TestMemory:
    REPORT = (CPU / "module_0001.SyncTensorsGraph.58.cpu_after_optimizations-buffer-assignment.txt"
              ).read_text()  # fmt: skip

    def test_is_not_known_without_a_report(self) -> None:
        assert parse_module(STEP).peak_memory_bytes is None

    def test_every_truncation(self) -> None:
        lines = self.REPORT.splitlines(keepends=True)
        for n in range(len(lines)):
            with pytest.raises(BadInput, match="cut off"):
                read_memory("".join(lines[:n]))

    def test_a_lost_allocation(self) -> None:
        lines = self.REPORT.splitlines(keepends=True)
        with pytest.raises(BadInput):
            read_memory("".join(lines[:3] + lines[4:]))


def renumbered(text: str, seed: int, *, numbers: bool) -> str:
    """The same graph with other names, source lines, scope numbers and channels."""
    shuffle = random.Random(seed)
    names = sorted(set(re.findall(r"%([\w.\-]+)", text)))
    ids = list(range(len(names)))
    shuffle.shuffle(ids)
    new = {
        name: f"v{ids[i]}.{seed}" if numbers else f"{name}.{seed}" for i, name in enumerate(names)
    }
    text = re.sub(r"%([\w.\-]+)", lambda m: "%" + new[m[1]], text)
    text = re.sub(r"source_line=\d+", f"source_line={seed}", text)
    text = re.sub(r"lm_head\.\d", f"lm_head.{seed}", text)
    text = re.sub(r"channel_id=\d+", f"channel_id={seed}", text)
    return text.replace("SyncTensorsGraph.58,", f"SyncTensorsGraph.{seed},", 1)


class TestFingerprint:
    @patient
    @given(st.integers(0, 99), st.booleans())
    def test_does_not_see_names_and_positions(self, seed: int, numbers: bool) -> None:
        other = parse_module(renumbered(STEP, seed, numbers=numbers))
        assert dataclasses.replace(other, name="SyncTensorsGraph.58") == parse_module(STEP)

    def test_does_not_see_notes(self) -> None:
        plain = re.sub(r", metadata=\{[^}]*\}", "", STEP)
        assert parse_module(plain).fingerprint == parse_module(STEP).fingerprint

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("lhs_contracting_dims={1}", "lhs_contracting_dims={0}"),
            ("dot(%all-gather, %copy.11)", "dot(%all-gather.1, %copy.11)"),
            ("replica_groups={{0,1,2,3}}", "replica_groups={{0,1},{2,3}}"),
            ("f32[8,4]{0,1} all-gather", "f32[8,4]{1,0} all-gather"),
            ("tanh(", "negate("),
            ("constant(1)", "constant(2)"),
            ("parameter(3)", "parameter(5)"),
            ("sharding={replicated}", "sharding={maximal device=0}"),
            ("control-predecessors={%copy.12}", "control-predecessors={%copy.11}"),
            ("calls=%fused_computation.2", "calls=%fused_computation.1"),
        ],
    )
    def test_sees(self, old: str, new: str) -> None:
        assert old in STEP
        changed = parse_module(STEP.replace(old, new, 1))
        assert changed.fingerprint != parse_module(STEP).fingerprint

    def test_sees_what_the_result_is(self) -> None:
        text = hlo("%p = f32[2] parameter(0)\n%a = f32[2] negate(%p)\n%b = f32[2] abs(%p)")
        other = text.replace("ROOT ", "").replace("%a =", "ROOT %a =")
        assert parse_module(other).fingerprint != parse_module(text).fingerprint

    def test_sees_the_kernel_of_a_custom_call(self) -> None:
        text = hlo('%p = f32[2] parameter(0)\n%c = f32[2] custom-call(%p), '
                   'custom_call_target="tpu_custom_call", backend_config={"body":"A"}')  # fmt: skip
        changed = parse_module(text.replace('"A"', '"B"'))
        assert changed.fingerprint != parse_module(text).fingerprint


class TestDump:
    def copy(self, tmp_path: Path) -> Path:
        return shutil.copytree(CPU, tmp_path / "dump")

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="no such folder"):
            read_dump(tmp_path / "nowhere")

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="xla_dump_hlo_as_text"):
            read_dump(tmp_path)

    def test_only_unoptimized_modules(self, tmp_path: Path) -> None:
        shutil.copy(next(CPU.glob("*before_opt*")), tmp_path)
        with pytest.raises(BadInput):
            read_dump(tmp_path)

    def test_a_compilation_that_did_not_end(self, tmp_path: Path) -> None:
        dump = self.copy(tmp_path)
        (dump / "module_0001.SyncTensorsGraph.58.cpu_after_optimizations.txt").unlink()
        with pytest.raises(BadInput, match=r"module_0001.*killed"):
            read_dump(dump)

    @pytest.mark.parametrize("suffix", ["before_optimizations", "cpu_after_optimizations",
                                        "cpu_after_optimizations-buffer-assignment"])  # fmt: skip
    def test_each_truncated_file_is_named(self, tmp_path: Path, suffix: str) -> None:
        dump = self.copy(tmp_path)
        path = dump / f"module_0001.SyncTensorsGraph.58.{suffix}.txt"
        path.write_text(path.read_text()[: path.stat().st_size // 2])
        with pytest.raises(BadInput, match=r"module_0001.*cut off"):
            read_dump(dump)

    def test_not_text(self, tmp_path: Path) -> None:
        dump = self.copy(tmp_path)
        path = dump / "module_0001.SyncTensorsGraph.58.cpu_after_optimizations.txt"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(BadInput, match="module_0001"):
            read_dump(dump)

    def test_two_processes_in_one_folder(self, tmp_path: Path) -> None:
        dump = self.copy(tmp_path)
        for path in list(dump.iterdir()):
            shutil.copy(path, dump / path.name.replace("SyncTensorsGraph", "Other"))
        with pytest.raises(BadInput, match="more than one process"):
            read_dump(dump)

    def test_order_is_by_number_not_by_name(self, tmp_path: Path) -> None:
        for number, name in (("9999", "b"), ("10000", "a")):
            text = STEP.replace("SyncTensorsGraph.58", name, 1)
            (tmp_path / f"module_{number}.{name}.cpu_after_optimizations.txt").write_text(text)
        assert [module.name for module in read_dump(tmp_path)] == ["b", "a"]

    def test_other_files_of_a_dump_are_not_modules(self, tmp_path: Path) -> None:
        shutil.copytree(TPU, tmp_path, dirs_exist_ok=True)
        stem = "module_0001.jit_step.cl_789893895"
        for name in ("after_optimizations_after_buffer_assignment", "after_codegen",
                     "after_optimizations-memory-usage-report", "debug_options"):  # fmt: skip
            (tmp_path / f"{stem}.{name}.txt").write_text("not a module")
        assert read_dump(tmp_path) == read_dump(TPU)

    def test_what_is_missing_is_not_known(self, tmp_path: Path) -> None:
        shutil.copy(CPU / "module_0001.SyncTensorsGraph.58.cpu_after_optimizations.txt", tmp_path)
        (module,) = read_dump(tmp_path)
        assert (module.remat, module.peak_memory_bytes) == (None, None)


class TestSteadyState:
    def test_of_equal_steps_the_last(self) -> None:
        assert steady_state_module(read_dump(CPU)).name == "SyncTensorsGraph.58"

    def test_not_a_lighter_module_that_comes_later(self) -> None:
        modules = [graph(name=n, flops=f) for n, f in (("init", 0), ("step 0", 9), ("step 1", 9),
                                                       ("evaluation", 3), ("log", 0))]  # fmt: skip
        assert steady_state_module(modules).name == "step 1"

    @pytest.mark.parametrize("modules", [[], [graph(flops=0)]])
    def test_no_step_is_an_error(self, modules: list[ModuleGraph]) -> None:
        with pytest.raises(BadInput, match="no training step"):
            steady_state_module(modules)


def read(data: Any) -> ModuleGraph:
    """The graph in a plain value, as it is read from graph.json."""
    return typed_json(ModuleGraph, json.dumps(data).encode())


class TestJson:
    def test_round_trip(self) -> None:
        for module in (*read_dump(CPU), *read_dump(TPU), parse_module(STEP)):
            assert read(dataclasses.asdict(module)) == module

    @pytest.mark.parametrize("data", [None, [], {}, "", 3, [{}]])
    def test_empty_or_of_another_form(self, data: Any) -> None:
        with pytest.raises(BadInput):
            read(data)

    @pytest.mark.parametrize("place", ["module", "collective"])
    def test_every_key_is_needed_and_no_other_is_taken(self, place: str) -> None:
        kind = ModuleGraph if place == "module" else Collective
        needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
        for key in [*needed, "unknown"]:
            data = dataclasses.asdict(graph(collective()))
            target = data if place == "module" else data["collectives"][0]
            if key == "unknown":
                target[key] = 1
            else:
                del target[key]
            with pytest.raises(BadInput, match=key):
                read(data)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -1, 1.0, True, "1", None, []])
    @pytest.mark.parametrize("key", ["flops", "instructions", "parameters_bytes", "xla_remat"])
    def test_only_whole_numbers_count(self, key: str, value: Any) -> None:
        with pytest.raises(BadInput, match=key):
            read(dataclasses.asdict(graph()) | {key: value})

    @pytest.mark.parametrize("value", [math.nan, -1, True, "1"])
    @pytest.mark.parametrize("key", ["peak_memory_bytes", "remat"])
    def test_not_known_is_null_and_nothing_else(self, key: str, value: Any) -> None:
        data = dataclasses.asdict(graph(**{key: None}))
        assert read(data) == graph(**{key: None})
        with pytest.raises(BadInput, match=key):
            read(data | {key: value})

    @pytest.mark.parametrize(
        ("key", "value"),
        [("name", 1), ("opcodes", []), ("opcodes", {"add": math.nan}), ("collectives", "x"),
         ("collectives", [1]), ("custom_calls", None), ("fingerprint", None), ("instructions", 0)],
    )  # fmt: skip
    def test_other_types(self, key: str, value: Any) -> None:
        with pytest.raises(BadInput):
            read(dataclasses.asdict(graph()) | {key: value})


class TestDifference:
    def tell(self, a: ModuleGraph, b: ModuleGraph) -> list[str]:
        return describe_difference("hf", a, "torchprime", b)

    def test_equal(self) -> None:
        (_, later) = read_dump(CPU)
        assert self.tell(later, later) == []
        assert self.tell(later, dataclasses.replace(later, name="SyncTensorsGraph.99")) == []

    def test_more_collectives(self) -> None:
        a = graph(collective(count=9, op_name="model/layers.0/aten__mm"))
        b = graph(*a.collectives, collective(shape="f32[8]", bytes=13, count=2))
        (line,) = self.tell(a, b)
        assert line == (
            "torchprime: 2 more all-gathers a step (+18 % bytes), from lm_head (f32[8], 2 times)"
        )

    def test_fewer_collectives(self) -> None:
        a = graph(collective(), collective("all-reduce", op_name="norm/aten__sum"))
        (line,) = self.tell(a, graph(collective()))
        assert line == "hf: 1 more all-reduce a step (torchprime does none), from norm (f32[4])"

    def test_the_surplus_is_named_and_not_what_both_do(self) -> None:
        layers = [collective(op_name=f"layers.{n}.mlp/aten__mm") for n in range(3)]
        (line,) = self.tell(graph(*layers), graph(*layers, collective()))
        assert line.endswith("from lm_head (f32[4])")

    def test_layers_are_told_together(self) -> None:
        layers = [collective(op_name=f"model/layers.{n}.mlp/aten__mm") for n in range(12)]
        (line,) = self.tell(graph(), graph(*layers))
        assert line.endswith("from layers.*.mlp (f32[4], 12 times)")

    def test_other_names_of_the_same_collective_are_no_difference(self) -> None:
        """Only one of the engines names its scopes."""
        a, b = graph(collective(op_name="aten__mm (nn/linear.py)")), graph(collective())
        assert self.tell(a, b) == []

    def test_a_surplus_among_other_names(self) -> None:
        a = graph(collective(op_name="aten__mm (nn/linear.py)"))
        b = graph(collective(), collective(op_name="model/embed/aten__mm"))
        (line,) = self.tell(a, b)
        assert line.startswith("torchprime: 1 more all-gather a step (+100 % bytes)")
        assert line.endswith("from lm_head or embed (f32[4])")

    def test_same_number_of_other_shapes(self) -> None:
        a, b = graph(collective(shape="f32[2,2]")), graph(collective(shape="f32[4]"))
        assert self.tell(a, b) == [
            "hf: 1 all-gather a step that torchprime does not do, from lm_head (f32[2,2])",
            "torchprime: 1 all-gather a step that hf does not do, from lm_head (f32[4])",
            "torchprime: the same bytes in all all-gathers of a step",
        ]

    def test_same_number_but_of_another_kind(self) -> None:
        a, b = graph(collective()), graph(collective("reduce-scatter"))
        assert [line.split(" a step")[0] for line in self.tell(a, b)] == [
            "hf: 1 more all-gather",
            "torchprime: 1 more reduce-scatter",
        ]

    @pytest.mark.parametrize(
        ("change", "line"),
        [
            ({"flops": 1150},
             "torchprime: +15 % matrix-product FLOPs a step (1,150 against 1,000)"),
            ({"flops": 999}, "torchprime: -0.1 % matrix-product FLOPs a step (999 against 1,000)"),
            ({"peak_memory_bytes": 50}, "torchprime: -50 % peak memory (50 against 100)"),
            ({"peak_memory_bytes": None}, "peak memory: hf 100, torchprime not known"),
            ({"remat": 2}, "blocks recomputed at the trainer's request (optimization barriers): "
                           "hf 0, torchprime 2"),
            ({"remat": None}, "blocks recomputed at the trainer's request (optimization barriers): "
                              "hf 0, torchprime not known"),
            ({"xla_remat": 3}, "instructions recomputed by XLA to save memory: "
                               "hf 0, torchprime 3"),
            ({"unbounded_loops": 1}, "loops of unknown length, counted once: hf 0, torchprime 1"),
            ({"custom_calls": {"k": 2}}, "custom calls, hf → torchprime: k 0 → 2"),
            ({"opcodes": {"add": 7, "dot": 5}},
             "other instructions, hf → torchprime: add 4 → 7"),
        ],
    )  # fmt: skip
    def test_each_other_fact(self, change: dict[str, Any], line: str) -> None:
        assert self.tell(graph(), graph(**change, fingerprint="g")) == [line]

    def test_a_small_difference_is_not_rounded_away(self) -> None:
        (line,) = self.tell(graph(flops=10**6), graph(flops=10**6 + 1))
        assert "+<0.1 % matrix-product FLOPs" in line

    def test_from_nothing(self) -> None:
        (line,) = self.tell(graph(flops=0), graph(flops=7))
        assert line == "matrix-product FLOPs a step: hf 0, torchprime 7"

    def test_only_the_fingerprint(self) -> None:
        (line,) = self.tell(graph(), graph(fingerprint="g"))
        assert "graphs are not the same" in line

    def test_real_steps(self) -> None:
        first, later = read_dump(CPU)
        lines = self.tell(first, later)
        assert any("+80 % bytes of weights, state" in line for line in lines)  # 296 against 164
        assert not any("all-gather" in line or "FLOPs" in line for line in lines)

    counts = st.integers(0, 3)
    paths = st.sampled_from(["lm_head/aten__mm", "layers.0.mlp/aten__mm", "layers.1.mlp/aten__mm"])
    drawn = st.lists(
        st.builds(
            collective,
            kind=st.sampled_from(["all-gather", "all-reduce"]),
            shape=st.sampled_from(["f32[4]", "f32[2,2]"]),
            op_name=paths,
            count=st.integers(1, 3),
        ),
        max_size=5,
    )

    @patient
    @given(drawn, drawn)
    def test_every_surplus_is_told_and_none_is_made_up(
        self, of_a: list[Collective], of_b: list[Collective]
    ) -> None:
        def count(items: list[Collective], kind: str, shape: str) -> int:
            return sum(c.count for c in items if (c.kind, c.shape) == (kind, shape))

        lines = self.tell(graph(*of_a), graph(*of_b))
        for kind in ("all-gather", "all-reduce"):
            balance = [
                count(of_b, kind, shape) - count(of_a, kind, shape)
                for shape in ("f32[4]", "f32[2,2]")
            ]
            for name, n in (
                ("torchprime", sum(max(0, x) for x in balance)),
                ("hf", sum(max(0, -x) for x in balance)),
            ):
                explained = [
                    m for line in lines if (m := re.match(rf"{name}: (\d+) (more )?{kind}", line))
                ]
                assert [int(m[1]) for m in explained] == ([n] if n else [])
