"""What the two engines of `parity train` share: folders, device, interpreter, inputs, launch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput
from harness.base.files import expanded
from harness.base.progress import Progress
from harness.config.case import AS_SHIPPED, Case, Data
from harness.config.training import Shape, TrainingRequest
from harness.devices.device import device
from harness.engines.command import OUTPUT, RECORD
from harness.environments.interpreters import Interpreter, base_interpreter, named_interpreter
from harness.inputs.prepared import Inputs, prepare, writing
from harness.launchers.local import device_environment
from harness.launchers.registry import devices_of, launcher_for
from harness.models.family import Model
from harness.probe.spec import Spec
from harness.record.evidence import Record
from harness.record.layout import PROFILE
from harness.run import preflight
from harness.run.device_lock import DeviceLock
from harness.run.execute import launch_alone, run_of, with_launcher_identity
from harness.run.plan import Plan
from harness.run.reporter import Reporter
from harness.run.workspace import Slot
from harness.train.settings import Training

RUNS, DUMPS, PROFILES = "runs", "xla_dumps", "profile"

DUMPED = "--xla_dump_hlo_as_text --xla_dump_hlo_as_proto"
"""What of compiled graphs is dumped."""


SHAPE = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
}
"""Keys of a Case's model, and what a model's configuration calls them."""


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """The shape of a dense decoder-only model from its configuration; None for any other."""
    shape = {ours: config.get(theirs) for ours, theirs in SHAPE.items()}
    complete = {key: value for key, value in shape.items() if isinstance(value, int)}
    return Shape(**complete) if len(complete) == len(SHAPE) else None


@dataclass(frozen=True)
class TrainingPlan:
    """One run of one side, ready to be launched.

    directory: folder of its Record, `output_dir/runs/<run name>`
    notes:     what a person should know of it before it starts
    """

    plan: Plan
    directory: Path
    notes: tuple[str, ...] = ()


def directory_of(training: Training, engine: str) -> Path:
    """Where the Record and the curves of this run will be.

    Raises:
        BadInput: a run of that name is there already.
    """
    name = training.run_name or f"{engine}-{time.strftime('%Y%m%d-%H%M%S')}"
    directory = output_folder(training) / RUNS / name
    _check_free(directory)
    return directory


def _check_free(directory: Path) -> None:
    with writing("output_dir", directory.parents[1]):
        there = directory.exists()
    if there:
        raise BadInput(
            f"run_name={directory.name}: {directory} is there already, and no run is written over "
            "another: give it another run_name, or none, and it is named by the time."
        )


def output_folder(training: Training) -> Path:
    """`output_dir` as an absolute path."""
    return expanded(training.output_dir).absolute()


def output_word(training: Training) -> str:
    """`output_dir` as the trainer is told it: a path of this machine, which a pod has not."""
    return OUTPUT if training.launcher.name == "xpk" else str(output_folder(training))


def trainer_log(directory: Path) -> str:
    """Name of the folder in which the trainer keeps its own event files, beside ours."""
    return f"{directory.name}-trainer"


def check_device(training: Training) -> None:
    """Raises BadInput where a run on this machine wants a device that it has none of."""
    try:
        preflight.check_device(training.launcher)
    except BadInput as error:
        raise BadInput(
            f"{error}. workload=llama-3.0-8b-tiny trains on the CPU mesh here, launcher=xpk on a "
            "cluster."
        ) from None


def check_mesh(mesh: Mapping[str, int], training: Training, shown: str) -> None:
    """Raises BadInput for a mesh of another number of devices than the run has."""
    found = devices_of(training.launcher)
    if found is not None and found != math.prod(mesh.values()):
        wrong = preflight.mesh_does_not_fit(mesh, found, shown)
        raise BadInput(f"{wrong}: name a mesh of {found}")


def interpreter_of(training: Training, cache: Path, progress: Progress) -> Interpreter:
    """The interpreter that is named, or the harness's own."""
    if training.python is not None:
        found = named_interpreter(Path(training.python), cache)
    else:
        found = base_interpreter(cache, progress)
    preflight.check_library(training.launcher, found)
    return found


def inputs_of(training: Training) -> Inputs:
    """The tokenizer and the text that were asked for, under `output_dir`/inputs.

    Raises:
        BadInput: `output_dir` cannot be written, the text cannot be read, or the vocabulary is too
            small for it.
    """
    root, prepared = output_folder(training) / "inputs", training.inputs
    with writing("output_dir", root.parent):
        root.mkdir(parents=True, exist_ok=True)
        if prepared is None:
            (root / "none").mkdir(exist_ok=True)
            return Inputs(root / "none")
    # Only the text and the tokenizer are used, whatever the rows: both engines share them. A text
    # that is too short for all steps is read again, as the trainers do with any.
    case = Case(
        name="train",
        kind=AS_SHIPPED,
        model=Model(vocab_size=prepared.vocab_size),
        data=Data(text=prepared.text, sequence_length=1),
        steps=1,
        global_batch=1,
    )
    try:
        return prepare(case, root, "output_dir")
    except BadInput as error:
        raise BadInput(f"inputs: {error}") from None


def spec_of(request: TrainingRequest, training: Training) -> Spec:
    """The probe's Spec: it observes and changes nothing."""
    return Spec(
        steps=request.steps,
        micro_batch=request.micro_batch,
        window=training.window,
        accelerator_type=device(training.launcher.device).accelerator_type,
        profile=f"{RECORD}/{PROFILE}" if training.profile else None,
    )


def environment_of(training: Training, devices: int) -> dict[str, str]:
    """Variables of the run: of its devices, then those that `env` names."""
    launcher = training.launcher
    chosen = device_environment(launcher.device, devices, launcher.fast_compile)
    given = {"TOKENIZERS_PARALLELISM": "false", **chosen, **training.variables}
    on_cluster = launcher.name == "xpk"
    if on_cluster if training.xla_dump is None else training.xla_dump:
        dump = f"--xla_dump_to={output_word(training)}/{DUMPS} {DUMPED}"
        given["XLA_FLAGS"] = f"{given.get('XLA_FLAGS', '')} {dump}".strip()
    return given


def positive(arguments: Mapping[str, Any], key: str, shown: str) -> int:
    """A whole number that is at least 1.

    Raises:
        BadInput: it is missing, or is not one.
    """
    value = arguments.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(
            f"{shown}={'null' if value is None else value}: name a whole number of at least 1. A "
            "Record says whether a run was trained to its end, so that it has to have one."
        )
    return value


def commands(side: TrainingPlan, training: Training, reporter: Reporter) -> list[tuple[str, ...]]:
    """The command lines that `train` would run on this machine, in order.

    Raises:
        BadInput: the launcher refuses an option.
    """
    launcher = launcher_for(training.launcher, reporter.note)
    plan = with_launcher_identity(side.plan, launcher)
    return launcher.commands(run_of(plan, Slot(side.directory)))


def train(side: TrainingPlan, training: Training, reporter: Reporter) -> Record:
    """Train one side, watched. A run that fails gives a Record too, which says how it ended.

    Raises:
        BadInput: it cannot be launched, or another run took its name since it was planned.
    """
    launcher = launcher_for(training.launcher, reporter.note)
    plan, place = with_launcher_identity(side.plan, launcher), Slot(side.directory)
    devices = DeviceLock(training.launcher.device, reporter)
    with place.locked():
        # Whoever held the lock before has trained under this name, and is not to be replaced.
        _check_free(side.directory)
        with devices if launcher.here else contextlib.nullcontext():
            return launch_alone(plan, place, training.launcher, reporter)
