"""`parity` itself: its version, its help, and what these load."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import harness
from harness.cli.main import COMMANDS, app

ALL = (
    "run", "compare", "gate", "bless", "bisect", "cases", "engines", "doctor", "command", "use",
    "merge",
)  # fmt: skip
HEAVY = (
    "hydra", "omegaconf", "pydantic", "numpy", "yaml", "rich.progress", "tensorboard", "plotly",
    "jinja2", "harness.run", "harness.ladder", "harness.config",
)  # fmt: skip


def test_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"parity-harness {harness.__version__}\n")


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", [(), *((name,) for name in ALL), ("train",), ("train", "hf")])
def test_help(command: tuple[str, ...], option: str) -> None:
    done = CliRunner().invoke(app, [*command, option])
    assert done.exit_code == 0
    assert "Usage:" in done.stdout


def test_a_command_is_the_file_of_its_name() -> None:
    assert tuple(function.__name__ for function in COMMANDS) == ALL
    for function in COMMANDS:
        assert function.__module__ == f"harness.cli.{function.__name__}"
    group = typer.main.get_command(app)
    assert set(group.commands) == {*ALL, "train"}  # type: ignore[attr-defined]


def test_the_command_line_loads_nothing_that_only_a_command_needs() -> None:
    code = "import sys, harness.cli.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [name for name in HEAVY if name in done] == []
