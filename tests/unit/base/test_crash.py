"""What ended a session that says nothing of any run: the machine, or a defect."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from harness.base.crash import WAYS_OUT, crashed


@pytest.mark.parametrize("number", sorted(WAYS_OUT))
def test_a_fault_of_the_machine_is_none_of_ours(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = crashed(OSError(number, os.strerror(number), "some/file"))
    assert "some/file" in text
    assert os.strerror(number) in text
    assert WAYS_OUT[number] in text
    assert "report it" not in text
    assert list(tmp_path.iterdir()) == []


def test_so_is_memory_that_is_used_up() -> None:
    assert WAYS_OUT[errno.ENOMEM] in crashed(MemoryError())


def test_any_other_is_a_defect_even_where_its_traceback_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    text = crashed(ValueError("of ours"))
    assert "report it" in text
    assert "ValueError: of ours" in text.splitlines()[-1]
