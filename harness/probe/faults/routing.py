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
        for stack in _stacks(model):
            stack.forward = _upside_down(stack.forward, _height(stack))  # type: ignore[method-assign]
            found += 1
        return found

    change_model(apply)


def _upside_down(forward: Function, count: int) -> Function:
    """What a stack of so many experts computes, [experts · tokens, hidden], by the others."""

    def flipped(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(count, -1, x.shape[-1]).flip(0).reshape(x.shape)

    return lambda x: flipped(forward(flipped(x)))


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

    def of_stack(stack: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        count = _height(stack)
        each = output.reshape(count, -1, output.shape[-1])
        return torch.stack([within(i, count, each[i]) for i in range(count)]).reshape(output.shape)

    def apply(model: torch.nn.Module) -> int:
        found = 0
        for experts in _experts(model):
            for number, expert in enumerate(experts):
                expert.register_forward_hook(hook(number, len(experts)))
            found += 1
        for stack in _stacks(model):
            stack.register_forward_hook(of_stack)
            found += 1
        return found

    wrap(("torch:topk",), around)
    change_model(apply)


def _experts(model: torch.nn.Module) -> Iterator[torch.nn.ModuleList]:
    """The experts of each layer that keeps them as modules."""
    yield from (module for module in _named(model) if isinstance(module, torch.nn.ModuleList))


def _stacks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The experts of each layer that keeps them one upon the other, in one module.

    A forward pass of the model that leaves out the module's own raises: torchprime's Llama 4 has
    another module compute with their parameters.
    """
    found = [module for module in _named(model) if not isinstance(module, torch.nn.ModuleList)]
    entered: list[torch.nn.Module] = []

    def enter(stack: torch.nn.Module, inputs: Any) -> None:
        entered.append(stack)

    def check(root: torch.nn.Module, inputs: Any, output: Any) -> None:
        if root.training and not entered:
            raise RuntimeError("a seeded fault changed experts that compute nothing")

    for stack in found:
        stack.register_forward_pre_hook(enter)
    if found:
        model.register_forward_hook(check)
    return found


def _named(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    for name, module in model.named_modules():
        if name.split(".")[-1] == "experts":
            yield module


def _height(stack: torch.nn.Module) -> int:
    """How many experts are in a stack."""
    return len(next(iter(stack.parameters())))
