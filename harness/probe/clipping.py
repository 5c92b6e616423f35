"""Watches the functions that clip gradients, in whatever form a trainer calls them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from harness.probe.functions import Function, wrap

NORM, VALUE = "norm", "value"
"""Kinds of clipping: to a maximal norm, and to a maximal absolute value."""

WITH_NORM = "torch.nn.utils:clip_grads_with_norm_"
"""`f(parameters, max_norm, total_norm)`, since torch 2.6; `get_total_norm` measures the norm."""

BY_VALUE = "torch.nn.utils:clip_grad_value_"
"""`f(parameters, clip_value)`."""


@dataclass(frozen=True)
class Call:
    """One call of such a function.

    limit:      the largest norm or absolute value
    norm:       what was measured or given: a tensor that may still be lazy, a number, or None
    parameters: what it was called for
    """

    kind: str
    limit: float
    norm: Any
    parameters: list[torch.Tensor]

    def describe(self) -> dict[str, Any]:
        """The fields of a `harness.record.evidence.Clip` but for its norm."""
        return {"kind": self.kind, "limit": self.limit, "parameters": len(self.parameters)}


class Clipping:
    """The calls of the optimizer step in progress, in order.

    before: called with a call's parameters before they are clipped
    """

    def __init__(self, before: Callable[[list[torch.Tensor]], None]) -> None:
        self.calls: list[Call] = []
        self._before = before
        self._within = False

    def watch(self, functions: Iterable[str]) -> None:
        """Watch `functions`, each `f(parameters, max_norm, …)` that returns their norm, and those
        of torch that are given the norm, or clip values."""
        wrap(functions, lambda f: self._watched(f, NORM, "max_norm", _returned))
        if hasattr(torch.nn.utils, "clip_grads_with_norm_"):
            wrap([WITH_NORM], lambda f: self._watched(f, NORM, "max_norm", _given))
        wrap([BY_VALUE], lambda f: self._watched(f, VALUE, "clip_value", _none))

    def take(self) -> list[Call]:
        """The calls so far, which are forgotten here."""
        calls, self.calls = self.calls, []
        return calls

    def _watched(self, original: Function, kind: str, limit: str, norm_of: Function) -> Function:
        def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            if self._within:  # one of these functions is made of another
                return original(parameters, *args, **kwargs)
            tensors = [parameters] if torch.is_tensor(parameters) else list(parameters)
            self._before(tensors)
            self._within = True
            try:
                result = original(tensors, *args, **kwargs)
            finally:
                self._within = False
            norm = norm_of(result, args, kwargs)
            self.calls.append(Call(kind, float(args[0] if args else kwargs[limit]), norm, tensors))
            return result

        return clip


def _returned(result: Any, args: Any, kwargs: Any) -> Any:
    return result


def _given(result: Any, args: Any, kwargs: Any) -> Any:
    return args[1] if len(args) > 1 else kwargs["total_norm"]


def _none(result: Any, args: Any, kwargs: Any) -> None:
    return None


def one_call(calls: list[Call], trained: int) -> bool:
    """Whether one call for all of the `trained` parameters is all that there was, or none."""
    if not calls:
        return True
    return len(calls) == 1 and calls[0].kind == NORM and len(calls[0].parameters) >= trained


def maximum(calls: list[Call]) -> float | None:
    """The one norm that all calls clip to; None for none, and for several."""
    limits = {call.limit for call in calls if call.kind == NORM}
    return limits.pop() if len(limits) == 1 else None


def total_norm(calls: list[Call], norms: list[float | None]) -> float | None:
    """The L2 norm of all that was clipped, from what each call measured.

    Calls that were given one and the same norm measured once.
    """
    measured = {id(c.norm): n for c, n in zip(calls, norms, strict=True) if n is not None}
    if len(measured) < 2:
        return next(iter(measured.values()), None)
    return math.hypot(*measured.values())
