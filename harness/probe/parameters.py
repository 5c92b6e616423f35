"""Observes the parameters of a run: what they are, and their fingerprints over the first steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from harness.probe.clipping import Call
from harness.probe.fingerprint import fingerprints, norm
from harness.probe.runtime import Runtime
from harness.probe.spec import Spec
from harness.probe.writer import Writer
from harness.record import layout

_WRAPPERS = ("_orig_module.", "_orig_mod.")


def canonical_name(name: str) -> str:
    """A parameter's name without what wrappers (FSDPv2, ShardedModule, checkpointing) add."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


class Parameters:
    """Everything that goes into parameters.json, collected as the run goes on.

    All fingerprints come from small graphs between steps, compiled once for each kind of tensor.
    So that the gradients of step 0 are still there by then, they are kept as outputs of its graph.
    That takes no more memory than later steps take anyway: where those hold the optimizer's state
    beside the gradients, step 0 has none yet.
    """

    def __init__(self, spec: Spec, writer: Writer, runtime: Runtime) -> None:
        self.spec, self.writer, self.runtime = spec, writer, runtime
        self.optimizer: torch.optim.Optimizer | None = None
        self.owners: list[torch.Tensor] = []
        self.described: list[dict[str, Any]] = []
        self._by_owner: dict[int, dict[str, Any]] = {}
        self._initial: list[dict[str, Any]] = []
        self._saved: dict[int, torch.Tensor] = {}
        self._gradients: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None
        self._clipped: tuple[list[torch.Tensor], torch.Tensor] | None = None

    def take_initial(self, optimizer: torch.optim.Optimizer) -> None:
        """Fingerprint what the optimizer holds, before the first step."""
        self.optimizer = optimizer
        self.owners = [p for group in optimizer.param_groups for p in group["params"]]
        if self.spec.save_initial:
            self._saved = {id(p): p.detach().cpu() for p in self.owners}
        self._initial = self._values(self.owners)

    def dtypes(self) -> list[torch.dtype]:
        """The dtypes of what the optimizer holds."""
        return sorted({p.dtype for p in self.owners}, key=str)

    def take_gradients(self, tensors: list[torch.Tensor]) -> None:
        """Keep the gradients of step 0 as they are now, in place of those that were kept before."""
        held = [t for t in tensors if t.grad is not None]
        if held:
            # Clipping multiplies in place. On a lazy device the copy is a name and no memory.
            self._gradients = (held, [t.grad.detach().clone() for t in held])

    def take_clipped(self, optimizer: Any, root: torch.nn.Module | None, calls: list[Call]) -> None:
        """Describe every parameter, and measure the gradients that the optimizer sees at step 0.

        calls: of functions that clip, before this
        """
        tensors = self._describe(optimizer, root)
        if self._gradients is None:
            self.take_gradients(tensors)
        for index, call in enumerate(calls):
            for tensor in call.parameters:
                if id(tensor) in self._by_owner:
                    self._by_owner[id(tensor)]["clipped_by"].append(index)
        held = [t for t in tensors if t.grad is not None]
        if held:
            self._clipped = (held, torch.stack([norm(t.grad) for t in held]))

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
                "clipped_by": [],
            }
            for name, p in named
        ]
        tensors = [p for _, p in named]
        self._by_owner = {id(p): d for p, d in zip(tensors, self.described, strict=True)}
        return tensors

    def read_first_step(self) -> None:
        """After step 0: read what was kept of it."""
        if self._gradients is not None:
            held, gradients = self._gradients
            values = self._values(gradients)
            self._fill(held, values, lambda entry, value: entry.update(gradient=value))
        if self._clipped is not None:
            held, lazy = self._clipped
            for entry in self.described:
                entry["clipped_norm"] = 0.0  # of a parameter without a gradient
            self._fill(
                held, lazy.cpu().tolist(), lambda entry, value: entry.update(clipped_norm=value)
            )
        self._fill(self.owners, self._initial, lambda entry, value: entry.update(initial=value))
        if self._saved:
            names = {key: self._by_owner[key]["name"] for key in self._saved}
            # float32 holds bfloat16 exactly
            arrays = {names[key]: t.float().numpy() for key, t in self._saved.items()}
            self.writer.arrays(layout.INITIAL, arrays)
        self._gradients, self._clipped, self._saved = None, None, {}

    def read_after_step(self) -> None:
        """Fingerprint the parameters and the optimizer's state after one of the first two steps."""
        values, states = self._values(self.owners), self._states()
        self._fill(self.owners, values, lambda e, v: e.setdefault("after", []).append(v))
        self._fill(self.owners, states, lambda e, v: e.setdefault("state_after", []).append(v))
        self.writer.parameters(self.described)

    def write(self) -> None:
        """Write what is known of the parameters."""
        self.writer.parameters(self.described)

    def read_final(self) -> None:
        """Fingerprint the parameters and the optimizer's state at the end of training."""
        if self.described and self._initial:
            values, states = self._values(self.owners), self._states()
            self._fill(self.owners, values, lambda e, v: e.update(final=v))
            self._fill(self.owners, states, lambda e, v: e.update(state_final=v))
            self._fill(self.owners, self._counted(), lambda e, v: e.update(counted=v))
            self.writer.parameters(self.described)

    def _values(self, tensors: list[torch.Tensor]) -> list[dict[str, Any]]:
        return fingerprints(tensors, self.runtime.materialise)

    def _states(self) -> list[dict[str, Any]]:
        """For each owner, the fingerprints of what the optimizer keeps of it, by name.

        Such as Adam's moments; scalars are left out.
        """
        states = [
            {name: v for name, v in sorted(state.items()) if torch.is_tensor(v) and v.dim()}
            for state in self._held()
        ]
        values = iter(self._values([tensor for state in states for tensor in state.values()]))
        return [{name: next(values) for name in state} for state in states]

    def _counted(self) -> list[float | None]:
        """For each owner, the updates that the optimizer itself has counted; None for no count."""
        counts = [state.get("step") for state in self._held()]
        return [None if count is None else float(count) for count in counts]

    def _held(self) -> list[dict[str, Any]]:
        """For each owner, what the optimizer keeps of it."""
        if self.optimizer is None:
            return [{} for _ in self.owners]
        return [self.optimizer.state.get(p) or {} for p in self.owners]

    def _fill(
        self,
        owners: list[torch.Tensor],
        values: list[Any],
        put: Callable[[dict[str, Any], Any], Any],
    ) -> None:
        for owner, value in zip(owners, values, strict=True):
            if id(owner) in self._by_owner:
                put(self._by_owner[id(owner)], value)
