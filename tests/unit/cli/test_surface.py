"""What the command line shows at any width, and what the shell completes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from harness import __version__
from harness.cli import completion
from harness.cli.main import app
from harness.config.compose import case_names
from harness.ladder.ladder import names


def shown(command: str, width: int) -> list[str]:
    done = CliRunner().invoke(app, [command], env={"COLUMNS": str(width)})
    assert done.exit_code == 0
    return done.stdout.splitlines()


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("command", ["cases", "engines", "doctor"])
def test_lists_fit_and_lose_nothing(command: str, width: int) -> None:
    narrow, wide = shown(command, width), shown(command, 400)
    names_of = [line for line in wide if not line.startswith(" ")]
    assert all(name in narrow for name in names_of), "a name that is cut cannot be copied"
    assert all(len(line) <= width for line in narrow if line not in names_of)
    assert "".join("".join(narrow).split()) == "".join("".join(wide).split())


def test_every_case_is_a_line_of_its_own() -> None:
    assert set(case_names()) <= set(shown("cases", 40))


@pytest.mark.parametrize("words", [["--version"], ["-h"], ["run", "-h"], ["import", "--help"]])
def test_version_and_help(words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert (__version__ if words == ["--version"] else "Usage") in done.stdout


def test_overrides_are_completed_by_what_is_configured() -> None:
    assert completion.override("case=llama-tiny-as") == ["case=llama-tiny-as-shipped"]
    assert "launcher=docker" in completion.override("laun")
    assert completion.override("case=nothing") == []


def test_the_last_rung_of_a_list_is_completed() -> None:
    assert completion.rung("data,ini") == ["data,init"]
    assert completion.rung("") == list(names())


def test_the_shell_is_answered() -> None:
    environment = {
        **os.environ, "_PARITY_COMPLETE": "complete_bash", "COMP_CWORD": "2",
        "COMP_WORDS": "parity run case=llama-tiny-as",
    }  # fmt: skip
    program = "import sys; sys.argv[0] = 'parity'; from harness.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["case=llama-tiny-as-shipped"]
