"""Estimates that are kept: each test is one way in which an operation gets another's, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.compiler.cycles import UNKNOWN, CycleStore, cycles_of, estimates, operations
from harness.compiler.hlo_text import Module, parse
from harness.compiler.predicted import unknown

DATA = Path(__file__).parent / "data" / "hlo" / "libtpu-0.0.21"
CODED = next(DATA.glob("*.after_codegen.txt"))

ONE = """HloModule m

%fused.1 (p0: f32[8,16], p1: f32[8,16]) -> f32[8,16] {
  %p0 = f32[8,16]{1,0:T(8,128)} parameter(0)
  %p1 = f32[8,16]{1,0:T(8,128)} parameter(1)
  ROOT %subtract.1 = f32[8,16]{1,0:T(8,128)} subtract(%p0, %p1), metadata={op_name="a"}
}

ENTRY %main (a: f32[8,16], b: f32[8,16]) -> f32[8,16] {
  %a = f32[8,16]{1,0:T(8,128)} parameter(0)
  %b = f32[8,16]{1,0:T(8,128)} parameter(1)
  ROOT %fusion.1 = f32[8,16]{1,0:T(8,128)} fusion(%a, %b), kind=kLoop, calls=%fused.1, metadata={op_name="a"}, backend_config={"window_config":{"estimated_cycles":"42"}}
}
"""  # noqa: E501


def signatures(text: str) -> list[str]:
    return [signature for _, _, signature in operations(parse(text))]


@pytest.mark.parametrize(
    "alike",
    [
        ONE.replace("fused.1", "fused_computation.77").replace("%p0", "%param_0.5"),
        ONE.replace('op_name="a"', 'op_name="model/layers/3"'),
        ONE.replace('"42"', '"43"'),
        ONE.replace("%a", "%argument.1"),
    ],
)
def test_names_and_places_do_not_matter(alike: str) -> None:
    assert alike != ONE
    assert signatures(alike) == signatures(ONE)


@pytest.mark.parametrize(
    "other",
    [
        ONE.replace("[8,16]", "[8,32]"),
        ONE.replace("{1,0:T(8,128)}", "{0,1:T(8,128)}"),
        ONE.replace("%a = f32[8,16]{1,0:T(8,128)}", "%a = f32[8,16]{1,0:T(8,128)S(1)}"),
        ONE.replace("subtract(%p0, %p1)", "subtract(%p1, %p0)"),
        ONE.replace("= f32[8,16]{1,0:T(8,128)} subtract", "= f32[8,16]{1,0:T(8,128)} add"),
        ONE.replace("kLoop", "kOutput"),
    ],
)
def test_what_makes_it_another_operation(other: str) -> None:
    assert other != ONE
    assert signatures(other) != signatures(ONE)


def test_an_estimate_that_libtpu_does_not_have() -> None:
    unsure = ONE.replace('"42"', f'"{UNKNOWN}"')
    assert list(estimates(parse(ONE)).values()) == [42]
    assert list(estimates(parse(unsure)).values()) == [None]


def test_equal_operations_of_which_code_differs() -> None:
    line = next(line for line in ONE.splitlines() if "ROOT %fusion.1" in line)
    first = line.replace("ROOT %fusion.1", "%fusion.0").replace('"42"', '"40"')
    assert list(estimates(parse(ONE.replace(line, f"{first}\n{line}"))).values()) == [41]


def real() -> Module:
    return parse(CODED.read_text())


def test_what_is_known_before_code_is_generated_finds_its_estimate() -> None:
    """Nothing of a signature is made by generating code."""
    before = parse(next(DATA.glob("*.after_optimizations_after_buffer*.txt")).read_text())
    found = estimates(real())
    assert sum(cycles is not None for cycles in found.values()) > 5
    known = [signature in found for _, _, signature in operations(before)]
    assert sum(known) > 0.9 * len(known)


def test_every_operation_with_an_estimate_is_kept() -> None:
    there = [cycles_of(i) for c in real().computations for i in c.instructions]
    kept = [cycles_of(i) for _, i, _ in operations(real())]
    assert sum(filter(None, kept)) == sum(filter(None, there)) > 0


def test_what_several_add_is_kept(tmp_path: Path) -> None:
    store = CycleStore(tmp_path / "cycles" / "v6e.json")
    assert store.known() == {}
    store.add({"a": 1})
    CycleStore(store.path).add({"b": None})
    assert store.known() == {"a": 1, "b": None}


def test_whether_code_is_needed() -> None:
    found = estimates(real())
    assert unknown(real(), {})
    assert not unknown(real(), found)
    products = [s for _, i, s in operations(real()) if i.opcode == "fusion"]
    assert unknown(real(), {k: v for k, v in found.items() if k != products[0]})
