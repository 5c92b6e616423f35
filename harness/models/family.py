"""What a model family is to the harness, and where the registered ones are found.

A family is one object in one file, registered under the entry point group `parity.models`, by the
harness itself (`llama.py`) as by any other package. This file and a family's own are imported by
the harness and by the reference trainer: both stay on the standard library, and a
family's reference module imports torch where it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.base import registry
from harness.base.errors import CannotTrain
from harness.models.layout import Layout
from harness.models.router import Router

if TYPE_CHECKING:
    import numpy as np

KEY = "case.model.family"
"""The key by which a user names a family."""

FLASH_ATTENTION = "flash_attention"
"""`case.model.attention`: JAX's kernel for TPUs, as torch_xla's custom_kernel calls it."""

SPLASH_ATTENTION = "splash_attention"
"""The same of JAX's kernel for sparse masks, as torch_xla's splash_attention calls it."""

KERNELS = (FLASH_ATTENTION, SPLASH_ATTENTION)
"""Attention that a hand-written kernel of a TPU computes."""


@dataclass(frozen=True)
class Model:
    """A decoder-only model's shape, and how its initial weights are drawn.

    init_std:  standard deviation of matrices. The usual 0.02 makes attention nearly uniform and
               hides faults in it; see docs/cases.md
    norm_std:  standard deviation of norm weights around 1, so that a norm that is skipped shows
    attention: how attention is computed: "eager" or "sdpa", Hugging Face's names of what PyTorch
               computes, or one of KERNELS, hand-written for a TPU
    remat:     recompute each decoder layer's activations in the backward pass
    options:   what only this family has, such as its number of experts; the family checks it
    """

    # As `harness.base.typed.STRICT`: pydantic itself is not in a trainer's interpreter.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    family: str = "llama"
    vocab_size: int = 512
    hidden_size: int = 64
    intermediate_size: int = 192
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_positions: int = 2048
    tie_embeddings: bool = False
    init_std: float = 0.1
    norm_std: float = 0.2
    attention: str = "eager"
    remat: bool = True
    options: dict[str, Any] | None = None

    @property
    def attention_in_transformers(self) -> str:
        """transformers' name of what its configuration is asked for: a kernel is an argument of the
        script, and takes the place of the eager one."""
        return "eager" if self.attention in KERNELS else self.attention


def no_arguments(model: Model) -> dict[str, Any]:
    """Those of an engine whose trainer reads config.json."""
    return {}


def nothing_dropped(model: Model) -> dict[str, float]:
    """It has no dropout."""
    return {}


def canonical(model: Model) -> tuple[Layout, ...]:
    """Every parameter is kept as it is."""
    return ()


def no_constants(model: Model) -> dict[str, tuple[int, ...]]:
    """Whatever is loaded is trained."""
    return {}


def of_any_length(model: Model, sequence_length: int) -> None:
    """Its rows may have any length."""


def no_router(model: Model) -> Router | None:
    """Every token goes through all of it."""
    return None


@dataclass(frozen=True)
class InEngine:
    """What a family is called in one engine.

    layer:     class of a decoder layer, which is wrapped, and rematerialised where the model is
    arguments: a Model as arguments of a trainer that does not read config.json: for torchprime
               Hydra overrides. Raises CannotTrain for what the engine's model cannot be
    layouts:   its parameters that hold canonical ones in another layout: fused, stacked,
               transposed. The probe observes the canonical ones, so that engines can be compared.
               hf has none: its parameters are the canonical ones
    output:    what a decoder layer puts out, as torchprime's sharding tables name it: a layer that
               returns several tensors names the one of them
    not_by_xla: why the engine's own module cannot be trained by torch_xla; "" where it can
    rows:      raises CannotTrain for rows of so many tokens that the engine's module is another
               model on them
    """

    layer: str
    arguments: Callable[[Model], dict[str, Any]] = no_arguments
    layouts: Callable[[Model], tuple[Layout, ...]] = canonical
    output: str = "model.layers.*"
    not_by_xla: str = ""
    rows: Callable[[Model, int], None] = of_any_length


@dataclass(frozen=True)
class Family:
    """A model family.

    name:            `case.model.family`
    check:           raises BadInput for the first thing in a Model that this family cannot be
    shapes:          shape of every parameter by its canonical name, in the model's order. Canonical
                     are the names that Hugging Face gives them
    draw:            the initial weight of a parameter in fp32, from its name and standard normal
                     numbers of its shape
    config:          a Model as the keys of config.json that transformers reads. It is prepared for
                     every engine, with the tokenizer and the weights
    flops_per_token: model FLOPs of training on one token, forward and backward, from a Model and
                     the sequence length
    engines:         what it is called in each engine that has it
    reference:       builds the reference's torch module from a Model as a dict. It is a function of
                     the family's file, imports torch itself, and gives a module that
                     - has the canonical parameter names,
                     - maps (tokens, labels) to the sum of the cross-entropies of all labels that
                       are predicted and not -100, and computes in float64 where its weights are,
                     - takes by name what only some cases have: `mask` (0 for what is not attended
                       to) and `position_ids` (which start anew in each document; none attends to
                       another), both [rows, length], and `smoothing`, the share of a label that is
                       spread over the vocabulary,
                     - has a method `tie()` that shares again what moving to a device took apart
    drops:           the share that each part of a Model drops in training, by the part's name with
                     `*` for a layer's number (`harness.probe.computing.dropout`)
    router:          how a Model sends each token to some of its experts; None where it has none
    constants:       shape of each tensor that is drawn and loaded as parameters are, and is not
                     trained
    """

    name: str
    check: Callable[[Model], None]
    shapes: Callable[[Model], dict[str, tuple[int, ...]]]
    draw: Callable[[Model, str, np.ndarray], np.ndarray]
    config: Callable[[Model], dict[str, Any]]
    flops_per_token: Callable[[Model, int], float]
    engines: Mapping[str, InEngine]
    reference: Callable[[dict[str, Any]], Any]
    drops: Callable[[Model], Mapping[str, float]] = nothing_dropped
    router: Callable[[Model], Router | None] = no_router
    constants: Callable[[Model], dict[str, tuple[int, ...]]] = no_constants

    def in_engine(self, engine: str) -> InEngine:
        """What it is called in `engine`. Raises CannotTrain where the engine does not have it."""
        if engine not in self.engines:
            raise CannotTrain(
                f"{KEY}={self.name}: {engine} is not known to train it; "
                f"{', '.join(self.engines)} and the reference do"
            )
        return self.engines[engine]

    def layouts_in(self, engine: str, model: Model) -> tuple[Layout, ...]:
        """What `engine` keeps in a layout of its own; nothing where it builds the reference."""
        return self.engines[engine].layouts(model) if engine in self.engines else ()


def family(name: str) -> Family:
    """The family that is registered as `name`. Raises BadInput that names `case.model.family`."""
    found: Family = registry.load(registry.MODELS, name, KEY)
    return found


def dense_flops_per_token(
    *,
    layers: int,
    hidden_size: int,
    intermediate_size: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab_size: int,
    sequence_length: int,
) -> float:
    """Model FLOPs of training a dense decoder-only transformer on one token, forward and backward.

        6 · N + 12 · layers · heads · head_dim · sequence_length

    as in PaLM (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), where N counts the weights
    that multiply: q, k, v, o, a gated MLP of three matrices, and the output head. The table of
    input embeddings is only looked up, and norms are left out. The second term is attention itself;
    as in PaLM, the half that a causal mask saves is not subtracted. Recomputation (remat) is not
    counted: these are the model's FLOPs, not the hardware's.
    """
    attention = hidden_size * head_dim * (2 * heads + 2 * kv_heads)
    mlp = 3 * hidden_size * intermediate_size
    weights = layers * (attention + mlp) + hidden_size * vocab_size
    return float(6 * weights + 12 * layers * heads * head_dim * sequence_length)
