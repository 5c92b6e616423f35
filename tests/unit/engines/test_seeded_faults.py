"""Faults: one that there is not, or that is written wrongly, is told before a run is launched."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from harness.base.errors import BadInput
from harness.config.settings import SeededFault
from harness.engines.faults import seeded
from harness.probe import faults
from harness.probe.faults.catalogue import FAULTS, Kind
from harness.probe.spec import Fault, Spec

TABLE: dict[str, Any] = {"a.*.weight": ["fsdp", None], "b": [None]}
SPEC = Spec(4, 8, injected={"mesh": None, "sharding": TABLE})
KEY = "engine.hf.faults"


def seed(name: str, arguments: dict[str, Any], spec: Spec = SPEC) -> Spec:
    return seeded(spec, [SeededFault(name, arguments)], KEY)


def test_one_that_is_known_is_told_to_the_probe() -> None:
    for name, arguments in (
        ("learning_rate", {"factor": 2}),
        ("hyper_parameter", {"name": "betas", "value": [0.1, 0.2]}),
        ("label_shift", {}),
    ):
        assert seed(name, arguments).faults == (Fault(name, arguments),)
    assert seeded(SPEC, [], KEY) == SPEC


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("learning_rat", {}, "no fault `learning_rat`; did you mean learning_rate"),
        ("xyz", {}, "no fault `xyz`; there are attention_scale, .*sharding"),
        ("learning_rate", {"facto": 2}, "takes no argument `facto`; did you mean factor"),
        ("host_transfer", {"step": 2}, "takes no argument `step`; it takes none"),
        ("lost_update", {}, "needs the argument `step`"),
        ("lost_update", {"step": "two"}, "step='two' of the fault `lost_update` is no int"),
        ("lost_update", {"step": True}, "step=True of the fault `lost_update` is no int"),
        ("lost_update", {"step": 1.5}, "is no int"),
        ("slowdown", {"seconds": "1"}, "is no float"),
        ("loss_dtype", {"dtype": 16}, "is no str"),
        ("no_clipping", {"clipping": []}, "takes no argument `clipping`"),
    ],
)
def test_one_that_is_wrong(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=rf"engine\.hf\.faults: .*{said}"):
        seed(name, arguments)


class TestSharding:
    def test_it_replaces_entries_of_the_table(self) -> None:
        spec = seed("sharding", {"b": ["fsdp"]})
        assert spec.injected == {"mesh": None, "sharding": {**TABLE, "b": ["fsdp"]}}
        assert spec.faults == ()
        assert TABLE["b"] == [None]

    def test_a_pattern_that_is_not_there(self) -> None:
        with pytest.raises(BadInput, match=r"finds no `a\.weight`.*did you mean a\.\*\.weight"):
            seed("sharding", {"a.weight": ["fsdp"]})

    def test_what_is_no_partition_spec(self) -> None:
        with pytest.raises(BadInput, match=r"b='fsdp' .* is no partition spec"):
            seed("sharding", {"b": "fsdp"})

    @pytest.mark.parametrize("injected", [{}, {"sharding": None}])
    def test_an_engine_that_takes_no_table(self, injected: dict[str, Any]) -> None:
        with pytest.raises(BadInput, match="needs an engine whose sharding is injected"):
            seed("sharding", {"b": ["fsdp"]}, Spec(4, 8, injected=injected))


@pytest.mark.parametrize(("name", "kind"), FAULTS.items())
def test_a_function_seeds_it_and_takes_its_arguments(name: str, kind: Kind) -> None:
    """The functions need torch, which is not here: their own text says what they take."""
    module = Path(faults.__file__).parent / f"{kind.module}.py"
    functions = {
        node.name: node for node in ast.parse(module.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }  # fmt: skip
    taken = {argument.arg for argument in functions[name].args.args}
    assert taken == {*kind.arguments, *(["clipping"] if kind.clipping else [])}


def test_every_function_is_in_the_catalogue() -> None:
    helpers = {"__init__", "catalogue", "change", "seeding"}
    modules = [p for p in Path(faults.__file__).parent.glob("*.py") if p.stem not in helpers]
    found = {
        node.name for module in modules for node in ast.parse(module.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }  # fmt: skip
    assert found == set(FAULTS)
