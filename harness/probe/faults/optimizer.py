"""Faults in the optimizer: its hyper-parameters, its learning rate and its updates."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from harness.probe.parameters import canonical_name


def hyper_parameter(name: str, value: Any) -> None:
    """Another weight decay, epsilon, betas … in every group, from the first step on.

    The first step raises RuntimeError where a group has no such hyper-parameter.
    """

    def change(optimizer: Any, *_: Any) -> None:
        for group in optimizer.param_groups:
            if name not in group:
                raise RuntimeError(f"a seeded fault found no hyper-parameter {name} to change")
            group[name] = tuple(value) if isinstance(value, list) else value

    optimizer_hooks.register_optimizer_step_pre_hook(change)


def learning_rate(factor: float) -> None:
    """Every step uses a learning rate that is `factor` times as large."""

    def change(optimizer: Any, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * factor

    optimizer_hooks.register_optimizer_step_pre_hook(change)


def learning_rate_lag() -> None:
    """Every step uses the learning rate of the step before."""
    last: dict[int, float] = {}

    def change(optimizer: Any, *_: Any) -> None:
        for index, group in enumerate(optimizer.param_groups):
            current = group["lr"]
            group["lr"] = last.get(index, current)
            last[index] = current

    optimizer_hooks.register_optimizer_step_pre_hook(change)


def lost_update(step: int) -> None:
    """What the optimizer does in one step is undone. No loss tells of the last one."""
    state: dict[str, Any] = {"steps": 0, "before": []}

    def keep(optimizer: Any, *_: Any) -> None:
        if state["steps"] == step:
            held = [p for group in optimizer.param_groups for p in group["params"]]
            state["before"] = [(p, p.detach().clone()) for p in held]

    def undo(*_: Any) -> None:
        with torch.no_grad():
            for parameter, value in state["before"]:
                parameter.copy_(value)
        state.update(steps=state["steps"] + 1, before=[])

    optimizer_hooks.register_optimizer_step_pre_hook(keep)
    optimizer_hooks.register_optimizer_step_post_hook(undo)


def skip_update(step: int) -> None:
    """The optimizer is not called at one step; its gradients are lost, and training goes on."""
    initialise, seen = torch.optim.Optimizer.__init__, {"steps": 0}

    @functools.wraps(initialise)
    def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
        initialise(optimizer, *args, **kwargs)

        def maybe(self: Any, closure: Any = None) -> Any:
            seen["steps"] += 1
            return None if seen["steps"] == step + 1 else type(self).step(self, closure)

        optimizer.step = types.MethodType(maybe, optimizer)

    torch.optim.Optimizer.__init__ = init  # type: ignore[method-assign]


def reset_state(step: int) -> None:
    """The optimizer begins anew at one step: its moments are gone, and its count of updates."""

    def forget(optimizer: Any) -> None:
        optimizer.state.clear()

    _at(lambda now: now == step, forget)


def scaled_gradients(factor: float, step: int) -> None:
    """From one step on, gradients are scaled between clipping and the optimizer."""

    def scale(optimizer: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)

    _at(lambda now: now >= step, scale)


def frozen(parameter: str, step: int) -> None:
    """From one step on, one parameter is not updated any more.

    parameter: its canonical name; the step raises RuntimeError where no optimizer holds it
    """

    def freeze(found: Any) -> None:
        found.grad = None

    _at_parameter(parameter, step, freeze)


def scaled_gradient(parameter: str, factor: float, step: int) -> None:
    """From one step on, the gradient of one parameter is scaled after clipping.

    Adam makes nearly the same update of it: its moments tell of it, and hardly a loss.

    parameter: its canonical name; the step raises RuntimeError where no optimizer holds it
    """

    def scale(found: Any) -> None:
        found.grad.mul_(factor)

    _at_parameter(parameter, step, scale)


def coarse_moments() -> None:
    """The optimizer keeps its moments to the eight bits of a bfloat16."""

    def round_off(optimizer: Any, *_: Any) -> None:
        with torch.no_grad():
            for state in optimizer.state.values():
                for name in ("exp_avg", "exp_avg_sq"):
                    state[name].copy_(state[name].to(torch.bfloat16).to(state[name].dtype))

    optimizer_hooks.register_optimizer_step_post_hook(round_off)


def _at_parameter(parameter: str, step: int, change: Callable[[Any], None]) -> None:
    """Change one parameter, by its canonical name, before every optimizer step from `step` on."""
    names: dict[int, str] = {}

    def remember(module: Any, inputs: Any) -> None:
        if not names and module.training:
            names.update((id(p), canonical_name(n)) for n, p in module.named_parameters())

    def before(optimizer: Any) -> None:
        held = [p for group in optimizer.param_groups for p in group["params"]]
        found = [p for p in held if names.get(id(p)) == parameter]
        if not found:
            raise RuntimeError(f"a seeded fault found no parameter {parameter} to change")
        for each in found:
            change(each)

    module_hooks.register_module_forward_pre_hook(remember)
    _at(lambda now: now >= step, before)


def _at(begun: Callable[[int], bool], change: Callable[[Any], None]) -> None:
    """Change the optimizer just before the steps that `begun` says."""
    seen = {"steps": 0}

    def before(optimizer: Any, *_: Any) -> None:
        if begun(seen["steps"]):
            change(optimizer)
        seen["steps"] += 1

    optimizer_hooks.register_optimizer_step_pre_hook(before)
