"""The faults that there are, and their arguments: the one list of them. It imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SHARDING = "sharding"
"""The fault whose arguments replace entries of the sharding table, before the run is launched."""


@dataclass(frozen=True)
class Required:
    """An argument that has to be given. `kind` is its type; `object` takes any value."""

    kind: type


@dataclass(frozen=True)
class Kind:
    """One kind of fault. A function of its name, in `module`, seeds it.

    module:    module of this package
    arguments: by name its default, or a Required
    around:    it is in the trainer's own calls, and is seeded around the observer's hooks; others
               are seeded before them, so that the observer sees what they do
    clipping:  its function is also given the clipping functions that the observer watches
    resumed:   it is in a resume, and is seeded into the run that resumes
    """

    module: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    around: bool = False
    clipping: bool = False
    resumed: bool = False


FAULTS: Mapping[str, Kind] = {
    "swap_rows": Kind("data", {"first": 0, "second": 1}),
    "swap_batches": Kind("data", {"first": 2, "second": 3, "size": 8}),
    "repeat_batch": Kind("data", {"step": 3}),
    "perturb_weight": Kind("model", {"parameter": "model.layers.0.mlp.up_proj.weight", "by": 1e-3}),
    "rope_theta": Kind("model", {"factor": 10.0}),
    "rope_unscaled": Kind("model", {"theta": 10000.0}),
    "rms_norm_eps": Kind("model", {"eps": 1e-6}),
    "attention_scale": Kind("model", {"factor": math.sqrt(2)}),
    "kv_order": Kind("model", {"head_dim": 16}),
    "einsum_precision": Kind("model"),
    "lost_mask": Kind("model"),
    "lost_positions": Kind("model"),
    "lost_tie": Kind("model"),
    "lost_recomputation": Kind("model"),
    "sync_each_layer": Kind("model"),
    "gathered_activations": Kind("model"),
    "host_fallback": Kind("model"),
    "other_experts": Kind("routing"),
    "expert_order": Kind("routing"),
    "dropped_tokens": Kind("routing", {"capacity_factor": 1.0}),
    "label_shift": Kind("loss"),
    "lost_smoothing": Kind("loss"),
    "loss_dtype": Kind("loss", {"dtype": "bfloat16"}),
    "nan_loss": Kind("loss", {"step": 7}, around=True),
    "divided_loss": Kind("loss", {"by": 2.0}, around=True),
    "recompile": Kind("loss", {"step": 10}, around=True),
    "host_transfer": Kind("loss", around=True),
    "extra_sync": Kind("loss", around=True),
    "logits_to_host": Kind("loss"),
    "no_clipping": Kind("clipping", around=True, clipping=True),
    "clipping_without_effect": Kind("clipping", clipping=True),
    "clip_threshold": Kind("clipping", {"factor": 2.0}, around=True, clipping=True),
    "two_call_clipping": Kind("clipping", around=True, clipping=True),
    "clipping_each_parameter": Kind("clipping", around=True, clipping=True),
    "unwatched_clipping": Kind("clipping", {"factor": 1.0}, around=True, clipping=True),
    "hyper_parameter": Kind("optimizer", {"name": Required(str), "value": Required(object)}),
    "learning_rate": Kind("optimizer", {"factor": 1.01}),
    "learning_rate_lag": Kind("optimizer"),
    "lost_update": Kind("optimizer", {"step": Required(int)}),
    "skip_update": Kind("optimizer", {"step": 7}),
    "reset_state": Kind("optimizer", {"step": 4}),
    "scaled_gradients": Kind("optimizer", {"factor": 0.5, "step": 4}),
    "scaled_gradient": Kind(
        "optimizer", {"parameter": "model.norm.weight", "factor": 2.0, "step": 4}
    ),
    "coarse_moments": Kind("optimizer"),
    "frozen": Kind("optimizer", {"parameter": "model.layers.0.mlp.up_proj.weight", "step": 4}),
    "lost_moments": Kind("resume", resumed=True),
    "lost_generators": Kind("resume", resumed=True),
    "exit_early": Kind("course", {"after": 5, "code": 0}),
    "hang": Kind("course", {"after": 3}),
    "slowdown": Kind("course", {"seconds": Required(float), "start": 2}, around=True),
    "sleep": Kind("course", {"seconds": 1.0, "step": 8}, around=True),
}
"""Every fault that is seeded in the trainer's process, by name."""
