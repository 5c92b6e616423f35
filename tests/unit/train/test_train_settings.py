"""What `parity train` was asked for is what is planned, or is refused by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harness.base.errors import BadInput
from harness.config.case import Case
from harness.config.folders import config_directory
from harness.models.family import Model
from harness.train.paths import absolute
from harness.train.request import shape_of
from harness.train.settings import load_hf, load_torchprime

TRAIN = config_directory() / "train"
WORKLOADS = sorted(path.stem for path in (TRAIN / "workload").glob("*.yaml"))


class TestDefaults:
    def test_llama_3_8b(self) -> None:
        training = load_hf([])
        args = training.train_script.args
        assert args["dataset_name"] == "wikitext"
        assert args["dataset_config_name"] == "wikitext-103-raw-v1"
        assert args["per_device_train_batch_size"] == 256
        assert args["block_size"] == 8192
        assert args["optim"] == "adafactor"
        assert args["fsdp"] == "full_shard"
        assert args["max_steps"] == 50
        fsdp = json.loads(Path(args["fsdp_config"]).read_text())
        assert fsdp["xla_fsdp_grad_ckpt"]
        assert fsdp["xla_fsdp_v2"]
        assert training.variables["XLA_USE_SPMD"] == "1"
        assert (training.output_dir, training.profile_dir) == ("outputs", "profile")
        assert training.launcher.device == "tpu"
        assert training.explicit == ()

    def test_torchprime_has_its_own(self) -> None:
        training = load_torchprime([])
        assert training.overrides == {}
        assert training.words == ()

    @pytest.mark.parametrize("name", WORKLOADS)
    def test_every_workload_is_one_of_both_engines(self, name: str) -> None:
        args = load_hf([f"workload={name}"]).train_script.args
        theirs = load_torchprime([f"workload={name}"]).overrides
        assert args["max_steps"] == theirs["task.max_steps"]
        assert args["per_device_train_batch_size"] == theirs["task.global_batch_size"]
        assert args["block_size"] == theirs["dataset.block_size"]
        assert args["optim"] == theirs["task.optimizer.type"]
        assert args.get("learning_rate") == theirs.get("task.optimizer.learning_rate")

    @pytest.mark.parametrize("name", [name for name in WORKLOADS if name.endswith("-tiny")])
    def test_a_twin_is_one_model_in_both_engines(self, name: str) -> None:
        args = load_hf([f"workload={name}"]).train_script.args
        shape = shape_of(json.loads(Path(args["config_name"]).read_text()))
        theirs = load_torchprime([f"workload={name}"]).overrides
        of_model = {k.removeprefix("model."): v for k, v in theirs.items() if "model." in k}
        assert shape is not None
        assert shape == shape_of(of_model)

    @pytest.mark.parametrize("name", [name for name in WORKLOADS if name.endswith("-tiny")])
    def test_a_twin_needs_no_network(self, name: str) -> None:
        training = load_hf([f"workload={name}"])
        assert training.launcher.device == "cpu"
        assert training.variables["HF_HUB_OFFLINE"] == "1"
        assert training.inputs is not None
        assert training.train_script.args["tokenizer_name"] == "{inputs}/model"
        assert training.train_script.args["dataset_name"] is None

    @pytest.mark.parametrize("name", WORKLOADS)
    def test_a_models_heads_come_out_even(self, name: str) -> None:
        path = load_hf([f"workload={name}"]).train_script.args["config_name"]
        shape = shape_of(json.loads(Path(path).read_text()))
        assert shape is not None
        assert shape.hidden_size % shape.heads == 0
        assert shape.heads % shape.kv_heads == 0

    @pytest.mark.parametrize(
        ("name", "billions"), [("llama-3.0-8b", 8.03), ("llama-3.1-405b", 405.9)]
    )
    def test_the_models_have_the_sizes_that_they_are_named_by(
        self, name: str, billions: float
    ) -> None:
        shape = shape_of(json.loads((TRAIN / "models" / f"{name}.json").read_text()))
        assert shape is not None
        model = dataclasses.replace(Model(), **vars(shape))
        sizes = Case(name="", model=model).parameter_shapes().values()
        count = sum(s[0] * (s[1] if len(s) > 1 else 1) for s in sizes)
        assert count / 1e9 == pytest.approx(billions, rel=1e-3)


class TestHf:
    def test_the_documented_local_example(self) -> None:
        training = load_hf(
            [
                "train_script.args.per_device_train_batch_size=8",
                "train_script.args.logging_strategy=steps",
                "+train_script.args.logging_steps=1",
                "+train_script.args.logging_first_step=true",
                "+train_script.args.report_to=tensorboard",
                "train_script.args.max_steps=150",
            ]
        )
        args = training.train_script.args
        assert args["logging_first_step"] is True
        assert (args["max_steps"], args["per_device_train_batch_size"]) == (150, 8)
        assert "logging_steps" in training.explicit
        assert "seed" not in training.explicit

    def test_the_documented_405b_example(self) -> None:
        args = load_hf(
            [
                "train_script.args.config_name=configs/train/models/llama-3.1-405b.json",
                "train_script.args.per_device_train_batch_size=64",
                "train_script.args.fsdp_config=null",
                "train_script.args.fsdp=null",
                'train_script.args.tokenizer_name="meta-llama/Meta-Llama-3.1-405B"',
                "+train_script.args.spmd_2d_sharding=4",
            ]
        ).train_script.args
        shipped = load_hf(["workload=llama-3.1-405b"]).train_script.args
        assert args["fsdp"] is None
        assert args["fsdp_config"] is None
        assert {k: v for k, v in args.items() if k != "config_name"} == {
            k: v for k, v in shipped.items() if k != "config_name"
        }

    @pytest.mark.parametrize("plus", ["", "+", "++"])
    def test_output_dir_is_no_argument(self, plus: str) -> None:
        with pytest.raises(BadInput, match=r"output_dir=PATH|output_dir is not among"):
            load_hf([f"{plus}train_script.args.output_dir=x"])

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["train_script.args.max_step=3"], "nearest is max_steps.*add it by"),
            (["outputdir=x"], "outputdir: there is no such key. The nearest is output_dir"),
            (["launcher.devcie=cpu"], r"did you mean launcher\.device\?"),
            (["train_script.pth=x"], r"did you mean train_script\.path\?"),
            (["+outputs=x"], "outputs: there is no such key"),
            (["workload=llama-3.0-9b"], "nearest is llama-3.0-8b"),
            (["launcher=xpkk"], "nearest is xpk"),
            (["train"], "`train` is no override"),
            (["a=[1"], "a: there is no such key"),
            (["~output_dir"], "~output_dir: output_dir cannot be left out"),
            (["devices=0"], "devices=0: it has to be at least 1"),
            (["window=0"], "window=0"),
            (["launcher.device=gpu"], "launcher.device=gpu"),
            (["run_name=a/b"], "run_name=a/b"),
            (["run_name=.a"], "run_name=.a"),
            (["run_name=''"], "run_name="),
            (["+overrides.model=x"], "overrides: this key is for"),
            (["+config_name=x"], "config_name: this key is for"),
            (["hydra.run.dir=x"], "Name the output folder by output_dir=PATH"),
            (
                ["output_dir=gs://bucket/a"],
                "output_dir=gs://bucket/a: a trainer writes to a folder",
            ),
            (["torchprime/hf_models/train.py"], "train_script.path=torchprime/hf_models/train.py"),
        ],
    )
    def test_bad_input(self, words: list[str], message: str) -> None:
        with pytest.raises(BadInput, match=message):
            load_hf(words)

    @pytest.mark.parametrize("name", ["local", "docker", "xpk"])
    def test_it_runs_where_parity_run_does(self, name: str) -> None:
        launcher = load_hf([f"launcher={name}"]).launcher
        assert (launcher.name, launcher.device) == (name, "tpu")
        assert load_torchprime([f"launcher={name}"]).launcher.name == name

    def test_variables(self) -> None:
        training = load_hf(["env=[{XLA_USE_SPMD:1},{A:true},{A:2}]"])
        assert training.variables == {"XLA_USE_SPMD": "1", "A": "2"}

    @pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "DB_PASSWORD"])
    def test_a_secret_is_no_variable_of_ours_and_is_not_shown(self, name: str) -> None:
        with pytest.raises(BadInput, match=f"{name} looks like a secret") as error:
            load_hf([f"env=[{{{name}:hf_abc123}}]"])
        assert "abc123" not in str(error.value)

    def test_no_secret(self) -> None:
        assert load_hf(["env=[{TOKENIZERS_PARALLELISM:true}]"]).variables


class TestTorchprime:
    def test_what_is_not_ours_is_theirs(self) -> None:
        words = ["model=mixtral", "+dataset.file_dataset_path=x", "~task.optimizer", "seed=7"]
        ours = ["output_dir=out", "launcher.device=cpu", "run_name=mine", "source=./torchprime"]
        training = load_torchprime([*ours, *words])
        assert training.words == tuple(words)
        assert (training.output_dir, training.run_name) == ("out", "mine")
        assert training.launcher.device == "cpu"

    def test_hydras_own_keys_are_theirs(self) -> None:
        assert load_torchprime(["hydra.run.dir=x"]).words == ("hydra.run.dir=x",)

    def test_a_key_of_the_other_engine_is_theirs_to_refuse(self) -> None:
        words = ("train_script.args.max_steps=3",)
        assert load_torchprime(words).words == words

    def test_bad_input(self) -> None:
        with pytest.raises(BadInput, match="`model` is no override"):
            load_torchprime(["model"])


class TestPaths:
    @pytest.fixture
    def here(self, tmp_path: Path) -> Path:
        (tmp_path / "tok").mkdir()
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "a.txt").write_text("a")
        return tmp_path

    @pytest.mark.parametrize(
        ("name", "value", "moved"),
        [
            ("cache_dir", "cache", True),  # before it is there
            ("dataset.cache_dir", "cache", True),
            ("tokenizer_name", "tok", True),
            ("model.tokenizer_name", "tok", True),
            ("anything", "data/a.txt", True),
            ("optim", "tok", False),  # a word that is a folder by chance
            ("tokenizer_name", "meta-llama/Meta-Llama-3-8B", False),
            ("cache_dir", "gs://bucket/cache", False),
            ("cache_dir", "{scratch}/cache", False),
            ("cache_dir", "/absolute", False),
            ("max_steps", 3, False),
            ("config_name", None, False),
            ("config_name", "", False),
        ],
    )
    def test_which_values_are(self, here: Path, name: str, value: Any, moved: bool) -> None:
        assert absolute(name, value, here) == (str(here / value) if moved else value)
