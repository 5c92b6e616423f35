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


def two_call_clipping(clipping: tuple[str, ...]) -> None:
    """The same clipping in torch's two calls: `get_total_norm`, then `clip_grads_with_norm_`."""

    def around(_: Function) -> Function:
        def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            held = list(parameters)
            norm = torch.nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
            torch.nn.utils.clip_grads_with_norm_(held, max_norm, norm)
            return norm

        return clip

    wrap(clipping, around)


def clipping_each_parameter(clipping: tuple[str, ...]) -> None:
    """Each gradient is clipped by its own norm, not by that of all."""

    def around(original: Function) -> Function:
        def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            held = list(parameters)
            norms = [original([p], max_norm, *args, **kwargs) for p in held]
            return torch.linalg.vector_norm(torch.stack(norms))

        return clip

    wrap(clipping, around)


def unwatched_clipping(factor: float, clipping: tuple[str, ...]) -> None:
    """Gradients are clipped to `factor` times the maximum by operations of the trainer's own."""

    def around(_: Function) -> Function:
        def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            gradients = [p.grad for p in parameters if p.grad is not None]
            norm = torch.linalg.vector_norm(
                torch.stack([torch.linalg.vector_norm(g) for g in gradients])
            )
            for gradient in gradients:
                gradient.mul_(torch.clamp(factor * max_norm / (norm + 1e-6), max=1.0))
            return norm

        return clip

    wrap(clipping, around)
