"""`Job`: what an engine translates. `Command`: what it translates it to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.base.errors import CannotTrain
from harness.config.case import Case
from harness.config.settings import EngineOptions
from harness.devices.device import device
from harness.models.family import family
from harness.probe.spec import Saving, Spec
from harness.record import layout

RECORD = "{record}"
"""Stands for the Record's folder in a Command; the launcher knows where that is."""
INPUTS = "{inputs}"
"""Stands for the folder of prepared inputs."""
SCRATCH = "{scratch}"
"""Stands for a folder that is thrown away after the run."""
SOURCE = "{source}"
"""Stands for the checkout that is trained with."""
OUTPUT = "{output}"
"""Stands for the folder that the trainer's own outputs are to be found in."""
SHARED = "{shared}"
"""Stands for a folder shared by two runs that take turns."""
SAVED_TO = f"{RECORD}/{layout.SAVED}"
"""Where a run saves: beside what was observed of it, so that one is kept as long as the other."""
SAVED = "{saved}"
"""Stands for the folder that the run before, which a run resumes, was told to save to."""
PACKAGE = "{harness}"
"""Stands for the folder of the harness's own package."""


class Course(Enum):
    """Which of the runs of a case that saves and resumes one is; `STRAIGHT` in any other case."""

    STRAIGHT = "trains all steps without a break"
    SAVING = "saves after case.save_at steps, and goes on"
    RESUMED = "goes on from what another saved, in a fresh process"


Options_co = TypeVar("Options_co", bound=EngineOptions, covariant=True)


@dataclass(frozen=True)
class Job(Generic[Options_co]):
    """One run to translate.

    case:    what is to be trained
    options: how the engine is to be run
    source:  the checkout that is trained with, where the engine has one
    device:  name of the device, as the launcher has it
    staged:  it is to be traced without values, so that no weights are prepared
    course:  whether it saves, or resumes what was saved
    """

    case: Case
    options: Options_co
    source: Path | None = None
    device: str = "cpu"
    staged: bool = False
    course: Course = Course.STRAIGHT

    @property
    def first_step(self) -> int:
        """The case's step that is the first of this run."""
        return (self.case.save_at or 0) if self.course is Course.RESUMED else 0


def refuse_axis(case: Case, axis: str, why: str) -> None:
    """Raise CannotTrain where the case's mesh has more than one device along `axis`."""
    if case.mesh.get(axis, 1) > 1:
        raise CannotTrain(f"case.mesh.{axis}={case.mesh[axis]}: {why}; drop the axis")


@dataclass(frozen=True)
class Command:
    """A training script with its arguments, and all that it needs around it.

    Paths are written with the placeholders above, so that a Command is the same on every machine
    and its hash can name a Record.

    argv:        the script and its arguments
    environment: variables to be set
    pythonpath:  folders to be put first on PYTHONPATH
    files:       text files to be written into the scratch folder before the launch, by name
    spec:        what the probe is told
    beyond_case: arguments of the user's own that can change what is trained, and that the case does
                 not say, by name; "nothing" for one of ours that was dropped
    """

    argv: tuple[str, ...]
    spec: Spec
    environment: Mapping[str, str] = field(default_factory=dict)
    pythonpath: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    beyond_case: Mapping[str, str] = field(default_factory=dict)


def beyond_case(
    arguments: Mapping[str, Any], of_case: Mapping[str, Any], neutral: tuple[str, ...]
) -> dict[str, str]:
    """Those of a user's `arguments` that train something else than the case says.

    of_case: what the case comes to
    neutral: beginnings of names of arguments that change nothing of what is trained. All others
             are taken to change something, as nobody knows those of every release
    """
    return {
        name: "nothing" if value is None else str(value)
        for name, value in arguments.items()
        if not name.startswith(neutral) and of_case.get(name) != value
    }


def common_environment(job: Job[EngineOptions]) -> dict[str, str]:
    """Variables that every engine's run has, before the user's own."""
    environment = {
        **({"XLA_USE_SPMD": "1"} if device(job.device).xla else {}),
        "TOKENIZERS_PARALLELISM": "false",
        # What is trained is on this disk. A look at the hub would only cost time, or fail.
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        # Within the run's own folder; named the same for all, as it is read while it is imported.
        "HF_DATASETS_CACHE": "datasets-cache",
        "WANDB_DISABLED": "true",
    }
    return environment | dict(job.options.env)


def spec_for(job: Job[EngineOptions], **injected: Any) -> Spec:
    """The probe's Spec that every engine starts from.

    `injected` are the arguments of the engine's injection, if it has one.
    """
    case, used = job.case, device(job.device)
    return Spec(
        steps=case.steps - job.first_step,
        micro_batch=case.micro_batch,
        window=case.window,
        eager=not used.xla,
        slices=1 if used.knows_slices else case.slices,
        precision=case.matmul_precision,
        rows=f"{INPUTS}/rows.npz" if case.aligned else None,
        save_initial=not case.aligned and not job.staged,
        stage=case.devices if job.staged else None,
        profile=f"{RECORD}/{layout.PROFILE}" if used.planes else None,
        accelerator_type=used.accelerator_type,
        router=family(case.model.family).router(case.model),
        injected=injected,
        saving=None if case.save_at is None else _saving(job, case.save_at),
    )


def _saving(job: Job[EngineOptions], save_at: int) -> Saving:
    """What a run of a case that saves is watched for; the engine adds where it saved."""
    return Saving(after=save_at if job.course is Course.SAVING else None)


def schedule_of(case: Case) -> str:
    """transformers' name of the schedule, for both trainers; its `constant` never warms up."""
    warm = case.schedule.name == "constant" and case.schedule.warmup_steps > 0
    return "constant_with_warmup" if warm else case.schedule.name


def flag(name: str, value: Any) -> list[str]:
    """One argument of an argparse script: nothing for None, else `--name=value`."""
    return [] if value is None else [f"--{name}={value}"]
