"""Makes identical in torchprime what its command line cannot be asked for: weights and dtype.

This file is copied into the run, and runs inside the trainer's process.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from harness.models.layout import Layout
from harness.probe.inject import when_imported
from harness.probe.layouts import stored


def inject(dtype: str, weights: str | None, layouts: list[dict[str, Any]]) -> None:
    """torchprime builds its model under a default dtype, then initialises it by itself.

    dtype:   dtype of the parameters, a torch name such as "float32"
    weights: safetensors file of initial weights under Hugging Face names; None leaves torchprime's
    layouts: parameters that torchprime keeps in a layout of its own, as `Layout.of` reads them
    """
    own = [Layout.of(layout) for layout in layouts]

    def patch(model_utils: Any) -> None:
        initialise = model_utils.initialize_model_class

        @functools.wraps(initialise)
        def initialize_model_class(config: Any) -> Any:
            model = initialise(config)
            if weights is not None:
                _load(model, weights, own)
            return model

        model_utils.initialize_model_class = initialize_model_class
        if dtype != "bfloat16":
            # train.py asserts that it was asked for bfloat16; the model is built under this.
            under = model_utils.set_default_dtype
            model_utils.set_default_dtype = lambda _: under(getattr(torch, dtype))

    # The module moved between the trees of June and September 2025.
    when_imported("torchprime.torch_xla_models.model.model_utils", patch)
    when_imported("torchprime.torch_xla_models.model_utils", patch)


def _load(model: torch.nn.Module, weights: str, layouts: list[Layout]) -> None:
    """Copy Hugging Face weights into a model on the device, in the model's own dtype and layout."""
    from safetensors.torch import load_file

    state = stored(load_file(weights), layouts)
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    model.load_state_dict({n: t.to(dtypes.get(n, t.dtype)) for n, t in state.items()})
