"""Faults in the clipping of gradients; `clipping` are the functions that the observer watches."""

from __future__ import annotations

import math
from typing import Any

import torch

from harness.probe.functions import Function, wrap


def no_clipping(clipping: tuple[str, ...]) -> None:
    """Gradients are not clipped; their norm is still returned."""

    def around(_: Function) -> Function:
        return lambda parameters, max_norm, *args, **kwargs: torch.nn.utils.get_total_norm(
            [p.grad for p in parameters if p.grad is not None]
        )

    wrap(clipping, around)


def clipping_without_effect(clipping: tuple[str, ...]) -> None:
    """The norm is measured, but nothing is scaled."""

    def around(original: Function) -> Function:
        def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            return original(parameters, math.inf, *args, **kwargs)

        return clip

    wrap(clipping, around)


def clip_threshold(factor: float, clipping: tuple[str, ...]) -> None:
    """Gradients are clipped to a norm that is `factor` times as large."""

    def around(original: Function) -> Function:
        def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            return original(parameters, max_norm * factor, *args, **kwargs)

        return clip

    wrap(clipping, around)
