"""Watches what the model itself is given: the tensors that its root module is called with.

A loader yields a batch on the host, ahead of the step; what comes of it until the model is called
is the trainer's own affair. The tensors are only held on to, and read when a timing window closes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from harness.probe import hashing
from harness.probe.runtime import Runtime
from harness.probe.spec import Watch

POSITIONS = "position_ids"
"""transformers' name of positions, which are 0, 1, 2 … where none are given."""

Given = dict[str, torch.Tensor | None]
"""Tensors by name; None for one that the device has yet to compute, and that is not held."""


class ModelInputs:
    """The calls of the root module in the optimizer step in progress, in order."""

    def __init__(self, watch: Watch, runtime: Runtime) -> None:
        self.calls: list[Given] = []
        self._roles = {watch.tokens: "tokens", watch.labels: "labels", watch.mask: "mask"}
        self._runtime = runtime

    def watch(self, root: torch.nn.Module, mine: Callable[[], bool]) -> None:
        """Watch the calls of `root` in training, where they are `mine` to watch."""
        names = [
            p.name
            for p in inspect.signature(root.forward).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]

        def given(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if module.training and mine():
                places = [*names, *map(str, range(len(names), len(args)))]
                named = {**dict(zip(places, args, strict=False)), **kwargs}
                # A scalar is no part of a batch.
                tensors = {n: t for n, t in named.items() if torch.is_tensor(t) and t.dim()}
                self.calls.append(
                    {self._roles.get(n, n): self._runtime.hold(t) for n, t in tensors.items()}
                )

        root.register_forward_pre_hook(given, with_kwargs=True)

    def take(self) -> list[Given]:
        """The calls so far, which are forgotten here."""
        calls, self.calls = self.calls, []
        return calls


def describe(calls: Iterable[Given], runtime: Runtime) -> list[dict[str, str]]:
    """For each call the hash of each tensor by name; "" for one that was not held."""
    calls = list(calls)
    held = [tensor for call in calls for tensor in call.values() if tensor is not None]
    arrays = iter(runtime.to_host(held))
    described = []
    for call in calls:
        read = {n: None if t is None else _array(next(arrays)) for n, t in call.items()}
        described.append(
            {
                name: "" if array is None else _hash(array)
                for name, array in read.items()
                if array is None or not says_nothing(name, array)
            }
        )
    return described


def says_nothing(name: str, array: np.ndarray) -> bool:
    """Whether a model does the same without it: a mask of ones, and positions 0, 1, 2 …"""
    if name == "mask":
        return bool((array == 1).all())
    return name == POSITIONS and bool((array == np.arange(array.shape[-1])).all())


def _hash(array: np.ndarray) -> str:
    """Of rows of whole numbers as they are, of others by their bits as float64."""
    whole = array.dtype.kind in "iub"
    rows = array if whole else np.ascontiguousarray(array, dtype=np.float64).view(np.int64)
    return hashing.of_rows(map(hashing.of_array, rows))


def _array(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()
