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


UV = """#!/bin/bash
printf '%s\\n' "uv" "$@" "torch: ${UV_TORCH_BACKEND-any}" "" >> "$CALLS"
if [ "$3" = parity ]; then echo '{"result": "FAIL"}' > out/gate.json; exit 1; fi
"""
"""A uv that writes down what it was asked for; the gate says FAIL."""


class TestAsTheRunnerWould:
    """The shell blocks of a job, in order, in a clean folder, by the runner's own shell."""

    def run(self, job: str, folder: Path, **inputs: str) -> tuple[list[list[str]], list[int], str]:
        """Calls of uv, exit codes of the blocks, and outputs."""
        programs = folder / "programs"
        programs.mkdir()
        (programs / "uv").write_text(UV)
        (programs / "uv").chmod(0o755)
        calls, output, work = folder / "calls", folder / "output", folder / "work"
        work.mkdir()
        found = read("parity.yml")["jobs"][job]
        given = {"CANDIDATE": "transformers@main", "CASES": "smoke", "BASELINE": "",
                 "TORCHPRIME": "", "OVERRIDES": "", "MESH": "", "TARGET": "",
                 "TORCH_BACKEND": "", **inputs}  # fmt: skip
        assert given.keys() <= read("parity.yml")["env"].keys()
        environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "CALLS": str(calls),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_ENV": str(folder / "env"),
            **given,
            **found.get("env", {}),
        }
        codes = []
        for step in found["steps"]:
            if "run" not in step:
                continue
            # As GitHub's runner does for `shell: bash`, its default on Linux but for pipefail.
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]], cwd=work, env=environment, check=False
            )
            codes.append(done.returncode)
            lines = (folder / "env").read_text().splitlines() if (folder / "env").exists() else []
            environment |= dict(line.split("=", 1) for line in lines)
        asked = [call.split("\n") for call in calls.read_text().split("\n\n") if call]
        return asked, codes, output.read_text()

    def test_the_gate_is_asked_for_what_the_inputs_say(self, tmp_path: Path) -> None:
        if shutil.which("jq", path="/usr/bin:/bin") is None:
            pytest.skip("jq is not installed: GitHub's runners have it")
        calls, codes, output = self.run(
            "cpu-mesh", tmp_path, BASELINE="transformers@4.57.6",
            OVERRIDES="case.steps=40 case.seed=7", TARGET="v6e:2x2", MESH="fsdp=2,tensor=2",
            TORCH_BACKEND="cpu",
        )  # fmt: skip
        assert codes == [0, 1], "its FAIL fails the job"
        assert output == "result=FAIL\n"
        (gate,) = (call for call in calls if "gate" in call)
        assert gate[gate.index("--baseline") + 1] == "transformers@4.57.6"
        assert {"case.steps=40", "case.seed=7", "target=v6e:2x2", "launcher.device=cpu"} <= {*gate}
        assert {"case.mesh.fsdp=2", "case.mesh.tensor=2", "torch: cpu"} <= {*gate}

    def test_what_is_not_given_is_not_passed(self, tmp_path: Path) -> None:
        calls, _, _ = self.run("tpu", tmp_path)
        (gate,) = (call for call in calls if "gate" in call)
        assert not {"", "--baseline", "--torchprime", "target=", "case.mesh."} & {*gate}
        assert {"launcher.device=tpu", "torch: any"} <= {*gate}
        (tests,) = (call for call in calls if "pytest" in call)
        assert "--parity-require" in tests

    def test_every_block_takes_its_torch_from_one_index(self, tmp_path: Path) -> None:
        calls, _, _ = self.run("tpu", tmp_path, TORCH_BACKEND="cpu")
        launching = [call for call in calls if "run" in call]
        assert len(launching) == 2
        assert all("torch: cpu" in call for call in launching)

    def test_an_input_is_one_word_or_data_and_never_code(self, tmp_path: Path) -> None:
        hostile = "transformers@$(touch pwned);`touch pwned`"
        calls, _, _ = self.run("cpu-mesh", tmp_path, CANDIDATE=hostile, OVERRIDES=hostile)
        (gate,) = (call for call in calls if "gate" in call)
        assert gate[gate.index("--candidate") + 1] == hostile
        assert not (tmp_path / "work" / "pwned").exists()


def test_a_fork_reaches_a_tpu_only_by_an_environment_that_reviewers_open() -> None:
    tpu = read("parity.yml")["jobs"]["tpu"]
    for key in ("if", "environment"):
        assert "inputs.tpu-environment" in tpu[key]
        assert "head.repo.full_name" in tpu[key]
        # Whatever the event that a pull request comes with: pull_request_target is one more.
        assert "event_name" not in tpu[key]


def test_the_junit_is_the_users_verdict() -> None:
    """And not a second launch, or a test of the harness itself."""
    (script,) = {step["run"] for step in steps() if step.get("id") == "gate"}
    assert "--junit out/gate.xml" in script
    assert not any("test_gate.py" in step.get("run", "") for step in steps())
