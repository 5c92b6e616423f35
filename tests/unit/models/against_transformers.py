"""Runs in the engine's interpreter: a family's reference beside transformers' model, as JSON.

`python against_transformers.py CASES.json OUT.json`. CASES is a list of {"family": the family's
module, "model": a Model as a dict, "config": its config.json, "fault": null or name and arguments
of one to seed into transformers' model, "given": what both are given beside tokens and labels:
"padding", "positions" or "smoothing"}. Of either side the loss is told, and the norm of each
parameter's gradient, in float64 from equal weights and tokens. What is expected of them is
asserted in test_against_transformers.py.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.trainer_pt_utils import LabelSmoother

from harness.probe.faults.catalogue import FAULTS

LENGTH = 128


def told(model: Any, loss: torch.Tensor) -> dict[str, Any]:
    loss.backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters()}
    return {"loss": float(loss), "gradients": norms}


def keep_double() -> None:
    """A router that asks for float32 keeps float64: experts would not take what comes of it."""
    original = torch.Tensor.type

    def typed(tensor: torch.Tensor, dtype: Any = None, **more: Any) -> Any:
        kept = tensor.dtype == torch.float64 and dtype == torch.float32
        return tensor if kept else original(tensor, dtype, **more)

    torch.Tensor.type = typed


def compared(case: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    settings = AutoConfig.for_model(**case["config"])
    theirs = AutoModelForCausalLM.from_config(settings, attn_implementation="eager").double()
    ours = importlib.import_module(case["family"]).FAMILY.reference(case["model"]).double()
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        centre = 1.0 if parameter.dim() == 1 else 0.0
        parameter.data = centre + 0.1 * torch.randn_like(parameter)
    held = dict(theirs.named_buffers())
    constants = [name for name in theirs.state_dict() if name in held]
    for name in constants:
        held[name].copy_(0.1 * torch.randn_like(held[name]))
    ours.load_state_dict(theirs.state_dict())  # strict: neither has a parameter more
    tokens = torch.randint(case["model"]["vocab_size"], (2, LENGTH))
    labels = tokens.clone()
    labels[:, : LENGTH // 4] = -100
    if case["fault"] is not None:
        name, arguments = case["fault"]
        module = importlib.import_module(f"harness.probe.faults.{FAULTS[name].module}")
        getattr(module, name)(**arguments)
        torch.optim.SGD(theirs.parameters())
    theirs.train()
    by_theirs, by_ours = given(case["given"], labels)
    smoothing = by_ours.get("smoothing", 0.0)
    output = theirs(tokens, labels=labels, **by_theirs)
    loss = output.loss
    if smoothing:
        loss = LabelSmoother(epsilon=smoothing)({"logits": output.logits}, labels, True)
    count = (labels[:, 1:] != -100).sum()
    return {
        "transformers": told(theirs, loss),
        "reference": told(ours, ours(tokens, labels, **by_ours) / count),
        "constants": constants,
    }


def given(what: str, labels: torch.Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """What transformers' model and ours are given beside, by name; `labels` are masked with it."""
    if what == "padding":
        mask = torch.ones_like(labels)
        mask[0, LENGTH - 30 :], mask[1, LENGTH - 7 :] = 0, 0
        labels[mask == 0] = -100
        return {"attention_mask": mask}, {"mask": mask}
    if what == "positions":
        starts = (50, 64), (40, 90)
        positions = torch.stack(
            [torch.cat([torch.arange(n) for n in (a, b - a, LENGTH - b)]) for a, b in starts]
        )
        labels[positions == 0] = -100
        # With a cache, which they make where none is refused, documents attend to each other.
        return {"position_ids": positions, "use_cache": False}, {"position_ids": positions}
    return {}, {"smoothing": 0.1} if what == "smoothing" else {}


if __name__ == "__main__":
    keep_double()
    cases = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps([compared(case) for case in cases]))
