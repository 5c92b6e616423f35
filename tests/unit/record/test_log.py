"""A log of any size, and a line of any length, is read in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.base.errors import BadInput
from harness.record.log import LONGEST_LINE, last_lines, lines
from harness.record.reader import LONGEST_EVENT, read_events
from harness.record.tail import EventTail
from harness.record.termination import explain

SIZE = 300_000_000


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One line, and no end of it. The file has holes, and takes no disk."""
    path = tmp_path_factory.mktemp("log") / "trainer.log"
    with path.open("wb") as stream:
        stream.truncate(SIZE)
    return path


def refused(read: Callable[[], Any]) -> None:
    with pytest.raises(BadInput, match=f"a line of more than {LONGEST_EVENT} bytes"):
        read()


@pytest.mark.parametrize(
    ("read", "most"),
    [
        (lambda path: last_lines(path), 5e6),
        (lambda path: explain(1, path, None, 1.0), 20e6),
        (lambda path: refused(lambda: EventTail(path).read()), 2.5 * LONGEST_EVENT),
        (lambda path: refused(lambda: read_events(path)), 2.5 * LONGEST_EVENT),
    ],
)
def test_a_line_of_300_megabytes(read: Callable[[Path], Any], most: float, huge: Path) -> None:
    tracemalloc.start()
    try:
        read(huge)
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def test_lines_are_cut_and_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    path.write_bytes(
        b"a\r\n" + b"b" * 3 * LONGEST_LINE + b"\nc\n\n" + b"d" * LONGEST_LINE + b"\n" + b"e"
    )
    found = list(lines(path))
    assert [line[:1] for line in found] == ["a", "b", "c", "", "d", "e"]
    assert max(map(len, found)) <= LONGEST_LINE


def test_of_many_lines_the_last_are_held(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    path.write_text("".join(f"{i:09}\n" for i in range(1000)))
    assert last_lines(path, 100) == [f"{i:09}" for i in range(990, 1000)]
    assert last_lines(tmp_path / "none") == []
