"""Watches one training run through torch's public hooks.

Step 0 is observed in full, inside its own graph, which is compiled once anyway. Later steps keep
their graph: the observer holds on to tensors that the trainer computes by itself, and reads them
when a timing window closes, after the trainer's own step marker.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

import torch
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from harness import record
from harness.probe import batches
from harness.probe.fingerprint import Pending, fingerprint
from harness.probe.runtime import Runtime
from harness.probe.spec import COMPILING_STEPS, Spec
from harness.probe.writer import Writer

_WRAPPERS = ("_orig_module.", "_orig_mod.")


def canonical_name(name: str) -> str:
    """A parameter's name without what wrappers (FSDPv2, ShardedModule, checkpointing) add."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


class Observer:
    """Everything that is observed of one run; `install` before the script, `finish` after it."""

    def __init__(self, spec: Spec, writer: Writer, runtime: Runtime) -> None:
        self.spec, self.writer, self.runtime = spec, writer, runtime
        self.optimizers: list[torch.optim.Optimizer] = []
        self.root: torch.nn.Module | None = None
        self.input_sharding: str | None = None
        self.step = 0  # index of the optimizer step in progress
        self.losses: list[torch.Tensor] = []  # of the step in progress
        self.clip: tuple[float, Any] | None = None
        self.unread: list[dict[str, Any]] = []  # finished steps whose values were not read yet
        self.parameters: list[dict[str, Any]] = []
        self.tensors: list[torch.Tensor] = []
        self.initial: list[dict[str, Any]] | None = None
        self.gradients: Pending | None = None
        self.gradient_owners: list[int] = []
        self.clipped: torch.Tensor | None = None
        self.hyper: Any = None
        self.forward_hook: Any = None
        self.window_first = 0
        self.window_start: tuple[float, float, dict[str, Any]] | None = None
        self.owners: list[torch.Tensor] = []
        self.saved: dict[int, torch.Tensor] = {}
        self.learning_rates: list[float] = []
        self.main_thread = threading.get_ident()

    # --- installing ---------------------------------------------------------------------------

    def install(self) -> None:
        """Register every hook. The trainer's script has not been run yet."""
        self._watch_optimizers()
        optimizer_hooks.register_optimizer_step_pre_hook(self._before_step)
        optimizer_hooks.register_optimizer_step_post_hook(self._after_step)
        self.forward_hook = module_hooks.register_module_forward_pre_hook(self._before_forward)
        self._watch_backward()
        self._watch_clipping()
        batches.watch(self._on_batch, self._replacement())
        self.runtime.on_boundary(self._boundary)

    def _watch_optimizers(self) -> None:
        original = torch.optim.Optimizer.__init__

        @functools.wraps(original)
        def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            self.optimizers.append(optimizer)

        torch.optim.Optimizer.__init__ = init  # type: ignore[method-assign]

    def _watch_backward(self) -> None:
        original = torch.Tensor.backward

        @functools.wraps(original)
        def backward(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == self.main_thread:
                self.losses.append(tensor.detach())
            return original(tensor, *args, **kwargs)

        torch.Tensor.backward = backward  # type: ignore[method-assign,assignment]

    def _watch_clipping(self) -> None:
        original = torch.nn.utils.clip_grad_norm_

        @functools.wraps(original)
        def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            parameters = [parameters] if torch.is_tensor(parameters) else list(parameters)
            if self.step == 0:
                self._take_gradients(parameters)
            norm = original(parameters, max_norm, *args, **kwargs)
            self.clip = (float(max_norm), norm.detach() if torch.is_tensor(norm) else norm)
            return norm

        torch.nn.utils.clip_grad_norm_ = clip

    def _replacement(self) -> Any:
        if self.spec.rows is None:
            return None
        from pathlib import Path

        rows = batches.Rows.read(Path(self.spec.rows))

        def replace(index: int, batch: dict[str, Any]) -> dict[str, Any] | None:
            process, processes = self._share(len(batch["input_ids"]))
            return rows.batch(index, len(batch["input_ids"]), process, processes)

        return replace

    def _share(self, size: int) -> tuple[int, int]:
        """This process's place among those that split a micro-batch, given its own batch size."""
        described = self.runtime.describe()
        if size * described["processes"] == self.spec.micro_batch and described["processes"] > 1:
            return described["process"], described["processes"]
        return 0, 1

    # --- events, in the order of a step -------------------------------------------------------

    def _on_batch(self, index: int, batch: dict[str, Any]) -> None:
        self.writer.event("batch", index=index, **batches.describe(batch))
        if index == 0 and self.spec.save_initial:
            self.writer.arrays(
                record.FIRST_BATCH, {k: batch[k].cpu().numpy() for k in ("input_ids", "labels")}
            )

    def _before_forward(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if not module.training or threading.get_ident() != self.main_thread:
            return
        if self.root is None and any(True for _ in module.parameters()):
            self.root = module
        if self.input_sharding is None and isinstance(module, torch.nn.Embedding) and inputs:
            self.input_sharding = self.runtime.sharding(inputs[0])

    def _take_gradients(self, tensors: list[torch.Tensor]) -> None:
        """Fingerprint the gradients of step 0 before clipping, in that step's own graph."""
        self.gradient_owners = [id(t) for t in tensors if t.grad is not None]
        gradients = [t.grad for t in tensors if t.grad is not None]
        labels = [self.runtime.sharding(t) for t in tensors if t.grad is not None]
        if gradients:
            self.gradients = fingerprint(gradients, labels)

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        groups = optimizer.param_groups
        hyper = [
            {k: _plain(v) for k, v in group.items() if k not in ("params", "lr", "initial_lr")}
            for group in groups
        ]
        if hyper != self.hyper:
            self.hyper = hyper
            described = [
                {"hyper": h, "parameters": len(g["params"])}
                for h, g in zip(hyper, groups, strict=True)
            ]
            name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
            self.writer.event("optimizer", step=self.step, groups=described, **{"class": name})
        if self.step == 0:
            self._describe_parameters(optimizer)
            if self.gradients is None:
                self._take_gradients(self.tensors)
            norms = [
                torch.zeros((), device=t.device)
                if t.grad is None
                else t.grad.detach().float().norm()
                for t in self.tensors
            ]
            self.clipped = torch.stack(norms)
        self.learning_rates = [float(group["lr"]) for group in groups]

    def _describe_parameters(self, optimizer: Any) -> None:
        """Names, shapes and shardings of all parameters, in the order of the model."""
        group_of = {
            id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]
        }
        named = list(self.root.named_parameters()) if self.root is not None else []
        known = {id(p) for _, p in named}
        named += [
            (f"unnamed.{i}", p)
            for i, group in enumerate(optimizer.param_groups)
            for p in group["params"]
            if id(p) not in known
        ]
        self.tensors = [p for _, p in named]
        self.parameters = [
            {
                "name": canonical_name(name),
                "shape": list(p.shape),
                "dtype": str(p.dtype).removeprefix("torch."),
                "sharding": self.runtime.sharding(p),
                "group": group_of.get(id(p)),
            }
            for name, p in named
        ]
        if self.forward_hook is not None:
            self.forward_hook.remove()
            self.forward_hook = None

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.writer.event(
            "step",
            step=self.step,
            micro=len(self.losses),
            lr=self.learning_rates,
            max_norm=None if self.clip is None else self.clip[0],
            at=time.time(),
        )
        norm = None if self.clip is None else self.clip[1]
        self.unread.append({"step": self.step, "losses": self.losses, "gradient_norm": norm})
        self.losses, self.clip = [], None
        self.step += 1

    # --- between steps ------------------------------------------------------------------------

    def _boundary(self) -> None:
        """The trainer has just sent its work to the device."""
        if threading.get_ident() != self.main_thread or not self.runtime.can_execute():
            return
        if self.root is None and self.optimizers:
            # Anew at every boundary until the first forward: weights may still be changed.
            self._take_initial()
        if self.unread and self._window_is_due(self.unread[-1]["step"]):
            self._close_window()

    def _window_is_due(self, last: int) -> bool:
        if last < COMPILING_STEPS or last == self.spec.steps - 1:
            return True
        return last - self.window_first + 1 >= self.spec.window

    def _take_initial(self) -> None:
        self.owners = [
            p for o in self.optimizers[-1:] for group in o.param_groups for p in group["params"]
        ]
        if self.spec.save_initial:
            self.saved = {id(p): p.detach().cpu() for p in self.owners}
        self.initial = self._fingerprint_parameters()
        self._open_window(0)

    def _fingerprint_parameters(self) -> list[dict[str, Any]]:
        """Fingerprints of the optimizer's parameters now: one graph, compiled the first time."""
        labels = [self.runtime.sharding(p) for p in self.owners]
        pending = fingerprint(self.owners, labels)
        self.runtime.materialise([pending.floats, pending.bits])
        return pending.read()

    def _open_window(self, first: int) -> None:
        self.window_first = first
        self.window_start = (time.perf_counter(), time.process_time(), self.runtime.counters())

    def _close_window(self) -> None:
        self.runtime.wait()
        now, cpu, counters = time.perf_counter(), time.process_time(), self.runtime.counters()
        last = self.unread[-1]["step"]
        if self.window_start is not None:
            start, start_cpu, before = self.window_start
            fallbacks = {
                name: count - before["fallbacks"].get(name, 0)
                for name, count in counters["fallbacks"].items()
            }
            window = {
                "first": self.window_first,
                "last": last,
                "seconds": now - start,
                "cpu_seconds": cpu - start_cpu,
                "compilations": counters["compilations"] - before["compilations"],
                "executions": counters["executions"] - before["executions"],
                "transfers": counters["transfers"] - before["transfers"],
                "fallbacks": {k: v for k, v in fallbacks.items() if v},
            }
            self.writer.event("window", window=window)
        self._read_values()
        if last < COMPILING_STEPS:
            self._read_parameters(last)
        self._open_window(last + 1)

    def _read_values(self) -> None:
        for step in self.unread:
            self.writer.event(
                "values",
                step=step["step"],
                losses=[_scalar(loss) for loss in step["losses"]],
                gradient_norm=_scalar(step["gradient_norm"]),
            )
        self.unread = []

    def _read_parameters(self, step: int) -> None:
        """After steps 0 and 1: what step 0 observed, and the parameters as they are now."""
        by_owner = {
            id(t): parameter for t, parameter in zip(self.tensors, self.parameters, strict=True)
        }
        if step == 0:
            if self.gradients is not None:
                values = self.gradients.read()
                for owner, value in zip(self.gradient_owners, values, strict=True):
                    if owner in by_owner:
                        by_owner[owner]["gradient"] = value
                self.gradients = None
            if self.clipped is not None:
                for parameter, norm in zip(
                    self.parameters, self.clipped.cpu().tolist(), strict=True
                ):
                    parameter["clipped_norm"] = norm
                self.clipped = None
            for owner, value in zip(self.owners, self.initial or [], strict=False):
                if id(owner) in by_owner:
                    by_owner[id(owner)]["initial"] = value
            self.writer.observed(self.observed())
            if self.spec.save_initial:
                self._save_initial(by_owner)
        for owner, value in zip(self.owners, self._fingerprint_parameters(), strict=True):
            if id(owner) in by_owner:
                by_owner[id(owner)].setdefault("after", []).append(value)
        self.writer.parameters(self.parameters)

    def _save_initial(self, by_owner: dict[int, dict[str, Any]]) -> None:
        """Keep the weights that training started from; float32 holds bfloat16 exactly."""
        self.writer.arrays(
            record.INITIAL,
            {by_owner[key]["name"]: t.float().numpy() for key, t in self.saved.items()},
        )
        self.saved = {}

    # --- the end ------------------------------------------------------------------------------

    def observed(self) -> dict[str, Any]:
        """What is known of the process, its devices and its mesh by now."""
        from harness.probe.runtime import flags, versions

        return {
            **self.runtime.describe(),
            "versions": versions(),
            "flags": flags(),
            "input_sharding": self.input_sharding,
            "model": None if self.root is None else type(self.root).__name__,
        }

    def finish(self) -> None:
        """Read what is left, once the script has returned."""
        if self.unread:
            self._close_window()
        if self.parameters and self.initial is not None:
            by_owner = {
                id(t): parameter for t, parameter in zip(self.tensors, self.parameters, strict=True)
            }
            for owner, value in zip(self.owners, self._fingerprint_parameters(), strict=True):
                if id(owner) in by_owner:
                    by_owner[id(owner)]["final"] = value
            self.writer.parameters(self.parameters)


def _plain(value: Any) -> Any:
    """A hyper-parameter as JSON: numbers, strings, booleans and lists of them; others by repr."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return repr(value)


def _scalar(value: Any) -> float | None:
    return None if value is None else float(value)
