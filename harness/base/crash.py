"""A crash of the harness itself is no verdict: it has an exit code and a sentence of its own."""

from __future__ import annotations

import tempfile
import traceback

CRASHED = 4
"""Exit code of a session that ended by a defect of the harness, and tells nothing of any run."""


def crashed(error: Exception) -> str:
    """One sentence on `error`, whose traceback is written to a file that it names."""
    name, message = type(error).__name__, " ".join(str(error).split())
    summary = f"{name}: {message}" if message else name
    text = f"the harness itself failed, and says nothing of the runs ({summary})"
    trace = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix="parity-crash-", suffix=".txt", delete=False
        ) as file:
            file.write(trace)
    except OSError:
        return f"{text}; please report it:\n{trace}"
    return f"{text}; please report it with {file.name}"
