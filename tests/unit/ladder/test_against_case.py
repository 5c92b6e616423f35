"""A run held against its case: what two runs that are wrong alike do not hide."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from builders import (
    SHARDING,
    Trainer,
    as_training,
    comparison,
    with_manifest,
    with_observed,
    with_parameter,
)

from harness.base.errors import BadInput
from harness.config.case import Case, Schedule
from harness.ladder.against_case import learning_rate, partition, tiles, tiles_of
from harness.ladder.result import Result
from harness.ladder.rungs.optimizer import optimizer
from harness.ladder.rungs.sharding import sharding
from harness.record.evidence import Record

PASS, FAIL = Result.PASS, Result.FAIL
DEVICES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def b() -> Record:
    return Trainer(label="torchprime", groups=2, sums=-1).record()


def both(a: Record, b: Record, change: Callable[[Record], Record]) -> Any:
    """The sharding rung of two runs that were changed alike."""
    return sharding(comparison(change(a), change(b)))


class TestParameters:
    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_one_that_neither_has(self, a: Record, b: Record, index: int) -> None:
        name = a.parameters[index].name

        def change(run: Record) -> Record:
            kept = tuple(p for p in run.parameters if p.name != name)
            return dataclasses.replace(run, parameters=kept)

        result = both(a, b, change)
        assert result.result is FAIL
        assert [f.parameter for f in result.findings] == [name, name]

    def test_one_that_the_model_has_not(self, a: Record, b: Record) -> None:
        result = both(a, b, lambda run: with_parameter(run, 1, name="model.norm.bias"))
        assert result.result is FAIL
        assert {f.parameter for f in result.findings} == {"model.norm.weight", "model.norm.bias"}

    def test_another_shape_on_both_sides(self, a: Record, b: Record) -> None:
        result = both(a, b, lambda run: with_parameter(run, 0, shape=(8, 16)))
        assert (result.result, result.findings[0].parameter) == (FAIL, a.parameters[0].name)
        assert (result.findings[0].a, result.findings[0].b) == ([8, 16], [16, 8])


class TestPartition:
    @pytest.mark.parametrize("annotation", ["", "{replicated}", "{devices=[1,4]0,1,2,3}", "{?}"])
    def test_both_otherwise_than_the_table(self, a: Record, b: Record, annotation: str) -> None:
        result = both(a, b, lambda run: with_parameter(run, 0, sharding=annotation))
        assert (result.result, result.findings[0].parameter) == (FAIL, a.parameters[0].name)

    def test_a_table_that_leaves_a_parameter_out_is_damaged(self, a: Record, b: Record) -> None:
        """A misspelt key of the table switched the check of its parameter off."""

        def change(manifest: dict[str, Any]) -> None:
            table = manifest["case"]["sharding"]
            table["model.norm.weights"] = table.pop("model.norm.weight")

        with pytest.raises(BadInput, match=r"how model\.norm\.weight is cut"):
            both(a, b, lambda run: with_manifest(run, change))

    def test_nothing_is_sharded_at_all(self, a: Record, b: Record) -> None:
        def change(run: Record) -> Record:
            for index in range(len(run.parameters)):
                run = with_parameter(run, index, sharding="")
            return with_observed(run, input_sharding="")

        result = both(a, b, change)
        assert result.result is FAIL
        assert len(result.findings) == 2 * (len(a.parameters) + 1)

    @pytest.mark.parametrize("annotation", ["", "{devices=[1,4]0,1,2,3}"])
    def test_input_tokens(self, a: Record, b: Record, annotation: str) -> None:
        result = both(a, b, lambda run: with_observed(run, input_sharding=annotation))
        assert result.result is FAIL

    def test_what_parity_train_was_given_is_not_judged(self, a: Record, b: Record) -> None:
        result = both(a, b, lambda run: as_training(with_parameter(run, 0, sharding="")))
        assert result.result is PASS

    @pytest.mark.parametrize(
        ("spec", "mesh", "annotation"),
        [
            (["fsdp", None], {"fsdp": 4}, "{devices=[4,1]0,1,2,3}"),
            ([None, "fsdp"], {"fsdp": 4}, "{devices=[1,4]0,1,2,3}"),
            ([None], {"fsdp": 4}, "{replicated}"),
            ([None], {"fsdp": 4}, ""),
            (["fsdp", "tensor"], {"fsdp": 2, "tensor": 2}, "{devices=[2,2]0,1,2,3}"),
            (["tensor", "fsdp"], {"fsdp": 2, "tensor": 2}, "{devices=[2,2]0,2,1,3}"),
            ([["fsdp", "tensor"], None], {"fsdp": 2, "tensor": 2}, "{devices=[4,1]0,1,2,3}"),
            ([["tensor", "fsdp"], None], {"fsdp": 2, "tensor": 2}, "{devices=[4,1]0,2,1,3}"),
            (["fsdp", None], {"fsdp": 2, "tensor": 2},
             "{devices=[2,1,2]0,1,2,3 last_tile_dim_replicate}"),
            (["tensor"], {"fsdp": 2, "tensor": 2},
             "{devices=[2,2]0,2,1,3 last_tile_dim_replicate}"),
        ],
    )  # fmt: skip
    def test_annotations_of_torch_xla(
        self, spec: list[Any], mesh: dict[str, int], annotation: str
    ) -> None:
        assert tiles_of(annotation, len(spec), DEVICES) == tiles(spec, mesh, DEVICES)

    @pytest.mark.parametrize(
        "annotation",
        [
            "{devices=[4,1]0,1,2}", "{devices=[2,2]0,2,1,3}", "{devices=[4,1]3,2,1,0}",
            "{devices=[2,1,2]0,1,2,3 last_tile_dim_replicate}", "{maximal device=0}",
        ],
    )  # fmt: skip
    def test_annotations_of_another_partition(self, annotation: str) -> None:
        wanted = tiles(["fsdp", None], {"fsdp": 4}, DEVICES)
        assert tiles_of(annotation, 2, DEVICES) != wanted

    def test_the_builders_table_is_what_their_records_hold(self, a: Record) -> None:
        for parameter in a.parameters:
            spec = SHARDING[parameter.name]
            found = tiles_of(parameter.sharding, len(spec), DEVICES)
            assert found == tiles(spec, {"fsdp": 4}, DEVICES)


class TestOptimizer:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("betas", [0.9, 0.95]), ("eps", 1e-6), ("weight_decay", 0.1), ("amsgrad", True),
            ("maximize", True), ("eps", "nan"), ("decoupled_weight_decay", False),
        ],
    )  # fmt: skip
    def test_both_with_other_hyper_parameters(self, key: str, value: Any) -> None:
        class Other(Trainer):
            def hyper(self, group: int, step: int) -> dict[str, Any]:
                return {**super().hyper(group, step), key: value}

        result = optimizer(comparison(Other().record(), Other(label="b").record()))
        assert (result.result, result.findings[0].step) == (FAIL, 0)

    def test_whether_norms_decay_is_left_to_the_trainer(self) -> None:
        class NoneForNorms(Trainer):
            def hyper(self, group: int, step: int) -> dict[str, Any]:
                decay = 0.0 if group == 1 else self.weight_decay
                return {**super().hyper(group, step), "weight_decay": decay}

        pair = [NoneForNorms(label=n, groups=2, weight_decay=0.1).record() for n in ("a", "b")]
        assert optimizer(comparison(*pair)).result is PASS

    @pytest.mark.parametrize("key", ["betas", "eps", "weight_decay"])
    def test_what_both_optimizers_do_not_say(self, key: str) -> None:
        class Silent(Trainer):
            def hyper(self, group: int, step: int) -> dict[str, Any]:
                return {k: v for k, v in super().hyper(group, step).items() if k != key}

        a, b = Silent().record(), Silent(label="b").record()
        assert optimizer(comparison(a, b)).result is FAIL

    def test_a_parameter_that_no_optimizer_holds(self, a: Record, b: Record) -> None:
        x, y = (with_parameter(run, 1, group=None) for run in (a, b))
        result = optimizer(comparison(x, y))
        assert (result.result, result.findings[0].parameter) == (FAIL, a.parameters[1].name)

    def test_both_with_another_class(self, a: Record, b: Record) -> None:
        pair = [
            dataclasses.replace(r, groups=tuple((s, "torch.optim.sgd.SGD", g) for s, _, g in
                                                r.groups))
            for r in (a, b)
        ]  # fmt: skip
        result = optimizer(comparison(*pair))
        assert (result.result, result.findings[0].a) == (FAIL, "SGD")


class TestPartitionOfOneRun:
    def kinds(self, run: Record) -> list[str]:
        return [finding.kind for finding in partition(run)]

    def test_as_the_table_says(self, a: Record) -> None:
        assert self.kinds(a) == []

    @pytest.mark.parametrize("kind", ["aligned", "as_shipped"])
    def test_only_of_an_aligned_case(self, a: Record, kind: str) -> None:
        run = with_manifest(
            with_parameter(a, 0, sharding=""), lambda m: m["case"].update(kind=kind)
        )
        assert self.kinds(run) == (["partition"] if kind == "aligned" else [])

    def test_what_was_not_observed_is_not_judged(self, a: Record) -> None:
        assert self.kinds(with_observed(with_parameter(a, 0, sharding=""), mesh=None)) == []
        assert self.kinds(with_observed(a, devices=None)) == []
        staged = dataclasses.replace(a.manifest, role="staged")
        traced = with_observed(dataclasses.replace(a, manifest=staged), devices=1)
        assert self.kinds(traced) == []  # for more devices than its process has
        assert self.kinds(with_observed(a, input_sharding=None)) == []

    @pytest.mark.parametrize(("devices", "found"), [(4, []), (8, [(8, 4)])])
    def test_on_the_devices_of_the_mesh(
        self, a: Record, devices: int, found: list[tuple[int, int]]
    ) -> None:
        assert [(f.a, f.b) for f in partition(with_observed(a, devices=devices))] == found

    def test_devices_are_numbered_as_the_engines_do_in_whatever_order_json_has_the_axes(
        self, a: Record
    ) -> None:
        """A manifest's keys are sorted: expert comes before fsdp there, and after it in a mesh."""
        assert isinstance(a.case, Case)
        case = dataclasses.replace(a.case, mesh={"expert": 2, "fsdp": 2})
        cut = "{devices=[2,1,2]0,1,2,3 last_tile_dim_replicate}"
        lookup = next(
            i for i, p in enumerate(a.parameters) if case.parameter_spec(p.name) == ["fsdp", None]
        )
        name = a.parameters[lookup].name
        cut_so = with_parameter(a, lookup, sharding=cut)
        run = dataclasses.replace(cut_so, manifest=dataclasses.replace(cut_so.manifest, case=case))
        assert name not in [finding.parameter for finding in partition(run)]

    def test_a_mesh_of_fewer_devices_than_it_has_places(self) -> None:
        held = tiles(["fsdp"], {"fsdp": 4}, (0, 1))
        assert held == {(0,): frozenset({0}), (1,): frozenset({1})}


class TestLearningRate:
    @pytest.mark.parametrize(
        ("name", "warmup", "rates"),
        [
            ("linear", 0, [1.0, 0.75, 0.5, 0.25]),
            ("constant", 0, [1.0, 1.0, 1.0, 1.0]),
            ("constant", 2, [0.0, 0.5, 1.0, 1.0]),
            ("cosine", 0, [1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
            ("linear", 4, [0.0, 0.25, 0.5, 0.75]),
            ("linear", 3, [0.0, 1 / 3, 2 / 3, 1.0]),
        ],
    )
    def test_of_each_schedule(self, name: str, warmup: int, rates: list[float]) -> None:
        case = Trainer(steps=4, warmup=warmup, learning_rate=1.0).record().case
        assert isinstance(case, Case)
        other = dataclasses.replace(case, schedule=Schedule(name=name, warmup_steps=warmup))
        assert [learning_rate(other, step) for step in range(4)] == pytest.approx(rates)

    def test_of_one_that_is_not_known(self, a: Record) -> None:
        assert isinstance(a.case, Case)
        case = dataclasses.replace(a.case, schedule=Schedule(name="sawtooth", warmup_steps=2))
        with pytest.raises(BadInput, match="it is none of linear, constant, cosine"):
            learning_rate(case, 0)

    def test_warm_up_and_decay(self) -> None:
        case = Trainer(steps=8, warmup=2, learning_rate=1e-2).record().case
        rates = [learning_rate(case, step) for step in range(8)]  # type: ignore[arg-type]
        assert rates == pytest.approx(
            [0.0, 0.005, 0.01, 0.01 * 5 / 6, 0.01 * 4 / 6, 0.005, 0.01 * 2 / 6, 0.01 / 6]
        )
