"""Faults in the loss: how it is computed, and what happens between it and its gradients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import optimizer as optimizer_hooks

from harness.probe.inject import when_imported


def _change_loss(change: Callable[[torch.Tensor, torch.Tensor], tuple[Any, Any]]) -> None:
    """Change what every cross-entropy is given."""
    original = torch.nn.functional.cross_entropy

    @functools.wraps(original)
    def cross_entropy(input: torch.Tensor, target: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return original(*change(input, target), *args, **kwargs).float()

    torch.nn.functional.cross_entropy = cross_entropy


def label_shift() -> None:
    """Every label is compared with the prediction one place too early."""
    _change_loss(lambda logits, labels: (logits, labels.roll(-1)))


def loss_dtype(dtype: str) -> None:
    """The cross-entropy is computed in another dtype."""
    _change_loss(lambda logits, labels: (logits.to(getattr(torch, dtype)), labels))


def lost_smoothing() -> None:
    """Labels are not smoothed, by torch's cross-entropy nor by transformers' `LabelSmoother`."""
    original = torch.nn.functional.cross_entropy

    @functools.wraps(original)
    def cross_entropy(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "label_smoothing": 0.0})

    torch.nn.functional.cross_entropy = cross_entropy

    def patch(utilities: Any) -> None:
        smooth = utilities.LabelSmoother.__call__

        def unsmoothed(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.epsilon = 0.0
            return smooth(self, *args, **kwargs)

        utilities.LabelSmoother.__call__ = unsmoothed

    when_imported("transformers.trainer_pt_utils", patch)


def logits_to_host() -> None:
    """The logits are copied to the host in every step."""

    def copied(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits.detach().cpu()
        return logits, labels

    _change_loss(copied)


def nan_loss(step: int) -> None:
    """The loss of one step is NaN."""
    _change_backward(step, lambda loss: loss * math.nan)


def divided_loss(by: float) -> None:
    """`backward()` is called on a part of the loss, which is itself as it was."""
    _change_backward(None, lambda loss: loss / by)


def recompile(step: int) -> None:
    """One step has a graph of its own, which computes the same."""
    _change_backward(step, lambda loss: loss + torch.zeros_like(loss).detach().cos() - 1)


def host_transfer() -> None:
    """The loss is read on the host in every step, before its gradients are computed."""

    def read(loss: torch.Tensor) -> torch.Tensor:
        loss.item()
        return loss

    _change_backward(None, read)


def extra_sync() -> None:
    """Every step is cut in two by a step marker before its backward pass."""

    def cut(loss: torch.Tensor) -> torch.Tensor:
        import torch_xla

        torch_xla.sync()
        return loss

    _change_backward(None, cut)


def _change_backward(step: int | None, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change the loss just before `backward()`, at one step or at all."""
    original, seen = torch.Tensor.backward, {"steps": 0}
    optimizer_hooks.register_optimizer_step_post_hook(
        lambda *_: seen.update(steps=seen["steps"] + 1)
    )

    @functools.wraps(original)
    def backward(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if step is None or seen["steps"] == step:
            tensor = change(tensor)
        return original(tensor, *args, **kwargs)

    torch.Tensor.backward = backward  # type: ignore[method-assign,assignment]
