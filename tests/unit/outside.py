"""A package that is no part of this tree, with entry points of its own, as pip would install it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.base import registry


@contextmanager
def installed(
    folder: Path, files: Mapping[str, str], points: Mapping[str, Mapping[str, str]]
) -> Iterator[None]:
    """While it is open, `files` are an installed package under `folder`.

    points: entry points by group and name
    """
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    info = folder / "outside-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    lines = [
        line
        for group, entries in points.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        registry._registered.cache_clear()
        try:
            yield
        finally:
            registry._registered.cache_clear()
