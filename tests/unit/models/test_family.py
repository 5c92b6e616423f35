"""Model families: Llama's file, and one from another package."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from checkouts import torchprime_tree
from outside import installed
from safetensors.numpy import load_file

import harness
from harness.base.errors import BadInput, CannotTrain
from harness.config.case import Case, check
from harness.config.compose import load
from harness.config.settings import EngineOptions
from harness.engines import reference
from harness.engines.command import SCRATCH, Job
from harness.engines.hf.engine import HfOptions
from harness.engines.hf.engine import translate as translate_hf
from harness.engines.reference import source_of
from harness.engines.spec import TrainerOptions, engine
from harness.inputs.prepared import prepare
from harness.models import llama
from harness.models.family import Model, family
from harness.models.layout import Layout
from harness.models.router import Router
from harness.probe.spec import Spec

TINY = Model()


class TestLlama:
    def test_options_are_for_others(self) -> None:
        with pytest.raises(BadInput, match=r"case\.model\.options\.experts: .*only rope_scaling"):
            llama.check(dataclasses.replace(TINY, options={"experts": 4}))

    @pytest.mark.parametrize("share", [1.0, -0.1, "0.1"])
    def test_a_share_of_attention(self, share: object) -> None:
        llama.check(dataclasses.replace(TINY, options={"attention_dropout": 0.1}))
        with pytest.raises(BadInput, match=r"options\.attention_dropout="):
            llama.check(dataclasses.replace(TINY, options={"attention_dropout": share}))

    def test_torchprime_has_no_tied_one(self) -> None:
        with pytest.raises(CannotTrain, match="untied head"):
            llama.torchprime_overrides(dataclasses.replace(TINY, tie_embeddings=True))

    def test_norms_are_drawn_around_one_and_matrices_around_zero(self) -> None:
        normal = np.array([-1.0, 0.0, 2.0])
        assert llama.draw(TINY, "model.norm.weight", normal).tolist() == [0.8, 1.0, 1.4]
        found = llama.draw(TINY, "lm_head.weight", normal[None])
        np.testing.assert_allclose(found, [[-0.1, 0.0, 0.2]])

    def test_engines_that_are_not_known_to_have_it(self) -> None:
        with pytest.raises(CannotTrain, match=r"llama: maxtext is not known to train it; hf"):
            llama.FAMILY.in_engine("maxtext")

    def test_its_file_needs_nothing_but_the_standard_library(self) -> None:
        """It is imported in trainers' interpreters, which have neither pydantic nor Hydra."""
        script = (
            "import sys\n"
            "import harness.models.llama\n"
            "ours = ('torch', 'numpy', 'pydantic', 'hydra', 'omegaconf')\n"
            "print([name for name in ours if name in sys.modules])"
        )
        folder = Path(harness.__file__).parents[1]
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"


SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_positions": 128,
}


class TestLlama31:
    """Llama 3.1 is a Llama whose rotary embeddings are scaled."""

    def scaled(self, **changes: Any) -> Model:
        return dataclasses.replace(TINY, options={"rope_scaling": {**SCALING, **changes}})

    def test_the_case_has_wavelengths_of_every_kind(self) -> None:
        case = load(["case=llama-3.1-tiny"]).case
        assert case.model.options == {"rope_scaling": SCALING}
        size = case.model.hidden_size // case.model.heads
        lengths = [2 * math.pi * case.model.rope_theta ** (i / size) for i in range(0, size, 2)]
        assert sum(length < 128 / 4 for length in lengths) == 2
        assert sum(128 / 4 < length < 128 for length in lengths) == 1
        assert case.data.sequence_length == 128

    @pytest.mark.parametrize(
        ("size", "parameters", "devices"),
        [("8b", 8_030_261_248, 4), ("70b", 70_553_706_496, 256), ("405b", 405_853_388_800, 256)],
    )
    def test_the_full_sizes_are_those_of_their_configs(
        self, size: str, parameters: int, devices: int
    ) -> None:
        case = load([f"case=llama-3.1-{size}"]).case
        assert (case.parameters, case.devices) == (parameters, devices)
        assert llama.hf_config(case.model)["rope_scaling"] == {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        assert case.model.max_positions == 131072

    def test_transformers(self) -> None:
        assert "rope_scaling" not in llama.hf_config(TINY)
        assert llama.hf_config(self.scaled())["rope_scaling"] == {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        }

    def test_torchprime(self) -> None:
        plain, found = llama.torchprime_overrides(TINY), llama.torchprime_overrides(self.scaled())
        assert plain["model"] == "llama-3-8b"
        assert {key: found[key] for key in found.keys() - plain.keys()} == {
            "model.rope_scaling.factor": 8.0,
            "model.rope_scaling.low_freq_factor": 1.0,
            "model.rope_scaling.high_freq_factor": 4.0,
            "model.rope_scaling.original_context_len": 128,
        }
        assert found["model"] == "llama-3.1-8b"

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("factor", 0.0), ("factor", math.nan), ("factor", "8"), ("factor", True),
            ("low_freq_factor", -1.0), ("low_freq_factor", 4.0), ("high_freq_factor", math.inf),
            ("original_positions", 0), ("rope_type", "yarn"),
        ],
    )  # fmt: skip
    def test_one_that_cannot_be(self, key: str, value: Any) -> None:
        llama.check(self.scaled())
        with pytest.raises(BadInput, match=r"case\.model\.options\.rope_scaling"):
            llama.check(self.scaled(**{key: value}))

    def test_one_that_is_not_whole(self) -> None:
        with pytest.raises(BadInput, match="it has exactly factor"):
            llama.check(dataclasses.replace(TINY, options={"rope_scaling": {"factor": 8.0}}))


class TestQwen3:
    def test_each_layer_has_norms_of_its_heads(self) -> None:
        case = load(["case=qwen3-tiny"]).case
        more = {
            name: shape
            for name, shape in case.parameter_shapes().items()
            if name not in llama.shapes(case.model)
        }
        assert more == {
            f"model.layers.{i}.self_attn.{which}_norm.weight": (16,)
            for i in range(2)
            for which in "qk"
        }

    def test_it_has_no_options(self) -> None:
        model = dataclasses.replace(TINY, options={"rope_scaling": SCALING})
        with pytest.raises(BadInput, match="a Qwen 3 has none"):
            family("qwen3").check(model)

    def test_torchprime_has_none(self) -> None:
        with pytest.raises(CannotTrain, match=r"qwen3: torchprime is not known to train it; hf"):
            family("qwen3").in_engine("torchprime")

    def test_transformers(self) -> None:
        found = family("qwen3").config(TINY)
        assert (found["model_type"], found["head_dim"]) == ("qwen3", 16)


class TestMixtral:
    MODEL = dataclasses.replace(TINY, family="mixtral", options={"experts": 8, "chosen": 2})

    def test_experts_in_the_place_of_the_feed_forward_block(self) -> None:
        model = load(["case=mixtral-tiny"]).case.model
        found, plain = family("mixtral").shapes(model), llama.shapes(TINY)
        assert {n: s for n, s in plain.items() if ".mlp." not in n} == {
            n: s for n, s in found.items() if ".block_sparse_moe." not in n
        }
        layer = "model.layers.1.block_sparse_moe"
        assert {n: s for n, s in found.items() if n.startswith(layer)} == {
            f"{layer}.gate.weight": (4, 64),
            **{
                f"{layer}.experts.{i}.w{n}.weight": (64, 96) if n == 2 else (96, 64)
                for i in range(4)
                for n in (1, 2, 3)
            },
        }

    def test_mixtral_8x7b(self) -> None:
        """As its config.json has it: 46.7e9 parameters, of which 12.9e9 work on a token."""
        case = load(["case=mixtral-8x7b"]).case
        model, size = case.model, case.parameters
        assert size == 46_702_792_704
        assert case.devices == 256
        active = size - 32 * 6 * 3 * 4096 * 14336
        assert active == 12_879_925_248
        weights = active - 32000 * 4096 - 65 * 4096
        flops = family("mixtral").flops_per_token(model, 8192)
        assert flops == 6 * weights + 12 * 32 * 4096 * 8192

    def test_routers(self) -> None:
        found = family("mixtral").router(self.MODEL)
        assert found is not None
        assert found.modules == tuple(f"model.layers.{i}.block_sparse_moe.gate" for i in range(2))
        assert (found.experts, found.chosen) == (8, 2)
        assert Router.of(json.loads(json.dumps(dataclasses.asdict(found)))) == found
        assert family("llama").router(TINY) is None

    @pytest.mark.parametrize(
        "options",
        [
            None, {"experts": 8}, {"experts": 8, "chosen": 2, "capacity": 1},
            {"experts": 2, "chosen": 2}, {"experts": 8, "chosen": 0},
            {"experts": 8.0, "chosen": 2}, {"experts": 8, "chosen": True},
        ],
    )  # fmt: skip
    def test_one_that_cannot_be(self, options: Any) -> None:
        family("mixtral").check(self.MODEL)
        with pytest.raises(BadInput, match=r"case\.model\.options"):
            family("mixtral").check(dataclasses.replace(self.MODEL, options=options))

    def test_a_shape_that_no_llama_has(self) -> None:
        with pytest.raises(BadInput, match=r"case\.model\.kv_heads"):
            family("mixtral").check(dataclasses.replace(self.MODEL, kv_heads=3))

    def test_torchprime(self) -> None:
        known = family("mixtral").in_engine("torchprime")
        found = known.arguments(self.MODEL)
        assert found["model"] == "mixtral-8x7b"
        assert found["model.moe_implementation"] == "static"
        assert found["model.num_local_experts"] == 8
        assert found["model.num_experts_per_tok"] == 2
        with pytest.raises(CannotTrain, match="untied head"):
            known.arguments(dataclasses.replace(self.MODEL, tie_embeddings=True))

    def test_what_its_layers_put_out(self, tmp_path: Path) -> None:
        """The first of two tensors is sharded, as torchprime's own table names it."""
        case = load(["case=mixtral-tiny"]).case
        tree = torchprime_tree(tmp_path / "torchprime")
        command = engine("torchprime").command(Job(case, TrainerOptions(), tree))
        table = yaml.safe_load(command.files["configs/model/sharding/parity.yaml"])
        assert table["model.layers.*[0]"] == ["fsdp", None, None]
        assert "model.layers.*" not in table
        assert command.spec.router == family("mixtral").router(case.model)
        assert Spec.from_json(command.spec.to_json()).router == command.spec.router

    def test_transformers(self) -> None:
        found = family("mixtral").config(self.MODEL)
        assert (found["num_local_experts"], found["num_experts_per_tok"]) == (8, 2)
        assert found["output_router_logits"] is False

    def test_transformers_has_shapes_that_depend_on_values(self) -> None:
        case = load(["case=mixtral-tiny"]).case
        with pytest.raises(CannotTrain, match=r"shapes depend on values .*cpu-native"):
            translate_hf(Job(case, HfOptions()))
        translate_hf(Job(case, HfOptions(), device="cpu-native"))


class TestLlama4:
    MODEL = load(["case=llama4-tiny"]).case.model

    def changed(self, **options: Any) -> Model:
        return dataclasses.replace(self.MODEL, options={**(self.MODEL.options or {}), **options})

    def test_experts_in_stacks_beside_one_that_all_share(self) -> None:
        found, plain = family("llama4").shapes(self.MODEL), llama.shapes(TINY)
        assert {n: s for n, s in plain.items() if ".mlp." not in n} == {
            n: s for n, s in found.items() if ".feed_forward." not in n
        }
        layer = "model.layers.1.feed_forward"
        assert {n: s for n, s in found.items() if n.startswith(layer)} == {
            f"{layer}.experts.gate_up_proj": (4, 64, 192),
            f"{layer}.experts.down_proj": (4, 96, 64),
            f"{layer}.router.weight": (4, 64),
            f"{layer}.shared_expert.gate_proj.weight": (96, 64),
            f"{layer}.shared_expert.up_proj.weight": (96, 64),
            f"{layer}.shared_expert.down_proj.weight": (64, 96),
        }

    def test_layers_without_experts(self) -> None:
        case = load(["case=llama4-tiny-interleaved"]).case
        found = case.parameter_shapes()
        for layer in (0, 2):
            assert found[f"model.layers.{layer}.feed_forward.up_proj.weight"] == (192, 64)
        assert [n for n in found if "router" in n] == [
            f"model.layers.{i}.feed_forward.router.weight" for i in (1, 3)
        ]
        routers = family("llama4").router(case.model)
        assert routers is not None
        assert routers.modules == tuple(f"model.layers.{i}.feed_forward.router" for i in (1, 3))
        assert (routers.experts, routers.chosen) == (4, 1)

    def test_scout(self) -> None:
        """As its config.json has it: 108e9 parameters of text, of which 17e9 work on a token."""
        case = load(["case=llama4-scout"]).case
        size = case.parameters
        assert size == 107_769_861_120
        through = size - 48 * 15 * 3 * 5120 * 8192
        weights = through - 202048 * 5120 - 97 * 5120
        flops = family("llama4").flops_per_token(case.model, 8192)
        assert flops == 6 * weights + 12 * 48 * 5120 * 8192

    def test_layers_without_experts_in_flops(self) -> None:
        model = load(["case=llama4-tiny-interleaved"]).case.model
        mixed = dataclasses.replace(model, options={**(model.options or {}), "experts_every": 1})
        found = [family("llama4").flops_per_token(m, 128) for m in (model, mixed)]
        of_experts, dense = 2 * 3 * 64 * 96 + 4 * 64, 3 * 64 * 192
        assert found[1] - found[0] == 6 * 2 * (of_experts - dense)

    def test_transformers(self) -> None:
        found = family("llama4").config(load(["case=llama4-tiny-interleaved"]).case.model)
        expected = {
            "model_type": "llama4_text", "head_dim": 16, "intermediate_size": 96,
            "intermediate_size_mlp": 192, "num_local_experts": 4, "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2, "no_rope_layers": [1, 1, 1, 0], "use_qk_norm": False,
            "attention_chunk_size": 128, "attn_temperature_tuning": True, "attn_scale": 0.1,
            "floor_scale": 32,
        }  # fmt: skip
        assert {key: found[key] for key in expected} == expected
        assert found["rope_scaling"]["original_max_position_embeddings"] == 128
        cold = family("llama4").config(self.changed(temperature_scale=0))
        assert cold["attn_temperature_tuning"] is False

    def test_torchprime(self) -> None:
        known = family("llama4").in_engine("torchprime")
        found = known.arguments(load(["case=llama4-tiny-interleaved"]).case.model)
        assert found["model"] == "llama-4-text-only-scout-17b-16e"
        assert found["model.moe_layers"] == [1, 3]
        assert found["model.no_rope_layers"] == [1, 1, 1, 0]
        assert found["model.rope_scaling.factor"] == 16.0
        assert found["+model.rope_scaling.original_context_len"] == 128
        unscaled = {n: v for n, v in (self.MODEL.options or {}).items() if n != "rope_scaling"}
        plain = known.arguments(dataclasses.replace(self.MODEL, options=unscaled))
        assert plain["model.rope_scaling"] is None
        assert not [key for key in plain if "rope_scaling." in key]

    def test_torchprime_cuts_no_attention_into_chunks(self, tmp_path: Path) -> None:
        tree = torchprime_tree(tmp_path / "torchprime")
        for chunk, refused in ((128, False), (127, True)):
            word = f"case.model.options.attention_chunk={chunk}"
            case = load(["case=llama4-tiny", word]).case
            job = Job(case, TrainerOptions(), tree)
            if refused:
                with pytest.raises(CannotTrain, match="does not cut its attention into chunks"):
                    engine("torchprime").command(job)
            else:
                engine("torchprime").command(job)
            engine("hf").command(Job(case, HfOptions()))

    @pytest.mark.parametrize(
        "options",
        [
            {"experts": 0}, {"chosen": 4}, {"chosen": True}, {"nope_every": 1.5}, {"qk_norm": 1},
            {"temperature_scale": -0.1}, {"temperature_scale": math.nan}, {"capacity": 1},
            {"rope_scaling": {**SCALING, "high_freq_factor": 0.5}},
        ],
    )  # fmt: skip
    def test_one_that_cannot_be(self, options: dict[str, Any]) -> None:
        family("llama4").check(self.MODEL)
        with pytest.raises(BadInput, match=r"case\.model\.options"):
            family("llama4").check(self.changed(**options))

    def test_one_that_lacks_something(self) -> None:
        with pytest.raises(BadInput, match="has exactly experts"):
            family("llama4").check(dataclasses.replace(self.MODEL, options={"experts": 4}))

    def test_its_head_is_its_own(self) -> None:
        with pytest.raises(BadInput, match=r"case\.model\.tie_embeddings"):
            family("llama4").check(dataclasses.replace(self.MODEL, tie_embeddings=True))


FAMILY = """
import dataclasses
from harness.base.errors import BadInput
from harness.models.family import Family, InEngine
from harness.models.layout import Layout
from harness.models.llama import FAMILY as LLAMA


def check(m):
    if set(m.options or {}) != {"scale"}:
        raise BadInput("case.model.options: a scaled family has a scale")


def shapes(m):
    return {**LLAMA.shapes(dataclasses.replace(m, options=None)), "model.scale": (m.hidden_size,)}


def draw(m, name, normal):
    return m.options["scale"] + 0 * normal if name == "model.scale" else LLAMA.draw(m, name, normal)


def hf_config(m):
    return {**LLAMA.config(m), "model_type": "scaled", **m.options}


def torchprime_overrides(m):
    return {"model": "scaled", "model.scale": m.options["scale"]}


def torchprime_layouts(m):
    # Its attention multiplies by one matrix, and its output matrix is transposed.
    head_dim = m.hidden_size // m.heads
    sizes = (m.heads * head_dim, m.kv_heads * head_dim, m.kv_heads * head_dim)
    layouts = []
    for i in range(m.layers):
        layer = f"model.layers.{i}.self_attn"
        parts = tuple(f"{layer}.{name}_proj.weight" for name in "qkv")
        layouts += [
            Layout(f"{layer}.qkv.weight", parts, sizes=sizes),
            Layout(f"{layer}.out", (f"{layer}.o_proj.weight",), transposed=True),
        ]
    return tuple(layouts)


def build(model):
    import torch
    raise NotImplementedError


FAMILY = Family(
    name="scaled", check=check, shapes=shapes, draw=draw, config=hf_config,
    flops_per_token=lambda m, length: 1.0 * length,
    engines={
        "hf": InEngine("ScaledLayer"),
        "torchprime": InEngine("ScaledLayer", torchprime_overrides, torchprime_layouts),
    },
    reference=build,
)
"""


def scaled(**options: Any) -> Case:
    case = load([]).case
    model = dataclasses.replace(case.model, family="scaled", options=options)
    return dataclasses.replace(
        case, model=model, sharding={**case.sharding, "model.scale": [None]}, steps=3
    )


class TestFromOutside:
    def test_a_family_is_one_file_of_any_package(self, tmp_path: Path) -> None:
        points = {"parity.models": {"scaled": "outside_scaled:FAMILY"}}
        with installed(tmp_path / "site", {"outside_scaled.py": FAMILY}, points):
            case = scaled(scale=3.0)
            check(case)
            with pytest.raises(BadInput, match=r"case\.model\.options"):
                check(scaled())
            with pytest.raises(BadInput, match=r"case\.sharding has no pattern .* model\.scale"):
                check(dataclasses.replace(case, sharding=load([]).case.sharding))
            overrides = ["case.model.family=scaled", "+case.model.options={scale: 2.0}"]
            assert load(
                [*overrides, "+case.sharding={model.scale: [null]}"]
            ).case.model.options == {"scale": 2.0}

            inputs = prepare(case, tmp_path / "inputs")
            weights = load_file(inputs.weights)
            assert set(weights["model.scale"].tolist()) == {3.0}
            config = json.loads((inputs.model / "config.json").read_text())
            assert (config["model_type"], config["scale"]) == ("scaled", 3.0)

            wrapped = json.loads(translate_hf(Job(case, HfOptions())).files["fsdp.json"])
            assert wrapped["fsdp_transformer_layer_cls_to_wrap"] == ["ScaledLayer"]
            command = reference.translate(Job(case, EngineOptions()))
            assert command.files["family.py"] == FAMILY
            training = json.loads(command.files["training.json"])
            assert (training["family"], training["builder"]) == (f"{SCRATCH}/family.py", "build")
            assert training["model"]["options"] == {"scale": 3.0}
            assert family("scaled").flops_per_token(case.model, 7) == 7.0
            with pytest.raises(CannotTrain, match="maxtext is not known to train it"):
                family("scaled").in_engine("maxtext")

    def test_an_engine_keeps_parameters_in_a_layout_of_its_own(self, tmp_path: Path) -> None:
        """The probe, the weights that are injected and the sharding table all follow it."""
        points = {"parity.models": {"scaled": "outside_layouts:FAMILY"}}
        with installed(tmp_path / "site", {"outside_layouts.py": FAMILY}, points):
            case = scaled(scale=3.0)
            alike: dict[str, Any] = {
                f"model.layers.*.self_attn.{n}_proj.weight": ["fsdp", None] for n in "qkvo"
            }
            case = dataclasses.replace(case, sharding={**case.sharding, **alike})
            layouts = family("scaled").engines["torchprime"].layouts(case.model)
            shapes = case.parameter_shapes()
            for layout in layouts:
                rows = [shapes[name][0] for name in layout.holds]
                assert layout.transposed or list(layout.sizes) == rows
            job = Job(case, TrainerOptions(), torchprime_tree(tmp_path / "torchprime"))
            command = engine("torchprime").command(job)
            assert command.spec.layouts == layouts
            sent = Spec.from_json(command.spec.to_json())
            assert sent.layouts == layouts
            assert tuple(map(Layout.of, sent.injected["layouts"])) == layouts
            table = yaml.safe_load(command.files["configs/model/sharding/parity.yaml"])
            assert table["model.layers.*.self_attn.out"] == [None, "fsdp"]
            assert table["model.layers.*.self_attn.qkv.weight"] == ["fsdp", None]
            assert engine("hf").command(Job(case, HfOptions())).spec.layouts == ()

            apart: dict[str, Any] = {
                **case.sharding,
                "model.layers.*.self_attn.k_proj.weight": [None, "fsdp"],
            }
            job = dataclasses.replace(job, case=dataclasses.replace(case, sharding=apart))
            with pytest.raises(CannotTrain, match="have to be sharded alike"):
                engine("torchprime").command(job)

    def test_a_file_that_would_be_changed_on_its_way_is_refused(self, tmp_path: Path) -> None:
        broken = FAMILY.replace("raise NotImplementedError", 'source = 1; return f"{source}"')
        points = {"parity.models": {"scaled": "outside_broken:FAMILY"}}
        with (
            installed(tmp_path / "site", {"outside_broken.py": broken}, points),
            pytest.raises(BadInput, match=r"outside_broken\.py: \{source\}"),
        ):
            source_of(family("scaled").reference)
