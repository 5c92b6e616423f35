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

from harness.probe import batches, clipping, known_answers
from harness.probe.clipping import Clipping
from harness.probe.computing import autocast, dropout
from harness.probe.functions import Function, wrap
from harness.probe.generators import states
from harness.probe.inputs import ModelInputs, describe, says_nothing
from harness.probe.outputs import Outputs
from harness.probe.parameters import Parameters
from harness.probe.phases import FIRST_WINDOW, Phases
from harness.probe.recomputed import Recomputed
from harness.probe.routing import Routing
from harness.probe.runtime import Runtime
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
        self.staged = spec.stage is not None  # then there is no value to be read
        turns = None if spec.turns is None else Turns(Path(spec.turns), spec.side)
        self.windows = Windows(spec, writer, runtime, turns)
        self.parameters = Parameters(spec, writer, runtime)
        self.optimizer: torch.optim.Optimizer | None = None
        self.root: torch.nn.Module | None = None
        self.input_sharding: str | None = None
        self.known_answers: dict[str, Any] | None = None
        self.step = 0  # index of the optimizer step in progress
        self.losses: list[torch.Tensor] = []  # of the step in progress
        self.pass_began: int | None = None  # graphs sent by then; None outside of a pass
        self.going_back = False  # within a backward pass
        self.cross_entropies: list[tuple[str, torch.Tensor]] = []  # of step 0
        self.clipping = Clipping(self._before_clipping)
        self.inputs = ModelInputs(spec.watch, runtime)
        self.outputs = Outputs()
        self.routing = Routing(spec.router)
        self.recomputed = Recomputed()
        self.autocast: str | None = None
        self.taken_away: set[str] = set()
        self.refused: str | None = None  # of what was taken away, what a model would use
        self.rates: list[float] = []  # of the step in progress
        self.generators: dict[str, str] = {}  # when its first forward pass began
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
        self._watch_root()
        self._watch_backward()
        self._watch_cross_entropy()
        self.routing.install()
        self.clipping.watch(self.spec.watch.clipping)
        batches.watch(self.spec.watch, self._on_batch, self._replacement())
        self.runtime.on_boundary(self._boundary)

    def _watch_optimizers(self) -> None:
        original = torch.optim.Optimizer.__init__

        @functools.wraps(original)
        def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            self.optimizer = optimizer

        torch.optim.Optimizer.__init__ = init  # type: ignore[method-assign]

    def _watch_root(self) -> None:
        """The root is the first module with parameters that is called in training.

        A hook for all modules would come too late to see what its first call is given.
        """
        original = torch.nn.Module.__call__

        def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            if module.training and self._mine() and any(True for _ in module.parameters()):
                torch.nn.Module.__call__ = original  # type: ignore[method-assign]
                self.root = module
                module.register_forward_pre_hook(self._forward_begins)
                self.inputs.watch(module, self._mine)
                self.outputs.watch(module)
                self.routing.watch(module)
            return original(module, *args, **kwargs)

        torch.nn.Module.__call__ = call  # type: ignore[method-assign]

    def _forward_begins(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if not module.training:
            return
        if self.spec.saving is not None and not self.generators:
            self.generators = states(self.runtime)
        if self.pass_began is None:
            self.pass_began = self.runtime.graphs_sent()

    def _mine(self) -> bool:
        """Whether this is the trainer's main thread."""
        return threading.get_ident() == self.main_thread

    def _watch_backward(self) -> None:
        """`torch.autograd.backward`, which `Tensor.backward` calls, and trainers themselves.

        A layer that is recomputed calls it again within the pass.
        """
        original = torch.autograd.backward

        @functools.wraps(original)
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if self.going_back or not self._mine():
                return original(tensors, *args, **kwargs)
            heads = [tensors] if torch.is_tensor(tensors) else list(tensors)
            if any(head.numel() != 1 for head in heads):
                # No loss: torch_xla's scan traces a layer's backward pass within the forward one.
                return original(tensors, *args, **kwargs)
            # Of several there is no sum but ours: one addition of scalars more in the graph.
            self.losses.append(functools.reduce(torch.add, [head.detach() for head in heads]))
            self.outputs.stop()
            self.routing.stop()
            self.going_back = True
            try:
                with self.recomputed.watched(self.root):
                    result = original(tensors, *args, **kwargs)
            finally:
                self.going_back = False
            self._end_pass()
            if self.step == 0 and not self.clipping.calls:
                # Should they be clipped by a function that is not watched.
                self.parameters.take_gradients(self._trained())
            return result

        torch.autograd.backward = backward

    def _end_pass(self) -> None:
        """Count the graphs that were sent from the beginning of a forward pass until now."""
        if self.pass_began is not None and self.windows.inner_graphs is not None:
            self.windows.inner_graphs += self.runtime.graphs_sent() - self.pass_began
        self.pass_began = None

    def _watch_cross_entropy(self) -> None:
        """What the loss of step 0 is made of: trainers divide it before they call `backward()`."""

        def watched(original: Function) -> Function:
            def cross_entropy(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                if self.step == 0 and self._mine() and result.requires_grad:
                    reduction = str(kwargs.get("reduction", "mean"))
                    self.cross_entropies.append((reduction, result.detach()))
                return result

            return cross_entropy

        wrap(("torch.nn.functional:cross_entropy",), watched)

    def _before_clipping(self, parameters: list[torch.Tensor]) -> None:
        """All gradients are kept as they are before the first of them is clipped."""
        if self.step == 0 and not self.clipping.calls:
            self.parameters.take_gradients(self._trained() or parameters)

    def _trained(self) -> list[torch.Tensor]:
        """What the optimizer holds, in its order."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        return [p for group in groups for p in group["params"]]

    def _replacement(self) -> Any:
        if self.spec.rows is None:
            return None
        watch, rows = self.spec.watch, batches.Rows.read(Path(self.spec.rows))
        saving = self.spec.saving
        order = None if saving is None else batches.Order(watch, saving.order)

        def replace(index: int, batch: dict[str, Any]) -> dict[str, Any] | None:
            self._take_away(batch, {watch.called(name) for name in rows.others})
            if order is not None:
                index = order.place(index, batch)
            size = len(batch[watch.tokens])
            process, processes = self.runtime.process()
            if size * processes != self.spec.micro_batch:
                process, processes = 0, 1  # every process loads the whole batch
            return rows.batch(watch, index, size, process, processes)

        return replace

    def _take_away(self, batch: dict[str, Any], prepared: set[str]) -> None:
        """Note what a trainer's own batch has that a prepared one has not.

        What a model would use is refused: a mask with zeros, positions that start anew, segments,
        weights. An error in a loader's thread would only end the data.
        """
        watch = self.spec.watch
        for key in set(batch.keys()) - {watch.tokens, watch.labels} - prepared:
            role, value = "mask" if key == watch.mask else key, batch[key]
            if not torch.is_tensor(value) or not says_nothing(role, value.float().cpu().numpy()):
                self.refused = key
            self.taken_away.add(key)

    # --- the events of a step, in their order -------------------------------------------------

    def _on_batch(self, index: int, batch: dict[str, Any], given: dict[str, Any]) -> None:
        described = batches.describe(self.spec.watch, batch)
        if self.spec.saving is not None and batch is not given:
            described["own"] = batches.identity(self.spec.watch, given)
        self.writer.event("batch", index=index, **described)
        if index == 0 and self.spec.save_initial:
            watch = self.spec.watch
            keys = {"input_ids": watch.tokens, "labels": watch.labels}
            arrays = {name: batch[key].cpu().numpy() for name, key in keys.items()}
            self.writer.arrays(layout.FIRST_BATCH, arrays)

    def _before_forward(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if not module.training or not self._mine():
            return
        if self.input_sharding is None and isinstance(module, torch.nn.Embedding) and inputs:
            self.input_sharding = self.runtime.sharding(inputs[0])
            self.autocast = autocast(inputs[0].device.type)

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.refused is not None:
            raise RuntimeError(
                f"this trainer's own batches have {self.refused}, which its model would use and "
                "prepared rows have not: the case cannot be aligned; run it as shipped"
            )
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
            self.parameters.take_clipped(optimizer, self.root, self.clipping.calls)
            self.forward_hook.remove()
        self.rates = [float(group["lr"]) for group in groups]
        if self.pass_began is not None:  # its gradients came by a way that is not watched
            self.pass_began = self.windows.inner_graphs = None

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        calls = self.clipping.take()
        plain = clipping.one_call(calls, sum(p.grad is not None for p in self._trained()))
        self.writer.event(
            "step",
            step=self.step,
            micro=len(self.losses),
            lr=self.rates,
            max_norm=clipping.maximum(calls),
            clips=[] if plain else [call.describe() for call in calls],
            generators=self.generators,
            at=time.time(),
            staged=self.staged,
        )
        values = {"step": self.step, "losses": self.losses, "calls": calls, "plain": plain}
        values |= {"cross_entropies": self.cross_entropies, "inputs": self.inputs.take()}
        self.unread.append(values)
        self.losses, self.cross_entropies, self.generators = [], [], {}
        self.step += 1

    # --- between steps ------------------------------------------------------------------------

    def _boundary(self) -> None:
        """The trainer has just sent its work to the device."""
        if not self._mine() or not self.runtime.can_execute():
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
            norms = [None if call.norm is None else float(call.norm) for call in step["calls"]]
            self.writer.event(
                "values",
                step=step["step"],
                losses=[float(loss) for loss in step["losses"]],
                gradient_norm=clipping.total_norm(step["calls"], norms),
                norms=[] if step["plain"] else norms,
                inputs=describe(step["inputs"], self.runtime),
                outputs=self.outputs.read(),
                routed=self.routing.read(),
                cross_entropies=[
                    {"reduction": reduction, "value": float(value)}
                    for reduction, value in step["cross_entropies"]
                    if value.dim() == 0
                ],
            )
        self.unread = []
        if last == 0:
            self.parameters.read_first_step()
            self.writer.observed(self.observed())
        if last < COMPILING_STEPS:
            self.parameters.read_after_step()
        if self.spec.saving is not None and last + 1 == self.spec.saving.after:
            self.parameters.read_saved()

    # --- the end ------------------------------------------------------------------------------

    def observed(self) -> dict[str, Any]:
        """What is known of the process, its devices and its mesh by now."""
        return {
            **self.runtime.describe(),
            "known_answers": self.known_answers,
            "condition": self.spec.condition,
            "input_sharding": self.input_sharding,
            "autocast": self.autocast,
            "recomputed": self.recomputed.layers,
            "routers": [] if self.spec.router is None else list(self.spec.router.modules),
            "dropout": {} if self.root is None else dropout(self.root),
            "taken_away": sorted(self.taken_away),
            "model": None if self.root is None else type(self.root).__name__,
            "attention": _attention(self.root),
            "names_attention": self.spec.watch.names_attention,
        }

    def finish(self) -> None:
        """Read what is left, once the script has returned."""
        if self.staged:
            self.parameters.write()
            return
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
