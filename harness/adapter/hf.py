"""The Hugging Face Trainer by itself: a script's arguments to the plan of a run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from harness.adapter import hub
from harness.adapter.arguments import ask
from harness.adapter.asked import (
    RUNS,
    Asked,
    Side,
    check_device,
    directory_of,
    environment_of,
    inputs_of,
    interpreter_of,
    output_folder,
    own_log,
    plan_of,
    positive,
    spec_of,
)
from harness.adapter.fitting import Fitted, command_line, fit
from harness.adapter.paths import absolute
from harness.adapter.settings import ARGUMENTS, HF, HfTraining
from harness.engines.command import INPUTS, PACKAGE, SCRATCH, SOURCE, Command
from harness.environments.interpreters import Interpreter, with_transformers
from harness.environments.sources import Checkout, default_cache_dir, parse_source, resolve
from harness.errors import BadInput
from harness.plan import Note

LOCAL = "local_transformers"
"""A checkout in the current folder that is trained with unless another source is named."""

EXAMPLE = Path("examples/pytorch/language-modeling/run_clm.py")
OURS = Path(__file__).resolve().parents[1] / "trainers" / "hf_clm.py"

ON_THE_HUB = {
    "config_name": "model", "tokenizer_name": "model", "model_name_or_path": "model",
    "dataset_name": "dataset",
}  # fmt: skip
FILES = (".json", ".yaml", ".yml")
"""Files that an argument names and that are copied into the run: they are part of its key."""


def plan(training: HfTraining, note: Note) -> Side:
    """The run of `training`, with all that can be checked before it starts.

    Raises:
        BadInput: it cannot work.
    """
    check_device(training)
    cache, here = default_cache_dir(), Path.cwd()
    directory = directory_of(training, HF)
    checkout = checkout_of(training, here, cache, note)
    script = script_of(training.train_script.path, checkout, here)
    interpreter = interpreter_of(training, cache, note)
    if checkout is not None:
        interpreter = with_transformers(interpreter, checkout, cache, note)
    wanted = {
        name: absolute(name, value, here) for name, value in training.train_script.args.items()
    }
    wanted["output_dir"] = str(output_folder(training))
    wanted.setdefault("logging_dir", str(output_folder(training) / RUNS / own_log(directory)))
    accepted = ask(script, interpreter, cache, note)
    fitted = fit(wanted, accepted, training.said)
    asked = _asked(fitted)
    if training.launcher.name == "local":
        _check_hub(fitted.arguments, training, note)
    moved, files = _with_files(fitted)
    profile = training.profile_dir
    environment = environment_of(training, training.devices)
    if profile is not None:
        environment["PROFILE_LOGDIR"] = str(absolute("profile_dir", profile, here))
    origin = _origin(script, checkout, interpreter)
    argv = (_placed(script, checkout), *command_line(moved, accepted))
    return Side(
        plan_of(
            asked,
            engine=HF,
            label=directory.name,
            command=Command(argv=argv, spec=spec_of(asked, HF, training.window), files=files),
            interpreter=interpreter,
            inputs=inputs_of(training),
            environment=environment,
            origin=origin,
            source=None if checkout is None else checkout.path,
        ),
        directory,
        fitted.notes,
    )


def checkout_of(training: HfTraining, here: Path, cache: Path, note: Note) -> Checkout | None:
    """What is trained with; None for the transformers that is installed.

    That is the source that is named; else the checkout that the named script is in; else
    `local_transformers` in the current folder.

    Raises:
        BadInput: it cannot be had.
    """
    source = training.source
    if source is None and training.train_script.path is not None:
        script = here / Path(training.train_script.path).expanduser()
        homes = [parent for parent in script.parents if (parent / "src/transformers").is_dir()]
        source = str(homes[0]) if homes else None
    elif source is None and (here / LOCAL).is_dir():
        source = str(here / LOCAL)
    if source is None:
        return None
    if (here / Path(source).expanduser()).is_dir():
        source = str((here / Path(source).expanduser()).absolute())
    return resolve(parse_source(source, "transformers"), cache, note)


def script_of(path: str | None, checkout: Checkout | None, here: Path) -> Path:
    """The script to run: the one that is named, the checkout's run_clm.py, or ours.

    A relative path is looked up in the current folder, then in the checkout.

    Raises:
        BadInput: there is no such script.
    """
    folder = None if checkout is None else checkout.path
    if path is not None:
        candidates = [here / Path(path).expanduser(), *([folder / path] if folder else [])]
        found = next((one for one in candidates if one.is_file()), None)
        if found is None:
            raise BadInput(
                f"train_script.path={path}: there is no such file, neither in {here}"
                f"{f' nor in {folder}' if folder else ''}. Name a script, or null: then it is "
                f"{EXAMPLE} of the source, or the harness's own."
            )
        return found.absolute()
    if folder is None:
        return OURS
    if not (folder / EXAMPLE).is_file():
        raise BadInput(
            f"{folder} has no {EXAMPLE}: it is no whole checkout of transformers (a package has no "
            "examples), or one from before or after it was there. Name a script by "
            f"train_script.path, a release (source=4.57.6), which the harness's own {OURS.name} "
            "trains with, or another checkout."
        )
    return folder / EXAMPLE


def arguments_for(
    checkout: Checkout,
    wanted: Mapping[str, Any],
    interpreter: Interpreter,
    cache: Path,
    note: Note,
    said: Collection[str] = (),
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
    accepted = ask(script, interpreter, cache, note)
    fitted = fit(wanted, accepted, said)
    for line in fitted.notes:
        note(line)
    return (_placed(script, checkout), *command_line(fitted, accepted))


def _placed(script: Path, checkout: Checkout | None) -> str:
    """The script as a Command has it: under a placeholder where it can be, the same everywhere."""
    if script == OURS:
        return f"{PACKAGE}/trainers/{OURS.name}"
    if checkout is not None and checkout.path is not None and script.is_relative_to(checkout.path):
        return f"{SOURCE}/{script.relative_to(checkout.path)}"
    return str(script)


def _asked(fitted: Fitted) -> Asked:
    arguments = fitted.arguments
    rows = positive(
        {"per_device_train_batch_size": 8, **arguments},
        "per_device_train_batch_size",
        f"{ARGUMENTS}per_device_train_batch_size",
    )
    return Asked(
        name="train",
        dtype=_dtype(arguments),
        steps=positive(arguments, "max_steps", f"{ARGUMENTS}max_steps"),
        micro_batch=rows,
        arguments=dict(arguments),
    )


def _dtype(arguments: Mapping[str, Any]) -> str:
    named = arguments.get("torch_dtype") or arguments.get("dtype")
    if named in (None, "auto"):
        return "bfloat16" if arguments.get("bf16") else "float32"
    return str(named)


def _check_hub(arguments: Mapping[str, Any], training: HfTraining, note: Note) -> None:
    wanted = [
        hub.Named(f"{ARGUMENTS}{name}", kind, str(arguments[name]))
        for name, kind in ON_THE_HUB.items()
        if name in arguments and not str(arguments[name]).startswith(INPUTS)
    ]
    caches = [Path(str(arguments["cache_dir"]))] if "cache_dir" in arguments else []
    hub.check(wanted, {**os.environ, **training.variables}, caches, note)


def _with_files(fitted: Fitted) -> tuple[Fitted, dict[str, str]]:
    """Small files that arguments name, put into the run itself, so that it is known by them."""
    moved, files = dict(fitted.arguments), {}
    for name, value in fitted.arguments.items():
        path = Path(value) if isinstance(value, str) and value.endswith(FILES) else None
        if path is not None and path.is_absolute() and path.is_file() and name != "train_file":
            place = f"arguments/{name}{path.suffix}"
            files[place] = path.read_text()
            moved[name] = f"{SCRATCH}/{place}"
    return Fitted(moved, fitted.notes), files


def _origin(script: Path, checkout: Checkout | None, interpreter: Interpreter) -> dict[str, Any]:
    """What is trained with, for the Record: commit, uncommitted changes, and the script's hash."""
    version = interpreter.packages.get("transformers")
    described = f"transformers {version}" if checkout is None else checkout.description
    return {
        "version": version,
        "commit": None if checkout is None else checkout.commit,
        "dirty": None if checkout is None else checkout.dirty,
        "description": f"{described}, {script.name}",
        "script": {
            "path": str(script),
            "sha256": hashlib.sha256(script.read_bytes()).hexdigest(),
        },
    }
