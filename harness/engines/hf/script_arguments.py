"""Asks a script which arguments it takes: its own parser answers, in the engine's interpreter."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput, CannotStart
from harness.base.progress import Progress
from harness.base.tracebacks import root_of
from harness.environments.cache import exclusive
from harness.environments.interpreters import Interpreter
from harness.record.writer import write_json

PARSER_TIMEOUT = 300.0
"""How long a script may take until it parses its arguments. It imports torch and transformers
first, which is 10 s on a quiet machine and a minute on a busy one with a cold disk."""

DESCRIBE_PARSER = Path(__file__).parent / "describe_parser.py"


@dataclass(frozen=True)
class ScriptArgument:
    """One argument of a script, as its parser describes it.

    options:  the names that it goes by, without dashes
    nargs:    as in argparse: None for one value, 0 for none, "?", "*", "+" or a number
    flag:     it is true when it is given without a value
    type:     name of what converts its value, such as "int"; None where it is taken as it is
    choices:  the only values that it takes; None where there are others
    default:  its default, where that is a boolean or None; "" for any other
    required: it has to be given
    """

    options: tuple[str, ...]
    nargs: str | int | None = None
    flag: bool = False
    type: str | None = None
    choices: tuple[str, ...] | None = None
    default: bool | str | None = ""
    required: bool = False


@dataclass(frozen=True)
class Accepted:
    """What a script takes.

    script:     the script, for messages
    parameters: every parameter by each of its names
    """

    script: str
    parameters: Mapping[str, ScriptArgument]

    @staticmethod
    def of(script: str, described: list[dict[str, Any]]) -> Accepted:
        """From describe_parser.py's answer. Raises KeyError or TypeError where it is not one."""
        parameters: dict[str, ScriptArgument] = {}
        for raw in described:
            choices = None if raw["choices"] is None else tuple(raw["choices"])
            parameter = ScriptArgument(
                **{**raw, "options": tuple(raw["options"]), "choices": choices}
            )
            parameters |= dict.fromkeys(parameter.options, parameter)
        return Accepted(script, parameters)


def ask(script: Path, interpreter: Interpreter, cache_dir: Path, progress: Progress) -> Accepted:
    """What `script` takes when `interpreter` runs it: asked once, then remembered.

    It is asked again when a Python file in its folder or anything in the interpreter has changed.

    Raises:
        BadInput: it has no parser of argparse's; CannotStart where it fails before that.
    """
    memory = cache_dir / "arguments" / f"{_identity(script, interpreter)}.json"
    if not memory.is_file():
        with exclusive(memory, progress):
            if not memory.is_file():
                progress(f"asking {script.name} which arguments it takes")
                write_json(memory, {"parameters": _inquire(script, interpreter)})
    return Accepted.of(str(script), json.loads(memory.read_text())["parameters"])


def _identity(script: Path, interpreter: Interpreter) -> str:
    digest = hashlib.sha256(
        f"{interpreter.key} {script.name}".encode() + DESCRIBE_PARSER.read_bytes()
    )
    for file in sorted(script.parent.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def _inquire(script: Path, interpreter: Interpreter) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        path = os.pathsep.join(map(str, interpreter.pythonpath))
        try:
            done = subprocess.run(
                [str(interpreter.python), str(DESCRIBE_PARSER), str(answer), str(script)],
                cwd=folder,
                env={**environment, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=PARSER_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BadInput(
                f"{script} did not parse its arguments within {PARSER_TIMEOUT:.0f} s, so that they "
                "cannot be checked: a training script parses them before it does anything else."
            ) from None
        if answer.is_file():
            described: list[dict[str, Any]] = json.loads(answer.read_text())
            return described
    raise _no_answer(script, interpreter, done.returncode, done.stdout)


def _no_answer(script: Path, interpreter: Interpreter, code: int, printed: str) -> BadInput:
    error = ([line.strip() for line in printed.splitlines() if line.strip()] or ["nothing"])[-1]
    if code == 0:
        return BadInput(
            f"{script} ended without parsing any arguments by argparse: name a script that takes "
            "its arguments as run_clm.py does, by train_script.path."
        )
    missing = error.removeprefix("ModuleNotFoundError: No module named ")
    if missing != error:
        return CannotStart(
            f"{script} imports {missing}, which the interpreter {interpreter.python} does not "
            "have: install it there, or name no interpreter (python=null), and the harness makes "
            "one that has what run_clm.py imports."
        )
    root = root_of(printed.splitlines()) or error[-500:]
    return CannotStart(
        f"{script} cannot be asked which arguments it takes, because it fails before it parses "
        f"them: {root}. Run `{interpreter.python} {script} --help` to see all of it."
    )
