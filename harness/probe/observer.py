"""Watches one training run through torch's public hooks.

Step 0 is observed in full, inside its own graph, which is compiled once anyway. Later steps keep
their graph: the observer holds on to tensors that the trainer computes by itself, and reads them
when a timing window closes, after the trainer's own step marker.
"""

from __future__ import annotations

import functools
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from harness.probe import batches, known_answers
from harness.probe.functions import Function, wrap
from harness.probe.parameters import Parameters
from harness.probe.phases import FIRST_WINDOW, Phases
from harness.probe.runtime import Runtime, flags, versions
from harness.probe.spec import Spec
from harness.probe.turns import Turns
from harness.probe.windows import Windows
from harness.probe.writer import Writer
from harness.record import layout
from harness.record.steady import COMPILING_STEPS


class Observer:
    """Everything that is observed of one run; `install` before the script, `finish` after it."""

    def __init__(self, spec: Spec, writer: Writer, runtime: Runtime, phases: Phases) -> None:
        self.spec, self.writer, self.runtime, self.phases = spec, writer, runtime, phases
        turns = None if spec.turns is None else Turns(Path(spec.turns), spec.side)
        self.windows = Windows(spec, writer, runtime, turns)
        self.parameters = Parameters(spec, writer, runtime)
        self.optimizer: torch.optim.Optimizer | None = None
        self.root: torch.nn.Module | None = None
        self.input_sharding: str | None = None
        self.known_answers: dict[str, Any] | None = None
        self.step = 0  # index of the optimizer step in progress
        self.losses: list[torch.Tensor] = []  # of the step in progress
        self.clip: tuple[float, Any] | None = None  # of the step in progress
        self.rates: list[float] = []  # of the step in progress
        self.unread: list[dict[str, Any]] = []  # finished steps whose values were not read yet
        self.hyper: Any = None
        self.forward_hook: Any = None
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
        batches.watch(self.spec.watch, self._on_batch, self._replacement())
        self.runtime.on_boundary(self._boundary)

    def _watch_optimizers(self) -> None:
        original = torch.optim.Optimizer.__init__

        @functools.wraps(original)
        def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            self.optimizer = optimizer

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
        def watched(original: Function) -> Function:
            def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
                parameters = [parameters] if torch.is_tensor(parameters) else list(parameters)
                if self.step == 0:
                    self.parameters.take_gradients(parameters)
                norm = original(parameters, max_norm, *args, **kwargs)
                self.clip = (float(max_norm), norm.detach() if torch.is_tensor(norm) else norm)
                return norm

            return clip

        wrap(self.spec.watch.clipping, watched)

    def _replacement(self) -> Any:
        if self.spec.rows is None:
            return None
        watch, rows = self.spec.watch, batches.Rows.read(Path(self.spec.rows))

        def replace(index: int, batch: dict[str, Any]) -> dict[str, Any] | None:
            size = len(batch[watch.tokens])
            process, processes = self.runtime.process()
            if size * processes != self.spec.micro_batch:
                process, processes = 0, 1  # every process loads the whole batch
            return rows.batch(watch, index, size, process, processes)

        return replace

    # --- the events of a step, in their order -------------------------------------------------

    def _on_batch(self, index: int, batch: dict[str, Any]) -> None:
        self.writer.event("batch", index=index, **batches.describe(self.spec.watch, batch))
        if index == 0 and self.spec.save_initial:
            watch = self.spec.watch
            keys = {"input_ids": watch.tokens, "labels": watch.labels}
            arrays = {name: batch[key].cpu().numpy() for name, key in keys.items()}
            self.writer.arrays(layout.FIRST_BATCH, arrays)

    def _before_forward(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if not module.training or threading.get_ident() != self.main_thread:
            return
        if self.root is None and any(True for _ in module.parameters()):
            self.root = module
        if self.input_sharding is None and isinstance(module, torch.nn.Embedding) and inputs:
            self.input_sharding = self.runtime.sharding(inputs[0])

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        groups = optimizer.param_groups
        apart = ("params", "lr", "initial_lr")  # rates are recorded step by step
        hyper = [{k: _plain(v) for k, v in g.items() if k not in apart} for g in groups]
        if hyper != self.hyper:
            self.hyper = hyper
            pairs = zip(hyper, groups, strict=True)
            described = [{"hyper": h, "parameters": len(g["params"])} for h, g in pairs]
            name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
            self.writer.event("optimizer", step=self.step, name=name, groups=described)
        if self.step == 0:
            self.parameters.take_clipped(optimizer, self.root)
            self.forward_hook.remove()
        self.rates = [float(group["lr"]) for group in groups]

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.writer.event(
            "step",
            step=self.step,
            micro=len(self.losses),
            lr=self.rates,
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
        if self.root is None and self.optimizer is not None:
            # Anew at every boundary until the first forward: weights may still be changed.
            with self.phases.spending("probe"):
                self.parameters.take_initial(self.optimizer)
                if self.known_answers is None:
                    self.known_answers = known_answers.ask(self.runtime, self.parameters.dtypes())
            self.phases.mark(FIRST_WINDOW)
            self.windows.open(0)
        if self.unread and self.windows.is_due(self.unread[-1]["step"]):
            self._close_window()
            self.windows.open(self.step)

    def _close_window(self) -> None:
        last = self.unread[-1]["step"]
        self.windows.close(last)
        with self.phases.spending("probe"):
            self._read_window(last)

    def _read_window(self, last: int) -> None:
        for step in self.unread:
            losses = [float(loss) for loss in step["losses"]]
            norm = step["gradient_norm"]
            norm = None if norm is None else float(norm)
            self.writer.event("values", step=step["step"], losses=losses, gradient_norm=norm)
        self.unread = []
        if last == 0:
            self.parameters.read_first_step()
            self.writer.observed(self.observed())
        if last < COMPILING_STEPS:
            self.parameters.read_after_step()

    # --- the end ------------------------------------------------------------------------------

    def observed(self) -> dict[str, Any]:
        """What is known of the process, its devices and its mesh by now."""
        return {
            **self.runtime.describe(),
            "versions": versions(),
            "flags": flags(),
            "known_answers": self.known_answers,
            "condition": self.spec.condition,
            "input_sharding": self.input_sharding,
            "model": None if self.root is None else type(self.root).__name__,
            "attention": _attention(self.root),
        }

    def finish(self) -> None:
        """Read what is left, once the script has returned."""
        try:
            if self.unread:
                self._close_window()
            with self.phases.spending("probe"):
                self.parameters.read_final()
        finally:
            self.windows.end()


def _attention(root: torch.nn.Module | None) -> str | None:
    """transformers' name of the attention implementation; None for a model that is not its own."""
    for module in [] if root is None else root.modules():
        name = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if isinstance(name, str):
            return name
    return None


def _plain(value: Any) -> Any:
    """A hyper-parameter as JSON: numbers, strings, booleans and lists of them; others by repr."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return repr(value)
