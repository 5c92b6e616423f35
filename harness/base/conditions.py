"""Devices that a run can be made to compute like, on any device that computes exactly."""

from __future__ import annotations

CONDITIONS = {
    "bf16_products": "products in bfloat16",
    "tf32_products": "products in TF32",
    "random_scatter": "scatter-adds in random order",
}
"""What a `launcher.condition` is made of, and what is told of the device that such a run was on.

`harness.probe.conditions` brings them about.
"""

EXCLUSIVE = ("bf16_products", "tf32_products")
"""Products have one precision."""


def parts_of(condition: str) -> tuple[str, ...]:
    """Of a `launcher.condition`: `tf32_products+random_scatter` is both at once, as on a GPU."""
    return tuple(condition.split("+"))


def is_condition(condition: str) -> bool:
    """Whether each part is one of `CONDITIONS`, told once, and they can be had together."""
    parts = parts_of(condition)
    once = len(set(parts)) == len(parts)
    return once and set(parts) <= CONDITIONS.keys() and not set(EXCLUSIVE) <= set(parts)


def title_of(condition: str) -> str:
    """What is told of the device: "products in TF32, scatter-adds in random order"."""
    return ", ".join(CONDITIONS.get(part, part) for part in parts_of(condition))
