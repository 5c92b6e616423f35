"""Faults in the model: its weights, and what it computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from harness.probe.faults.change import change_model
from harness.probe.parameters import canonical_name
from harness.probe.products import leave_einsum_alone


def _on_outputs(suffixes: tuple[str, ...], change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change what every module whose name ends in one of `suffixes` returns."""

    def apply(model: torch.nn.Module) -> int:
        found = [m for name, m in model.named_modules() if name.split(".")[-1] in suffixes]
        for module in found:
            module.register_forward_hook(lambda m, i, output: change(output))
        return len(found)

    change_model(apply)


def _ignore(argument: str) -> None:
    """What the root module is given by this name, [rows, length], reaches no module below it."""

    def apply(model: torch.nn.Module) -> int:
        below = [m for m in model.modules() if m is not model and _takes(m, argument)]

        def without(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            given = kwargs.get(argument)
            if given is None or given.dim() != 2:  # layers get what is made of it
                return None
            return args, {**kwargs, argument: None}

        for module in below:
            module.register_forward_pre_hook(without, with_kwargs=True)
        return len(below)

    change_model(apply)


def _takes(module: torch.nn.Module, argument: str) -> bool:
    return argument in inspect.signature(module.forward).parameters


def einsum_precision() -> None:
    """einsum asks for no matrix precision, as torch_xla 2.9.0 lowers it (findings/precision.md)."""
    leave_einsum_alone()


def lost_mask() -> None:
    """Padding is attended to: transformers' models do not heed their attention mask."""
    _ignore("attention_mask")


def lost_positions() -> None:
    """Documents in a row attend to each other, with positions from the first one's beginning."""
    _ignore("position_ids")


def lost_tie() -> None:
    """The output layer gets a matrix of its own in place of the embedding's, and keeps it."""

    def change(model: torch.nn.Module) -> int:
        found = 0
        for module in model.modules():
            output: Any = getattr(module, "lm_head", None)
            every = model.named_parameters(remove_duplicate=False)
            if output is not None and sum(p is output.weight for _, p in every) > 1:
                own = output.weight.detach().clone()
                output.weight = torch.nn.Parameter(own, requires_grad=False)
                found += 1
        return found

    change_model(change)


def perturb_weight(parameter: str, by: float) -> None:
    """Add `by` to one element of one parameter before the first step."""

    def change(model: torch.nn.Module) -> int:
        for name, value in model.named_parameters():
            if canonical_name(name) == parameter:
                delta = torch.zeros(value.numel(), dtype=value.dtype)
                delta[value.numel() // 2] = by
                value.data.add_(delta.reshape(value.shape).to(value.device))
                return 1
        return 0

    change_model(change)


def rope_theta(factor: float) -> None:
    """Rotary embeddings with a base that is `factor` times as large."""

    def own(module: Any) -> bool:
        if not hasattr(module, "theta"):
            return False
        module.theta = module.theta * factor
        return True

    _change_rotary(lambda frequency, exponent: frequency * factor**-exponent, own)


def rope_unscaled(theta: float) -> None:
    """Rotary embeddings of the base `theta` without the scaling of Llama 3.1."""

    def own(module: Any) -> bool:
        if not (hasattr(module, "scaling") and hasattr(module, "theta")):
            return False
        module.scaling = None
        return True

    _change_rotary(lambda frequency, exponent: theta**-exponent, own)


def _change_rotary(
    frequencies: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], own: Callable[[Any], bool]
) -> None:
    """Change rotary embeddings.

    frequencies: new ones, from those that a module keeps and their exponents of the base
    own:         changes a module that keeps none, and says whether it has rotary embeddings
    """

    def change(model: torch.nn.Module) -> int:
        found = 0
        for module in model.modules():
            frequency: Any = getattr(module, "inv_freq", None)
            if torch.is_tensor(frequency):
                exponent = torch.arange(len(frequency), device=frequency.device) / len(frequency)
                module.inv_freq = frequencies(frequency, exponent)
                found += 1
            else:
                found += own(module)
        return found

    change_model(change)


def rms_norm_eps(eps: float) -> None:
    """Another epsilon in every RMSNorm."""

    def change(model: torch.nn.Module) -> int:
        found = 0
        for module in model.modules():
            for attribute in ("variance_epsilon", "eps"):
                if isinstance(getattr(module, attribute, None), float):
                    setattr(module, attribute, eps)
                    found += 1
        return found

    change_model(change)


def attention_scale(factor: float) -> None:
    """Attention scores `factor` times as large, by way of the queries."""
    _on_outputs(("q_proj",), lambda output: output * factor)


def kv_order(head_dim: int) -> None:
    """Key and value heads in the reverse order, so that queries meet those of another group."""

    def change(output: torch.Tensor) -> torch.Tensor:
        heads = output.reshape(*output.shape[:-1], -1, head_dim)
        return heads.flip(-2).reshape(output.shape)

    _on_outputs(("k_proj", "v_proj"), change)


def lost_recomputation() -> None:
    """Layers keep their activations, whatever the trainer asks for."""
    import torch_xla.distributed.fsdp as fsdp

    fsdp.checkpoint_module = lambda module: module


def gathered_activations() -> None:
    """What each block of feed-forward layers puts out is gathered on every device."""

    def gathered(output: torch.Tensor) -> torch.Tensor:
        import torch_xla.distributed.spmd as xs

        # In place of what is annotated already: one annotation is all that a tensor may have.
        copied = output.clone()
        xs.mark_sharding(copied, xs.get_global_mesh(), (None,) * copied.dim())
        return copied

    _on_outputs(("mlp",), gathered)


def host_fallback() -> None:
    """An operation in each layer that torch_xla does not lower, and executes on the host."""
    _on_outputs(("mlp",), lambda output: output + 0 * torch.special.bessel_j0(output.detach()))


def sync_each_layer() -> None:
    """A step marker after each layer of the forward pass."""

    def cut(output: Any) -> Any:
        import torch_xla

        torch_xla.sync()
        return output

    def apply(model: torch.nn.Module) -> int:
        layers = [m for name, m in model.named_modules() if name.split(".")[-1].isdigit()]
        for layer in layers:
            layer.register_forward_hook(lambda m, i, output: cut(output))
        return len(layers)

    change_model(apply)
