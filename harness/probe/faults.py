"""Defects that are seeded into a run from outside its engine, to show that each one is caught.

`engine.hf.faults=[{name: learning_rate, arguments: {factor: 1.01}}]` seeds one. docs/faults.md
lists them with the rung that catches each. A fault that finds nothing to change raises, so that no
test passes because its fault was never there.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.optim import optimizer as optimizer_hooks

from harness.probe.batches import Rows
from harness.probe.spec import Fault, Spec

BEFORE: dict[str, Callable[..., None]] = {}
"""Faults that the observer has to see: seeded before its hooks are registered."""
AFTER: dict[str, Callable[..., None]] = {}
"""Faults in the trainer's own calls: seeded around the observer's hooks."""


def before_observing(spec: Spec) -> None:
    """Seed what the observer's hooks must come after. Raises KeyError for an unknown fault."""
    for fault in spec.faults:
        if fault.name not in (*BEFORE, *AFTER, "sharding"):  # that one is in `inject`
            known = ", ".join(sorted({*BEFORE, *AFTER, "sharding"}))
            raise KeyError(f"there is no fault {fault.name!r}; the faults are {known}")
    _seed(BEFORE, spec.faults)


def after_observing(spec: Spec) -> None:
    """Seed what has to come around the observer's hooks."""
    _seed(AFTER, spec.faults)


def _seed(kinds: dict[str, Callable[..., None]], faults: tuple[Fault, ...]) -> None:
    for fault in faults:
        if fault.name in kinds:
            print(f"seeding the fault {fault.name} {fault.arguments}", flush=True)
            kinds[fault.name](**fault.arguments)


def _register(
    kinds: dict[str, Callable[..., None]],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        kinds[function.__name__] = function
        return function

    return decorate


# --- data ------------------------------------------------------------------------------------


def _change_rows(change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Apply `change` to the prepared tokens and labels when they are read."""
    read = Rows.read

    def changed(path: Any) -> Rows:
        rows = read(path)
        return Rows(change(rows.tokens.copy()), change(rows.labels.copy()))

    Rows.read = staticmethod(changed)  # type: ignore[method-assign]


@_register(BEFORE)
def swap_rows(first: int = 0, second: int = 1) -> None:
    """Two rows trade places; within one batch if their numbers are."""

    def change(rows: np.ndarray) -> np.ndarray:
        rows[[first, second]] = rows[[second, first]]
        return rows

    _change_rows(change)


@_register(BEFORE)
def swap_batches(first: int = 2, second: int = 3, size: int = 8) -> None:
    """Two whole batches of `size` rows trade places."""

    def change(rows: np.ndarray) -> np.ndarray:
        a, b = slice(first * size, (first + 1) * size), slice(second * size, (second + 1) * size)
        rows[a], rows[b] = rows[b].copy(), rows[a].copy()
        return rows

    _change_rows(change)


# --- the model -------------------------------------------------------------------------------


def _change_model(change: Callable[[torch.nn.Module], int]) -> None:
    """Apply `change` to the model when it is first set to train, after its optimizer was made."""
    train, init = torch.nn.Module.train, torch.optim.Optimizer.__init__
    state = {"optimizer": False, "done": False}

    def watched_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        state["optimizer"] = True

    def watched_train(self: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
        if (
            mode
            and state["optimizer"]
            and not state["done"]
            and any(True for _ in self.parameters())
        ):
            state["done"] = True
            if not change(self):
                raise RuntimeError("a seeded fault found nothing to change in the model")
        return train(self, mode)

    torch.optim.Optimizer.__init__ = watched_init  # type: ignore[method-assign]
    torch.nn.Module.train = watched_train  # type: ignore[method-assign,assignment]


def _on_outputs(suffixes: tuple[str, ...], change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change what every module whose name ends in one of `suffixes` returns."""

    def apply(model: torch.nn.Module) -> int:
        found = [m for name, m in model.named_modules() if name.split(".")[-1] in suffixes]
        for module in found:
            module.register_forward_hook(lambda m, i, output: change(output))
        return len(found)

    _change_model(apply)


@_register(BEFORE)
def perturb_weight(parameter: str = "model.layers.0.mlp.up_proj.weight", by: float = 1e-3) -> None:
    """Add `by` to one element of one parameter before the first step."""
    from harness.probe.parameters import canonical_name

    def change(model: torch.nn.Module) -> int:
        for name, value in model.named_parameters():
            if canonical_name(name) == parameter:
                delta = torch.zeros(value.numel(), dtype=value.dtype)
                delta[value.numel() // 2] = by
                value.data.add_(delta.reshape(value.shape).to(value.device))
                return 1
        return 0

    _change_model(change)


@_register(BEFORE)
def rope_theta(factor: float = 10.0) -> None:
    """Rotary embeddings with a base that is `factor` times as large."""

    def change(model: torch.nn.Module) -> int:
        found = 0
        for module in model.modules():
            frequency: Any = getattr(module, "inv_freq", None)
            if torch.is_tensor(frequency):
                exponent = torch.arange(len(frequency), device=frequency.device) / len(frequency)
                module.inv_freq = frequency * factor**-exponent
                found += 1
            elif hasattr(module, "theta"):
                module.theta = module.theta * factor
                found += 1
        return found

    _change_model(change)


@_register(BEFORE)
def rms_norm_eps(eps: float = 1e-6) -> None:
    """Another epsilon in every RMSNorm."""

    def change(model: torch.nn.Module) -> int:
        found = 0
        for module in model.modules():
            for attribute in ("variance_epsilon", "eps"):
                if isinstance(getattr(module, attribute, None), float):
                    setattr(module, attribute, eps)
                    found += 1
        return found

    _change_model(change)


@_register(BEFORE)
def attention_scale(factor: float = math.sqrt(2)) -> None:
    """Attention scores `factor` times as large, by way of the queries."""
    _on_outputs(("q_proj",), lambda output: output * factor)


@_register(BEFORE)
def kv_order(head_dim: int = 16) -> None:
    """Key and value heads in the reverse order, so that queries meet those of another group."""

    def change(output: torch.Tensor) -> torch.Tensor:
        heads = output.reshape(*output.shape[:-1], -1, head_dim)
        return heads.flip(-2).reshape(output.shape)

    _on_outputs(("k_proj", "v_proj"), change)


def _change_loss(change: Callable[[torch.Tensor, torch.Tensor], tuple[Any, Any]]) -> None:
    """Change what every cross-entropy is given."""
    original = torch.nn.functional.cross_entropy

    @functools.wraps(original)
    def cross_entropy(input: torch.Tensor, target: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return original(*change(input, target), *args, **kwargs).float()

    torch.nn.functional.cross_entropy = cross_entropy


@_register(BEFORE)
def label_shift() -> None:
    """Every label is compared with the prediction one place too early."""
    _change_loss(lambda logits, labels: (logits, labels.roll(-1)))


@_register(BEFORE)
def loss_dtype(dtype: str = "bfloat16") -> None:
    """The cross-entropy is computed in another dtype."""
    _change_loss(lambda logits, labels: (logits.to(getattr(torch, dtype)), labels))


@_register(AFTER)
def nan_loss(step: int = 7) -> None:
    """The loss of one step is NaN."""
    _change_backward(step, lambda loss: loss * math.nan)


@_register(AFTER)
def recompile(step: int = 10) -> None:
    """One step has a graph of its own, which computes the same."""
    _change_backward(step, lambda loss: loss + torch.zeros_like(loss).detach().cos() - 1)


@_register(AFTER)
def host_transfer() -> None:
    """The loss is read on the host in every step, before its gradients are computed."""

    def read(loss: torch.Tensor) -> torch.Tensor:
        loss.item()
        return loss

    _change_backward(None, read)


@_register(AFTER)
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


# --- gradients and updates -------------------------------------------------------------------


@_register(AFTER)
def no_clipping() -> None:
    """`clip_grad_norm_` is not called; its norm is still returned."""
    torch.nn.utils.clip_grad_norm_ = lambda parameters, max_norm, *args, **kwargs: (
        torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    )


@_register(BEFORE)
def clipping_without_effect() -> None:
    """`clip_grad_norm_` measures, but scales nothing."""
    original = torch.nn.utils.clip_grad_norm_

    @functools.wraps(original)
    def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        return original(parameters, math.inf, *args, **kwargs)

    torch.nn.utils.clip_grad_norm_ = clip


@_register(AFTER)
def clip_threshold(factor: float = 2.0) -> None:
    """Gradients are clipped to a norm that is `factor` times as large."""
    observed = torch.nn.utils.clip_grad_norm_

    @functools.wraps(observed)
    def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        return observed(parameters, max_norm * factor, *args, **kwargs)

    torch.nn.utils.clip_grad_norm_ = clip


@_register(BEFORE)
def hyper_parameter(name: str, value: Any) -> None:
    """Another weight decay, epsilon, betas … in every group, from the first step on."""

    def change(optimizer: Any, *_: Any) -> None:
        for group in optimizer.param_groups:
            if name not in group:
                raise RuntimeError(f"a seeded fault found no hyper-parameter {name} to change")
            group[name] = tuple(value) if isinstance(value, list) else value

    optimizer_hooks.register_optimizer_step_pre_hook(change)


@_register(BEFORE)
def learning_rate(factor: float = 1.01) -> None:
    """Every step uses a learning rate that is `factor` times as large."""

    def change(optimizer: Any, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * factor

    optimizer_hooks.register_optimizer_step_pre_hook(change)


@_register(BEFORE)
def learning_rate_lag() -> None:
    """Every step uses the learning rate of the step before."""
    last: dict[int, float] = {}

    def change(optimizer: Any, *_: Any) -> None:
        for index, group in enumerate(optimizer.param_groups):
            current = group["lr"]
            group["lr"] = last.get(index, current)
            last[index] = current

    optimizer_hooks.register_optimizer_step_pre_hook(change)


@_register(BEFORE)
def lost_update(step: int) -> None:
    """What the optimizer does in one step is undone. No loss tells of the last one."""
    state: dict[str, Any] = {"steps": 0, "before": []}

    def keep(optimizer: Any, *_: Any) -> None:
        if state["steps"] == step:
            held = [p for group in optimizer.param_groups for p in group["params"]]
            state["before"] = [(p, p.detach().clone()) for p in held]

    def undo(*_: Any) -> None:
        with torch.no_grad():
            for parameter, value in state["before"]:
                parameter.copy_(value)
        state.update(steps=state["steps"] + 1, before=[])

    optimizer_hooks.register_optimizer_step_pre_hook(keep)
    optimizer_hooks.register_optimizer_step_post_hook(undo)


# --- the course of the run, and its speed ----------------------------------------------------


@_register(BEFORE)
def exit_early(after: int = 5, code: int = 0) -> None:
    """The trainer exits after some steps."""
    seen = {"steps": 0}

    def leave(*_: Any) -> None:
        seen["steps"] += 1
        if seen["steps"] == after:
            raise SystemExit(code)

    optimizer_hooks.register_optimizer_step_pre_hook(leave)


@_register(BEFORE)
def hang(after: int = 3) -> None:
    """The trainer does nothing more after some steps."""
    seen = {"steps": 0}

    def stop(*_: Any) -> None:
        seen["steps"] += 1
        while seen["steps"] == after:
            time.sleep(60)

    optimizer_hooks.register_optimizer_step_pre_hook(stop)


@_register(AFTER)
def slowdown(seconds: float, start: int = 2) -> None:
    """Every step from `start` on takes so many seconds longer, asleep on the host."""
    state = {"steps": 0}

    def dawdle(*_: Any) -> None:
        if state["steps"] >= start:
            time.sleep(seconds)
        state["steps"] += 1

    optimizer_hooks.register_optimizer_step_post_hook(dawdle)


@_register(AFTER)
def sleep(seconds: float = 1.0, step: int = 8) -> None:
    """One step takes some seconds longer."""
    state = {"steps": 0}

    def wait(*_: Any) -> None:
        if state["steps"] == step:
            time.sleep(seconds)
        state["steps"] += 1

    optimizer_hooks.register_optimizer_step_post_hook(wait)
