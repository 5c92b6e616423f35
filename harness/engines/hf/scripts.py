"""Finds the training script of a transformers release or checkout, and builds its command line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput
from harness.base.files import expanded
from harness.base.progress import Progress
from harness.engines.command import PACKAGE, SOURCE
from harness.engines.hf.match_arguments import command_line, match
from harness.engines.hf.script_arguments import ask
from harness.environments.interpreters import Interpreter
from harness.environments.sources import Checkout

RUN_CLM = Path("examples/pytorch/language-modeling/run_clm.py")
OURS = Path(__file__).resolve().parents[2] / "trainers" / "hf_clm.py"


def script_of(path: str | None, checkout: Checkout | None, here: Path) -> Path:
    """The script to run: the one that is named, the checkout's run_clm.py, or ours.

    A relative path is looked up in the current folder, then in the checkout.

    Raises:
        BadInput: there is no such script.
    """
    folder = None if checkout is None else checkout.path
    if path is not None:
        candidates = [here / expanded(path), *([folder / path] if folder else [])]
        found = next((one for one in candidates if one.is_file()), None)
        if found is None:
            raise BadInput(
                f"train_script.path={path}: there is no such file, neither in {here}"
                f"{f' nor in {folder}' if folder else ''}. Name a script, or null: then it is "
                f"{RUN_CLM} of the source, or the harness's own."
            )
        return found.absolute()
    if folder is None:
        return OURS
    if not (folder / RUN_CLM).is_file():
        raise BadInput(
            f"{folder} has no {RUN_CLM}: it is no whole checkout of transformers (a package has no "
            "examples), or one from before or after it was there. Name a script by "
            f"train_script.path, a release (source=4.57.6), which the harness's own {OURS.name} "
            "trains with, or another checkout."
        )
    return folder / RUN_CLM


def arguments_for(
    checkout: Checkout,
    wanted: Mapping[str, Any],
    interpreter: Interpreter,
    cache: Path,
    progress: Progress,
    explicit: Collection[str] = (),
) -> tuple[str, ...]:
    """The script of `checkout` with the arguments that are `wanted`, in its own terms.

    For the ladder: a case's arguments, fitted to whichever release or fork is compared. A checkout
    without a folder (a release) has the harness's own script. `interpreter` holds its transformers.

    Raises:
        BadInput: there is no script, or it does not take an argument that matters.
    """
    script = script_of(None, checkout, Path.cwd())
    if script != OURS:
        wanted = {"do_train": True, **wanted}
    accepted = ask(script, interpreter, cache, progress)
    matched = match(wanted, accepted, explicit)
    for line in matched.notes:
        progress(line)
    return (script_word(script, checkout), *command_line(matched, accepted))


def script_word(script: Path, checkout: Checkout | None) -> str:
    """The script's path in a Command; with a placeholder for the folder that differs by machine."""
    if script == OURS:
        return f"{PACKAGE}/trainers/{OURS.name}"
    if checkout is not None and checkout.path is not None and script.is_relative_to(checkout.path):
        return f"{SOURCE}/{script.relative_to(checkout.path)}"
    return str(script)
