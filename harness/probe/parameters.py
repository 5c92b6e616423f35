"""Observes the parameters of a run: what they are, and their fingerprints over the first steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from harness.models.layout import Layout
from harness.probe.clipping import Call
from harness.probe.fingerprint import fingerprints, norm
from harness.probe.layouts import sharding, take_apart
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
        self._layouts = {layout.stored: layout for layout in spec.layouts}
        self._layout_of: dict[int, Layout] = {}
        # By owner: the entry of each canonical parameter in it, mostly itself alone.
        self._by_owner: dict[int, list[dict[str, Any]]] = {}
        self._initial: list[dict[str, Any]] = []
        # What the optimizer had loaded by then, by name, and the updates that it had counted.
        self._loaded: list[tuple[dict[str, dict[str, Any]], float | None]] = []
        self._apart: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
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
        self._loaded = [
            (dict(zip(tensors, self._values([*tensors.values()]), strict=True)), _count(state))
            for state in self._held()
            for tensors in [_tensors(state)]
        ]

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
                for entry in self._by_owner.get(id(tensor), ()):
                    entry["clipped_by"].append(index)
        held = [t for t in tensors if t.grad is not None]
        if held:
            norms = [norm(part) for t in held for part in self._parts(t, t.grad)]
            self._clipped = (held, torch.stack(norms))

    def _describe(self, optimizer: Any, root: torch.nn.Module | None) -> list[torch.Tensor]:
        """Names, shapes and shardings in the order of the model."""
        group_of = {id(p): i for i, g in enumerate(optimizer.param_groups) for p in g["params"]}
        named = [] if root is None else list(root.named_parameters())
        known = {id(p) for _, p in named}
        held = [p for group in optimizer.param_groups for p in group["params"]]
        named += [(f"unnamed.{i}", p) for i, p in enumerate(held) if id(p) not in known]
        for name, p in named:
            if layout := self._layouts.get(canonical_name(name)):
                self._layout_of[id(p)] = layout
            self._by_owner[id(p)] = [
                {
                    "name": part_name,
                    "shape": list(part.shape),
                    "dtype": str(p.dtype).removeprefix("torch."),
                    "sharding": self._sharding(p),
                    "group": group_of.get(id(p)),
                    "clipped_by": [],
                }
                for part_name, part in zip(self._names(name, p), self._parts(p, p), strict=True)
            ]
        self.described = [entry for entries in self._by_owner.values() for entry in entries]
        self._keep_initial()
        return [p for _, p in named]

    def _keep_initial(self) -> None:
        """Keep the initial values of what is taken apart, whose names were not known before.

        On a lazy device the copies are names: see `take_gradients`.
        """
        owners = [p for p in self.owners if id(p) in self._layout_of]
        self._apart = owners, [p.detach().clone() for p in owners]

    def _names(self, name: str, owner: torch.Tensor) -> tuple[str, ...]:
        """Names of the canonical parameters in one that the root module calls `name`."""
        layout = self._layout_of.get(id(owner))
        return (canonical_name(name),) if layout is None else layout.holds

    def _parts(self, owner: torch.Tensor, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The canonical tensors in one that has the layout of `owner`, such as its gradient."""
        layout = self._layout_of.get(id(owner))
        return [tensor] if layout is None else take_apart(layout, tensor)

    def _sharding(self, owner: torch.Tensor) -> str:
        layout, found = self._layout_of.get(id(owner)), self.runtime.sharding(owner)
        return found if layout is None else sharding(layout, found)

    def read_first_step(self) -> None:
        """After step 0: read what was kept of it."""
        if self._gradients is not None:
            held, gradients = self._gradients
            values = self._values_of_parts(held, gradients)
            self._fill(held, values, lambda entry, value: entry.update(gradient=value))
        if self._clipped is not None:
            held, lazy = self._clipped
            for entry in self.described:
                entry["clipped_norm"] = 0.0  # of a parameter without a gradient
            norms = iter(lazy.cpu().tolist())
            each = [[next(norms) for _ in self._by_owner[id(t)]] for t in held]
            self._fill(held, each, lambda entry, value: entry.update(clipped_norm=value))
        apart = dict(zip(map(id, self._apart[0]), self._values_of_parts(*self._apart), strict=True))
        initial = [
            apart.get(id(p), [value]) for p, value in zip(self.owners, self._initial, strict=True)
        ]
        self._fill(self.owners, initial, lambda entry, value: entry.update(initial=value))
        self._fill_loaded()
        if self._saved:
            # float32 holds bfloat16 exactly
            arrays = {
                entry["name"]: part.float().numpy()
                for p in self.owners
                for entry, part in zip(
                    self._by_owner[id(p)], self._parts(p, self._saved[id(p)]), strict=True
                )
            }
            self.writer.arrays(layout.INITIAL, arrays)
        self._gradients, self._clipped, self._saved, self._apart = None, None, {}, ([], [])

    def _fill_loaded(self) -> None:
        """What the optimizer had before the first step, where it had any: it was resumed.

        What is taken apart had no names by then, and is left out.
        """
        for owner, (tensors, count) in zip(self.owners, self._loaded, strict=True):
            entries = self._by_owner.get(id(owner), [])
            if len(entries) == 1 and id(owner) not in self._layout_of:
                entries[0].update(state_loaded=tensors, counted_loaded=count)

    def read_saved(self) -> None:
        """Fingerprint the parameters and the optimizer's state as they are saved."""
        values, states = self._values_of_parts(self.owners, self.owners), self._states()
        self._fill(self.owners, values, lambda e, v: e.update(saved=v))
        self._fill(self.owners, states, lambda e, v: e.update(state_saved=v))
        self._fill(self.owners, self._counted(), lambda e, v: e.update(counted_saved=v))
        self.writer.parameters(self.described)

    def read_after_step(self) -> None:
        """Fingerprint the parameters and the optimizer's state after one of the first two steps."""
        values, states = self._values_of_parts(self.owners, self.owners), self._states()
        self._fill(self.owners, values, lambda e, v: e.setdefault("after", []).append(v))
        self._fill(self.owners, states, lambda e, v: e.setdefault("state_after", []).append(v))
        self.writer.parameters(self.described)

    def write(self) -> None:
        """Write what is known of the parameters."""
        self.writer.parameters(self.described)

    def read_final(self) -> None:
        """Fingerprint the parameters and the optimizer's state at the end of training."""
        if self.described and self._initial:
            values, states = self._values_of_parts(self.owners, self.owners), self._states()
            self._fill(self.owners, values, lambda e, v: e.update(final=v))
            self._fill(self.owners, states, lambda e, v: e.update(state_final=v))
            self._fill(self.owners, self._counted(), lambda e, v: e.update(counted=v))
            self.writer.parameters(self.described)

    def _values(self, tensors: list[torch.Tensor]) -> list[dict[str, Any]]:
        return fingerprints(tensors, self.runtime.materialise)

    def _values_of_parts(
        self, owners: list[torch.Tensor], tensors: list[torch.Tensor]
    ) -> list[list[dict[str, Any]]]:
        """For each owner, the fingerprints of the canonical parameters in its tensor."""
        parts = [self._parts(p, t) for p, t in zip(owners, tensors, strict=True)]
        values = iter(self._values([part for each in parts for part in each]))
        return [[next(values) for _ in each] for each in parts]

    def _states(self) -> list[list[dict[str, Any]]]:
        """For each owner and canonical parameter in it, the optimizer's fingerprints by name.

        Such as Adam's moments; scalars are left out. So is what has another shape than the
        parameter (Adafactor's factors), where that is taken apart: it belongs to none of its parts.
        """
        kept: list[dict[str, list[torch.Tensor]]] = []
        for p, state in zip(self.owners, self._held(), strict=True):
            held = _tensors(state)
            if id(p) in self._layout_of:
                held = {k: v for k, v in held.items() if v.shape == p.shape}
            kept.append({k: self._parts(p, v) for k, v in held.items()})
        # All at once: one is computed while another is read.
        values = iter(self._values([t for held in kept for parts in held.values() for t in parts]))
        found = []
        for p, held_parts in zip(self.owners, kept, strict=True):
            by_name = {k: [next(values) for _ in parts] for k, parts in held_parts.items()}
            count = len(self._by_owner[id(p)])
            found.append([{k: v[i] for k, v in by_name.items()} for i in range(count)])
        return found

    def _counted(self) -> list[list[float | None]]:
        """For each owner and canonical parameter in it, the updates that the optimizer itself has
        counted; None for no count."""
        return [
            [_count(state)] * len(self._by_owner[id(p)])
            for p, state in zip(self.owners, self._held(), strict=True)
        ]

    def _held(self) -> list[dict[str, Any]]:
        """For each owner, what the optimizer keeps of it."""
        if self.optimizer is None:
            return [{} for _ in self.owners]
        return [self.optimizer.state.get(p) or {} for p in self.owners]

    def _fill(
        self,
        owners: list[torch.Tensor],
        values: list[list[Any]],
        put: Callable[[dict[str, Any], Any], Any],
    ) -> None:
        """Put into the entries of each owner the values that belong to them."""
        for owner, each in zip(owners, values, strict=True):
            if id(owner) in self._by_owner:
                for entry, value in zip(self._by_owner[id(owner)], each, strict=True):
                    put(entry, value)


def _tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What an optimizer keeps of a parameter, such as Adam's moments; scalars are left out."""
    return {k: v for k, v in sorted(state.items()) if torch.is_tensor(v) and v.dim()}


def _count(state: dict[str, Any]) -> float | None:
    """The updates of a parameter that its optimizer has counted; None for no count."""
    count = state.get("step")
    return None if count is None else float(count)
