"""Watches which experts the routers of a model choose in the first forward pass of step 0.

The choice is the trainer's own: what its call of `torch.topk` returned. As with `outputs`, what is
kept is small, and becomes outputs of step 0's own graph; later steps keep theirs.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch

from harness.models.router import Router
from harness.probe.fingerprint import sums
from harness.probe.functions import Function, wrap
from harness.probe.outputs import SKETCH, is_plain
from harness.probe.parameters import canonical_name

KEPT = 4096
"""Tokens, from the first on, whose experts are kept one by one; of all, how many each expert got.
A token takes some 20 bytes of a Record in each layer."""


@dataclass
class _Seen:
    """Lazy tensors of one router: sums of what it was given and of its logits, and its choice.

    Its logits are what its matrix product came to: modules that choose by themselves return scores,
    indices or weights beside them, or in their place. One whose product is no call of
    `torch.nn.functional.linear`, as where torch_xla puts an einsum there, returns them.
    """

    given: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    taken: torch.Tensor | None = None
    margins: torch.Tensor | None = None
    load: torch.Tensor | None = None
    tokens: int = 0


class Routing:
    """The routers of one model, in the order in which they were called."""

    def __init__(self, router: Router | None) -> None:
        self.router = router
        self.seen: dict[str, _Seen] = {}
        self._choosing: _Seen | None = None  # of the router that was called last
        self._within: _Seen | None = None  # of the router that is computing now
        self._handles: list[Any] = []

    def install(self) -> None:
        """Watch the functions that score and choose. A model without routers is left alone."""
        if self.router is not None:
            wrap(("torch:topk",), self._watched)
            wrap(("torch.nn.functional:linear",), self._scoring)

    def watch(self, root: torch.nn.Module) -> None:
        """Watch the forward pass of `root` that is about to begin, until `stop`."""
        names = () if self.router is None else self.router.modules
        self.thread = threading.get_ident()
        for name, module in root.named_modules():
            canonical = canonical_name(f"{name}.").strip(".")
            if canonical in names:
                self._handles.append(module.register_forward_pre_hook(self._enter(canonical)))
                self._handles.append(module.register_forward_hook(self._leave(canonical)))

    def stop(self) -> None:
        """No more: what comes now is a second forward pass, or a checkpoint's."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._choosing, self._within = [], None, None

    def _enter(self, name: str) -> Any:
        def enter(module: Any, inputs: tuple[Any, ...]) -> None:
            if name in self.seen or not inputs or not self._plain(inputs[0]):
                return
            self._within = self._choosing = _Seen(given=sums(inputs[0], SKETCH))
            self.seen[name] = self._within

        return enter

    def _leave(self, name: str) -> Any:
        def leave(module: Any, inputs: Any, output: Any) -> None:
            seen, self._within = self.seen.get(name), None
            if seen is not None and seen.logits is None and self._plain(output):
                seen.logits = sums(output)

        return leave

    def _scoring(self, original: Function) -> Function:
        def linear(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            seen = self._within
            if seen is not None and seen.logits is None and self._plain(result):
                seen.logits = sums(result)
            return result

        return linear

    def _plain(self, value: Any) -> bool:
        return threading.get_ident() == self.thread and is_plain(value)

    def _watched(self, original: Function) -> Function:
        def topk(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._choosing is not None:
                scores = args[0] if args else kwargs.get("input")
                if self._plain(scores) and self._is_choice(scores, result[1]):
                    self._keep(self._choosing, scores, result[1])
                    self._choosing = None
            return result

        return topk

    def _is_choice(self, scores: torch.Tensor, taken: torch.Tensor) -> bool:
        assert self.router is not None
        of = (scores.shape[-1], taken.shape[-1])
        return of == (self.router.experts, self.router.chosen)

    def _keep(self, seen: _Seen, scores: torch.Tensor, taken: torch.Tensor) -> None:
        assert self.router is not None
        chosen, experts = self.router.chosen, self.router.experts
        scores = scores.detach().flatten(0, -2)
        taken = taken.detach().flatten(0, -2).to(torch.int32)
        best = scores.float().topk(chosen + 1, dim=-1)[0]  # not by the function that is watched
        each = torch.arange(experts, dtype=torch.int32, device=taken.device)
        seen.load = (taken[..., None] == each).sum((0, 1), dtype=torch.int32)
        seen.tokens = taken.shape[0]
        seen.scores = sums(scores)
        seen.taken = taken[:KEPT]
        seen.margins = (best[:, chosen - 1] - best[:, chosen])[:KEPT]

    def read(self) -> list[dict[str, Any]]:
        """The fields of a `harness.record.evidence.Routed` for each, and forget them."""
        seen, self.seen = self.seen, {}
        return [{"name": name, **_read(each)} for name, each in seen.items()]


def _read(seen: _Seen) -> dict[str, Any]:
    found: dict[str, Any] = {"tokens": seen.tokens}
    for name in ("given", "logits", "scores"):
        lazy = getattr(seen, name)
        *sketch, norm = [] if lazy is None else lazy.cpu().tolist()
        found[name] = None if lazy is None else {"sketch": sketch, "norm": norm}
    for name in ("taken", "margins", "load"):
        lazy = getattr(seen, name)
        found[name] = [] if lazy is None else lazy.cpu().tolist()
    return found
