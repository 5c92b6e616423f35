"""One side, planned: the script, its arguments, its source, and nothing that is a secret."""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.base.errors import BadInput
from harness.compiler.flags import LIBTPU
from harness.config.folders import config_directory
from harness.config.training import TrainingRequest
from harness.devices.tpu import DEVICE
from harness.engines.hf import scripts
from harness.engines.hf.engine import TRANSFORMERS
from harness.engines.hf.script_arguments import Accepted, ScriptArgument
from harness.engines.hf.scripts import OURS, RUN_CLM, arguments_for, script_of
from harness.environments.interpreters import Interpreter
from harness.environments.sources import Checkout, parse_source, resolve
from harness.run.workspace import Slot
from harness.train import hf, torchprime
from harness.train import request as requested
from harness.train.request import TrainingPlan
from harness.train.settings import load_hf, load_torchprime

CLUSTER = (
    "launcher=xpk", "launcher.device=tpu", "launcher.options.cluster=c",
    "launcher.options.project=p", "launcher.options.zone=z", "launcher.options.tpu_type=v6e-8",
    "launcher.options.artifact_dir='gs://b/f'",
)  # fmt: skip

TOKEN = "hf_abcdefghijklmnop"
TINY = "llama-3.0-8b-tiny.json"
PYTHON = Interpreter(Path(sys.executable), (), {"transformers": "4.57.6"}, {}, "key")

KNOWN = (
    "model_name_or_path", "config_name", "tokenizer_name", "dataset_name", "dataset_config_name",
    "cache_dir", "block_size", "torch_dtype", "train_file", "optim", "fsdp", "fsdp_config",
    "save_strategy", "logging_strategy", "max_steps", "seed", "learning_rate", "max_grad_norm",
    "per_device_train_batch_size", "gradient_accumulation_steps", "report_to", "output_dir",
    "logging_dir", "spmd_2d_sharding", "logging_steps", "resume_from_checkpoint",
)  # fmt: skip
FLAGS = ("do_train", "overwrite_output_dir", "dataloader_drop_last", "logging_first_step")


def accepted(without: tuple[str, ...] = ()) -> Accepted:
    parameters = {name: ScriptArgument((name,)) for name in KNOWN}
    parameters |= {name: ScriptArgument((name,), "?", flag=True, default=False) for name in FLAGS}
    parameters["dataloader_pin_memory"] = ScriptArgument(
        ("dataloader_pin_memory",), "?", flag=True, default=True
    )
    return Accepted("run_clm.py", {k: v for k, v in parameters.items() if k not in without})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, with no environment made and no script asked."""
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    for module in (hf, torchprime):
        monkeypatch.setattr(module, "interpreter_of", lambda *_: PYTHON)
    monkeypatch.setattr(hf, "with_transformers", lambda base, *_: base)
    for asking in (hf, scripts):
        monkeypatch.setattr(asking, "ask", lambda *_: accepted())
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def checkout_at(folder: Path) -> Path:
    """A checkout with the example of transformers, committed."""
    (folder / RUN_CLM).parent.mkdir(parents=True)
    (folder / RUN_CLM).write_text("print('run_clm')\n")
    (folder / "src/transformers").mkdir(parents=True)
    (folder / "src/transformers/__init__.py").touch()
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(folder), *identity, *words], check=True)
    return folder


def plan_hf(*words: str) -> TrainingPlan:
    return hf.plan(load_hf(["workload=llama-3.0-8b-tiny", *words]), lambda _: None)


def words_of(side: TrainingPlan) -> list[str]:
    return list(side.plan.command.argv[1:])


class TestScript:
    def test_ours_without_a_source(self, here: Path) -> None:
        side = plan_hf()
        assert side.plan.command.argv[0] == "{harness}/trainers/hf_clm.py"
        assert side.plan.origin["description"] == "transformers 4.57.6, hf_clm.py"
        assert OURS.is_file()

    def test_local_transformers_in_the_current_folder(self, here: Path) -> None:
        folder = checkout_at(here / "local_transformers")
        side = plan_hf()
        assert side.plan.command.argv[0] == f"{{source}}/{RUN_CLM}"
        assert side.plan.source == folder
        assert len(side.plan.origin["commit"]) == 40
        assert side.plan.origin["dirty"] is None

    def test_uncommitted_changes_are_told_apart(self, here: Path) -> None:
        folder = checkout_at(here / "local_transformers")
        (folder / RUN_CLM).write_text("print('changed')\n")
        first = plan_hf()
        (folder / RUN_CLM).write_text("print('changed again')\n")
        second = plan_hf()
        assert first.plan.origin["dirty"] not in (None, second.plan.origin["dirty"])
        assert first.plan.origin["script"] != second.plan.origin["script"]

    def test_the_named_source_comes_first(self, here: Path) -> None:
        checkout_at(here / "local_transformers")
        other = checkout_at(here / "other")
        assert plan_hf("source=other").plan.source == other

    def test_a_git_url_is_cloned(self, here: Path) -> None:
        folder = checkout_at(here / "upstream")
        branch = subprocess.run(
            ["git", "-C", str(folder), "branch", "--show-current"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        side = plan_hf(f"source='{folder.as_uri()}@{branch}'")
        assert side.plan.source is not None
        assert side.plan.source.is_relative_to(here.parent / "cache")
        with pytest.raises(BadInput, match="no branch, tag or commit 'nobody'"):
            plan_hf(f"source='{folder.as_uri()}@nobody'")

    def test_the_checkout_that_a_script_is_in(self, here: Path) -> None:
        folder = checkout_at(here / "mine")
        side = plan_hf(f"train_script.path=mine/{RUN_CLM}")
        assert side.plan.source == folder
        assert side.plan.command.argv[0] == f"{{source}}/{RUN_CLM}"

    def test_a_script_of_ones_own(self, here: Path) -> None:
        (here / "train.py").write_text("print()\n")
        side = plan_hf("train_script.path=train.py")
        assert side.plan.command.argv[0] == str(here / "train.py")
        assert side.plan.source is None

    def test_a_script_that_is_relative_to_the_checkout(self, here: Path) -> None:
        folder = checkout_at(here / "mine")
        checkout = resolve(parse_source(str(folder), TRANSFORMERS), here, lambda _: None)
        assert script_of(str(RUN_CLM), checkout, here) == folder / RUN_CLM

    def test_no_such_script(self, here: Path) -> None:
        with pytest.raises(BadInput, match=r"train_script\.path=none\.py: there is no such file"):
            plan_hf("train_script.path=none.py")

    def test_a_checkout_without_the_example(self, here: Path) -> None:
        shutil.rmtree(checkout_at(here / "bare") / "examples")
        with pytest.raises(BadInput, match=r"bare has no examples/.*source=4.57.6"):
            plan_hf("source=bare")


class TestArguments:
    def test_the_local_example_in_its_tiny_twin(self, here: Path) -> None:
        side = plan_hf(
            "train_script.args.per_device_train_batch_size=8",
            "train_script.args.logging_strategy=steps",
            "+train_script.args.logging_steps=1",
            "+train_script.args.logging_first_step=true",
            "+train_script.args.report_to=tensorboard",
            "train_script.args.max_steps=150",
            "run_name=mine",
        )
        words = words_of(side)
        for word in (
            "--do_train", "--logging_first_step", "--logging_steps=1", "--max_steps=150",
            "--report_to=tensorboard", "--dataloader_pin_memory=False", "--optim=adafactor",
            f"--output_dir={here}/outputs", f"--logging_dir={here}/outputs/runs/mine-trainer",
            "--tokenizer_name={inputs}/model", "--train_file={inputs}/text.txt",
        ):  # fmt: skip
            assert word in words
        assert not [word for word in words if "dataset" in word]
        assert side.directory == here / "outputs/runs/mine"
        assert side.plan.command.spec.steps == 150

    def test_the_405b_example_in_its_tiny_twin(self, here: Path) -> None:
        side = plan_hf("workload=llama-3.1-405b-tiny")
        words = words_of(side)
        assert "--spmd_2d_sharding=2" in words
        assert side.plan.case.mesh == {"fsdp": 2, "tensor": 2}
        assert not [word for word in words if word.startswith("--fsdp")]

    def test_configurations_are_part_of_the_run(self, here: Path) -> None:
        config = json.loads((config_directory() / "train/models" / TINY).read_text())
        (here / "model.json").write_text(json.dumps(config))
        side = plan_hf("train_script.args.config_name=model.json")
        assert "--config_name={scratch}/arguments/config_name.json" in words_of(side)
        assert json.loads(side.plan.command.files["arguments/config_name.json"]) == config
        before = side.plan.key
        (here / "model.json").write_text(json.dumps({**config, "hidden_size": 128}))
        assert plan_hf("train_script.args.config_name=model.json").plan.key != before

    def test_a_path_is_that_of_the_current_folder(self, here: Path) -> None:
        (here / "mine.txt").write_text("text\n")
        side = plan_hf("train_script.args.train_file=mine.txt", "train_script.args.cache_dir=c")
        assert f"--train_file={here}/mine.txt" in words_of(side)
        assert f"--cache_dir={here}/c" in words_of(side)

    def test_what_is_left_out_is_said(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hf, "ask", lambda *_: accepted(without=("overwrite_output_dir",)))
        assert any("overwrite_output_dir=True is left out" in note for note in plan_hf().notes)

    def test_logging_dir_is_the_users(self, here: Path) -> None:
        words = words_of(plan_hf("+train_script.args.logging_dir=mine"))
        assert f"--logging_dir={here}/mine" in words

    @pytest.mark.parametrize("value", ["null", "0", "-1", "1.5", "true"])
    def test_a_run_has_an_end(self, here: Path, value: str) -> None:
        with pytest.raises(BadInput, match=r"train_script\.args\.max_steps="):
            plan_hf(f"train_script.args.max_steps={value}")


class TestRecordedCase:
    def case(self, *words: str) -> Any:
        return plan_hf(*words).plan.case

    def test_what_the_trainer_is_told(self, here: Path) -> None:
        case = self.case()
        assert (case.dtype, case.steps, case.global_batch, case.max_norm) == ("bfloat16", 20, 8, 1)
        assert case.mesh == {"fsdp": 4}
        assert case.model.layers == 2
        assert case.data.sequence_length == 128
        assert case.arguments["optim"] == "adafactor"

    def test_accumulation(self, here: Path) -> None:
        case = self.case("+train_script.args.gradient_accumulation_steps=4")
        assert (case.global_batch, case.accumulation, case.micro_batch) == (32, 4, 8)

    def test_two_dimensions(self, here: Path) -> None:
        case = self.case("+train_script.args.spmd_2d_sharding=2", "train_script.args.fsdp=null")
        assert case.mesh == {"fsdp": 2, "tensor": 2}

    def test_no_clipping(self, here: Path) -> None:
        assert self.case("+train_script.args.max_grad_norm=0").max_norm is None

    def test_what_is_not_known_is_none(self, here: Path) -> None:
        (here / "other.json").write_text('{"n_layer": 2}')
        case = self.case("train_script.args.config_name=other.json", "train_script.args.fsdp=null")
        assert case.model is None
        assert case.mesh is None

    @pytest.mark.parametrize(
        ("words", "dtype"),
        [
            (["train_script.args.torch_dtype=float32"], "float32"),
            (["train_script.args.torch_dtype=null"], "float32"),
            (["train_script.args.torch_dtype=auto"], "float32"),
        ],
    )
    def test_dtype(self, here: Path, words: list[str], dtype: str) -> None:
        assert self.case(*words).dtype == dtype


class TestRun:
    def test_no_run_is_written_over_another(self, here: Path) -> None:
        (here / "outputs/runs/mine").mkdir(parents=True)
        with pytest.raises(BadInput, match=r"run_name=mine: .* is there already"):
            plan_hf("run_name=mine")

    def test_nor_over_one_that_was_planned_at_the_same_time(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        both = [plan_hf("run_name=mine"), plan_hf("run_name=mine")]
        trained: list[Path] = []

        def launch(plan: object, place: Slot, *_: object) -> None:
            trained.append(place.directory)
            place.directory.mkdir(parents=True)

        monkeypatch.setattr(requested, "launch_alone", launch)
        training = load_hf(["workload=llama-3.0-8b-tiny", "run_name=mine"])
        reporter: Any = SimpleNamespace(note=lambda text: None)
        requested.train(both[0], training, reporter)
        with pytest.raises(BadInput, match=r"run_name=mine: .* is there already"):
            requested.train(both[1], training, reporter)
        assert trained == [here / "outputs/runs/mine"]

    @pytest.mark.parametrize("words", [[], ["workload=llama-3.0-8b-tiny"]])
    def test_an_output_folder_that_cannot_be_written(self, here: Path, words: list[str]) -> None:
        (here / "file").touch()
        for folder in (here / "file", Path("/proc/none")):
            said = rf"^output_dir={folder}: it cannot be written \(.*by output_dir=PATH"
            with pytest.raises(BadInput, match=said):
                requested.inputs_of(load_hf([f"output_dir={folder}", *words]))

    def test_variables(self, here: Path) -> None:
        environment = plan_hf("env=[{XLA_USE_SPMD:1},{MINE:2}]", "devices=2").plan.environment
        assert environment["MINE"] == "2"
        assert environment["CPU_NUM_DEVICES"] == "2"
        assert environment["PJRT_DEVICE"] == "CPU"
        assert environment["PROFILE_LOGDIR"] == str(here / "profile")
        assert "PROFILE_LOGDIR" not in plan_hf("profile_dir=null").plan.environment

    def test_the_probe_watches_and_changes_nothing(self, here: Path) -> None:
        spec = plan_hf().plan.command.spec
        assert spec.rows is None
        assert spec.inject is None
        assert spec.injected == {}
        assert not spec.save_initial
        assert spec.faults == ()

    def test_a_tpu_that_is_not_there(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        absent = dataclasses.replace(DEVICE, missing=lambda: "this machine has no TPU")
        monkeypatch.setattr(requested, "device", lambda name: absent)
        with pytest.raises(BadInput, match=r"no TPU.*workload=llama-3.0-8b-tiny"):
            plan_hf("launcher.device=tpu")

    def test_the_token_is_nowhere(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        checkout_at(here / "local_transformers")
        side = plan_hf()
        assert TOKEN not in repr(side)
        for path in here.parent.rglob("*"):
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes()

    def test_what_the_hub_has_is_looked_for(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HOME", str(here))
        with pytest.raises(BadInput, match=r"tokenizer_name=org/tok .*HF_HUB_OFFLINE forbids"):
            plan_hf("train_script.args.tokenizer_name=org/tok")


class TestForTheLadder:
    def test_a_checkouts_own_script(self, here: Path) -> None:
        checkout = Checkout(checkout_at(here / "mine"), "c", None, "mine")
        notes: list[str] = []
        wanted = {"max_steps": 3, "disable_tqdm": True, "fsdp": None}
        argv = arguments_for(checkout, wanted, PYTHON, here, notes.append)
        assert argv == (f"{{source}}/{RUN_CLM}", "--do_train", "--max_steps=3")
        assert ["disable_tqdm" in note for note in notes] == [True]

    def test_a_release_has_ours(self, here: Path) -> None:
        release = Checkout(None, None, None, "4.57.6", "4.57.6")
        argv = arguments_for(release, {"max_steps": 3}, PYTHON, here, lambda _: None)
        assert argv == ("{harness}/trainers/hf_clm.py", "--max_steps=3")

    def test_what_the_user_wrote_is_not_left_out(self, here: Path) -> None:
        checkout = Checkout(checkout_at(here / "mine"), "c", None, "mine")
        with pytest.raises(BadInput, match="disable_tqdm"):
            arguments_for(
                checkout, {"disable_tqdm": True}, PYTHON, here, lambda _: None, ["disable_tqdm"]
            )


@pytest.fixture
def torchprime_checkout(here: Path) -> Path:
    """The bones of torchprime: its entry point and the configuration that it composes."""
    folder = here / "torchprime"
    configs = folder / "torchprime/torch_xla_models/configs"
    files = {
        "default.yaml": "defaults:\n  - _self_\n  - model: llama-3-8b\n  - dataset: wikitext\n"
        "  - task: train\nseed: 42\nlogging_steps: 10\ntorch_dtype: bfloat16\n"
        "profile_start_step: 3\nprofile_dir: profile\noutput_dir: outputs\nrun_name: null\n"
        "ici_mesh: {data: 1, fsdp: 4, tensor: 1}\ndcn_mesh: {data: 2, fsdp: 1, tensor: 1}\n",
        "model/llama-3-8b.yaml": "vocab_size: 128256\nhidden_size: 4096\nintermediate_size: 14336\n"
        "num_hidden_layers: 32\nnum_attention_heads: 32\nnum_key_value_heads: 8\n"
        "max_position_embeddings: 131072\nbos_token_id: 0\neos_token_id: 1\n"
        "attention_kernel: flash_attention\ntokenizer_name: meta-llama/Meta-Llama-3-8B\n",
        "dataset/wikitext.yaml": "hf_dataset_name: wikitext\nhf_dataset_config_name: raw\n"
        "block_size: 8192\ncache_dir: /tmp/\n",
        "task/train.yaml": "global_batch_size: 4\nmax_steps: 15\nmax_grad_norm: 1.0\n"
        "optimizer: {learning_rate: 5.e-5, type: adafactor}\n",
    }
    for name, text in files.items():
        (configs / name).parent.mkdir(parents=True, exist_ok=True)
        (configs / name).write_text(text)
    (configs.parent / "train.py").write_text("print()\n")
    return folder


@pytest.fixture
def plan_torchprime(torchprime_checkout: Path) -> Callable[..., TrainingPlan]:
    def plan(*words: str, workload: str = "llama-3.0-8b-tiny") -> TrainingPlan:
        training = load_torchprime([f"workload={workload}", "source=torchprime", *words])
        return torchprime.plan(training, lambda _: None)

    return plan


class TestTorchprime:
    def test_words_are_passed_through(
        self, here: Path, plan_torchprime: Callable[..., TrainingPlan]
    ) -> None:
        side = plan_torchprime("task.max_steps=30", "+task.note='a b'", "run_name=mine", "seed=1")
        words = words_of(side)
        assert words[-3:] == ["task.max_steps=30", "+task.note='a b'", "seed=1"]
        assert [w for w in words if w.startswith("task.max_steps")] == ["task.max_steps=30"]
        assert f"output_dir='{here}/outputs'" in words
        assert "run_name=mine-trainer" in words
        assert "profile_start_step=-1" in words
        assert f"profile_dir='{here}/profile'" in words
        assert side.plan.command.argv[0] == "{source}/torchprime/torch_xla_models/train.py"
        assert side.plan.command.spec.steps == 30
        assert side.directory == here / "outputs/runs/mine"

    def test_ours_give_way_to_the_users(
        self, here: Path, plan_torchprime: Callable[..., TrainingPlan]
    ) -> None:
        words = words_of(plan_torchprime("profile_start_step=5", "hydra.run.dir=x"))
        assert [w for w in words if w.startswith(("profile_start", "hydra"))] == [
            "profile_start_step=5", f"hydra.run.dir='{here}/x'",
        ]  # fmt: skip

    def test_its_configuration_can_be_another(
        self, here: Path, plan_torchprime: Callable[..., TrainingPlan]
    ) -> None:
        assert plan_torchprime().plan.command.argv[1:3] == ("--config-name", "default")
        training = load_torchprime(["source=torchprime"], "defalt")
        with pytest.raises(BadInput, match=r"--config-name defalt: .* it has default"):
            torchprime.plan(training, lambda _: None)

    def test_paths_are_those_of_the_current_folder(
        self, here: Path, plan_torchprime: Callable[..., TrainingPlan]
    ) -> None:
        (here / "a.jsonl").write_text("{}\n")
        words = words_of(plan_torchprime("+dataset.file_dataset_path=a.jsonl"))
        assert words[-1] == f"+dataset.file_dataset_path='{here}/a.jsonl'"

    def test_on_a_cluster_it_writes_where_every_host_sends_from(
        self, plan_torchprime: Callable[..., TrainingPlan], here: Path
    ) -> None:
        side = plan_torchprime(*CLUSTER)
        words = words_of(side)
        assert "output_dir='{output}'" in words
        assert "profile_dir='{output}/profile'" in words
        assert side.plan.output == here / "outputs"
        assert "--xla_dump_to={output}/xla_dumps " in side.plan.environment["XLA_FLAGS"]
        quiet = plan_torchprime(*CLUSTER, "xla_dump=false").plan.environment
        assert "XLA_FLAGS" not in quiet or "xla_dump" not in quiet["XLA_FLAGS"]

    def test_compiler_flags_are_those_of_its_own_launcher(
        self,
        plan_torchprime: Callable[..., TrainingPlan],
        torchprime_checkout: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        image = torchprime_checkout / "torchprime/launcher/Dockerfile"
        image.parent.mkdir()
        image.write_text('FROM x\nENV LIBTPU_INIT_ARGS "--xla_a=1 --xla_b=2"\n')
        monkeypatch.delenv(LIBTPU, raising=False)
        found = plan_torchprime(*CLUSTER).plan.environment[LIBTPU]
        assert found == f"--xla_a=1 --xla_b=2 {torchprime.MEGASCALE}"
        own = plan_torchprime(*CLUSTER, f"env=[{{{LIBTPU}:'--xla_c=3'}}]").plan.environment
        assert own[LIBTPU] == "--xla_c=3"
        assert LIBTPU not in plan_torchprime().plan.environment  # on the CPU mesh
        monkeypatch.setenv(LIBTPU, "--xla_d=4")
        assert plan_torchprime(*CLUSTER).plan.environment[LIBTPU] == "--xla_d=4"

    def test_the_probe_s_profile_is_the_only_one(
        self, plan_torchprime: Callable[..., TrainingPlan]
    ) -> None:
        side = plan_torchprime(*CLUSTER, "profile=true")
        assert side.plan.command.spec.profile == "{record}/profile"
        assert "profile_start_step=-1" in words_of(side)
        assert plan_torchprime(*CLUSTER).plan.command.spec.profile is None
        with pytest.raises(BadInput, match="a profile does not show"):
            plan_torchprime("profile=true")

    def test_what_is_recorded(self, plan_torchprime: Callable[..., TrainingPlan]) -> None:
        side = plan_torchprime("comment=why")
        assert isinstance(side.plan.case, TrainingRequest)
        assert side.plan.case.comment == "why"
        case: Any = side.plan.case
        assert (case.dtype, case.steps, case.global_batch) == ("bfloat16", 20, 8)
        assert case.mesh == {"data": 2, "fsdp": 4, "tensor": 1}
        assert case.model.hidden_size == 64
        assert case.max_norm == 1.0
        assert side.plan.environment["CPU_NUM_DEVICES"] == "4"

    def test_a_key_that_torchprime_does_not_have(
        self, plan_torchprime: Callable[..., TrainingPlan]
    ) -> None:
        with pytest.raises(BadInput, match=r"task\.max_step.*nearest key is task\.max_steps"):
            plan_torchprime("task.max_step=3")

    def test_a_group_that_it_does_not_have(
        self, plan_torchprime: Callable[..., TrainingPlan]
    ) -> None:
        with pytest.raises(BadInput, match=r"model/llama-9"):
            plan_torchprime("model=llama-9")

    def test_no_torchprime(self, here: Path) -> None:
        (here / "empty").mkdir()
        training = load_torchprime(["source=empty", "launcher.device=cpu"])
        with pytest.raises(BadInput, match="is not a torchprime checkout"):
            torchprime.plan(training, lambda _: None)

    def test_what_the_hub_has_is_looked_for(
        self,
        here: Path,
        plan_torchprime: Callable[..., TrainingPlan],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HF_HOME", str(here))
        with pytest.raises(BadInput, match=r"model\.tokenizer_name=org/tok .*forbids"):
            plan_torchprime("model.tokenizer_name=org/tok")

    def test_the_twin_is_one_batch_and_text_with_hfs(
        self, plan_torchprime: Callable[..., TrainingPlan]
    ) -> None:
        ours, theirs = plan_hf(), plan_torchprime()
        assert ours.plan.inputs == theirs.plan.inputs
        for name in ("steps", "global_batch", "max_norm", "model", "data", "dtype"):
            assert getattr(ours.plan.case, name) == getattr(theirs.plan.case, name)

    def test_the_key_is_of_all_of_it(self, plan_torchprime: Callable[..., TrainingPlan]) -> None:
        side = plan_torchprime("run_name=a")
        other = dataclasses.replace(side.plan, origin={"commit": "another"})
        assert side.plan.key != other.key
        assert side.plan.key != plan_torchprime("run_name=a", "seed=1").plan.key


class TestResume:
    """`resume_from_checkpoint`: the Trainer counts its steps from the beginning of the training."""

    @staticmethod
    def checkpoint(folder: Path, steps: int) -> str:
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": steps}))
        return f"train_script.args.resume_from_checkpoint={folder}"

    def test_what_is_left_is_what_is_asked_for(self, here: Path) -> None:
        word = "+" + self.checkpoint(here / "checkpoint-4", 4)
        side = plan_hf(word, "train_script.args.max_steps=10")
        assert (side.plan.first_step, side.plan.steps) == (4, 6)
        assert f"--resume_from_checkpoint={here / 'checkpoint-4'}" in words_of(side)
        assert plan_hf("train_script.args.max_steps=10").plan.steps == 10

    def test_nothing_is_left(self, here: Path) -> None:
        word = "+" + self.checkpoint(here / "checkpoint-4", 4)
        with pytest.raises(BadInput, match=r"saved after 4 steps, and .*max_steps=4 counts from"):
            plan_hf(word, "train_script.args.max_steps=4")

    def test_one_that_only_the_trainer_knows(self, here: Path) -> None:
        assert plan_hf("+train_script.args.resume_from_checkpoint=elsewhere").plan.first_step == 0

    def test_our_script_hands_it_on(self) -> None:
        """It was once dropped without a word, and training began anew."""
        tree = ast.parse(OURS.read_text())
        calls = [
            node for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "trainer.train"
        ]  # fmt: skip
        assert [ast.unparse(call) for call in calls] == [
            "trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)"
        ]
