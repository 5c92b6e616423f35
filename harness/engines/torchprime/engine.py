"""torchprime's `train.py` of a checkout, unmodified, driven by its own Hydra overrides."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

from harness.base.errors import BadInput, CannotTrain
from harness.config.case import AXES, Case, pattern_of
from harness.config.overrides import quoted
from harness.engines.command import (
    INPUTS,
    SCRATCH,
    SOURCE,
    Command,
    Job,
    beyond_case,
    common_environment,
    refuse_axis,
    schedule_of,
    spec_for,
)
from harness.engines.spec import EngineSpec, SourceSpec, TrainerOptions
from harness.environments.sources import Package
from harness.models.family import KERNELS, family
from harness.models.layout import Layout, stored_spec
from harness.record.evidence import Reported

SCRIPT = "torchprime/torch_xla_models/train.py"
CONFIG_FOLDER = "torchprime/torch_xla_models/configs"
TRAINER = "torchprime/torch_xla_models/trainer/base_trainer.py"
IMAGE = "torchprime/launcher/Dockerfile"
TORCHPRIME = Package("torchprime", "https://github.com/AI-Hypercomputer/torchprime")
NEUTRAL = ("logging_steps", "output_dir", "run_name", "hydra.", "profile_", "dataset.cache_dir")
"""Beginnings of names of overrides that change nothing of what torchprime trains."""


def translate(job: Job[TrainerOptions]) -> Command:
    """The Command that makes torchprime train `job.case`.

    Raises BadInput for a checkout that is not torchprime, and for what torchprime cannot do.
    """
    if job.source is None:
        raise BadInput("torchprime needs a checkout: name one by --torchprime or TORCHPRIME_DIR")
    defaults = read_defaults(job.source)
    _check(job)
    overrides = _overrides(job, defaults)
    beyond = beyond_case(
        {key.lstrip("+~"): value for key, value in job.options.arguments.items()},
        {key.lstrip("+"): value for key, value in overrides.items()},
        NEUTRAL,
    )
    for key, value in job.options.arguments.items():
        name = key.lstrip("+")
        overrides.pop(name, None)
        overrides.pop(f"+{name}", None)
        overrides[key] = value
    return Command(
        argv=(
            job.options.script or f"{SOURCE}/{SCRIPT}",
            "--config-dir",
            f"{SCRATCH}/configs",
            *(f"{key}={hydra_value(value)}" for key, value in overrides.items()),
        ),
        spec=spec_for(
            job,
            dtype=job.case.dtype,
            weights=weights_of(job),
            layouts=[dataclasses.asdict(layout) for layout in _layouts(job.case)],
        ),
        environment=common_environment(job),
        pythonpath=(SOURCE,),
        files={"configs/model/sharding/parity.yaml": _sharding(job)},
        beyond_case=beyond,
    )


def weights_of(job: Job[TrainerOptions]) -> str | None:
    """The prepared weights; None where torchprime is to make its own."""
    prepared = job.case.aligned and not job.staged
    return f"{INPUTS}/model/model.safetensors" if prepared else None


def read_defaults(checkout: Path) -> dict[str, Any]:
    """The default configuration of a torchprime checkout.

    Raises BadInput where the folder holds no torchprime, or one whose layout is not known.
    """
    path = checkout / CONFIG_FOLDER / "default.yaml"
    if not (checkout / SCRIPT).is_file() or not path.is_file():
        raise BadInput(
            f"{checkout} is not a torchprime checkout: it has no {SCRIPT} with {CONFIG_FOLDER}/"
            "default.yaml. Name one by --torchprime PATH, TORCHPRIME_DIR or "
            "engine.torchprime.source, for example "
            "https://github.com/AI-Hypercomputer/torchprime@main"
        )
    defaults = yaml.safe_load(path.read_text())
    if not (checkout / CONFIG_FOLDER / "task").is_dir():
        raise BadInput(
            f"{checkout} is a torchprime from before June 2025 (commit cde1646), whose "
            "configuration has no task group: name a later one"
        )
    assert isinstance(defaults, dict)
    return defaults


def _check(job: Job[TrainerOptions]) -> None:
    case = job.case
    if case.accumulation != 1:
        raise CannotTrain(
            f"case.accumulation={case.accumulation}: torchprime does not accumulate gradients; "
            "compare with engines=[hf,reference]"
        )
    sharding = "torchprime's own input sharding for it, ((data, fsdp), context)"
    if not job.staged:  # which brings no data to a device
        refuse_axis(case, "context", f"{sharding}, is refused by torch_xla")
    _check_numerics(job)
    optimizer = case.optimizer
    if optimizer.name == "adamw" and (
        list(optimizer.betas) != [0.9, 0.999] or optimizer.eps != 1e-8
    ):
        raise CannotTrain(
            f"case.optimizer.betas={list(optimizer.betas)}, eps={optimizer.eps}: torchprime's "
            "AdamW takes neither, and trains with betas [0.9, 0.999] and eps 1e-8"
        )
    assert job.source is not None
    trainer = job.source / TRAINER
    if optimizer.name == "adamw" and trainer.is_file() and "adamw" not in trainer.read_text():
        raise CannotTrain(
            f"case.optimizer.name=adamw: the torchprime in {job.source} trains with Adafactor "
            "only; use case=llama-tiny-adafactor"
        )


def _check_numerics(job: Job[TrainerOptions]) -> None:
    """Raise CannotTrain for a feature that torchprime has not."""
    case = job.case
    beside = "compare with engines=[hf,reference]"
    if case.autocast is not None:
        raise CannotTrain(f"case.autocast={case.autocast}: torchprime has no autocasting; {beside}")
    if case.label_smoothing:
        raise CannotTrain(
            f"case.label_smoothing={case.label_smoothing}: torchprime has none; {beside}"
        )
    if case.data.positions:
        raise CannotTrain(
            "case.data.positions=true: torchprime's models take no positions, so that documents "
            f"that are packed into a row would attend to each other; {beside}"
        )
    assert job.source is not None
    if case.data.prompts and not (job.source / CONFIG_FOLDER / "task" / "sft.yaml").is_file():
        raise CannotTrain(
            f"case.data.prompts={case.data.prompts}: this torchprime has no task sft; {beside}"
        )


def _task(case: Case) -> dict[str, Any]:
    """Supervised fine-tuning is a task of its own, with a trainer and a pipeline of its own."""
    if not case.data.prompts:
        return {}
    return {
        "task": "sft",
        "task.export_checkpoint_path": None,
        "+dataset.format": "prompt_completion",
        "+dataset.pack_samples": True,
    }


def _overrides(job: Job[TrainerOptions], defaults: dict[str, Any]) -> dict[str, Any]:
    case, model = job.case, job.case.model
    if case.dtype not in ("float32", "bfloat16"):
        raise CannotTrain(f"case.dtype={case.dtype}: torchprime trains in bfloat16 or float32")
    known = family(model.family).in_engine("torchprime")
    known.rows(model, case.data.sequence_length)
    layers = [known.layer] if model.remat else []
    decay = (
        {}
        if case.optimizer.name == "adafactor"
        else {"+task.optimizer.weight_decay": case.optimizer.weight_decay}
    )
    # The profiler knows only TPUs; the key was renamed in June 2025 (de79860).
    profile = "profile_start_step" if "profile_start_step" in defaults else "profile_step"
    axes = [axis for axis in AXES if axis in defaults["ici_mesh"]]
    unknown = [axis for axis in case.mesh if axis not in axes]
    if unknown:
        raise CannotTrain(f"case.mesh.{unknown[0]}: this torchprime's mesh has {', '.join(axes)}")
    return {
        **known.arguments(model),
        "model/sharding": "parity",
        "model.attention_kernel": model.attention if model.attention in KERNELS else None,
        "model.remat.activation_checkpoint_layers": layers,
        "model.remat.optimization_barrier_layers": layers,
        "model.tokenizer_name": f"{INPUTS}/model",
        "dataset.hf_dataset_name": None,
        "dataset.hf_dataset_config_name": None,
        "+dataset.file_dataset_path": f"{INPUTS}/text.jsonl",
        "dataset.block_size": case.data.sequence_length,
        "dataset.cache_dir": f"{SCRATCH}/cache",
        **_task(case),
        "task.global_batch_size": case.global_batch,
        "task.max_steps": case.steps,
        "task.optimizer.type": case.optimizer.name,
        "task.optimizer.learning_rate": case.optimizer.learning_rate,
        **decay,
        "task.lr_scheduler.type": schedule_of(case),
        "task.lr_scheduler.warmup_steps": case.schedule.warmup_steps,
        **_clipping(job),
        **{f"ici_mesh.{axis}": case.mesh.get(axis, 1) // case.dcn.get(axis, 1) for axis in axes},
        **{f"dcn_mesh.{axis}": size for axis, size in case.dcn.items()},
        "seed": case.seed,
        # A log entry is a read of the loss on another thread; the probe has it anyway.
        "logging_steps": 1000000,
        profile: -1,
        "output_dir": f"{SCRATCH}/output",
        "run_name": "parity",
        "hydra.run.dir": f"{SCRATCH}/hydra",
    }


def _clipping(job: Job[TrainerOptions]) -> dict[str, Any]:
    """The threshold, unless the checkout is from before it could clip (3a2ce6f, June 2025)."""
    assert job.source is not None
    task = yaml.safe_load((job.source / CONFIG_FOLDER / "task" / "train.yaml").read_text())
    if "max_grad_norm" not in task:
        return {}
    return {"task.max_grad_norm": job.case.max_norm}


def _layouts(case: Case) -> tuple[Layout, ...]:
    return family(case.model.family).layouts_in("torchprime", case.model)


def _sharding(job: Job[TrainerOptions]) -> str:
    """The case's table with the activations' partition specs, as a sharding preset."""
    case = job.case
    last = "tensor" if case.mesh.get("tensor", 1) > 1 else None
    # Trees from before June 2025 cannot read an axis that is a list of two.
    rows = [["data", "fsdp"] if case.mesh.get("data", 1) > 1 else "fsdp", None]
    known = family(case.model.family).in_engine("torchprime")
    activations = {known.output: [*rows, last], "lm_head": [*rows, last]}
    own = {
        pattern_of(each.stored): stored_spec(each, case.parameter_spec) for each in _layouts(case)
    }
    return yaml.safe_dump({**case.sharding, **own, **activations}, sort_keys=False)


def hydra_value(value: Any) -> str:
    """A value in Hydra's override grammar. A path may have signs in it that mean something."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(hydra_value(v) for v in value) + "]"
    # A path, or a placeholder of one.
    return quoted(value) if isinstance(value, str) and {"/", "{"} & {*value} else str(value)


_FLAGS = re.compile(r'^ENV LIBTPU_INIT_ARGS[ =]"?(.*?)"?$', re.MULTILINE)


def compiler_flags(checkout: Path) -> str:
    """LIBTPU_INIT_ARGS of the image that torchprime's launcher trains in; "" where it sets none."""
    file = checkout / IMAGE
    found = _FLAGS.search(file.read_text()) if file.is_file() else None
    return found[1] if found else ""


LOGGED = re.compile(r"\bstep: (\d+), loss: (\S+), grad_norm: ([^\s,]+)")
"""A line of base_trainer.py's log; trees from before June 2025 have no norm in it."""


def reports(log: str, steps: int) -> tuple[Reported, ...]:
    """The loss and gradient norm of each step that torchprime logs."""
    return tuple(
        Reported(int(step), int(step), float(loss.rstrip(",")), float(norm))
        for step, loss, norm in LOGGED.findall(log)
    )


ENGINE = EngineSpec(
    name="torchprime",
    description="train.py of a checkout",
    options=TrainerOptions,
    translate=translate,
    source=SourceSpec(
        TORCHPRIME,
        default="main",
        variable="TORCHPRIME_DIR",
        bare_folders=True,
        way_out="--torchprime PATH or TORCHPRIME_DIR=PATH",
    ),
    gates=("torchprime",),
    reports=reports,
    stand_in="reference",
    injection=Path(__file__).with_name("inject.py"),
    compiler_flags=compiler_flags,
    cannot_resume="its train.py saves weights alone, once its sft task has ended, and reads back "
    "neither a step nor the optimizer's state",
    libraries=("datasets", "transformers", "hydra.main", "omegaconf", "jax"),
)
