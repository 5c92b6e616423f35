"""Cases: whatever cannot be trained, or would make a comparison say nothing, is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from harness.base.errors import BadInput
from harness.config.case import AS_SHIPPED, Case, case_from, check
from harness.config.compose import case_names, load


@pytest.fixture(scope="module")
def case() -> Case:
    return load([]).case


def changed(case: Case, key: str, value: Any) -> Case:
    """A Case with one key, such as `model.heads`, changed."""
    outer, _, inner = key.partition(".")
    if inner:
        value = dataclasses.replace(getattr(case, outer), **{inner: value})
    return dataclasses.replace(case, **{outer: value})


class TestNumbers:
    @pytest.mark.parametrize(
        ("key", "least"),
        [
            ("steps", 3), ("global_batch", 1), ("accumulation", 1), ("window", 1), ("seed", 0),
            ("schedule.warmup_steps", 0), ("data.sequence_length", 2), ("data.stride", 1),
            ("model.vocab_size", 1), ("model.hidden_size", 1), ("model.intermediate_size", 1),
            ("model.layers", 1), ("model.heads", 1), ("model.kv_heads", 1),
        ],
    )  # fmt: skip
    def test_too_small(self, case: Case, key: str, least: int) -> None:
        for value in (least - 1, -5):
            with pytest.raises(BadInput, match=f"case.{key}={value}: "):
                check(changed(case, key, value))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("steps", 3), ("window", 1), ("seed", 0), ("schedule.warmup_steps", 0),
            ("data.sequence_length", 2), ("data.stride", 1), ("model.layers", 1),
            ("model.max_positions", 128), ("optimizer.eps", 0.0), ("optimizer.weight_decay", 0.0),
            ("model.norm_std", 0.0), ("data.masked_prefix", 0.0), ("optimizer.betas", [0.0, 0.0]),
            ("max_norm", None), ("max_norm", 1e-9), ("accumulation", 2),
        ],
    )  # fmt: skip
    def test_just_large_enough(self, case: Case, key: str, value: Any) -> None:
        check(changed(case, key, value))

    @pytest.mark.parametrize(
        "key",
        [
            "max_norm", "optimizer.learning_rate", "model.rms_norm_eps", "model.rope_theta",
            "model.init_std",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
    def test_positive_and_finite(self, case: Case, key: str, value: float) -> None:
        """A learning rate of zero would let every optimizer pass; a NaN passes every `<`."""
        with pytest.raises(BadInput, match=f"case.{key}={value}: .*positive and finite"):
            check(changed(case, key, value))

    @pytest.mark.parametrize("key", ["optimizer.eps", "optimizer.weight_decay", "model.norm_std"])
    @pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf])
    def test_finite_and_not_negative(self, case: Case, key: str, value: float) -> None:
        with pytest.raises(BadInput, match=f"case.{key}={value}: "):
            check(changed(case, key, value))

    @pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
    def test_shares(self, case: Case, value: float) -> None:
        with pytest.raises(BadInput, match=r"case\.data\.masked_prefix="):
            check(changed(case, "data.masked_prefix", value))
        with pytest.raises(BadInput, match=r"case\.optimizer\.betas\[1\]="):
            check(changed(case, "optimizer.betas", [0.9, value]))

    @pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
    @pytest.mark.parametrize("key", ["data.padding", "data.prompts", "label_smoothing"])
    def test_shares_of_features(self, case: Case, key: str, value: float) -> None:
        with pytest.raises(BadInput, match=f"case.{key}="):
            check(changed(case, key, value))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"autocast": "float16"}, "case.autocast=float16: it has to be one of"),
            ({"autocast": "bfloat16", "dtype": "bfloat16"}, "the weights are that already"),
            ({"data.padding": 0.5}, "masked_prefix . padding=1.1"),
            ({"data.documents": 65}, "holds at most 64"),
            ({"data.positions": True, "data.padding": 0.1}, "leave case.data.padding out"),
            ({"kind": AS_SHIPPED, "data.prompts": 0.5}, "case.data.prompts=0.5: as shipped"),
        ],
    )
    def test_features_that_do_not_go_together(
        self, case: Case, fields: dict[str, Any], message: str
    ) -> None:
        for key, value in fields.items():
            case = changed(case, key, value)
        with pytest.raises(BadInput, match=message):
            check(case)

    @pytest.mark.parametrize("betas", [[], [0.9], [0.9, 0.99, 0.999]])
    def test_betas_are_two(self, case: Case, betas: list[float]) -> None:
        with pytest.raises(BadInput, match="AdamW has two"):
            check(changed(case, "optimizer.betas", betas))

    def test_null_is_named_as_the_way_to_clip_nothing(self, case: Case) -> None:
        with pytest.raises(BadInput, match="null clips nothing"):
            check(changed(case, "max_norm", 0.0))

    def test_rows_are_no_longer_than_the_model_has_positions(self, case: Case) -> None:
        with pytest.raises(BadInput, match=r"model\.max_positions=127: .* at least 128"):
            check(changed(case, "model.max_positions", 127))


class TestNames:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("kind", "shipped"), ("dtype", "float16"), ("dtype", "float64"),
            ("optimizer.name", "sgd"), ("schedule.name", "step"), ("model.attention", "flash"),
            ("precision", "bfloat16"), ("precision", ""),
        ],
    )  # fmt: skip
    def test_one_that_is_not_known(self, case: Case, key: str, value: str) -> None:
        with pytest.raises(BadInput, match=rf"case\.{key}={value}: it has to be one of "):
            check(changed(case, key, value))

    def test_a_family_that_is_not_known(self, case: Case) -> None:
        with pytest.raises(BadInput, match=r"case\.model\.family=lama: .* did you mean llama\?"):
            check(changed(case, "model.family", "lama"))

    @pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a b", "a\n"])
    def test_a_case_names_a_folder(self, case: Case, name: str) -> None:
        with pytest.raises(BadInput, match=r"case\.name="):
            check(dataclasses.replace(case, name=name))

    @pytest.mark.parametrize(
        ("fields", "precision"),
        [
            ({}, "highest"),
            ({"dtype": "bfloat16"}, "default"),
            ({"kind": AS_SHIPPED}, "default"),  # what the trainers do by themselves
            ({"precision": "default"}, "default"),
            ({"precision": "high"}, "high"),
            ({"kind": AS_SHIPPED, "precision": "highest"}, "highest"),
            ({"dtype": "bfloat16", "precision": "highest"}, "highest"),
        ],
    )
    def test_matmul_precision(self, case: Case, fields: dict[str, str], precision: str) -> None:
        found = dataclasses.replace(case, **fields)  # type: ignore[arg-type]
        check(found)
        assert found.matmul_precision == precision

    @pytest.mark.parametrize("save_at", [0, -1, 20, 21])
    def test_steps_before_and_after_a_save(self, case: Case, save_at: int) -> None:
        check(dataclasses.replace(case, save_at=19))
        with pytest.raises(BadInput, match=rf"case\.save_at={save_at}: "):
            check(dataclasses.replace(case, save_at=save_at))

    def test_kinds(self, case: Case) -> None:
        assert case.aligned
        assert not dataclasses.replace(case, kind=AS_SHIPPED).aligned


class TestShapes:
    @pytest.mark.parametrize(("hidden", "heads"), [(64, 3), (64, 64), (60, 4)])
    def test_heads_of_even_size(self, case: Case, hidden: int, heads: int) -> None:
        model = dataclasses.replace(case.model, hidden_size=hidden, heads=heads)
        with pytest.raises(BadInput, match="heads of even size"):
            check(dataclasses.replace(case, model=model))

    def test_kv_heads_divide_heads(self, case: Case) -> None:
        with pytest.raises(BadInput, match="kv_heads=3 does not divide"):
            check(changed(case, "model.kv_heads", 3))

    def test_micro_batches_divide_the_batch(self, case: Case) -> None:
        with pytest.raises(BadInput, match=r"accumulation=3 does not divide"):
            check(changed(case, "accumulation", 3))
        assert changed(case, "accumulation", 2).micro_batch == 4

    @pytest.mark.parametrize(
        ("dcn", "text"),
        [
            ({"fsdp": 3}, r"case\.dcn\.fsdp=3: .*divide case\.mesh\.fsdp=4"),
            ({"fsdp": 0}, r"case\.dcn\.fsdp=0"),
            ({"data": 2}, r"case\.dcn\.data=2: case\.mesh has no data"),
        ],
    )
    def test_slices_divide_an_axis_of_the_mesh(
        self, case: Case, dcn: dict[str, int], text: str
    ) -> None:
        with pytest.raises(BadInput, match=text):
            check(dataclasses.replace(case, dcn=dcn))

    def test_slices(self, case: Case) -> None:
        assert case.slices == 1
        across = dataclasses.replace(case, dcn={"fsdp": 2})
        check(across)
        assert across.slices == 2
        with pytest.raises(BadInput, match=r"case\.dcn: as shipped"):
            check(dataclasses.replace(across, kind=AS_SHIPPED))

    def test_the_mesh_divides_a_micro_batch(self, case: Case) -> None:
        with pytest.raises(BadInput, match="multiple of 16, or another mesh"):
            check(changed(case, "accumulation", 4))
        with pytest.raises(BadInput, match="a micro-batch of 8 rows"):
            check(changed(case, "mesh", {"fsdp": 4, "data": 4}))
        check(changed(case, "mesh", {"fsdp": 4, "data": 2}))

    def test_an_axis_that_cuts_nothing(self, case: Case) -> None:
        with pytest.raises(BadInput, match=r"case\.mesh\.expert=2: .* cuts nothing over"):
            check(changed(case, "mesh", {"fsdp": 2, "expert": 2}))
        check(changed(case, "mesh", {"fsdp": 2, "expert": 1}))
        check(changed(case, "mesh", {"fsdp": 2, "context": 2}))  # cuts along a row
        check(changed(case, "mesh", {"fsdp": 2, "data": 2}))  # cuts rows
        check(changed(case, "mesh", {"fsdp": 2, "tensor": 2}))  # cuts what layers put out
        check(load(["case=llama-tiny-2d"]).case)

    @pytest.mark.parametrize(
        ("mesh", "text"),
        [
            ({}, "no axis fsdp"), ({"tensor": 4}, "no axis fsdp"), ({"fsdp": 0}, "at least one"),
            ({"fsdp": 4, "model": 2}, r"case\.mesh\.model: the axes are"),
        ],
    )  # fmt: skip
    def test_meshes(self, case: Case, mesh: dict[str, int], text: str) -> None:
        with pytest.raises(BadInput, match=text):
            check(changed(case, "mesh", mesh))

    def test_devices(self, case: Case) -> None:
        assert case.devices == 4
        assert changed(case, "mesh", {"fsdp": 4, "tensor": 2}).devices == 8


class TestSharding:
    def sharded(self, case: Case, pattern: str, spec: Any) -> Case:
        return dataclasses.replace(case, sharding={**case.sharding, pattern: spec})

    def test_of_every_parameter(self, case: Case) -> None:
        for name, shape in case.parameter_shapes().items():
            spec = case.parameter_spec(name)
            assert spec is not None
            assert len(spec) == len(shape)
        assert case.parameter_spec("model.layers.1.mlp.up_proj.weight") == ["fsdp", None]
        assert case.parameter_spec("other") is None

    def test_a_parameter_without_one(self, case: Case) -> None:
        less = {k: v for k, v in case.sharding.items() if k != "lm_head.weight"}
        with pytest.raises(BadInput, match=r"no pattern for the parameter lm_head\.weight: add "):
            check(dataclasses.replace(case, sharding=less))

    @pytest.mark.parametrize(
        ("spec", "text"),
        [
            (["fsdp"], "has 1 entries for the 2 dimensions"),
            (["fsdp", None, None], "has 3 entries"),
            (["tensor", None], "names the axis tensor, which is not in case.mesh"),
            (["fsdp", "fsdp"], "cuts by an axis twice"),
            ([["fsdp", "fsdp"], None], "cuts by an axis twice"),
        ],
    )
    def test_one_that_cannot_be(self, case: Case, spec: Any, text: str) -> None:
        with pytest.raises(BadInput, match=text):
            check(self.sharded(case, "lm_head.weight", spec))

    def test_one_that_does_not_come_out_even(self, case: Case) -> None:
        odd = dataclasses.replace(case, model=dataclasses.replace(case.model, vocab_size=510))
        with pytest.raises(BadInput, match=r"cuts a dimension of 510 of .* into 4 parts"):
            check(odd)

    def test_two_axes_for_one_dimension(self, case: Case) -> None:
        both = self.sharded(case, "lm_head.weight", [["fsdp", "tensor"], None])
        check(dataclasses.replace(both, mesh={"fsdp": 4, "tensor": 2}))
        odd = dataclasses.replace(both, mesh={"fsdp": 4, "tensor": 3})
        with pytest.raises(BadInput, match="into 12 parts"):
            check(odd)

    def test_a_pattern_that_fits_nothing(self, case: Case) -> None:
        with pytest.raises(BadInput, match=r"names lm_haed\.weight, but the model has no such"):
            check(self.sharded(case, "lm_haed.weight", [None, None]))

    def test_tied_embeddings_leave_the_head_over(self, case: Case) -> None:
        tied = changed(case, "model.tie_embeddings", True)
        check(tied)
        assert "lm_head.weight" not in tied.parameter_shapes()


class TestPlainValues:
    @pytest.mark.parametrize("name", case_names())
    def test_every_case_of_ours_survives_a_manifest(self, name: str) -> None:
        case = load([f"case={name}"]).case
        assert case.name == name
        assert case_from(json.loads(json.dumps(dataclasses.asdict(case)))) == case

    def test_what_a_manifest_holds_is_checked(self, case: Case) -> None:
        with pytest.raises(BadInput, match=r"case\.steps=0"):
            case_from({**dataclasses.asdict(case), "steps": 0})
        with pytest.raises(BadInput, match="stepps: there is no such key; did you mean steps"):
            case_from({**dataclasses.asdict(case), "stepps": 0})
        with pytest.raises(BadInput, match="name"):
            case_from({k: v for k, v in dataclasses.asdict(case).items() if k != "name"})
        with pytest.raises(BadInput, match=r"sharding\.lm_head\.weight"):
            case_from({**dataclasses.asdict(case), "sharding": {"lm_head.weight": "fsdp"}})

    def test_a_case_cannot_be_changed(self, case: Case) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            case.steps = 1  # type: ignore[misc]
