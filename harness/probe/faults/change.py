"""Changes a model for a fault, when it is complete and not yet trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def change_model(change: Callable[[torch.nn.Module], int]) -> None:
    """Apply `change` to the model when it is first set to train, after its optimizer was made."""
    train, init = torch.nn.Module.train, torch.optim.Optimizer.__init__
    state = {"optimizer": False, "done": False}

    def watched_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        state["optimizer"] = True

    def watched_train(self: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
        if (
            mode
            and state["optimizer"]
            and not state["done"]
            and any(True for _ in self.parameters())
        ):
            state["done"] = True
            if not change(self):
                raise RuntimeError("a seeded fault found nothing to change in the model")
        return train(self, mode)

    torch.optim.Optimizer.__init__ = watched_init  # type: ignore[method-assign]
    torch.nn.Module.train = watched_train  # type: ignore[method-assign,assignment]
