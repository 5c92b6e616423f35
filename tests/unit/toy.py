"""A model family of three parameters, which the Records of the tests' builders are of.

toy-1.0.dist-info beside this file registers it, as an installed package would.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.models.family import Family, Model


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """An embedding, a norm and a head; or what the model names in its options, by shape."""
    if model.options:
        return {name: tuple(shape) for name, shape in model.options.items()}
    return {
        "model.embed_tokens.weight": (model.vocab_size, model.hidden_size),
        "model.norm.weight": (model.hidden_size,),
        "lm_head.weight": (model.vocab_size, model.hidden_size),
    }


def _draw(model: Model, name: str, normal: np.ndarray) -> np.ndarray:
    return normal


def _reference(model: dict[str, Any]) -> Any:
    raise NotImplementedError("the toy is trained by the tests' builders only")


FAMILY = Family(
    name="toy",
    check=lambda model: None,
    shapes=shapes,
    draw=_draw,
    config=lambda model: {"model_type": "toy"},
    flops_per_token=lambda model, length: 6.0 * model.vocab_size * model.hidden_size,
    engines={},
    reference=_reference,
)
