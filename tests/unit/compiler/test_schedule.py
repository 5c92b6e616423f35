"""Bytes, copies, kernels and overlap of a scheduled module, each worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.compiler.executions import Executions
from harness.compiler.hlo import parse_module
from harness.compiler.hlo_text import Module, parse
from harness.compiler.schedule import bytes_accessed, kernels, layout_copies

DATA = Path(__file__).parent / "data" / "hlo"


def module(entry: str, called: str = "") -> Module:
    """A module with these lines in its entry; the last one is its root."""
    *lines, root = entry.strip().splitlines()
    body = "\n".join([*(f"  {line.strip()}" for line in lines), f"  ROOT {root.strip()}"])
    return parse(f"HloModule m\n\n{called}\nENTRY %main () -> f32[] {{\n{body}\n}}\n")


def moved(entry: str, called: str = "") -> int:
    parsed = module(entry, called)
    return sum(size for _, size in bytes_accessed(parsed, Executions.of(parsed)))


P = "%p = f32[8,4] parameter(0)\n"  # 128 bytes


class TestBytes:
    def test_operands_and_result(self) -> None:
        assert moved(P + "%n = f32[8,4] negate(%p)") == 256

    def test_what_connects_moves_nothing(self) -> None:
        assert moved(P + "%b = f32[32] bitcast(%p)\n%t = (f32[32]) tuple(%b)") == 0

    def test_within_a_fusion_nothing_is_moved(self) -> None:
        fused = """%f (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4] parameter(0)
  %x = f32[8,4] negate(%a)
  ROOT %y = f32[8,4] negate(%x)
}
"""
        assert moved(P + "%n = f32[8,4] fusion(%p), kind=kLoop, calls=%f", fused) == 256

    def test_a_slice_of_a_stack(self) -> None:
        fused = """%f (a: f32[100,4], i: s32[]) -> f32[1,4] {
  %a = f32[100,4] parameter(0)
  %i = s32[] parameter(1)
  %s = f32[1,4] dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,4}
  ROOT %y = f32[1,4] negate(%s)
}
"""
        entry = """%a = f32[100,4] parameter(0)
            %i = s32[] parameter(1)
            %n = f32[1,4] fusion(%a, %i), kind=kLoop, calls=%f"""
        assert moved(entry, fused) == 16 + 4 + 16
        whole = fused.replace("negate(%s)", 'negate(%s), metadata={op_name="x"}')
        used_again = whole.replace(
            "  ROOT", "  %w = f32[100,4] negate(%a)\n  ROOT"
        )  # fmt: skip
        assert moved(entry, used_again) == 1600 + 4 + 16

    def test_an_update_in_place(self) -> None:
        fused = """%f (a: f32[100,4], b: f32[1,4], i: s32[]) -> f32[100,4] {
  %a = f32[100,4] parameter(0)
  %b = f32[1,4] parameter(1)
  %i = s32[] parameter(2)
  ROOT %u = f32[100,4] dynamic-update-slice(%a, %b, %i, %i)
}
"""
        entry = """%a = f32[100,4] parameter(0)
            %b = f32[1,4] parameter(1)
            %i = s32[] parameter(2)
            %n = f32[100,4] fusion(%a, %b, %i), kind=kLoop, calls=%f"""
        assert moved(entry, fused) == 0 + 16 + 4 + 16
        plain = entry.replace("fusion(%a, %b, %i), kind=kLoop, calls=%f",
                              "dynamic-update-slice(%a, %b, %i, %i)")  # fmt: skip
        assert moved(plain) == 0 + 16 + 4 + 4 + 16

    def test_a_pair_counts_once(self) -> None:
        entry = (
            P
            + """%s = (f32[8,4], f32[8,4], u32[]) copy-start(%p)
            %d = f32[8,4] copy-done(%s)"""
        )
        assert moved(entry) == 256

    def test_a_loop_counts_as_often_as_it_runs(self) -> None:
        called = """%body (b: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %b = (s32[], f32[8,4]) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  %x = f32[8,4] get-tuple-element(%b), index=1
  %y = f32[8,4] negate(%x)
  ROOT %t = (s32[], f32[8,4]) tuple(%i, %y)
}

%condition (c: (s32[], f32[8,4])) -> pred[] {
  %c = (s32[], f32[8,4]) parameter(0)
  ROOT %true = pred[] constant(true)
}
"""
        entry = """%p = (s32[], f32[8,4]) parameter(0)
            %w = (s32[], f32[8,4]) while(%p), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}"""
        assert moved(entry, called) == 5 * 256

    @pytest.mark.parametrize("release", ["0.0.21", "0.0.52"])
    def test_a_real_step_moves_at_least_its_arguments(self, release: str) -> None:
        (path,) = (DATA / f"libtpu-{release}").glob("*after_buffer_assignment.txt")
        parsed = parse(path.read_text())
        read = sum(
            i.shape.startswith("f32") for i in parsed.entry.instructions if i.opcode == "parameter"
        )
        assert read > 0
        assert (
            sum(size for _, size in bytes_accessed(parsed, Executions.of(parsed))) > 2 * 4 * 8 * 4
        )


class TestCopies:
    def test_only_those_that_change_a_layout(self) -> None:
        parsed = module(
            """%p = f32[8,4]{1,0:T(8,128)} parameter(0)
            %same = f32[8,4]{1,0:T(8,128)S(1)} copy(%p)
            %other = f32[8,4]{0,1:T(8,128)} copy(%same)"""
        )
        assert layout_copies(parsed, Executions.of(parsed)) == (1, 128)


class TestKernels:
    def test_by_name(self) -> None:
        parsed = module(
            P
            + """%flash.1 = f32[8,4] custom-call(%p), custom_call_target="tpu_custom_call"
            %k = f32[8,4] custom-call(%p), custom_call_target="tpu_custom_call", \
frontend_attributes={kernel_metadata={}}, metadata={op_name="a" kernel_name="splash"}
            %other = f32[8,4] custom-call(%p), custom_call_target="X64Combine"
            %flash.2 = f32[8,4] custom-call(%p), custom_call_target="tpu_custom_call\""""
        )
        assert kernels(parsed, Executions.of(parsed)) == {"flash": 2, "splash": 1}


class TestOverlap:
    def gathers(self, between: str) -> bool:
        entry = (
            "%p = f32[4] parameter(0)\n"
            "%s = (f32[4], f32[16]) all-gather-start(%p), replica_groups=[1,4]<=[4]\n"
            f"{between}"
            "%d = f32[16] all-gather-done(%s)"
        )
        *lines, root = entry.splitlines()
        body = "\n".join([*(f"  {line}" for line in lines), f"  ROOT {root}"])
        graph = parse_module(f"HloModule m\n\nENTRY %main () -> f32[] {{\n{body}\n}}\n")
        (collective,) = graph.collectives
        assert collective.count == 1
        return collective.overlapped

    def test_work_between_start_and_done(self) -> None:
        assert self.gathers("%n = f32[4] negate(%p)\n")

    @pytest.mark.parametrize(
        "between",
        [
            "",
            "%b = f32[4] bitcast(%p)\n",
            "%c = (f32[4], f32[4], u32[]) copy-start(%p)\n%e = f32[4] copy-done(%c)\n",
        ],
    )
    def test_nothing_but_plumbing_and_other_transfers(self, between: str) -> None:
        assert not self.gathers(between)

    def test_without_a_start_everything_waits(self) -> None:
        graph = parse_module(
            "HloModule m\n\nENTRY %main () -> f32[] {\n"
            "  %p = f32[4] parameter(0)\n"
            "  %g = f32[16] all-gather(%p), replica_groups=[1,4]<=[4]\n"
            "  ROOT %n = f32[16] negate(%g)\n}\n"
        )
        (collective,) = graph.collectives
        assert not collective.overlapped
