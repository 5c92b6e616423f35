"""What `parity train` was asked to train, in a Case's terms: the `case` of its Record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.base.typed import STRICT, Finite
from harness.config.case import check_count

TRAINING = "train"
"""The `kind` of a TrainingRequest, where a Case has "aligned" or "as_shipped"."""


@dataclass(frozen=True)
class Shape:
    """The shape of a dense decoder-only model, by the names of `harness.config.case.Model`."""

    __pydantic_config__ = STRICT

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int


@dataclass(frozen=True)
class TrainingData:
    """sequence_length: tokens in a row; None where it is not known here."""

    __pydantic_config__ = STRICT

    sequence_length: int | None


@dataclass(frozen=True)
class TrainingRequest:
    """One run of one trainer by its own arguments, in the terms that it shares with a Case.

    What the trainer was not told, or what cannot be known here, is None.

    dtype:        dtype of the parameters
    steps:        optimizer steps
    global_batch: rows in one optimizer step
    accumulation: micro-batches in one optimizer step; 1 where nobody tells
    max_norm:     gradient clipping threshold
    mesh:         sizes of the mesh's axes
    arguments:    the trainer's own arguments or configuration, all of them
    comment:      what the run is for, in a person's words
    """

    __pydantic_config__ = STRICT

    dtype: str
    steps: int
    global_batch: int | None
    accumulation: int
    max_norm: Finite | None
    mesh: dict[str, int] | None
    model: Shape | None
    data: TrainingData
    arguments: dict[str, Any] = field(default_factory=dict)
    comment: str | None = None
    name: str = "train"
    kind: str = TRAINING

    @property
    def micro_batch(self) -> int:
        """Rows in one micro-batch of a run that the harness launches."""
        assert self.global_batch is not None
        return self.global_batch // self.accumulation

    @property
    def computed_in(self) -> str:
        """The dtype of the parameters: by which other a trainer computes is not known here."""
        return self.dtype

    @property
    def aligned(self) -> bool:
        """Whether the harness prepares weights and batches: the trainer brings its own."""
        return False


def check_request(request: TrainingRequest) -> None:
    """Raise BadInput for the first number in `request` that nothing could be computed with."""
    shape = {} if request.model is None else vars(request.model)
    counts = {
        "steps": request.steps,
        "global_batch": request.global_batch,
        "accumulation": request.accumulation,
        "data.sequence_length": request.data.sequence_length,
        **{f"mesh.{axis}": size for axis, size in (request.mesh or {}).items()},
        **{f"model.{key}": size for key, size in shape.items()},
    }
    for key, count in counts.items():
        if count is not None:
            check_count(f"case.{key}", count)
