"""A package that is no part of this tree, with entry points of its own, as pip would install it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.base import registry

Points = Mapping[str, Mapping[str, str]]
"""Entry points by group and name."""


def install(
    folder: Path,
    files: Mapping[str, str],
    points: Points,
    name: str = "outside",
    version: str = "1.0",
) -> None:
    """Make `folder` what `pip install --target` of a package with these files makes it."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line
        for group, entries in points.items()
        for line in (f"[{group}]", *(f"{point} = {value}" for point, value in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@contextmanager
def installed(folder: Path, files: Mapping[str, str], points: Points) -> Iterator[None]:
    """While it is open, `files` are an installed package under `folder`."""
    install(folder, files, points)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        registry._registered.cache_clear()
        try:
            yield
        finally:
            registry._registered.cache_clear()
