"""The rung sharding: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from builders import (
    Trainer,
    as_training,
    comparison,
    with_manifest,
    with_observed,
    with_parameter,
    without,
)
from golden import Worded

from harness.ladder.result import Result
from harness.ladder.rungs.sharding import sharding
from harness.record.evidence import Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


@pytest.fixture(scope="module")
def b() -> Record:
    return Trainer(label="torchprime", groups=2, sums=-1).record()


def nested(run: Record, *path: str, value: Any = None) -> Record:
    """A Record with something deep in `observed` changed; None removes it."""

    def change(manifest: dict[str, Any]) -> None:
        holder = manifest["observed"]
        for key in path[:-1]:
            holder = holder[key]
        if value is None:
            del holder[path[-1]]
        else:
            holder[path[-1]] = value

    return with_manifest(run, change)


class TestSharding:
    def test_equal(self, worded: Worded, a: Record, b: Record) -> None:
        result = sharding(comparison(a, b))
        assert result.result is PASS
        worded(result)

    def test_axes_of_one_device_change_nothing(self, a: Record, b: Record) -> None:
        mesh = {"axes": {"data": 1, "fsdp": 4, "expert": 1}, "device_order": [0, 1, 2, 3]}
        assert sharding(comparison(a, with_observed(b, mesh=mesh))).result is PASS

    @pytest.mark.parametrize(
        ("what", "value"),
        [
            ("shape", (8, 16)), ("dtype", "bfloat16"), ("sharding", "{devices=[1,4]0,1,2,3}"),
            ("sharding", ""), ("sharding", "{replicated}"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_one_parameter_is_different(
        self, worded: Worded, a: Record, b: Record, what: str, value: Any, index: int
    ) -> None:
        result = sharding(comparison(a, with_parameter(b, index, **{what: value})))
        assert result.result is FAIL
        assert any(f.parameter == b.parameters[index].name for f in result.findings)
        worded(result)

    @pytest.mark.parametrize(
        "mesh",
        [
            {"axes": {"fsdp": 2, "tensor": 2}, "device_order": [0, 1, 2, 3]},
            {"axes": {"tensor": 4}, "device_order": [0, 1, 2, 3]},
            {"axes": {"fsdp": 4}, "device_order": [3, 2, 1, 0]},
        ],
    )
    def test_another_mesh(self, worded: Worded, a: Record, b: Record, mesh: dict[str, Any]) -> None:
        result = sharding(comparison(a, with_observed(b, mesh=mesh)))
        assert result.result is FAIL
        worded(result)

    def test_the_order_of_devices_is_shown_where_it_is_not_the_usual_one(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        mesh = {"axes": {"fsdp": 4}, "device_order": [3, 2, 1, 0]}
        worded(sharding(comparison(a, with_observed(b, mesh=mesh))))

    def test_input_tokens_are_sharded_otherwise(self, a: Record, b: Record) -> None:
        for one, other in (
            (a, with_observed(b, input_sharding="")),
            (with_observed(a, input_sharding=""), b),
        ):
            result = sharding(comparison(one, other))
            assert result.result is FAIL

    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_a_parameter_that_only_one_has(
        self, worded: Worded, a: Record, b: Record, index: int
    ) -> None:
        for pair in (
            (a, without(b, "parameters", index)), (without(a, "parameters", index), b),
        ):  # fmt: skip
            result = sharding(comparison(*pair))
            assert result.result is FAIL
            assert [f.parameter for f in result.findings] == [a.parameters[index].name]
            worded(result)

    def test_no_parameter_at_all(self, a: Record, b: Record) -> None:
        none = dataclasses.replace(a, parameters=()), dataclasses.replace(b, parameters=())
        for x, y in ((none[0], b), (a, none[1]), none):
            assert sharding(comparison(x, y)).result is INVALID

    @pytest.mark.parametrize(
        ("path", "value"),
        [(("mesh",), None), (("mesh", "axes"), {}), (("mesh", "device_order"), []),
         (("input_sharding",), None)],
    )  # fmt: skip
    def test_unknown_and_unknown_are_not_equal(
        self, a: Record, b: Record, path: tuple[str, ...], value: Any
    ) -> None:
        without_a, without_b = (nested(run, *path, value=value) for run in (a, b))
        for x, y in ((without_a, b), (a, without_b), (without_a, without_b)):
            result = sharding(comparison(x, y))
            assert result.result is INVALID


class TestShardingAgainstTheCase:
    """Two runs that both train something else are equal, but are not what was asked for."""

    def test_both_on_another_mesh(self, worded: Worded, a: Record, b: Record) -> None:
        mesh = {"fsdp": 2, "tensor": 2}
        a, b = (with_manifest(r, lambda m: m["case"].update(mesh=mesh)) for r in (a, b))
        result = sharding(comparison(a, b))
        assert result.result is FAIL
        worded(result)
        assert len(result.findings) == 2

    def test_both_on_more_devices_than_the_mesh_has(self, a: Record, b: Record) -> None:
        a, b = (with_observed(run, devices=8) for run in (a, b))
        result = sharding(comparison(a, b))
        assert result.result is FAIL
        assert [(f.a, f.b) for f in result.findings] == [(8, 4)] * 2

    def test_both_in_another_dtype(self, worded: Worded, a: Record, b: Record) -> None:
        a, b = (with_manifest(r, lambda m: m["case"].update(dtype="bfloat16")) for r in (a, b))
        result = sharding(comparison(a, b))
        assert result.result is FAIL
        assert {f.parameter for f in result.findings} == {a.parameters[0].name}
        worded(result)

    def test_one_parameter_in_another_dtype_on_both_sides(self, a: Record, b: Record) -> None:
        a, b = (with_parameter(r, 1, dtype="float64") for r in (a, b))
        assert sharding(comparison(a, b)).result is FAIL

    def test_a_mesh_that_nobody_asked_for(self, a: Record, b: Record) -> None:
        """`parity train` on a TPU takes the mesh that its trainer makes."""
        a, b = (as_training(r, mesh=None) for r in (a, b))
        assert sharding(comparison(a, b)).result is PASS

    def test_one_device(self, a: Record, b: Record) -> None:
        mesh = {"axes": {"fsdp": 1}, "device_order": [0]}
        alone = []
        for run in (a, b):
            requested = with_manifest(run, lambda m: m["case"].update(mesh={"fsdp": 1}))
            whole = dataclasses.replace(
                requested,
                parameters=tuple(dataclasses.replace(p, sharding="") for p in requested.parameters),
            )
            alone.append(with_observed(whole, mesh=mesh, devices=1, input_sharding=""))
        result = sharding(comparison(*alone))
        assert result.result is PASS
