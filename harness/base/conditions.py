"""Devices that a run can be made to compute like, on any device that computes exactly."""

from __future__ import annotations

CONDITIONS = {
    "bf16_products": "products in bfloat16",
    "tf32_products": "products in TF32",
    "random_scatter": "scatter-adds in random order",
}
"""By `launcher.condition`: what is told of the device that such a run was on.

`harness.probe.conditions` brings them about.
"""
