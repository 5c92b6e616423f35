"""Observes the parameters of a run: what they are, and their fingerprints over the first steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from harness.probe.fingerprint import Pending, fingerprint, norms
from harness.probe.runtime import Runtime
from harness.probe.spec import Spec
from harness.probe.writer import Writer
from harness.record import files as record

_WRAPPERS = ("_orig_module.", "_orig_mod.")


def canonical_name(name: str) -> str:
    """A parameter's name without what wrappers (FSDPv2, ShardedModule, checkpointing) add."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


class Parameters:
    """Everything that goes into parameters.json, collected as the run goes on.

    Values between steps (`initial`, `after`, `final`) come from one small graph of their own, the
    same each time. Gradients are fingerprinted within the graph of step 0.
    """

    def __init__(self, spec: Spec, writer: Writer, runtime: Runtime) -> None:
        self.spec, self.writer, self.runtime = spec, writer, runtime
        self.owners: list[torch.Tensor] = []
        self.described: list[dict[str, Any]] = []
        self._by_owner: dict[int, dict[str, Any]] = {}
        self._initial: list[dict[str, Any]] = []
        self._saved: dict[int, torch.Tensor] = {}
        self._gradients: tuple[list[int], Pending] | None = None
        self._clipped: tuple[torch.Tensor, list[int]] | None = None

    def take_initial(self, optimizer: torch.optim.Optimizer) -> None:
        """Fingerprint what the optimizer holds, before the first step."""
        self.owners = [p for group in optimizer.param_groups for p in group["params"]]
        if self.spec.save_initial:
            self._saved = {id(p): p.detach().cpu() for p in self.owners}
        self._initial = self._values()

    def take_gradients(self, tensors: list[torch.Tensor]) -> None:
        """Fingerprint the gradients of step 0, lazily, before they are clipped."""
        owners, gradients, labels = self._having_gradients(tensors)
        if gradients and self._gradients is None:
            self._gradients = (owners, fingerprint(gradients, labels))

    def take_clipped(self, optimizer: Any, root: torch.nn.Module | None) -> None:
        """Describe every parameter, and measure the gradients that the optimizer sees at step 0."""
        tensors = self._describe(optimizer, root)
        self.take_gradients(tensors)
        owners, gradients, labels = self._having_gradients(tensors)
        if gradients:
            values, order = norms(gradients, labels)
            self._clipped = (values, [owners[index] for index in order])

    def _having_gradients(
        self, tensors: list[torch.Tensor]
    ) -> tuple[list[int], list[torch.Tensor], list[str]]:
        """Of the parameters that have a gradient: their ids, the gradients, their shardings."""
        pairs = [(t, t.grad) for t in tensors if t.grad is not None]
        owners = [id(t) for t, _ in pairs]
        return owners, [g for _, g in pairs], [self.runtime.sharding(t) for t, _ in pairs]

    def _describe(self, optimizer: Any, root: torch.nn.Module | None) -> list[torch.Tensor]:
        """Names, shapes and shardings in the order of the model."""
        group_of = {id(p): i for i, g in enumerate(optimizer.param_groups) for p in g["params"]}
        named = [] if root is None else list(root.named_parameters())
        known = {id(p) for _, p in named}
        held = [p for group in optimizer.param_groups for p in group["params"]]
        named += [(f"unnamed.{i}", p) for i, p in enumerate(held) if id(p) not in known]
        self.described = [
            {
                "name": canonical_name(name),
                "shape": list(p.shape),
                "dtype": str(p.dtype).removeprefix("torch."),
                "sharding": self.runtime.sharding(p),
                "group": group_of.get(id(p)),
            }
            for name, p in named
        ]
        tensors = [p for _, p in named]
        self._by_owner = {id(p): d for p, d in zip(tensors, self.described, strict=True)}
        return tensors

    def read_first_step(self) -> None:
        """After step 0: read what was fingerprinted within it."""
        if self._gradients is not None:
            owners, pending = self._gradients
            self._fill(owners, pending.read(), lambda entry, value: entry.update(gradient=value))
        if self._clipped is not None:
            values, ids = self._clipped
            for entry in self.described:
                entry["clipped_norm"] = 0.0  # of a parameter without a gradient
            for owner, norm in zip(ids, values.cpu().tolist(), strict=True):
                self._by_owner[owner]["clipped_norm"] = norm
        ids = [id(p) for p in self.owners]
        self._fill(ids, self._initial, lambda entry, value: entry.update(initial=value))
        if self._saved:
            names = {key: self._by_owner[key]["name"] for key in self._saved}
            # float32 holds bfloat16 exactly
            arrays = {names[key]: t.float().numpy() for key, t in self._saved.items()}
            self.writer.arrays(record.INITIAL, arrays)
        self._gradients, self._clipped, self._saved = None, None, {}

    def read_after_step(self) -> None:
        """Fingerprint the parameters as they are after one of the first two steps."""
        self._fill(
            [id(p) for p in self.owners],
            self._values(),
            lambda entry, value: entry.setdefault("after", []).append(value),
        )
        self.writer.parameters(self.described)

    def read_final(self) -> None:
        """Fingerprint the parameters at the end of training."""
        if self.described and self._initial:
            ids = [id(p) for p in self.owners]
            self._fill(ids, self._values(), lambda entry, value: entry.update(final=value))
            self.writer.parameters(self.described)

    def _values(self) -> list[dict[str, Any]]:
        pending = fingerprint(self.owners, [self.runtime.sharding(p) for p in self.owners])
        self.runtime.materialise([pending.floats, pending.bits])
        return pending.read()

    def _fill(
        self,
        owners: list[int],
        values: list[dict[str, Any]],
        put: Callable[[dict[str, Any], dict[str, Any]], Any],
    ) -> None:
        for owner, value in zip(owners, values, strict=True):
            if owner in self._by_owner:
                put(self._by_owner[owner], value)
