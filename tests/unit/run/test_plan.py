"""Plans: whatever can change a run names its Record, and what cannot work is told beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.base.errors import BadInput
from harness.config.compose import load
from harness.config.settings import Settings
from harness.engines.hf import engine as hf
from harness.environments.interpreters import Interpreter
from harness.environments.sources import Checkout
from harness.inputs.prepared import Inputs, prepare
from harness.run import plan
from harness.run.plan import plan_run

PYTHON = Interpreter(Path("/python"), (), {"transformers": "4.57.6"}, {}, "interpreter")


@pytest.fixture(autouse=True)
def no_interpreter_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "interpreter_for", lambda *_: PYTHON)


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
