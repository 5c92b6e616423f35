"""The float64 reference: of a case, and of a run's own weights and first batch."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
from pathlib import Path

from harness.base.progress import Progress
from harness.config.case import Optimizer
from harness.config.settings import Settings
from harness.devices.cpu import DEVICE as CPU
from harness.devices.device import device as find_device
from harness.engines.command import Job
from harness.engines.reference import ENGINE, float64_reference
from harness.environments.sources import default_cache_dir
from harness.inputs.prepared import Inputs
from harness.ladder.comparison import Comparison
from harness.launchers.local import device_environment
from harness.models.family import family
from harness.record.checksums import check
from harness.record.evidence import Record
from harness.record.layout import FIRST_BATCH, INITIAL
from harness.run.execute import run_or_reuse
from harness.run.plan import Plan, interpreter_for
from harness.run.reporter import Reporter


def plan_float64(settings: Settings, inputs: Inputs, progress: Progress) -> Plan:
    """The case trained by the reference on the host in float64."""
    options, device = settings.engine[ENGINE.name], settings.launcher.device
    if find_device(device).xla:
        # As on the CPU mesh: forked from one server with it, and no other device is touched.
        device = CPU.name
    return Plan(
        engine=ENGINE.name,
        label="float64 reference",
        case=settings.case,
        command=float64_reference(Job(settings.case, options)),
        interpreter=interpreter_for(options, device, default_cache_dir(), progress),
        inputs=inputs,
        environment=device_environment(
            device, settings.case.devices, settings.launcher.fast_compile
        ),
        origin={},
        role="float64",
    )


MOST_FLOPS = 1e12
"""Of one step in float64 on the host: a minute on one core (about 1e10 a second)."""
MOST_IN_FLOAT64 = 200_000_000
"""In float64 with gradients and what Adam keeps, 6 GiB."""


def first_step_in_float64(
    settings: Settings, inputs: Inputs, workspace: Path, reporter: Reporter
) -> Record | None:
    """Step 0 of an aligned case in float64: what both runs are held against, where they agree.

    None where it is not asked for, where the model is too large for this machine's processor to
    take no more than a minute, and where it failed, which is told.
    """
    case = settings.case
    tokens = case.global_batch * case.data.sequence_length
    flops = tokens * family(case.model.family).flops_per_token(
        case.model, case.data.sequence_length
    )
    size = sum(math.prod(shape) for shape in case.parameter_shapes().values())
    if settings.float64 == "never" or not case.aligned:
        return None
    if flops > MOST_FLOPS or size > MOST_IN_FLOAT64:
        reporter.note("step 0 is not held against float64: the model is too large for the host")
        return None
    # Whatever updates come of it, the first loss and its gradients are those of the case.
    first = dataclasses.replace(case, steps=1, optimizer=Optimizer())
    plan = plan_float64(dataclasses.replace(settings, case=first), inputs, reporter.note)
    plan = dataclasses.replace(plan, label="step 0 in float64")
    result = run_or_reuse(plan, workspace, settings.launcher, reporter)
    if not result.complete:
        reporter.note(f"step 0 is not held against float64, which {result.ended.reason}")
    return result if result.complete else None


def float64_from_own_weights(
    comparison: Comparison, settings: Settings, inputs: Inputs, workspace: Path, reporter: Reporter
) -> dict[str, Record]:
    """By Record folder, step 0 in float64 from that Record's own weights and batch.

    Empty where either run kept none, so that nothing is judged against half of the evidence.
    """
    found = {}
    for record in (comparison.a, comparison.b):
        if not (record.directory / INITIAL).is_file():
            return {}
        own = _inputs_of(record, workspace / "inputs")
        case = dataclasses.replace(settings.case, steps=1)
        plan = plan_float64(settings, own, reporter.note)
        plan = dataclasses.replace(
            plan,
            case=case,
            command=float64_reference(Job(case, settings.engine[ENGINE.name])),
            label=f"float64 from {record.label}'s weights",
        )
        result = run_or_reuse(plan, workspace, settings.launcher, reporter)
        if not result.complete:
            return {}
        found[str(record.directory)] = result
    return found


def _inputs_of(record: Record, root: Path) -> Inputs:
    """A folder of inputs made of what a Record kept of its start."""
    import numpy as np
    from safetensors.numpy import save_file

    check(record.directory, INITIAL, FIRST_BATCH)
    digest = hashlib.sha256()
    for name in (INITIAL, FIRST_BATCH):
        digest.update((record.directory / name).read_bytes())
    inputs = Inputs(root / f"own-{digest.hexdigest()[:16]}")
    if inputs.weights.is_file() and inputs.rows.is_file():
        return inputs
    inputs.model.mkdir(parents=True, exist_ok=True)
    with np.load(record.directory / INITIAL) as arrays:
        save_file({name: arrays[name] for name in arrays.files}, inputs.weights)
    shutil.copyfile(record.directory / FIRST_BATCH, inputs.rows)
    return inputs
