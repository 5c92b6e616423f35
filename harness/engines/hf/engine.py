"""The Hugging Face Trainer, by `hf_clm.py` or any script with the arguments of `run_clm.py`."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput, CannotTrain
from harness.base.progress import Progress
from harness.base.typed import STRICT
from harness.devices.device import KEY, device
from harness.engines.command import (
    INPUTS,
    PACKAGE,
    SAVED,
    SAVED_TO,
    SCRATCH,
    Command,
    Course,
    Job,
    beyond_case,
    common_environment,
    flag,
    refuse_axis,
    schedule_of,
    spec_for,
)
from harness.engines.hf.match_arguments import FORK
from harness.engines.hf.scripts import arguments_for
from harness.engines.spec import EngineSpec, SourceSpec, TrainerOptions, Workaround
from harness.environments.interpreters import Interpreter, with_transformers
from harness.environments.sources import Checkout, Package, default_cache_dir
from harness.models.family import FLASH_ATTENTION, SPLASH_ATTENTION, family
from harness.models.family import KEY as FAMILY_KEY
from harness.probe.spec import Spec, Watch
from harness.record.evidence import Reported

SCRIPT = f"{PACKAGE}/trainers/hf_clm.py"
TRANSFORMERS = Package("transformers", "https://github.com/huggingface/transformers", on_pypi=True)

NEUTRAL = (
    "logging_", "log_", "report_to", "run_name", "disable_tqdm", "output_dir", "overwrite_",
    "save_", "push_to_hub", "hub_", "cache_dir", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_prefetch_factor", "dataloader_persistent_workers", "preprocessing_num_workers",
    "do_eval", "eval_", "per_device_eval_batch_size", "max_eval_samples", "validation_",
)  # fmt: skip
"""Beginnings of names of arguments that change nothing of what the Trainer trains."""


@dataclass(frozen=True)
class HfOptions(TrainerOptions):
    """Options of the Hugging Face Trainer.

    einsum_linear: torch_xla's einsum lowering, which torchprime has, on plain `nn.Linear` modules
    """

    __pydantic_config__ = STRICT

    einsum_linear: bool = False


def translate(job: Job[HfOptions]) -> Command:
    """The Command that makes the Trainer train `job.case`.

    Under SPMD the Trainer's world size is 1, so that its per-device batch is the global one.
    """
    arguments = wanted(job)
    argv = [job.options.script or SCRIPT]
    for name, value in arguments.items():
        argv += flag(name, value)
    return Command(
        argv=tuple(argv),
        spec=_spec(job),
        environment=common_environment(job),
        files=_fsdp_config(job) if device(job.device).xla else {},
        beyond_case=beyond_case(job.options.arguments, _arguments(job), NEUTRAL),
    )


def _fsdp_config(job: Job[HfOptions]) -> dict[str, str]:
    layer = family(job.case.model.family).in_engine("hf").layer
    layers = {"fsdp_transformer_layer_cls_to_wrap": [layer]}
    fsdp = {**layers, "xla": True, "xla_fsdp_v2": True, "xla_fsdp_grad_ckpt": job.case.model.remat}
    return {"fsdp.json": json.dumps(fsdp, indent=1)}


def _parallelism(job: Job[HfOptions]) -> dict[str, Any]:
    """FSDPv2, which checkpoints layers by itself; in one process, the Trainer's own."""
    if device(job.device).xla:
        return {"fsdp": "full_shard", "fsdp_config": f"{SCRATCH}/fsdp.json"}
    return {"gradient_checkpointing": True} if job.case.model.remat else {}


def wanted(job: Job[HfOptions]) -> dict[str, Any]:
    """The arguments of run_clm.py that the case comes to, with the user's own; None drops one."""
    return _arguments(job) | job.options.arguments


def _arguments(job: Job[HfOptions]) -> dict[str, Any]:
    case = job.case
    model = (
        {"model_name_or_path": f"{INPUTS}/model"}
        if case.aligned and not job.staged
        else {"config_name": f"{INPUTS}/model", "tokenizer_name": f"{INPUTS}/model"}
    )
    return {
        **model,
        "torch_dtype": case.dtype,
        "train_file": f"{INPUTS}/text.txt",
        "block_size": case.data.sequence_length,
        "cache_dir": f"{SCRATCH}/cache",
        "output_dir": SAVED_TO if job.course is Course.SAVING else f"{SCRATCH}/output",
        "max_steps": case.steps,
        "per_device_train_batch_size": case.micro_batch,
        "gradient_accumulation_steps": case.accumulation,
        "learning_rate": case.optimizer.learning_rate,
        "lr_scheduler_type": schedule_of(case),
        "warmup_steps": case.schedule.warmup_steps,
        "max_grad_norm": case.max_norm or 0.0,
        **_optimizer(job),
        **_numerics(job),
        "seed": case.seed,
        **_parallelism(job),
        "dataloader_drop_last": True,
        # With torchax in the environment, pinning fails in the loader's thread, and the Trainer
        # trains no step and exits with 0.
        "dataloader_pin_memory": False,
        **_saving(job),
        "report_to": "none",
        # Logging reads the loss, which is a sync; the probe has it anyway.
        "logging_steps": case.steps,
        "disable_tqdm": True,
    }


def _numerics(job: Job[HfOptions]) -> dict[str, Any]:
    """What the Trainer is asked for only where the case has it."""
    case, found = job.case, dict[str, Any]()
    if case.autocast is not None:
        found["bf16"] = True
        if not device(job.device).xla:
            found["use_cpu"] = True  # else it looks for a GPU to cast on
    if case.label_smoothing:
        found["label_smoothing_factor"] = case.label_smoothing
    if case.model.attention == SPLASH_ATTENTION:
        raise CannotTrain(
            f"case.model.attention={SPLASH_ATTENTION}: neither transformers nor its fork for TPUs "
            "has that kernel; torchprime has"
        )
    if case.model.attention == FLASH_ATTENTION:
        if job.source is None:
            raise CannotTrain(
                f"case.model.attention={FLASH_ATTENTION}: transformers has no kernel of a TPU; its "
                f"fork for TPUs has: engine.hf.{FORK}"
            )
        found[FLASH_ATTENTION] = True
    return found


def _saving(job: Job[HfOptions]) -> dict[str, Any]:
    """Whether it saves, and what it resumes from."""
    step = job.case.save_at
    if step is None or job.course is Course.STRAIGHT:
        return {"save_strategy": "no"}
    if job.course is Course.SAVING:
        return {"save_strategy": "steps", "save_steps": step}
    return {"save_strategy": "no", "resume_from_checkpoint": f"{SAVED}/{checkpoint(step)}"}


def checkpoint(step: int) -> str:
    """The Trainer's name of the folder that it saves to after so many steps."""
    return f"checkpoint-{step}"


def _optimizer(job: Job[HfOptions]) -> dict[str, Any]:
    optimizer = job.case.optimizer
    if optimizer.name == "adafactor":
        return {"optim": "adafactor"}
    return {
        # The default since transformers 4.54 is the fused one, which fails under torch_xla.
        "optim": "adamw_torch",
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "adam_epsilon": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
    }


def _spec(job: Job[HfOptions]) -> Spec:
    case, by_xla = job.case, device(job.device).xla
    known = family(case.model.family).in_engine("hf")
    if by_xla and known.not_by_xla:
        raise CannotTrain(
            f"{FAMILY_KEY}={case.model.family}: {known.not_by_xla}; compare it with the reference "
            f"on {KEY}=cpu-native"
        )
    if job.options.einsum_linear and not by_xla:
        raise BadInput(
            f"engine.hf.einsum_linear=true: it is torch_xla's, which {KEY}={job.device} has not"
        )
    why = "under XLA the Trainer cuts batches by rows, never along a row"
    refuse_axis(case, "context", why)
    extra = sorted(axis for axis, size in case.mesh.items() if size > 1 and axis != "fsdp")
    if extra and not case.aligned:
        raise CannotTrain(
            f"case.mesh has the axis {extra[0]}, but as shipped the Trainer's mesh has only fsdp: "
            "use an aligned case, where the harness can put another mesh in its place"
        )
    return spec_for(
        job,
        # Pairs keep their order in the spec's JSON, whose keys are sorted.
        mesh=list(case.axes.items()) if extra or case.slices > 1 else None,
        dcn=dict(case.dcn),
        sharding=dict(case.sharding) if case.aligned and by_xla else None,
        einsum_linear=job.options.einsum_linear,
        workarounds=list(job.options.workarounds),
        meta=job.staged,
    )


def adapt(
    job: Job[HfOptions],
    command: Command,
    checkout: Checkout,
    interpreter: Interpreter,
    progress: Progress,
) -> Command:
    """The Command with the checkout's own script, and what that calls the arguments."""
    if job.options.script is not None:
        return command
    # What the case asks for is not left out either where a script does not know it.
    explicit, cache = {*job.options.arguments, *_numerics(job)}, default_cache_dir()
    argv = arguments_for(checkout, wanted(job), interpreter, cache, progress, explicit)
    return dataclasses.replace(command, argv=argv)


def interpreter_with(
    interpreter: Interpreter, checkout: Checkout | None, cache: Path, progress: Progress
) -> Interpreter:
    """The interpreter with the transformers of the checkout, if one is named, in front."""
    if checkout is None:
        return interpreter
    return with_transformers(interpreter, checkout, cache, progress)


TRAIN_LOSS = re.compile(r"^\s*train_loss\s*=\s*(\S+)\s*$", re.MULTILINE)
"""`Trainer.log_metrics` at the end of training: the mean of all steps' losses."""


def reports(log: str, steps: int) -> tuple[Reported, ...]:
    """The mean loss that the Trainer itself comes to."""
    return tuple(Reported(0, steps - 1, float(text)) for text in TRAIN_LOSS.findall(log)[-1:])


ENGINE = EngineSpec(
    name="hf",
    description="transformers' Trainer, full_shard FSDPv2",
    options=HfOptions,
    translate=translate,
    source=SourceSpec(TRANSFORMERS, way_out="engine.hf.source"),
    interpreter=interpreter_with,
    adapt=adapt,
    gates=("transformers", "accelerate", "torch", "torch_xla", "jax"),
    watch=Watch(names_attention=True),
    reports=reports,
    injection=Path(__file__).with_name("inject.py"),
    eager=True,
    saved=checkpoint,
    workarounds=(
        Workaround(
            "fsdp_xla_environment",
            "up to transformers 4.45 the Trainer sets ACCELERATE_USE_FSDP for XLA's FSDP too, and "
            "accelerate looks for torch's",
            r"There are currently no available devices found",
        ),
        Workaround(
            "fsdp_xla_wrap",
            "from transformers 5.3 on the Trainer puts off its optimizer until the model is "
            "wrapped, and creates none where XLA's FSDP wraps it",
            r"'NoneType' object has no attribute 'param_groups'",
        ),
    ),
    libraries=(
        "datasets",
        "transformers.trainer",
        "transformers.models.llama.modeling_llama",
        "transformers.models.auto.tokenization_auto",
        "torch_xla.distributed.fsdp",
        "torch_xla.experimental.spmd_fully_sharded_data_parallel",
        "jax",  # torch_xla imports it when it first traces
    ),
)
