"""Whether a verdict can be written, seen before there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.base.errors import BadInput
from harness.report.files import check_writable


def test_its_folder_is_made_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "x.json"
    check_writable("--json", file)
    assert list(file.parent.iterdir()) == []


def test_what_it_says_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("before")
    check_writable("--json", file)
    assert file.read_text() == "before"


@pytest.mark.parametrize("exists", [True, False])
def test_without_the_right_to(
    tmp_path: Path, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.json"
    if exists:
        file.write_text("before")
    requested: list[Path] = []
    # Whoever is root may write anything, so that the mode of a file would show nothing.
    monkeypatch.setattr(os, "access", lambda path, mode: requested.append(path))
    with pytest.raises(BadInput, match=r"--json .*x\.json cannot be written"):
        check_writable("--json", file)
    assert requested == [file if exists else tmp_path]
