"""How a mixture of experts sends each token to some of its experts.

The probe imports it in the trainer's process: it stays on the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Router:
    """The routers of a model, which score every expert for each token and choose the highest.

    modules: canonical names of those modules that compute the logits of all experts, by one matrix
             product, in the order in which they are called
    experts: how many each of them scores
    chosen:  how many each token is sent to, by `torch.topk`
    """

    modules: tuple[str, ...]
    experts: int
    chosen: int

    @staticmethod
    def of(raw: dict[str, Any] | None) -> Router | None:
        """The Router that `dataclasses.asdict` and JSON made `raw` of; None of None."""
        return None if raw is None else Router(**{**raw, "modules": tuple(raw["modules"])})
