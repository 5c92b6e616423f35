"""`parity` itself: its version, its help, and what these load."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import harness
from harness.base.errors import BadInput
from harness.cli import main
from harness.cli.main import COMMANDS, app

ALL = (
    "run", "matrix", "compare", "report", "history", "import", "gate", "bless", "bisect",
    "calibrate", "cases", "engines", "doctor", "command", "use", "merge",
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


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ZeroDivisionError("division\nby zero"), 4, "(ZeroDivisionError: division by zero)"),
        (RecursionError(), 4, "(RecursionError)"),
        (BadInput("case.steps=0: none"), 2, "error: case.steps=0: none"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_how_it_ends(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    def broken(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(main, "_run", broken)
    monkeypatch.setattr(main, "ignore_signals", lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == code
    printed = " ".join(capsys.readouterr().err.split())
    assert message in printed
    assert "Traceback" not in printed
    crashes = list(tmp_path.glob("parity-crash-*.txt"))
    assert len(crashes) == (code == 4)
    assert all("in broken" in file.read_text() for file in crashes)


def test_a_command_is_the_file_of_its_name() -> None:
    assert tuple(function.__name__.rstrip("_") for function in COMMANDS) == ALL
    for function in COMMANDS:
        assert function.__module__ == f"harness.cli.{function.__name__}"  # import_ is a keyword
    group = typer.main.get_command(app)
    assert set(group.commands) == {*ALL, "train"}  # type: ignore[attr-defined]


def test_the_command_line_loads_nothing_that_only_a_command_needs() -> None:
    code = "import sys, harness.cli.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [name for name in HEAVY if name in done] == []
