"""`parity train hf`: the plan of one run of the Hugging Face Trainer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput
from harness.base.files import expanded
from harness.base.progress import Progress
from harness.config.training import Shape, TrainingData, TrainingRequest
from harness.devices.device import device
from harness.engines.command import INPUTS, SCRATCH, Command
from harness.engines.hf.engine import ENGINE, TRANSFORMERS
from harness.engines.hf.match_arguments import Matched, command_line, match
from harness.engines.hf.script_arguments import ask
from harness.engines.hf.scripts import script_of, script_word
from harness.environments.folders import identity
from harness.environments.interpreters import Interpreter, with_transformers
from harness.environments.sources import Checkout, default_cache_dir, parse_source, resolve
from harness.run.plan import Plan
from harness.train import hub
from harness.train.paths import absolute
from harness.train.request import (
    PROFILES,
    RUNS,
    TrainingPlan,
    check_device,
    directory_of,
    environment_of,
    inputs_of,
    interpreter_of,
    output_folder,
    output_word,
    positive,
    shape_of,
    spec_of,
    trainer_log,
)
from harness.train.settings import ARGUMENTS, HfTraining

LOCAL = "local_transformers"
"""A checkout in the current folder that is trained with unless another source is named."""

ON_THE_HUB = {
    "config_name": "model", "tokenizer_name": "model", "model_name_or_path": "model",
    "dataset_name": "dataset",
}  # fmt: skip
COPIED_FILES = (".json", ".yaml", ".yml")
"""Files that an argument names and that are copied into the run: they are part of its key."""


def plan(training: HfTraining, progress: Progress) -> TrainingPlan:
    """The run of `training`, with all that can be checked before it starts.

    Raises:
        BadInput: it cannot work.
    """
    check_device(training)
    cache, here = default_cache_dir(), Path.cwd()
    directory = directory_of(training, ENGINE.name)
    checkout = checkout_of(training, here, cache, progress)
    script = script_of(training.train_script.path, checkout, here)
    interpreter = interpreter_of(training, cache, progress)
    if checkout is not None:
        interpreter = with_transformers(interpreter, checkout, cache, progress)
    wanted = {
        name: absolute(name, value, here) for name, value in training.train_script.args.items()
    }
    output = output_word(training)
    wanted["output_dir"] = output
    wanted.setdefault("logging_dir", f"{output}/{RUNS}/{trainer_log(directory)}")
    accepted = ask(script, interpreter, cache, progress)
    matched = match(wanted, accepted, training.explicit)
    request = _request(matched, training)
    if training.launcher.name == "local":
        _check_hub(matched.arguments, training, progress)
    moved, files = _with_files(matched)
    profile = training.profile_dir
    environment = environment_of(training, training.devices)
    if profile is not None:
        here_or_there = absolute("profile_dir", profile, here)
        environment["PROFILE_LOGDIR"] = str(
            here_or_there if training.launcher.name != "xpk" else f"{output}/{PROFILES}"
        )
    origin = _origin(script, checkout, interpreter)
    argv = (script_word(script, checkout), *command_line(moved, accepted))
    return TrainingPlan(
        Plan(
            case=request,
            engine=ENGINE.name,
            label=directory.name,
            command=Command(argv, ENGINE.watched(spec_of(request, training)), files=files),
            interpreter=interpreter,
            inputs=inputs_of(training),
            environment=environment,
            origin=origin,
            source=None if checkout is None else checkout.path,
            output=output_folder(training),
            first_step=_resumed_at(matched.arguments),
        ),
        directory,
        matched.notes,
    )


def checkout_of(
    training: HfTraining, here: Path, cache: Path, progress: Progress
) -> Checkout | None:
    """What is trained with; None for the transformers that is installed.

    That is the source that is named; else the checkout that the named script is in; else
    `local_transformers` in the current folder.

    Raises:
        BadInput: it cannot be had.
    """
    source = training.source
    if source is None and training.train_script.path is not None:
        script = here / expanded(training.train_script.path)
        homes = [parent for parent in script.parents if (parent / "src/transformers").is_dir()]
        source = str(homes[0]) if homes else None
    elif source is None and (here / LOCAL).is_dir():
        source = str(here / LOCAL)
    if source is None:
        return None
    if (here / expanded(source)).is_dir():
        source = str((here / expanded(source)).absolute())
    return resolve(parse_source(source, TRANSFORMERS), cache, progress)


def _request(matched: Matched, training: HfTraining) -> TrainingRequest:
    arguments = matched.arguments
    # What the Trainer does where it is not told.
    filled = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, **arguments}
    rows, accumulation, steps = (
        positive(filled, key, f"{ARGUMENTS}{key}")
        for key in ("per_device_train_batch_size", "gradient_accumulation_steps", "max_steps")
    )
    return TrainingRequest(
        dtype=_dtype(arguments),
        steps=steps,
        global_batch=rows * accumulation,
        accumulation=accumulation,
        max_norm=float(arguments.get("max_grad_norm", 1.0)) or None,
        mesh=_mesh(arguments, training),
        model=_model(arguments),
        data=TrainingData(arguments.get("block_size")),
        arguments=dict(arguments),
        comment=training.comment,
    )


def _resumed_at(arguments: Mapping[str, Any]) -> int:
    """Optimizer steps that were trained before what it resumes from was saved; 0 for none.

    The Trainer counts `max_steps` from the beginning. Raises BadInput where none is left.
    """
    folder = arguments.get("resume_from_checkpoint")
    if folder in (None, "", "False", "false", False):
        return 0
    state = Path(str(folder)) / "trainer_state.json"
    try:
        done = json.loads(state.read_text())["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # another machine's, or what only the Trainer can judge
    steps = int(arguments["max_steps"])
    if done >= steps:
        raise BadInput(
            f"{ARGUMENTS}resume_from_checkpoint={folder}: it was saved after {done} steps, and "
            f"{ARGUMENTS}max_steps={steps} counts from the beginning: name more of them"
        )
    return int(done)


def _mesh(arguments: Mapping[str, Any], training: HfTraining) -> dict[str, int] | None:
    """Sizes of the mesh axes that the arguments ask for; None where the machine sets the count."""
    if device(training.launcher.device).count is not None:
        return None
    tensor = int(arguments.get("spmd_2d_sharding", 0))
    if tensor:
        return {"fsdp": training.devices // tensor, "tensor": tensor}
    return {"fsdp": training.devices} if arguments.get("fsdp") else None


def _model(arguments: Mapping[str, Any]) -> Shape | None:
    path = Path(str(arguments.get("config_name") or arguments.get("model_name_or_path") or ""))
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError):  # a name on the hub, or what only the script can judge
        return None
    return shape_of(config) if isinstance(config, dict) else None


def _dtype(arguments: Mapping[str, Any]) -> str:
    named = arguments.get("torch_dtype") or arguments.get("dtype")
    if named in (None, "auto"):
        return "bfloat16" if arguments.get("bf16") else "float32"
    return str(named)


def _check_hub(arguments: Mapping[str, Any], training: HfTraining, progress: Progress) -> None:
    wanted = [
        hub.HubReference(f"{ARGUMENTS}{name}", kind, str(arguments[name]))
        for name, kind in ON_THE_HUB.items()
        if name in arguments and not str(arguments[name]).startswith(INPUTS)
    ]
    caches = [Path(str(arguments["cache_dir"]))] if "cache_dir" in arguments else []
    hub.check(wanted, {**os.environ, **training.variables}, caches, progress)


def _with_files(matched: Matched) -> tuple[Matched, dict[str, str]]:
    """The arguments, with small files copied into the run: their content is part of its key."""
    moved, files = dict(matched.arguments), {}
    for name, value in matched.arguments.items():
        path = Path(value) if isinstance(value, str) and value.endswith(COPIED_FILES) else None
        if path is not None and path.is_absolute() and path.is_file() and name != "train_file":
            place = f"arguments/{name}{path.suffix}"
            files[place] = path.read_text()
            moved[name] = f"{SCRATCH}/{place}"
    return Matched(moved, matched.notes), files


def _origin(script: Path, checkout: Checkout | None, interpreter: Interpreter) -> dict[str, Any]:
    """The manifest's `origin`: version, commit, hash of uncommitted changes, hash of the script."""
    version = interpreter.packages.get("transformers")
    described = f"transformers {version}" if checkout is None else checkout.description
    return {
        "version": version,
        "commit": None if checkout is None else checkout.commit,
        "dirty": None if checkout is None else checkout.dirty,
        "description": f"{described}, {script.name}",
        "script": identity(script),
    }
