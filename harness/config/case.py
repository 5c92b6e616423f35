"""The Case: what is to be trained, as one typed, immutable object. It says nothing about engines.

Cases are YAML files under configs/case, composed by Hydra: any key can be overridden on the
command line (`case.steps=40`). `check` finds all that can be found before anything is launched.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from harness.base.errors import BadInput, CannotTrain
from harness.base.typed import STRICT, typed
from harness.models.family import KERNELS, Model, family

ALIGNED = "aligned"
AS_SHIPPED = "as_shipped"
DTYPES = ("float32", "bfloat16")
PRECISIONS = ("default", "high", "highest")
OPTIMIZERS = ("adamw", "adafactor")
SCHEDULES = ("linear", "constant", "cosine")
AXES = ("data", "fsdp", "tensor", "expert", "context")
"""Axes of a mesh, in the order in which devices are numbered along them: torchprime's own."""


@dataclass(frozen=True)
class Optimizer:
    """Optimizer and hyper-parameters, in PyTorch's terms."""

    __pydantic_config__ = STRICT

    name: str = "adamw"
    learning_rate: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Learning rate: linear warm-up from zero, then the named course (linear, cosine: to zero)."""

    __pydantic_config__ = STRICT

    name: str = "linear"
    warmup_steps: int = 0


@dataclass(frozen=True)
class Data:
    """Text and how rows are cut from it.

    text:            a text file; a relative path is looked up here, then in data/text of each
                     configuration folder
    sequence_length: tokens in a row
    stride:          tokens between the starts of neighbouring rows (aligned cases)
    masked_prefix:   largest share of a row whose labels are -100, drawn anew for each row, so that
                     rows count unevenly
    mask_first:      -100 in the first label column, which is never predicted, but which the
                     Trainer counts
    epochs:          how often the steps may go over the rows; each time in an order of its own
    padding:         largest share of a row that is padding at its end, drawn anew for each row: the
                     padding token, a label of -100, and 0 in the attention mask
    documents:       pieces that a row is packed of, of lengths that are drawn anew for each row
    positions:       positions begin at 0 in each of them, and none attends to another
    prompts:         largest share of a document that is a prompt, with labels of -100, drawn anew
                     for each; more than 0 is supervised fine-tuning
    """

    __pydantic_config__ = STRICT

    text: str = "on-measurement.txt"
    sequence_length: int = 128
    stride: int = 61
    masked_prefix: float = 0.6
    mask_first: bool = True
    epochs: int = 1
    padding: float = 0.0
    documents: int = 1
    positions: bool = False
    prompts: float = 0.0


@dataclass(frozen=True)
class Case:
    """One training run, whoever trains it.

    kind:         "aligned": the harness prepares weights and batches, and the trainers ought to
                  agree to the last bits. "as_shipped": each trainer's own text pipeline, sampler
                  and initialisation
    mesh:         size of each axis
    dcn:          of an axis that lies across slices, over how many; empty for one slice. Within a
                  slice the axis has its size divided by that
    sharding:     partition spec by parameter, `*` for a layer's number: for each dimension null, a
                  mesh axis, or a list of them
    precision:    in how many passes of bfloat16 a device multiplies float32 matrices that has no
                  wider products: torch_xla's `set_mat_mul_precision`. "default" leaves it as the
                  trainer has it; null is "highest" for an aligned case in float32, else "default"
    global_batch: rows in one optimizer step, over all devices and micro-batches
    accumulation: micro-batches in one optimizer step
    autocast:     dtype that operations are cast to while weights keep theirs (torch.autocast); null
                  for none
    label_smoothing: share of each label that is spread evenly over the vocabulary
    max_norm:     gradient clipping threshold, L2 over all parameters; null for none
    window:       optimizer steps in one timing window
    save_at:      optimizer steps after which a second run of each trainer saves, and from which a
                  third, a fresh process, resumes; the rung `checkpoint` holds that against a run
                  without a break. null saves nothing
    """

    __pydantic_config__ = STRICT

    name: str
    kind: str = ALIGNED
    description: str = ""
    model: Model = field(default_factory=Model)
    mesh: dict[str, int] = field(default_factory=dict)
    dcn: dict[str, int] = field(default_factory=dict)
    sharding: dict[str, list[str | list[str] | None]] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    dtype: str = "float32"
    precision: str | None = None
    steps: int = 20
    global_batch: int = 8
    accumulation: int = 1
    autocast: str | None = None
    label_smoothing: float = 0.0
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    max_norm: float | None = 1.0
    window: int = 5
    seed: int = 42
    save_at: int | None = None

    @property
    def devices(self) -> int:
        """Number of devices in the mesh."""
        return math.prod(self.mesh.values())

    @property
    def slices(self) -> int:
        """Number of slices that the mesh lies across."""
        return math.prod(self.dcn.values())

    @property
    def axes(self) -> dict[str, int]:
        """Sizes of the mesh axes in the order of AXES, however a user or JSON ordered them."""
        return {axis: self.mesh[axis] for axis in AXES if axis in self.mesh}

    @property
    def micro_batch(self) -> int:
        """Rows in one micro-batch, over all devices."""
        return self.global_batch // self.accumulation

    @property
    def matmul_precision(self) -> str:
        """One of PRECISIONS: `precision`, or what its null stands for."""
        if self.precision is not None:
            return self.precision
        return "highest" if self.aligned and self.dtype == "float32" else "default"

    @property
    def computed_in(self) -> str:
        """The dtype whose rounding tells how far equal runs may be apart."""
        return self.autocast or self.dtype

    @property
    def aligned(self) -> bool:
        """Whether the harness prepares weights and batches."""
        return self.kind == ALIGNED

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter by its canonical name, in the model's order."""
        return family(self.model.family).shapes(self.model)

    @property
    def parameters(self) -> int:
        """Number of the model's parameters."""
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())

    def parameter_spec(self, name: str) -> list[Any] | None:
        """The sharding table's partition spec for a parameter; None where no pattern matches."""
        spec = self.sharding.get(pattern_of(name))
        return None if spec is None else list(spec)


def pattern_of(name: str) -> str:
    """A parameter's name as a sharding table has it: `*` for the number of a layer."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def check(case: Case) -> None:
    """Raise BadInput for the first thing in `case` that cannot be trained.

    CannotTrain where it is an axis that no engine honours.
    """
    _one_of("case.kind", case.kind, (ALIGNED, AS_SHIPPED))
    _one_of("case.dtype", case.dtype, DTYPES)
    _one_of("case.autocast", case.autocast or "null", ("null", "bfloat16"))
    if case.autocast == case.dtype:
        raise BadInput(f"case.autocast={case.autocast}: the weights are that already; leave it out")
    _one_of("case.precision", case.matmul_precision, PRECISIONS)
    _one_of("case.optimizer.name", case.optimizer.name, OPTIMIZERS)
    _one_of("case.schedule.name", case.schedule.name, SCHEDULES)
    _one_of("case.model.attention", case.model.attention, ("eager", "sdpa", *KERNELS))
    _check_name(case.name)
    _check_numbers(case)
    if case.steps < 3:
        raise BadInput(
            f"case.steps={case.steps}: the first two steps compile, so at least 3 are needed to "
            "see a steady one"
        )
    if len(case.optimizer.betas) != 2:
        raise BadInput(f"case.optimizer.betas={list(case.optimizer.betas)}: AdamW has two")
    if case.global_batch % case.accumulation:
        raise BadInput(
            f"case.accumulation={case.accumulation} does not divide "
            f"case.global_batch={case.global_batch}"
        )
    if case.save_at is not None and case.save_at >= case.steps:
        raise BadInput(
            f"case.save_at={case.save_at}: of case.steps={case.steps} none is left to resume with"
        )
    family(case.model.family).check(case.model)
    _check_rows(case)
    _check_mesh(case)
    _check_sharding(case)


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadInput(f"{key}={value}: it has to be one of {', '.join(allowed)}")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise BadInput(
            f"case.name={name!r}: it names a folder, and so has to be of letters, digits, `.`, `_` "
            "and `-`"
        )


def check_counts(case: Case) -> None:
    """Raise BadInput for the first count in `case` that nothing could be computed with."""
    model, data = case.model, case.data
    for key, count, least in (
        ("steps", case.steps, 1),
        ("global_batch", case.global_batch, 1),
        ("accumulation", case.accumulation, 1),
        ("window", case.window, 1),
        ("seed", case.seed, 0),
        ("schedule.warmup_steps", case.schedule.warmup_steps, 0),
        ("data.sequence_length", data.sequence_length, 2),  # the first label is never predicted
        ("data.stride", data.stride, 1),
        ("data.epochs", data.epochs, 1),
        ("data.documents", data.documents, 1),
        ("model.vocab_size", model.vocab_size, 1),
        ("model.hidden_size", model.hidden_size, 1),
        ("model.intermediate_size", model.intermediate_size, 1),
        ("model.heads", model.heads, 1),
        ("model.kv_heads", model.kv_heads, 1),
        ("model.max_positions", model.max_positions, data.sequence_length),
        *((("save_at", case.save_at, 1),) if case.save_at is not None else ()),
    ):
        check_count(f"case.{key}", count, least)
    check_count("case.model.layers", model.layers, most=MOST_LAYERS)


def _check_numbers(case: Case) -> None:
    model, optimizer, data = case.model, case.optimizer, case.data
    check_counts(case)
    # A comparison with NaN is false: what is wanted is asked for, not what is not.
    for key, value in (
        ("max_norm", 1.0 if case.max_norm is None else case.max_norm),
        ("optimizer.learning_rate", optimizer.learning_rate),
        ("model.rms_norm_eps", model.rms_norm_eps),
        ("model.rope_theta", model.rope_theta),
        ("model.init_std", model.init_std),
    ):
        if not 0 < value < math.inf:
            hint = "; null clips nothing" if key == "max_norm" else ""
            raise BadInput(f"case.{key}={value}: it has to be positive and finite{hint}")
    for key, value in (
        ("optimizer.eps", optimizer.eps),
        ("optimizer.weight_decay", optimizer.weight_decay),
        ("model.norm_std", model.norm_std),
    ):
        if not 0 <= value < math.inf:
            raise BadInput(f"case.{key}={value}: it has to be finite, and not negative")
    for key, value in (
        ("data.masked_prefix", data.masked_prefix),
        ("data.padding", data.padding),
        ("data.masked_prefix + padding", data.masked_prefix + data.padding),
        ("data.prompts", data.prompts),
        ("label_smoothing", case.label_smoothing),
        *((f"optimizer.betas[{i}]", beta) for i, beta in enumerate(optimizer.betas)),
    ):
        if not 0 <= value < 1:
            raise BadInput(f"case.{key}={value}: it has to be at least 0 and below 1")


LARGEST_COUNT = 10**9
"""The largest number of anything that is counted: beyond it is a slip of the keyboard, and a loop
that never ends."""


MOST_LAYERS = 10**5
"""Each layer has names of its own, which take time and memory before anything is trained."""


def check_count(key: str, count: int, least: int = 1, most: int = LARGEST_COUNT) -> None:
    """Raise BadInput where `count` is below `least`, or larger than anything that is trained."""
    if count < least:
        raise BadInput(f"{key}={count}: it has to be at least {least}")
    if count > most:
        raise BadInput(f"{key}={count}: it has to be at most {most}")


def _check_rows(case: Case) -> None:
    data = case.data
    if 2 * data.documents > data.sequence_length:
        raise BadInput(
            f"case.data.documents={data.documents}: a row of {data.sequence_length} tokens "
            f"(case.data.sequence_length) holds at most {data.sequence_length // 2}, of two each"
        )
    if data.positions and data.padding:
        raise BadInput(
            "case.data.positions=true: what the Trainer attends to is told by positions or by a "
            "mask; leave case.data.padding out"
        )
    of_rows = {
        "padding": data.padding,
        "documents": data.documents - 1,
        "positions": data.positions,
        "prompts": data.prompts,
    }
    for key, asked in of_rows.items():
        if asked and not case.aligned:
            raise BadInput(
                f"case.data.{key}={getattr(data, key)}: as shipped each trainer cuts its own rows; "
                "use an aligned case"
            )


def _check_mesh(case: Case) -> None:
    for axis, size in case.mesh.items():
        if axis not in AXES:
            raise BadInput(f"case.mesh.{axis}: the axes are {', '.join(AXES)}")
        if size < 1:
            raise BadInput(f"case.mesh.{axis}={size}: an axis has at least one device")
    for axis, slices in case.dcn.items():
        if axis not in case.mesh:
            raise BadInput(f"case.dcn.{axis}={slices}: case.mesh has no {axis}")
        if slices < 1 or case.mesh[axis] % slices:
            raise BadInput(
                f"case.dcn.{axis}={slices}: it does not divide case.mesh.{axis}={case.mesh[axis]}"
            )
    if case.slices > 1 and not case.aligned:
        raise BadInput(
            "case.dcn: as shipped the Trainer has one mesh of its own, which knows no slices; use "
            "an aligned case"
        )
    if "fsdp" not in case.mesh:
        raise BadInput(
            "case.mesh has no axis fsdp, which both trainers need; fsdp: 1 is one that does nothing"
        )
    rows = case.mesh.get("data", 1) * case.mesh["fsdp"]
    if case.micro_batch % rows:
        raise BadInput(
            f"a micro-batch of {case.micro_batch} rows (case.global_batch={case.global_batch} / "
            f"case.accumulation={case.accumulation}) is not divided by the mesh's {rows} data and "
            f"fsdp devices: choose a case.global_batch that is a multiple of "
            f"{rows * case.accumulation}, or another mesh"
        )


def _check_sharding(case: Case) -> None:
    shapes = case.parameter_shapes()
    used = set()
    for name, shape in shapes.items():
        spec = case.parameter_spec(name)
        pattern = pattern_of(name)
        if spec is None:
            raise BadInput(
                f"case.sharding has no pattern for the parameter {name}: add `{pattern}: "
                f"[{', '.join(['null'] * len(shape))}]`, with mesh axes in place of null"
            )
        used.add(pattern)
        if len(spec) != len(shape):
            raise BadInput(
                f"case.sharding `{pattern}: {spec}` has {len(spec)} entries for the "
                f"{len(shape)} dimensions of {name} {list(shape)}"
            )
        cut: list[str] = []
        for size, axes in zip(shape, spec, strict=True):
            names = [] if axes is None else (list(axes) if isinstance(axes, list) else [axes])
            unknown = [axis for axis in names if axis not in case.mesh]
            if unknown:
                raise BadInput(
                    f"case.sharding `{pattern}: {spec}` names the axis {unknown[0]}, which is not "
                    f"in case.mesh ({', '.join(case.mesh)})"
                )
            cut += names
            if len(cut) != len(set(cut)):
                raise BadInput(
                    f"case.sharding `{pattern}: {spec}` cuts by an axis twice, which cannot be done"
                )
            parts = math.prod(case.mesh[axis] for axis in names)
            if size % parts:
                raise BadInput(
                    f"case.sharding `{pattern}: {spec}` cuts a dimension of {size} of {name} into "
                    f"{parts} parts, which does not come out even"
                )
    _check_axes(case)
    for pattern in case.sharding:
        if pattern not in used and (case.model.tie_embeddings and pattern == "lm_head.weight"):
            continue
        if pattern not in used:
            raise BadInput(
                f"case.sharding names {pattern}, but the model has no such parameter; it has "
                + ", ".join(sorted(used))
            )


def _check_axes(case: Case) -> None:
    """Rows are cut over data and fsdp, along their length over context, what layers put out over
    tensor; others cut by the table."""
    named = {
        axis
        for spec in case.sharding.values()
        for axes in spec
        if axes is not None
        for axis in (axes if isinstance(axes, list) else [axes])
    }
    for axis, size in case.mesh.items():
        if size > 1 and axis not in ("data", "fsdp", "tensor", "context") and axis not in named:
            raise CannotTrain(
                f"case.mesh.{axis}={size}: case.sharding cuts nothing over {axis}, so that its "
                f"devices would all do the same work; name it there, or drop it from case.mesh"
            )


def case_from(raw: dict[str, Any]) -> Case:
    """A checked Case from plain values, as a manifest holds it."""
    case = typed(Case, raw)
    check(case)
    return case
