"""Plans: whatever can change a run names its Record, and what cannot work is told beforehand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from builders import Trainer, with_manifest

from harness.base.conditions import CONDITIONS
from harness.base.errors import BadInput
from harness.config.compose import load
from harness.config.settings import Settings
from harness.engines.command import Course
from harness.engines.hf import engine as hf
from harness.environments.interpreters import Interpreter
from harness.environments.sources import Checkout
from harness.inputs.prepared import Inputs, prepare
from harness.run import float64, plan
from harness.run.float64 import plan_float64
from harness.run.plan import Plan, plan_run, plan_saving

PYTHON = Interpreter(Path("/python"), (), {"transformers": "4.57.6"}, {}, "interpreter")


@pytest.fixture(autouse=True)
def no_interpreter_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plan, float64):
        monkeypatch.setattr(module, "interpreter_for", lambda *_: PYTHON)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return prepare(load([]).case, tmp_path_factory.mktemp("inputs"))


def planned(settings: Settings, inputs: Inputs) -> plan.Plan:
    return plan_run("hf", settings, inputs, lambda _: None)


def test_a_token_is_in_no_label(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The label goes into Records, baselines and reports."""
    checkout = Checkout(Path("/checkout"), "c0ffee", None, "transformers at c0ffee")
    monkeypatch.setattr(plan, "checkout_of", lambda *_: checkout)
    monkeypatch.setattr(hf, "with_transformers", lambda *_: PYTHON)
    monkeypatch.setattr(hf, "arguments_for", lambda *_: ("train.py",))
    found = plan_run("hf@https://x:s3cr3t@example.com/a/b@v1", load([]), inputs, lambda _: None)
    assert found.label == "hf@https://***@example.com/a/b@v1"
    assert "s3cr3t" not in str(found)


class TestNumerics:
    """What a run computes like is told to the probe, and names its Record."""

    def test_precision_is_the_case_s(self, inputs: Inputs) -> None:
        plans = {
            requested: planned(load([f"case.precision={requested}"]), inputs)
            for requested in ("null", "default", "high", "highest")
        }
        precisions = {requested: found.command.spec.precision for requested, found in plans.items()}
        assert precisions == {
            "null": "highest", "default": "default", "high": "high", "highest": "highest"
        }  # fmt: skip
        assert len({plans[requested].key for requested in ("default", "high", "highest")}) == 3

    @pytest.mark.parametrize("condition", [*CONDITIONS, "tf32_products+random_scatter"])
    def test_a_condition_is_the_device_s(self, condition: str, inputs: Inputs) -> None:
        settings = load([f"launcher.condition={condition}"])
        found = planned(settings, inputs)
        assert found.command.spec.condition == condition
        assert found.key != planned(load([]), inputs).key
        reference = plan_run("reference", settings, inputs, lambda _: None)
        assert reference.command.spec.condition == condition

    def test_float64_is_computed_on_the_host_as_it_is(self, inputs: Inputs) -> None:
        settings = load(["launcher.condition=bf16_products"])
        spec = plan_float64(settings, inputs, lambda _: None).command.spec
        assert (spec.eager, spec.condition) == (True, None)


class TestScript:
    def test_its_content_names_the_record(self, tmp_path: Path, inputs: Inputs) -> None:
        """A run of a script that was edited since is not the run that was asked for."""
        script = tmp_path / "train.py"
        script.write_text("print(1)")
        settings = load([f"engine.hf.script='{script}'"])
        before = planned(settings, inputs)
        assert planned(settings, inputs).key == before.key
        script.write_text("print(2)")
        after = planned(settings, inputs)
        assert after.key != before.key
        assert after.origin["script"]["sha256"] != before.origin["script"]["sha256"]

    def test_a_relative_path_is_from_where_the_user_is(
        self, tmp_path: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "train.py").write_text("")
        monkeypatch.chdir(tmp_path)
        found = planned(load(["engine.hf.script=train.py"]), inputs)
        assert found.command.argv[0] == str(tmp_path / "train.py")

    @pytest.mark.parametrize("name", ["nothing.py", "."])
    def test_what_is_no_file(self, name: str, inputs: Inputs) -> None:
        with pytest.raises(BadInput, match=rf"engine\.hf\.script={name}: .* is not a file"):
            planned(load([f"engine.hf.script={name}"]), inputs)

    def test_a_path_in_an_image_is_not_looked_up_here(self, inputs: Inputs) -> None:
        words = ["launcher=docker", "launcher.options.image=x", "engine.hf.script=/in/train.py"]
        found = planned(load(words), inputs)
        assert found.command.argv[0] == "/in/train.py"


def test_files_that_arguments_name_are_part_of_the_key(tmp_path: Path, inputs: Inputs) -> None:
    config = tmp_path / "fsdp.json"
    config.write_text("{}")
    settings = load([f"+engine.hf.arguments.fsdp_config='{config}'"])
    before = planned(settings, inputs).key
    assert planned(settings, inputs).key == before
    config.write_text("{ }")
    assert planned(settings, inputs).key != before


class TestTraining:
    """What a run without a break has in common with those that save and resume on its way."""

    def test_it_is_of_all_that_changes_what_is_trained(self, inputs: Inputs) -> None:
        resumed = ["case=llama-tiny-resumed"]
        straight = planned(load(resumed), inputs)
        assert dataclasses.replace(straight, repeat=1).training == straight.training
        assert straight.training == straight.key
        for word in ("engine.hf.faults=[{name: learning_rate}]", "case.seed=1"):
            assert planned(load([*resumed, word]), inputs).training != straight.training

    def test_a_run_that_saves_is_of_the_one_without_a_break(self, inputs: Inputs) -> None:
        settings = load(["case=llama-tiny-resumed"])
        run = with_manifest(Trainer().record(), lambda manifest: manifest.update(training="x"))

        def planner(settings: Settings, inputs: Inputs, course: Course = Course.STRAIGHT) -> Plan:
            return plan_run("hf", settings, inputs, lambda _: None, course)

        saving = plan_saving(planner, settings, inputs, run)
        assert (saving.role, saving.training) == ("saving", "x")
        assert saving.key != planned(settings, inputs).key


class TestStaged:
    """A trace is a run of its own: two steps, on few devices, with its operations named."""

    def test_what_it_is(self, inputs: Inputs) -> None:
        words = ["stage=true", "target=v6e:16x16", "case.mesh.fsdp=64", "case.global_batch=64"]
        found = planned(load(words), inputs)
        assert found.role == "staged"
        assert found.case.steps == found.command.spec.steps == 2
        assert (found.command.spec.stage, found.environment["CPU_NUM_DEVICES"]) == (64, "4")
        assert found.command.spec.scopes
        assert found.environment["XLA_HLO_DEBUG"] == "1"

    def test_it_is_no_other_run_s_record(self, inputs: Inputs) -> None:
        executed = load(["case.steps=3", "target=v6e:2x2"])
        staged = load(["case.steps=3", "target=v6e:2x2", "stage=true"])
        assert planned(executed, inputs).key != planned(staged, inputs).key

    def test_inputs_have_no_weights(self, tmp_path: Path) -> None:
        words = [f"workspace='{tmp_path}'", "target=v6e:2x2"]
        staged = plan.inputs_of(load([*words, "stage=true"]))
        assert staged.rows.is_file()
        assert (staged.model / "config.json").is_file()
        assert not staged.weights.exists()
        assert plan.inputs_of(load([*words, "case.steps=3"])).weights.is_file()
