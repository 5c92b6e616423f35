"""Which modules a step executes: each test is one way in which the wrong ones could be compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.base.errors import BadInput
from harness.compiler.executed import bare_module, executed_modules, module_protos, steady_step

LOG = (Path(__file__).parent / "data" / "hlo" / "executions.log").read_text()


def event(kind: str, graph: str) -> str:
    return f"{kind} Analysis:   Graph Hash: {graph}\n"


def test_a_real_log() -> None:
    assert executed_modules(LOG) == (0, 1, 1, 1)
    assert steady_step(executed_modules(LOG), 1) == {1: 1}


def test_other_analyses_are_no_execution() -> None:
    log = event("Compilation", "a") + event("Post Compilation", "a") + event("Execution", "a")
    assert executed_modules(log) == (0,)


def test_a_graph_that_is_compiled_again_is_its_latest_module() -> None:
    log = "".join(
        event(*what)
        for what in (("Compilation", "a"), ("Execution", "a"), ("Compilation", "b"),
                     ("Compilation", "a"), ("Execution", "a"), ("Execution", "b"))
    )  # fmt: skip
    assert executed_modules(log) == (0, 2, 1)


def test_an_execution_without_its_compilation() -> None:
    with pytest.raises(BadInput, match="abc"):
        executed_modules(event("Execution", "abc"))


def test_a_step_of_several_modules() -> None:
    # 0: initial values; 2: step 0; 3: every later one; 1: a sum that the trainer reads each step
    assert steady_step((0, 1, 2, 0, 1, 3, 0, 1, 1, 3, 0), heaviest=3) == {0: 1, 1: 2, 3: 1}


def test_what_comes_before_and_after_is_no_part_of_a_step() -> None:
    assert steady_step((9, 3, 3, 9), heaviest=3) == {3: 1}


@pytest.mark.parametrize("executed", [(), (0,), (3,), (0, 3, 1)])
def test_no_steady_step(executed: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="steady"):
        steady_step(executed, heaviest=3)


def test_protos_in_the_order_of_compilation(tmp_path: Path) -> None:
    for name in ("module_0010.b.2", "module_0009.a.1"):
        (tmp_path / f"{name}.before_optimizations.hlo.pb").touch()
    (tmp_path / "module_0009.a.1.cpu_after_optimizations.hlo.pb").touch()
    assert [p.name.split(".")[0] for p in module_protos(tmp_path)] == ["module_0009", "module_0010"]


def test_no_protos(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no module"):
        module_protos(tmp_path)


def test_the_module_in_its_wrapper() -> None:
    module = b"\x0a\x04name" + b"x" * 300
    wrapped = b"\x0a" + bytes([len(module) & 127 | 128, len(module) >> 7]) + module
    assert bare_module(wrapped) == module
    assert bare_module(wrapped + b"\x1a\x00") == module  # a buffer assignment behind it
    for end in (0, 1, 2, 50, len(wrapped) - 1):
        with pytest.raises(BadInput):
            bare_module(wrapped[:end])
