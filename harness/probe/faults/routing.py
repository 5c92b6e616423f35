"""Faults in a mixture of experts: which of them a token goes to, and what becomes of it there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from harness.probe.faults.change import change_model
from harness.probe.functions import Function, wrap


def other_experts() -> None:
    """Each token goes to the experts whose scores come right after the highest."""

    def around(topk: Function) -> Function:
        def next_best(scores: torch.Tensor, k: int, *args: Any, **kwargs: Any) -> Any:
            found = topk(scores, min(2 * k, scores.shape[-1]), *args, **kwargs)
            return found[0][..., -k:], found[1][..., -k:]

        return next_best

    wrap(("torch:topk",), around)


def expert_order() -> None:
    """Experts compute with each other's weights, the first with the last one's."""

    def apply(model: torch.nn.Module) -> int:
        found = 0
        for experts in _experts(model):
            forwards = [expert.forward for expert in experts]
            for expert, forward in zip(experts, reversed(forwards), strict=True):
                expert.forward = forward  # type: ignore[method-assign]
            found += 1
        return found

    change_model(apply)


def dropped_tokens(capacity_factor: float) -> None:
    """An expert has no place for more tokens than its even share times `capacity_factor`.

    What comes later passes by it, and is as if that expert had put out 0.
    """
    taken: list[torch.Tensor] = []

    def around(topk: Function) -> Function:
        def watched(*args: Any, **kwargs: Any) -> Any:
            found = topk(*args, **kwargs)
            taken[:] = [found[1].detach().flatten(0, -2)]
            return found

        return watched

    def within(number: int, count: int, output: torch.Tensor) -> torch.Tensor:
        """What is left of an expert's output, [tokens, hidden], of all tokens or of its own."""
        chosen = taken[0]
        capacity = int(capacity_factor * chosen.numel() / count)
        if len(output) == len(chosen):
            mine = (chosen == number).any(-1)
            kept = ~mine | (mine.int().cumsum(0) <= capacity)
        else:
            kept = torch.arange(len(output), device=output.device) < capacity
        return output * kept[:, None].to(output.dtype)

    def hook(number: int, count: int) -> Any:
        return lambda expert, inputs, output: within(number, count, output)

    def apply(model: torch.nn.Module) -> int:
        found = 0
        for experts in _experts(model):
            for number, expert in enumerate(experts):
                expert.register_forward_hook(hook(number, len(experts)))
            found += 1
        return found

    wrap(("torch:topk",), around)
    change_model(apply)


def _experts(model: torch.nn.Module) -> Iterator[torch.nn.ModuleList]:
    """The experts of each layer that keeps them as modules."""
    for name, module in model.named_modules():
        if name.split(".")[-1] == "experts" and isinstance(module, torch.nn.ModuleList):
            yield module
