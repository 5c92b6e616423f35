"""Faults in a resume: what was saved does not come back."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from harness.probe.inject import when_imported


def lost_moments() -> None:
    """What the optimizer kept of each parameter is not loaded; its hyper-parameters are.

    The first step raises RuntimeError where nothing is loaded.
    """
    original = torch.optim.Optimizer.load_state_dict
    seen = {"loads": 0}

    @functools.wraps(original)
    def load_state_dict(optimizer: Any, state: Any) -> Any:
        loaded = original(optimizer, {**state, "state": {}})
        seen["loads"] += 1
        return loaded

    torch.optim.Optimizer.load_state_dict = load_state_dict  # type: ignore[method-assign]
    _at_the_first_step(lambda: seen["loads"], "the optimizer's state")


def lost_generators() -> None:
    """No random number generator is set to the state that was saved.

    The first step raises RuntimeError where none would have been. Once a forward pass has begun
    they are as they always are: layers that are computed again set them back.
    """
    seen = {"sets": 0, "begun": 0}

    def lost(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def set_state(*args: Any, **kwargs: Any) -> Any:
            if seen["begun"]:
                return original(*args, **kwargs)
            seen["sets"] += 1
            return None

        return set_state

    torch.set_rng_state = torch.random.set_rng_state = lost(torch.random.set_rng_state)
    np.random.set_state = lost(np.random.set_state)
    random.setstate = lost(random.setstate)  # type: ignore[assignment]

    def lose_the_device_s(xm: Any) -> None:
        xm.set_rng_state = lost(xm.set_rng_state)

    when_imported("torch_xla.core.xla_model", lose_the_device_s)

    def begins(module: torch.nn.Module, _: Any) -> None:
        if module.training:
            seen["begun"] += 1

    module_hooks.register_module_forward_pre_hook(begins)
    _at_the_first_step(lambda: seen["sets"], "a generator's state")


def _at_the_first_step(count: Callable[[], int], what: str) -> None:
    """Raise at the first optimizer step where nothing was lost by then."""

    def check(*_: Any) -> None:
        if not count():
            raise RuntimeError(f"a seeded fault found no load of {what} to lose")

    optimizer_hooks.register_optimizer_step_pre_hook(check)
