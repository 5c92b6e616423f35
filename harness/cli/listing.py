"""Prints a list of named things, so that it can be read at any width and names can be copied."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.wrap import wrap


def print_list(entries: Sequence[tuple[str, Sequence[str]]], style: str = "bold") -> None:
    """Each name on a line of its own, in one piece, and under it what is to be known of it."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for name, facts in entries:
        console.print(Text(name, style=style), soft_wrap=True)
        for fact in filter(None, facts):
            for line in wrap(fact, console.width, "  ", "    "):
                console.print(Text(line), soft_wrap=True, highlight=False)
