"""The embedded reference trainer: on the XLA mesh an engine, in float64 on the host the measure."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from harness.base.errors import BadInput
from harness.config.settings import EngineOptions
from harness.engines.command import (
    INPUTS,
    PACKAGE,
    SCRATCH,
    Command,
    Job,
    common_environment,
    spec_for,
)
from harness.engines.spec import EngineSpec

SCRIPT = f"{PACKAGE}/trainers/reference.py"


def translate(job: Job[EngineOptions]) -> Command:
    """The Command that makes the reference train `job.case` on the XLA mesh."""
    if not job.case.aligned:
        raise BadInput(
            f"case={job.case.name}: the reference has no text pipeline or initialisation of its "
            "own to be compared as shipped; use an aligned case"
        )
    return _command(job, device="xla", dtype=job.case.dtype)


def float64_reference(job: Job[EngineOptions]) -> Command:
    """The same on the host in float64, from prepared weights and rows."""
    return _command(job, device="cpu", dtype="float64")


def _command(job: Job[EngineOptions], device: str, dtype: str) -> Command:
    case = job.case
    if case.optimizer.name != "adamw":
        raise BadInput(f"case.optimizer.name={case.optimizer.name}: the reference has only adamw")
    training: dict[str, Any] = {
        "model": dataclasses.asdict(case.model),
        "weights": f"{INPUTS}/model/model.safetensors",
        "rows": f"{INPUTS}/rows.npz",
        "weights_dtype": case.dtype,
        "dtype": dtype,
        "device": device,
        "mesh": dict(case.mesh),
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
        "seed": case.seed,
    }
    spec = spec_for(job)
    rows = spec.rows if device == "xla" else None
    return Command(
        argv=(SCRIPT, f"{SCRATCH}/training.json"),
        spec=dataclasses.replace(spec, device=device, rows=rows),
        environment=common_environment(job),
        files={"training.json": json.dumps(training, indent=1)},
    )


ENGINE = EngineSpec(
    name="reference",
    description="plain PyTorch of this harness",
    options=EngineOptions,
    translate=translate,
    libraries=("safetensors.torch", "torch_xla.distributed.parallel_loader", "jax"),
)
