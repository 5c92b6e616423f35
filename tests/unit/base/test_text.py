"""What a trainer printed does not drive a terminal."""

from __future__ import annotations

import pytest

from harness.base.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\x1b[0m", "ab"),
        ("\x1b[2J\x1b[1;1Hgone", "gone"),
        ("\x1b]0;a title\x07b", "b"),
        ("\x1b]8;;https://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq...\x1b\\a", "a"),
        ("\x1b(Ba\x1bc", "a"),
        ("\x9b31mred", "red"),
        ("a\x1b", "a�"),
        ("a\x1b[31", "a�[31"),
        ("a\x07\u202ec", "a��c"),
        ("10%\r20%\r\nend\n\tx", "10%\n20%\nend\n\tx"),
        ("é 日本 Δ × –", "é 日本 Δ × –"),
    ],
)
def test_escape_sequences_are_taken_out_and_other_controls_are_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
