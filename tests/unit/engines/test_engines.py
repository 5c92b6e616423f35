"""Engines: every part of a Case reaches the trainer, or is refused."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkouts import torchprime_tree

from harness.base.errors import BadInput, CannotTrain
from harness.config.case import AS_SHIPPED, Case
from harness.config.compose import load
from harness.config.settings import EngineOptions, SeededFault
from harness.engines.command import Command, Course, Job, flag
from harness.engines.hf import engine as hf_engine
from harness.engines.reference import float64_reference
from harness.engines.spec import engine
from harness.engines.torchprime.engine import CONFIG_FOLDER, SCRIPT, read_defaults
from harness.models.family import family
from harness.probe.spec import Saving, Spec
from harness.record.evidence import Reported


@pytest.fixture(scope="module")
def case() -> Case:
    return load([]).case


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return torchprime_tree(tmp_path)


def changed(case: Case, **fields: Any) -> Case:
    """A Case with fields such as `optimizer__name` changed."""
    for key, value in fields.items():
        outer, _, inner = key.partition("__")
        if inner:
            value = dataclasses.replace(getattr(case, outer), **{inner: value})
        case = dataclasses.replace(case, **{outer: value})
    return case


NAMES = ("hf", "torchprime", "reference")


def command_of(
    name: str,
    case: Case,
    options: dict[str, Any] | None = None,
    checkout: Path | None = None,
    device: str = "cpu",
    staged: bool = False,
) -> Command:
    """What the engine of this name makes of a case under these options."""
    spec = engine(name)
    return spec.command(Job(case, spec.options(**(options or {})), checkout, device, staged))


def on_course(name: str, case: Case, course: Course, checkout: Path | None = None) -> Command:
    """The command of one of the runs of a case that saves."""
    spec = engine(name)
    return spec.command(Job(case, spec.options(), checkout, course=course))


def hf(case: Case, options: dict[str, Any] | None = None) -> dict[str, str]:
    """The Trainer's arguments by name."""
    command = command_of("hf", case, options)
    assert all(a.startswith("--") and "=" in a for a in command.argv[1:])
    return dict(a.removeprefix("--").split("=", 1) for a in command.argv[1:])


def torchprime(case: Case, checkout: Path, options: dict[str, Any] | None = None) -> dict[str, str]:
    """torchprime's overrides by key."""
    command = command_of("torchprime", case, options, checkout)
    return dict(a.split("=", 1) for a in command.argv[3:])


def reference(case: Case) -> dict[str, Any]:
    """The reference's training."""
    command = command_of("reference", case)
    training = json.loads(command.files["training.json"])
    assert isinstance(training, dict)
    return training


CHANGES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"steps": 40}, {"max_steps": "40"}, {"task.max_steps": "40"}, {"steps": 40}),
    ({"global_batch": 16}, {"per_device_train_batch_size": "16"},
     {"task.global_batch_size": "16"}, {"micro_batch": 16}),
    ({"seed": 7}, {"seed": "7"}, {"seed": "7"}, {"seed": 7}),
    ({"max_norm": 0.5}, {"max_grad_norm": "0.5"}, {"task.max_grad_norm": "0.5"},
     {"max_norm": 0.5}),
    ({"max_norm": None}, {"max_grad_norm": "0.0"}, {"task.max_grad_norm": "null"},
     {"max_norm": None}),
    ({"optimizer__learning_rate": 3e-4}, {"learning_rate": "0.0003"},
     {"task.optimizer.learning_rate": "0.0003"}, {"learning_rate": 3e-4}),
    ({"optimizer__weight_decay": 0.1}, {"weight_decay": "0.1"},
     {"+task.optimizer.weight_decay": "0.1"}, {"weight_decay": 0.1}),
    ({"schedule__name": "cosine"}, {"lr_scheduler_type": "cosine"},
     {"task.lr_scheduler.type": "cosine"}, {"schedule": "cosine"}),
    ({"schedule__warmup_steps": 9}, {"warmup_steps": "9"},
     {"task.lr_scheduler.warmup_steps": "9"}, {"warmup_steps": 9}),
    ({"data__sequence_length": 64}, {"block_size": "64"}, {"dataset.block_size": "64"}, {}),
    ({"model__layers": 3}, {}, {"model.num_hidden_layers": "3"}, {}),
    ({"model__kv_heads": 1}, {}, {"model.num_key_value_heads": "1"}, {}),
    ({"model__rope_theta": 5e5}, {}, {"model.rope_theta": "500000.0"}, {}),
    ({"model__rms_norm_eps": 1e-6}, {}, {"model.rms_norm_eps": "1e-06"}, {}),
    ({"model__remat": False}, {},
     {"model.remat.activation_checkpoint_layers": "[]"}, {}),
]  # fmt: skip


class TestTheCaseReachesEveryTrainer:
    @pytest.mark.parametrize(("fields", "by_hf", "by_torchprime", "by_reference"), CHANGES)
    def test_a_change(
        self, case: Case, checkout: Path, fields: dict[str, Any], by_hf: dict[str, str],
        by_torchprime: dict[str, str], by_reference: dict[str, Any],
    ) -> None:  # fmt: skip
        other = changed(case, **fields)
        for found, before, expected in (
            (hf(other), hf(case), by_hf),
            (torchprime(other, checkout), torchprime(case, checkout), by_torchprime),
            (reference(other), reference(case), by_reference),
        ):
            for key, value in expected.items():
                assert found[key] == value
                assert before[key] != value
        assert reference(other)["model"] == dataclasses.asdict(other.model)

    @pytest.mark.parametrize("key", ["betas", "eps"])
    def test_what_torchprime_cannot_be_asked_for(
        self, case: Case, checkout: Path, key: str
    ) -> None:
        value = [0.9, 0.95] if key == "betas" else 1e-6
        other = changed(case, **{f"optimizer__{key}": value})
        assert hf(other) != hf(case)
        assert reference(other)[key] == value
        with pytest.raises(BadInput, match="trains with betas"):
            torchprime(other, checkout)

    @pytest.mark.parametrize(
        ("fields", "by_hf", "by_reference"),
        [
            ({"autocast": "bfloat16"}, {"bf16": "True"}, {"autocast": "bfloat16"}),
            ({"label_smoothing": 0.1}, {"label_smoothing_factor": "0.1"}, {"label_smoothing": 0.1}),
            ({"data__positions": True, "data__documents": 2}, {}, {}),
        ],
    )
    def test_features_that_torchprime_has_not(
        self, case: Case, checkout: Path, fields: dict[str, Any], by_hf: dict[str, str],
        by_reference: dict[str, Any],
    ) -> None:  # fmt: skip
        other = changed(case, **fields)
        assert {k: v for k, v in hf(other).items() if k not in hf(case)} == by_hf
        before = reference(case)
        assert {k: v for k, v in reference(other).items() if before[k] != v} == by_reference
        with pytest.raises(CannotTrain, match=r"compare with engines=\[hf,reference\]"):
            torchprime(other, checkout)

    def test_a_kernel_of_a_tpu(self, case: Case, checkout: Path) -> None:
        """torchprime has it, of transformers the fork for TPUs, and the reference has none."""
        other = changed(case, model__attention="flash_attention")
        assert torchprime(case, checkout)["model.attention_kernel"] == "null"
        assert torchprime(other, checkout)["model.attention_kernel"] == "flash_attention"
        with pytest.raises(CannotTrain, match=r"engine\.hf\.source=.*transformers@flash_attention"):
            hf(other)
        argv = command_of("hf", other, checkout=checkout).argv
        assert [word for word in argv if "attention" in word] == ["--flash_attention=True"]
        with pytest.raises(CannotTrain, match=r"compare with engines=\[hf,torchprime\]"):
            reference(other)
        float64_reference(Job(other, EngineOptions()))  # what is to be computed is the same

    def test_a_kernel_that_torchprime_alone_has(self, case: Case, checkout: Path) -> None:
        other = changed(case, model__attention="splash_attention")
        assert torchprime(other, checkout)["model.attention_kernel"] == "splash_attention"
        with pytest.raises(CannotTrain, match=r"splash_attention: neither .*; torchprime has"):
            command_of("hf", other, checkout=checkout)
        with pytest.raises(CannotTrain, match=r"splash_attention: .*engines=\[hf,torchprime\]"):
            reference(other)

    def test_float64_casts_nothing_and_smooths(self, case: Case) -> None:
        other = changed(case, autocast="bfloat16", label_smoothing=0.1)
        command = float64_reference(Job(other, EngineOptions()))
        training = json.loads(command.files["training.json"])
        assert (training["autocast"], training["label_smoothing"]) == (None, 0.1)

    def test_supervised_fine_tuning_is_a_task_of_torchprime(
        self, case: Case, checkout: Path
    ) -> None:
        other = changed(case, data__prompts=0.5)
        with pytest.raises(CannotTrain, match="no task sft"):
            torchprime(other, checkout)
        (checkout / CONFIG_FOLDER / "task" / "sft.yaml").write_text("name: sft\n")
        found = torchprime(other, checkout)
        assert found["task"] == "sft"
        assert found["task.export_checkpoint_path"] == "null"
        assert "task" not in torchprime(case, checkout)
        assert hf(other) == hf(case)

    def test_betas(self, case: Case) -> None:
        found = hf(changed(case, optimizer__betas=[0.8, 0.95], optimizer__eps=1e-6))
        assert found["adam_beta1"] == "0.8"
        assert found["adam_beta2"] == "0.95"
        assert found["adam_epsilon"] == "1e-06"

    def test_adafactor(self, case: Case, checkout: Path) -> None:
        other = changed(case, optimizer__name="adafactor")
        assert hf(other)["optim"] == "adafactor"
        assert "adam_beta1" not in hf(other)
        assert hf(case)["optim"] == "adamw_torch"
        found = torchprime(other, checkout)
        assert found["task.optimizer.type"] == "adafactor"
        assert "+task.optimizer.weight_decay" not in found
        with pytest.raises(BadInput, match="the reference has only adamw"):
            reference(other)

    def test_accumulation(self, case: Case, checkout: Path) -> None:
        other = changed(case, accumulation=2)
        assert hf(other)["gradient_accumulation_steps"] == "2"
        assert hf(other)["per_device_train_batch_size"] == "4"
        assert reference(other)["accumulation"] == 2
        assert reference(other)["micro_batch"] == 4
        with pytest.raises(BadInput, match="torchprime does not accumulate gradients"):
            torchprime(other, checkout)

    def test_a_constant_rate_warms_up_too(self, case: Case, checkout: Path) -> None:
        """transformers' `constant` would leave the warm-up out, the reference's would not."""
        warm = changed(case, schedule__name="constant")
        assert hf(warm)["lr_scheduler_type"] == "constant_with_warmup"
        assert torchprime(warm, checkout)["task.lr_scheduler.type"] == "constant_with_warmup"
        assert reference(warm)["schedule"] == "constant"
        cold = changed(warm, schedule__warmup_steps=0)
        assert hf(cold)["lr_scheduler_type"] == "constant"
        assert torchprime(cold, checkout)["task.lr_scheduler.type"] == "constant"

    def test_recomputation(self, case: Case, checkout: Path) -> None:
        for remat, layers in ((True, "[LlamaDecoderLayer]"), (False, "[]")):
            other = changed(case, model__remat=remat)
            command = command_of("hf", other)
            assert json.loads(command.files["fsdp.json"])["xla_fsdp_grad_ckpt"] is remat
            key = "model.remat.optimization_barrier_layers"
            assert torchprime(other, checkout)[key] == layers

    def test_the_mesh(self, case: Case, checkout: Path) -> None:
        two = load(["case=llama-tiny-2d"]).case
        assert two.mesh == {"fsdp": 2, "tensor": 2}
        found = torchprime(two, checkout)
        assert (found["ici_mesh.fsdp"], found["ici_mesh.tensor"]) == ("2", "2")
        assert found["ici_mesh.data"] == "1"
        assert reference(two)["mesh"] == two.mesh
        spec = command_of("hf", two).spec
        assert spec.injected["mesh"] == [("fsdp", 2), ("tensor", 2)]
        assert spec.injected["sharding"] == two.sharding
        assert command_of("hf", case).spec.injected["mesh"] is None

    def test_axes_have_one_order_however_they_are_written_down(self) -> None:
        other = load(["case.mesh.fsdp=2", "+case.mesh.data=2"]).case
        assert list(other.mesh) == ["fsdp", "data"]
        assert list(reference(other)["mesh"]) == ["data", "fsdp"]
        injected = Spec.from_json(command_of("hf", other).spec.to_json()).injected
        assert injected["mesh"] == [["data", 2], ["fsdp", 2]]

    def test_nor_are_they_put_in_order_by_their_names(self, checkout: Path) -> None:
        """In which JSON writes them: devices would be numbered otherwise than torchprime does."""
        experts = load(
            [
                "case=llama4-tiny",
                "sharding@case.sharding=llama4-fsdp-expert",
                "case.mesh.fsdp=2",
                "+case.mesh.expert=2",
            ]
        ).case
        injected = Spec.from_json(command_of("hf", experts).spec.to_json()).injected
        assert injected["mesh"] == [["fsdp", 2], ["expert", 2]]
        assert list(reference(experts)["mesh"]) == ["fsdp", "expert"]

    def test_a_mesh_across_slices(self, case: Case, checkout: Path) -> None:
        """Each engine gets the part within a slice and the part across slices of every axis."""
        two = load(["case=llama-tiny-two-slices"]).case
        assert (two.devices, two.slices) == (8, 2)
        found = torchprime(two, checkout)
        assert (found["ici_mesh.fsdp"], found["dcn_mesh.fsdp"]) == ("4", "2")
        assert (reference(two)["mesh"], reference(two)["dcn"]) == ({"fsdp": 8}, {"fsdp": 2})
        spec = command_of("hf", two).spec
        assert (spec.injected["mesh"], spec.injected["dcn"]) == ([("fsdp", 8)], {"fsdp": 2})
        for name in ("hf", "reference"):
            assert command_of(name, two).spec.slices == 2
            assert command_of(name, case).spec.slices == 1
        assert not any(key.startswith("dcn_mesh") for key in torchprime(case, checkout))

    def test_a_mesh_that_the_trainer_cannot_have(self, case: Case, checkout: Path) -> None:
        shipped = changed(load(["case=llama-tiny-2d"]).case, kind=AS_SHIPPED)
        with pytest.raises(BadInput, match="as shipped the Trainer's mesh has only fsdp"):
            hf(shipped)
        (checkout / CONFIG_FOLDER / "default.yaml").write_text("ici_mesh: {fsdp: 4}\n")
        with pytest.raises(BadInput, match=r"case\.mesh\.tensor: this torchprime's mesh has fsdp"):
            torchprime(load(["case=llama-tiny-2d"]).case, checkout)

    @pytest.mark.parametrize("name", NAMES)
    def test_none_cuts_along_a_row(self, case: Case, checkout: Path, name: str) -> None:
        table = {**case.sharding, "lm_head.weight": ["context", "fsdp"]}
        along = changed(case, mesh={"fsdp": 2, "context": 2}, sharding=table)
        with pytest.raises(CannotTrain, match=r"case\.mesh\.context=2"):
            command_of(name, along, checkout=checkout)
        command_of(name, changed(along, mesh={"fsdp": 2, "context": 1}), checkout=checkout)

    def test_torchprime_is_traced_with_rows_that_are_cut(self, case: Case, checkout: Path) -> None:
        along = changed(case, mesh={"fsdp": 2, "context": 2})
        command = command_of("torchprime", along, checkout=checkout, staged=True)
        assert "ici_mesh.context=2" in command.argv

    def test_the_sharding(self, case: Case, checkout: Path) -> None:
        command = command_of("torchprime", case, checkout=checkout)
        table = yaml.safe_load(command.files["configs/model/sharding/parity.yaml"])
        for pattern, spec in case.sharding.items():
            assert table[pattern] == spec
        assert table["lm_head"][0] == "fsdp"
        assert torchprime(case, checkout)["model/sharding"] == "parity"
        assert reference(case)["sharding"] == case.sharding

    def test_the_dtype(self, case: Case, checkout: Path) -> None:
        other = changed(case, dtype="bfloat16")
        assert hf(other)["torch_dtype"] == "bfloat16"
        spec = command_of("torchprime", other, checkout=checkout).spec
        assert spec.injected["dtype"] == "bfloat16"
        assert reference(other)["dtype"] == "bfloat16"


class TestInjected:
    """What the probe has to make identical."""

    def commands(self, case: Case, checkout: Path) -> dict[str, Command]:
        names = NAMES if case.aligned else ("hf", "torchprime")
        return {n: command_of(n, case, checkout=checkout) for n in names}

    def test_aligned(self, case: Case, checkout: Path) -> None:
        for command in self.commands(case, checkout).values():
            spec = command.spec
            assert spec.inject is not None
            assert "inject.py" in command.files
            assert (spec.steps, spec.micro_batch, spec.window) == (20, 8, 5)
            assert spec.rows == "{inputs}/rows.npz"
            assert not spec.save_initial
            assert spec.faults == ()
        assert hf(case)["model_name_or_path"] == "{inputs}/model"
        assert self.commands(case, checkout)["torchprime"].spec.injected["weights"] == (
            "{inputs}/model/model.safetensors"
        )
        assert reference(case)["weights"] == "{inputs}/model/model.safetensors"

    def test_as_shipped(self, case: Case, checkout: Path) -> None:
        shipped = changed(case, kind=AS_SHIPPED)
        for command in self.commands(shipped, checkout).values():
            assert command.spec.rows is None
            assert command.spec.injected.get("weights") is None
            assert command.spec.injected.get("sharding") is None
            assert command.spec.save_initial
        assert "model_name_or_path" not in hf(shipped)
        assert hf(shipped)["config_name"] == "{inputs}/model"
        with pytest.raises(BadInput, match="the reference has no text pipeline"):
            reference(shipped)

    def test_staged(self, case: Case, checkout: Path) -> None:
        """No weights are prepared; rows are, and the mesh is that of the case."""
        for name in NAMES:
            spec = engine(name)
            job = Job(case, spec.options(), checkout, staged=True)
            command = spec.command(job)
            assert command.spec.stage == 4
            assert command.spec.rows == "{inputs}/rows.npz"
            training = command.files.get("training.json", "")
            assert "model.safetensors" not in str((command.argv, command.spec, training))
            assert command.spec.injected.get("meta", True)
        job = Job(changed(case, kind=AS_SHIPPED), engine("hf").options(), staged=True)
        assert not engine("hf").command(job).spec.save_initial
        assert command_of("hf", case).spec.stage is None
        assert not command_of("hf", case).spec.injected["meta"]

    def test_faults(self, case: Case, checkout: Path) -> None:
        options = {"faults": [SeededFault("rope_theta", {"factor": 2}), SeededFault("label_shift")]}
        for name in NAMES:
            spec = command_of(name, case, options, checkout).spec
            assert [(f.name, f.arguments) for f in spec.faults] == [
                ("rope_theta", {"factor": 2}), ("label_shift", {}),
            ]  # fmt: skip
            assert Spec.from_json(spec.to_json()) == spec

    def test_a_spec_with_an_unknown_key_is_refused(self, case: Case) -> None:
        raw = json.loads(command_of("hf", case).spec.to_json())
        with pytest.raises(TypeError):
            Spec.from_json(json.dumps({**raw, "other": 1}))

    def test_the_einsum_lowering(self, case: Case) -> None:
        assert command_of("hf", case, {"einsum_linear": True}).spec.injected["einsum_linear"]
        assert not command_of("hf", case).spec.injected["einsum_linear"]

    @pytest.mark.parametrize("name", ["hf", "torchprime"])
    def test_an_injection_takes_what_it_is_given(
        self, case: Case, checkout: Path, name: str
    ) -> None:
        """A misspelt argument would be found only by a run."""
        command = command_of(name, case, checkout=checkout)
        tree = ast.parse(command.files["inject.py"])
        (function,) = (
            node for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name == "inject"
        )  # fmt: skip
        assert {argument.arg for argument in function.args.args} == set(command.spec.injected)

    def test_float64_reference_trains_the_same_in_float64_on_the_host(self, case: Case) -> None:
        command = float64_reference(Job(changed(case, dtype="bfloat16"), EngineOptions()))
        training = json.loads(command.files["training.json"])
        same = reference(case)
        assert (training["dtype"], training["eager"]) == ("float64", True)
        assert command.spec.eager
        assert command.spec.rows is None  # it has them itself
        assert training["weights_dtype"] == "bfloat16"  # as the engines round them
        assert {k for k in same if training[k] != same[k]} == {
            "dtype", "eager", "remat", "weights_dtype"
        }  # fmt: skip


class TestWithoutXla:
    """launcher.device=cpu-native: one process of eager PyTorch."""

    def test_the_trainer_checkpoints_by_itself_and_has_no_fsdp(self, case: Case) -> None:
        for remat in (True, False):
            asked = changed(case, model__remat=remat, mesh={"fsdp": 1})
            command = command_of("hf", asked, device="cpu-native")
            found = dict(a.removeprefix("--").split("=", 1) for a in command.argv[1:])
            assert found.get("gradient_checkpointing") == ("True" if remat else None)
            assert not {"fsdp", "fsdp_config"} & found.keys()
            assert "fsdp.json" not in command.files
            assert command.spec.eager
            assert command.spec.injected["sharding"] is None
            assert "XLA_USE_SPMD" not in command.environment

    def test_the_reference_trains_the_prepared_rows(self, case: Case) -> None:
        command = command_of("reference", case, device="cpu-native")
        training = json.loads(command.files["training.json"])
        assert (training["eager"], training["dtype"]) == (True, case.dtype)
        assert training["remat"] == case.model.remat
        assert command.spec.rows is not None

    def test_what_needs_xla_is_refused(self, case: Case, checkout: Path) -> None:
        with pytest.raises(CannotTrain, match=r"cpu-native: torchprime .* hf, reference"):
            command_of("torchprime", case, checkout=checkout, device="cpu-native")
        with pytest.raises(BadInput, match=r"einsum_linear=true: it is torch_xla's"):
            command_of("hf", case, {"einsum_linear": True}, device="cpu-native")


class TestOptions:
    def test_arguments_of_the_user_win(self, case: Case, checkout: Path) -> None:
        options: dict[str, Any] = {
            "arguments": {"learning_rate": 5, "block_size": None, "new": "x"}
        }
        found = hf(case, options)
        assert found["learning_rate"] == "5"
        assert "block_size" not in found
        assert found["new"] == "x"
        options = {"arguments": {"task.optimizer.weight_decay": 9, "+seed": 1, "new": None}}
        found = torchprime(case, checkout, options)
        assert found["task.optimizer.weight_decay"] == "9"
        assert "+task.optimizer.weight_decay" not in found
        assert found["+seed"] == "1"
        assert "seed" not in found
        assert found["new"] == "null"

    @pytest.mark.parametrize(
        ("name", "arguments", "beyond"),
        [
            ("hf", {"label_smoothing_factor": 0.1}, {"label_smoothing_factor": "0.1"}),
            ("hf", {"bf16": True, "logging_steps": 1}, {"bf16": "True"}),
            ("hf", {"neftune_noise_alpha": 5, "save_steps": 3}, {"neftune_noise_alpha": "5"}),
            ("hf", {"optim": "sgd"}, {"optim": "sgd"}),
            ("hf", {"max_grad_norm": 9}, {"max_grad_norm": "9"}),
            ("hf", {"weight_decay": None}, {"weight_decay": "nothing"}),
            ("hf", {"a_new_one": "x"}, {"a_new_one": "x"}),
            ("hf", {"optim": "adamw_torch", "report_to": "none"}, {}),
            ("torchprime", {"+task.optimizer.eps": 1e-6}, {"task.optimizer.eps": "1e-06"}),
            ("torchprime", {"task.max_grad_norm": 9}, {"task.max_grad_norm": "9"}),
            ("torchprime", {"+model.attention_dropout": 0.1}, {"model.attention_dropout": "0.1"}),
            ("torchprime", {"logging_steps": 1, "task.optimizer.type": "adamw"}, {}),
        ],
    )
    def test_what_they_train_beyond_the_case(
        self, case: Case, checkout: Path, name: str, arguments: dict[str, Any],
        beyond: dict[str, str],
    ) -> None:  # fmt: skip
        command = command_of(name, case, {"arguments": arguments}, checkout)
        assert command.beyond_case == beyond

    def test_a_script_of_the_user(self, case: Case, checkout: Path) -> None:
        options = {"script": "/my/train.py"}
        assert command_of("hf", case, options).argv[0] == "/my/train.py"
        assert command_of("torchprime", case, options, checkout).argv[0] == "/my/train.py"
        assert command_of("hf", case).argv[0] == hf_engine.SCRIPT

    def test_the_environment(self, case: Case, checkout: Path) -> None:
        options = {"env": {"HF_HUB_OFFLINE": "0", "MY": "x"}}
        for name in NAMES:
            found = command_of(name, case, options, checkout).environment
            assert found["XLA_USE_SPMD"] == "1"
            assert (found["HF_HUB_OFFLINE"], found["MY"]) == ("0", "x")

    def test_no_command_has_a_path_of_this_machine(self, case: Case, checkout: Path) -> None:
        """A Command is the same on every machine, so that its hash can name a Record."""
        for name in NAMES:
            command = command_of(name, case, checkout=checkout)
            text = json.dumps(dataclasses.asdict(command))
            assert str(checkout) not in text
            assert str(Path.home()) not in text
            assert str(Path.cwd()) not in text

    def test_flag(self) -> None:
        assert flag("x", None) == []
        assert flag("x", 0) == ["--x=0"]
        assert flag("x", True) == ["--x=True"]
        assert flag("x", "a b") == ["--x=a b"]


class TestCheckouts:
    def test_none_is_named(self, case: Case) -> None:
        with pytest.raises(BadInput, match="torchprime needs a checkout: name one by --torchprime"):
            command_of("torchprime", case)

    @pytest.mark.parametrize("missing", [SCRIPT, f"{CONFIG_FOLDER}/default.yaml"])
    def test_a_folder_that_is_none(self, checkout: Path, missing: str) -> None:
        (checkout / missing).unlink()
        with pytest.raises(BadInput, match="is not a torchprime checkout"):
            read_defaults(checkout)

    def test_one_that_is_too_old(self, checkout: Path) -> None:
        (checkout / CONFIG_FOLDER / "task" / "train.yaml").unlink()
        (checkout / CONFIG_FOLDER / "task").rmdir()
        with pytest.raises(BadInput, match="from before June 2025"):
            read_defaults(checkout)

    def test_one_from_before_it_could_clip(self, case: Case, checkout: Path) -> None:
        (checkout / CONFIG_FOLDER / "task" / "train.yaml").write_text("max_steps: 1\n")
        assert "task.max_grad_norm" not in torchprime(case, checkout)

    def test_the_profile_key_that_it_knows(self, case: Case, checkout: Path) -> None:
        assert torchprime(case, checkout)["profile_start_step"] == "-1"
        path = checkout / CONFIG_FOLDER / "default.yaml"
        path.write_text(path.read_text().replace("profile_start_step", "profile_step"))
        found = torchprime(case, checkout)
        assert found["profile_step"] == "-1"
        assert "profile_start_step" not in found

    def test_tied_embeddings(self, case: Case, checkout: Path) -> None:
        with pytest.raises(BadInput, match="untied head"):
            torchprime(changed(case, model__tie_embeddings=True), checkout)


class TestReports:
    """What the trainers' own logs say."""

    def test_hf(self) -> None:
        log = "***** train metrics *****\n  epoch                    =     0.5405\n"
        log += "  train_loss               =     6.1255\n  train_runtime = 0:00:16.28\n"
        assert engine("hf").reports(log, 20) == (Reported(0, 19, 6.1255),)

    def test_torchprime(self) -> None:
        log = "[2026-11-27 09:59:36,179][torchprime.torch_xla_models.trainer.base_trainer][INFO] - "
        log += "Epoch: 0.0000, step: 0, loss: 6.5070, grad_norm: 1.4439, lr: 2.50e-04, trace time: "
        log += "3526.86 ms\nEpoch: 0.5, step: 10, loss: nan, grad_norm: nan, lr: 2.50e-04\n"
        first, second = engine("torchprime").reports(log, 20)
        assert first == Reported(0, 0, 6.507, 1.4439)
        assert (second.first, math.isnan(second.loss)) == (10, True)

    @pytest.mark.parametrize("name", ["hf", "torchprime", "reference"])
    def test_a_log_that_says_nothing(self, name: str) -> None:
        assert engine(name).reports("trained\n", 20) == ()


class TestSaveAndResume:
    @pytest.fixture
    def saves(self, case: Case) -> Case:
        return dataclasses.replace(case, save_at=6, steps=12)

    def test_without_a_break_nothing_is_saved(self, case: Case, saves: Case) -> None:
        straight = on_course("hf", saves, Course.STRAIGHT)
        assert straight.argv == command_of("hf", dataclasses.replace(case, steps=12)).argv
        assert straight.spec.saving == Saving()
        assert command_of("hf", case).spec.saving is None

    def test_the_trainer_saves_as_its_users_do(self, saves: Case) -> None:
        command = on_course("hf", saves, Course.SAVING)
        assert {"--save_strategy=steps", "--save_steps=6"} < {*command.argv}
        assert "--output_dir={record}/saved" in command.argv
        assert command.spec.saving == Saving(6, "{record}/saved/checkpoint-6")
        assert command.spec.steps == 12

    def test_and_resumes(self, saves: Case) -> None:
        command = on_course("hf", saves, Course.RESUMED)
        assert "--resume_from_checkpoint={saved}/checkpoint-6" in command.argv
        assert {"--save_strategy=no", "--max_steps=12"} < {*command.argv}
        assert command.spec.steps == 6

    def test_the_reference(self, saves: Case) -> None:
        found = [
            json.loads(on_course("reference", saves, course).files["training.json"])
            for course in Course
        ]
        keys = ("first_step", "save_at", "save_to", "resume_from", "steps")
        assert [tuple(training[key] for key in keys) for training in found] == [
            (0, None, None, None, 12),
            (0, 6, "{record}/saved/step-6", None, 12),
            (6, None, None, "{saved}/step-6", 12),
        ]

    def test_one_that_cannot_be_resumed_says_why(self, saves: Case, checkout: Path) -> None:
        with pytest.raises(
            CannotTrain, match=r"case\.save_at=6: torchprime cannot resume: its train"
        ):
            on_course("torchprime", saves, Course.STRAIGHT, checkout)

    def test_a_fault_of_a_resume_is_seeded_there(self, case: Case, saves: Case) -> None:
        spec = engine("hf")
        options = spec.options(faults=[SeededFault("lost_moments"), SeededFault("label_shift")])
        names = [
            [fault.name for fault in spec.command(Job(saves, options, course=c)).spec.faults]
            for c in Course
        ]
        assert names == [["label_shift"], ["label_shift"], ["lost_moments", "label_shift"]]
        with pytest.raises(BadInput, match=r"`lost_moments` is in a resume.*case\.save_at"):
            spec.command(Job(case, options))

    def test_dropout(self, case: Case, checkout: Path) -> None:
        model = dataclasses.replace(case.model, options={"attention_dropout": 0.1})
        drops = dataclasses.replace(case, model=model)
        assert family("llama").config(model)["attention_dropout"] == 0.1
        assert family("llama").drops(model) == {"model.layers.*.self_attn.attention_dropout": 0.1}
        with pytest.raises(CannotTrain, match="drops nothing"):
            command_of("torchprime", drops, checkout=checkout)
