"""Faults in the course of a run: it ends, it stops, it takes longer."""

from __future__ import annotations

import time
from typing import Any

from torch.optim import optimizer as optimizer_hooks


def exit_early(after: int, code: int) -> None:
    """The trainer exits with `code` before its optimizer step number `after`, counted from 1.

    The hook raises the SystemExit.
    """
    seen = {"steps": 0}

    def leave(*_: Any) -> None:
        seen["steps"] += 1
        if seen["steps"] == after:
            raise SystemExit(code)

    optimizer_hooks.register_optimizer_step_pre_hook(leave)


def hang(after: int) -> None:
    """The trainer does nothing more from its optimizer step number `after` on, counted from 1."""
    seen = {"steps": 0}

    def stop(*_: Any) -> None:
        seen["steps"] += 1
        while seen["steps"] == after:
            time.sleep(60)

    optimizer_hooks.register_optimizer_step_pre_hook(stop)


def slowdown(seconds: float, start: int) -> None:
    """Every step from `start` on takes so many seconds longer, asleep on the host."""
    state = {"steps": 0}

    def dawdle(*_: Any) -> None:
        if state["steps"] >= start:
            time.sleep(seconds)
        state["steps"] += 1

    optimizer_hooks.register_optimizer_step_post_hook(dawdle)


def sleep(seconds: float, step: int) -> None:
    """One step takes some seconds longer."""
    state = {"steps": 0}

    def wait(*_: Any) -> None:
        if state["steps"] == step:
            time.sleep(seconds)
        state["steps"] += 1

    optimizer_hooks.register_optimizer_step_post_hook(wait)
