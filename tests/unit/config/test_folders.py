"""Cases and other configurations from outside: of a package, and of the user."""

from pathlib import Path

import pytest
from outside import installed
from typer.testing import CliRunner

from harness.base.errors import BadInput
from harness.base.users import CONFIGS_VARIABLE, USERS
from harness.cli.main import app
from harness.config.compose import case_names, case_origins, load
from harness.config.folders import OWN
from harness.inputs.prepared import prepare
from harness.train.settings import load_hf

CASE = """
defaults:
  - llama-tiny
  - override /mesh@mesh: one
  - override /sharding@sharding: not-at-all
  - _self_
name: {name}
description: on one device
steps: 3
global_batch: 2
data: {{text: mine.txt, sequence_length: 16, stride: 8}}
"""
TABLE = "\n".join(
    f"{name}: [{', '.join(['null'] * dimensions)}]"
    for name, dimensions in (
        ("model.embed_tokens.weight", 2),
        *((f"model.layers.*.self_attn.{p}_proj.weight", 2) for p in "qkvo"),
        *((f"model.layers.*.mlp.{p}_proj.weight", 2) for p in ("gate", "up", "down")),
        ("model.layers.*.input_layernorm.weight", 1),
        ("model.layers.*.post_attention_layernorm.weight", 1),
        ("model.norm.weight", 1),
        ("lm_head.weight", 2),
    )
)
TOLERANCE = "defaults: [measured, _self_]\nmargin: 3.0\n"


def files(name: str) -> dict[str, str]:
    return {
        f"case/{name}.yaml": CASE.format(name=name),
        "mesh/one.yaml": "fsdp: 1\n",
        "sharding/not-at-all.yaml": TABLE,
        "tolerance/strict.yaml": TOLERANCE,
        "data/text/mine.txt": "one two three four five six seven\n" * 200,
        "train/workload/mine.yaml": "# @package _global_\ndevices: 3\n",
    }


def write(folder: Path, name: str = "mine") -> Path:
    for path, text in files(name).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(CONFIGS_VARIABLE, raising=False)
    folder = tmp_path / "here's a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def is_found(tmp_path: Path, name: str, origin: str) -> None:
    """The case, made of parts of its own folder and of the harness's, is one as any other."""
    assert case_origins()[name] == origin
    assert case_origins()["llama-tiny"] == OWN
    settings = load([f"case={name}", "tolerance=strict"])
    assert (settings.case.name, settings.case.mesh) == (name, {"fsdp": 1})
    assert settings.case.sharding["lm_head.weight"] == [None, None]
    assert settings.case.optimizer.name == "adamw"
    assert settings.tolerance.margin == 3.0
    assert prepare(settings.case, tmp_path / "inputs").rows.is_file()
    assert load_hf(["workload=mine"]).devices == 3


class TestUsers:
    def test_parity_cases_in_the_current_folder(self, here: Path, tmp_path: Path) -> None:
        write(here / USERS)
        is_found(tmp_path, "mine", str(USERS))

    def test_one_without_workloads(self, here: Path) -> None:
        """Hydra would warn of a folder that it is sent to in vain."""
        (here / USERS / "engine").mkdir(parents=True)
        assert load_hf(["workload=llama-3.0-8b-tiny"]).devices > 0

    def test_a_folder_that_is_named(
        self, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(CONFIGS_VARIABLE, str(write(tmp_path / "named")))
        is_found(tmp_path, "mine", str(tmp_path / "named"))
        write(here / USERS, "other")  # it takes the place of the one that is not named
        assert "other" not in case_names()

    def test_by_the_command_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(CONFIGS_VARIABLE, "")  # restored at the end, whatever --configs sets
        write(tmp_path / "named")
        runner = CliRunner(env={"COLUMNS": "300"})
        done = runner.invoke(app, ["--configs", str(tmp_path / "named"), "cases"])
        assert done.exit_code == 0
        lines = done.output.splitlines()
        description, facts = lines[lines.index("mine") + 1 :][:2]
        assert str(tmp_path / "named") in facts
        assert "on one device" in description

    def test_none(self) -> None:
        assert set(case_origins().values()) == {OWN}

    def test_one_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(CONFIGS_VARIABLE, "nowhere")
        with pytest.raises(BadInput, match=f"{CONFIGS_VARIABLE}=nowhere: it is no folder"):
            load([])

    def test_a_name_that_is_taken(self, here: Path) -> None:
        """Else what is meant would depend on the order of folders."""
        write(here / USERS, "llama-tiny")
        with pytest.raises(BadInput, match=r"the harness has a case/llama-tiny already"):
            load([])

    def test_a_case_that_is_nowhere(self, here: Path) -> None:
        write(here / USERS)
        with pytest.raises(BadInput, match=r"case=mime: .*did you mean mine\?"):
            load(["case=mime"])


class TestPackages:
    def test_of_a_package(self, tmp_path: Path) -> None:
        package = {f"my_cases/configs/{path}": text for path, text in files("theirs").items()}
        points = {"parity.configs": {"my-cases": "my_cases"}}
        with installed(tmp_path / "site", {"my_cases/__init__.py": "", **package}, points):
            is_found(tmp_path, "theirs", "the package my-cases")
        assert "theirs" not in case_names()

    def test_a_package_without_any(self, tmp_path: Path) -> None:
        points = {"parity.configs": {"empty": "no_cases"}}
        with (
            installed(tmp_path / "site", {"no_cases/__init__.py": ""}, points),
            pytest.raises(BadInput, match=r"no_cases, which has no folder configs"),
        ):
            load([])
