"""How long work says what it is doing or waiting for."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]
"""Takes one short line, to be shown to whoever waits."""
