"""The embedded reference trainer: on the XLA mesh an engine, in float64 on the host the measure."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput, CannotTrain
from harness.config.settings import EngineOptions
from harness.devices.device import device
from harness.engines.command import (
    INPUTS,
    PACKAGE,
    RECORD,
    SAVED,
    SAVED_TO,
    SCRATCH,
    SHARED,
    SOURCE,
    Command,
    Course,
    Job,
    common_environment,
    refuse_axis,
    spec_for,
)
from harness.engines.spec import EngineSpec
from harness.models.family import KERNELS, family

SCRIPT = f"{PACKAGE}/trainers/reference.py"


def translate(job: Job[EngineOptions]) -> Command:
    """The Command that makes the reference train `job.case`, on the XLA mesh where there is XLA.

    Raises CannotTrain for a case as shipped.
    """
    if not job.case.aligned:
        raise CannotTrain(
            f"case={job.case.name}: the reference has no text pipeline or initialisation of its "
            "own to be compared as shipped; use an aligned case"
        )
    why = "the reference cuts batches by rows, never along a row"
    refuse_axis(job.case, "context", why)
    return _command(job, eager=not device(job.device).xla, dtype=job.case.dtype)


def float64_reference(job: Job[EngineOptions]) -> Command:
    """The same on the host in float64, from prepared weights and rows."""
    return _command(job, eager=True, dtype="float64")


def _command(job: Job[EngineOptions], eager: bool, dtype: str) -> Command:
    case, in_float64 = job.case, dtype == "float64"
    if case.model.attention in KERNELS and not in_float64:
        raise CannotTrain(
            f"case.model.attention={case.model.attention}: the reference has no kernels; "
            "compare with engines=[hf,torchprime]"
        )
    if case.optimizer.name != "adamw":
        raise CannotTrain(
            f"case.optimizer.name={case.optimizer.name}: the reference has only adamw"
        )
    builder = family(case.model.family).reference
    training: dict[str, Any] = {
        "family": f"{SCRATCH}/family.py",
        "builder": builder.__name__,
        "model": dataclasses.asdict(case.model),
        "weights": None if job.staged else f"{INPUTS}/model/model.safetensors",
        "rows": f"{INPUTS}/rows.npz",
        "weights_dtype": case.dtype,
        "dtype": dtype,
        "eager": eager,
        # In float64 nobody asks what is computed again.
        "remat": case.model.remat and not in_float64,
        "mesh": case.axes,
        "dcn": dict(case.dcn),
        "sharding": dict(case.sharding),
        "micro_batch": case.micro_batch,
        "accumulation": case.accumulation,
        "steps": case.steps,
        "learning_rate": case.optimizer.learning_rate,
        "betas": list(case.optimizer.betas),
        "eps": case.optimizer.eps,
        "weight_decay": case.optimizer.weight_decay,
        "schedule": case.schedule.name,
        "warmup_steps": case.schedule.warmup_steps,
        "max_norm": case.max_norm,
        "autocast": None if in_float64 else case.autocast,
        "label_smoothing": case.label_smoothing,
        "seed": case.seed,
        "first_step": job.first_step,
        **_saving(job),
    }
    spec = spec_for(job, training=f"{SCRATCH}/training.json")
    rows = None if in_float64 else spec.rows
    return Command(
        argv=(SCRIPT, f"{SCRATCH}/training.json"),
        spec=dataclasses.replace(spec, eager=eager, rows=rows),
        environment=common_environment(job),
        files={"training.json": json.dumps(training, indent=1), "family.py": source_of(builder)},
    )


def _saving(job: Job[EngineOptions]) -> dict[str, Any]:
    """After how many steps it saves to which folder, and what it resumes from; None for neither."""
    step, course = job.case.save_at, job.course
    saving = step is not None and course is Course.SAVING
    resumed = step is not None and course is Course.RESUMED
    return {
        "save_at": step if saving else None,
        "save_to": f"{SAVED_TO}/{checkpoint(step)}" if saving else None,
        "resume_from": f"{SAVED}/{checkpoint(step)}" if resumed else None,
    }


def checkpoint(step: int | None) -> str:
    """Name of the folder that it saves to after so many steps."""
    return f"step-{step}"


def source_of(builder: Callable[..., Any]) -> str:
    """The file in which `builder` is: what runs in the trainer, wherever that is.

    It is a part of the Command, so that a family of another package need not be installed where it
    is trained, and a changed one is another run. Raises BadInput where it cannot be sent as it is.
    """
    path = Path(inspect.getsourcefile(builder) or "")
    text = path.read_text()
    for name in (RECORD, INPUTS, SCRATCH, SOURCE, SHARED, SAVED, PACKAGE):
        if name in text:
            raise BadInput(
                f"{path}: {name} in it stands for a folder of the run, and would be replaced; call "
                "it something else"
            )
    return text


ENGINE = EngineSpec(
    name="reference",
    description="plain PyTorch of this harness",
    options=EngineOptions,
    translate=translate,
    injection=Path(__file__).parents[1] / "trainers" / "load_reference.py",
    eager=True,
    saved=checkpoint,
    libraries=("safetensors.torch", "torch_xla.distributed.parallel_loader", "jax"),
)
