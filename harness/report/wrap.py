"""Breaks lines between words, and a name that is too long by itself after one of its parts."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PARTS = re.compile(r"[^./_=,:@-]*[./_=,:@-]?")
"""`model.layers.0.weight`, a path or KEY=VALUE, cut after what joins its parts."""


def wrap(text: str, width: int, indent: str = "", hanging: str | None = None) -> list[str]:
    """`text` in lines of at most `width` columns; line breaks in it are kept.

    indent:  stands before the first line, and before all others unless
    hanging: stands before these

    >>> wrap("step 0: model.norm.weight differs", 20, hanging="  ")
    ['step 0:', '  model.norm.weight', '  differs']
    """
    rest = indent if hanging is None else hanging
    lines: list[str] = []
    for paragraph in text.expandtabs(4).split("\n"):
        start = rest if lines else indent
        line, empty = start, True
        for word in paragraph.split(" "):
            if not empty and len(line) + 1 + len(word) <= width:
                line += f" {word}"
                continue
            if not empty:
                lines.append(line)
                line = rest
            *whole, last = _pieces(word, max(1, width - len(line)), max(1, width - len(rest)))
            for piece in whole:
                lines.append(line + piece)
                line = rest
            line, empty = line + last, False
        lines.append(line.rstrip())
    return lines


def _pieces(word: str, first: int, others: int) -> Iterator[str]:
    """`word` in pieces that fit, the first into `first` columns; cut between parts if it can be."""
    piece, room = "", first
    for part in _PARTS.findall(word) if len(word) > first else [word]:
        if piece and len(piece) + len(part) > room:
            yield piece
            piece, room = "", others
        piece += part
        while len(piece) > room:
            yield piece[:room]
            piece, room = piece[room:], others
    yield piece
