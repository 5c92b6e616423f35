"""The workflows: checked by actionlint, and against the commands that they call."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from harness.cli.main import app

WORKFLOWS = Path(__file__).resolve().parents[2] / ".github" / "workflows"
FILES = sorted(WORKFLOWS.glob("*.yml"))


def read(name: str) -> dict[str, Any]:
    value = yaml.safe_load((WORKFLOWS / name).read_text())
    value["on"] = value.pop(True)  # YAML 1.1 takes `on` for true
    assert isinstance(value, dict)
    return value


def steps() -> list[dict[str, Any]]:
    return [step for job in read("parity.yml")["jobs"].values() for step in job["steps"]]


def test_there_are_some() -> None:
    assert {"gate.yml", "parity.yml"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_actionlint(path: Path) -> None:
    program = shutil.which("actionlint") or shutil.which(
        "actionlint", path=str(Path(sys.executable).parent)
    )
    if program is None:
        pytest.skip("actionlint is not installed: it comes with the extra `dev`")
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_gate_passes_inputs_that_the_reusable_one_declares() -> None:
    declared = read("parity.yml")["on"]["workflow_call"]["inputs"]
    given = read("gate.yml")["jobs"]["gate"]["with"]
    assert given.keys() <= declared.keys()
    assert {name for name, value in declared.items() if value.get("required")} <= given.keys()


def test_no_input_becomes_code() -> None:
    """A ref that is pasted into a script would be run by the shell."""
    for step in steps():
        assert "${{" not in step.get("run", "")


def test_nothing_may_be_written_to_the_repository() -> None:
    for path in FILES:
        assert read(path.name)["permissions"] == {"contents": "read"}


def test_the_command_has_the_options_that_are_used() -> None:
    command = typer.main.get_command(app)
    gate = command.commands["gate"]  # type: ignore[attr-defined]
    known = {option for parameter in gate.params for option in parameter.opts}
    (script,) = {step["run"] for step in steps() if step.get("id") == "gate"}
    used = set(re.findall(r"--[a-z-]+", script)) - {"--no-sync"}
    assert used
    assert used <= known


def test_both_devices_are_gated_alike() -> None:
    """The TPU's job is the CPU's, and more."""
    jobs = read("parity.yml")["jobs"]
    names = [[step.get("name") for step in jobs[job]["steps"]] for job in ("cpu-mesh", "tpu")]
    assert [name for name in names[0] if name not in names[1]] == []
    assert jobs["tpu"]["env"]["DEVICE"] == "tpu"


def test_a_failed_gate_fails_the_job() -> None:
    (script,) = {step["run"] for step in steps() if step.get("id") == "gate"}
    assert script.rstrip().endswith('exit "$code"')
    assert not any(step.get("continue-on-error") for step in steps())
