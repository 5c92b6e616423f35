"""Faults in the rows that are trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from harness.probe.batches import Rows


def _change_rows(change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Apply `change` to all that is prepared of each row when they are read."""
    read = Rows.read

    def changed(path: Any) -> Rows:
        rows = read(path)
        others = {name: change(array.copy()) for name, array in rows.others.items()}
        return Rows(change(rows.tokens.copy()), change(rows.labels.copy()), others)

    Rows.read = staticmethod(changed)  # type: ignore[method-assign]


def swap_rows(first: int, second: int) -> None:
    """Two rows trade places; within one batch if their numbers are."""

    def change(rows: np.ndarray) -> np.ndarray:
        rows[[first, second]] = rows[[second, first]]
        return rows

    _change_rows(change)


def swap_batches(first: int, second: int, size: int) -> None:
    """Two whole batches of `size` rows trade places."""

    def change(rows: np.ndarray) -> np.ndarray:
        a, b = slice(first * size, (first + 1) * size), slice(second * size, (second + 1) * size)
        rows[a], rows[b] = rows[b].copy(), rows[a].copy()
        return rows

    _change_rows(change)


def repeat_batch(step: int) -> None:
    """The model is given the batch of the step before once more; the loader has gone on."""
    original = torch.nn.Module.__call__
    state: dict[str, Any] = {"root": None, "calls": 0, "given": ((), {})}

    def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if state["root"] is None and module.training and any(True for _ in module.parameters()):
            state["root"] = module
        if module is state["root"] and module.training:
            if state["calls"] == step:
                args, kwargs = state["given"]
            state.update(calls=state["calls"] + 1, given=(args, kwargs))
        return original(module, *args, **kwargs)

    torch.nn.Module.__call__ = call  # type: ignore[method-assign]
