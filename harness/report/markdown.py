"""Text of others as GitHub-flavoured Markdown."""

from __future__ import annotations

import re

from harness.base.text import printable

TEXT_SHOWN = 500  # characters of one text

# What Markdown acts on anywhere in a line, and what it acts on at a line's start: headings, lists.
_ACTIVE = re.compile(r"[\\`*_\[\]|~$<>&@]|:(?=//)|^[#+-]|^\d+[.)](?= )")


def escaped(text: str, shown: int = TEXT_SHOWN) -> str:
    """At most so many characters of `text` as Markdown that shows it as it is, on one line."""
    line = " ".join(printable(text).split())
    if len(line) > shown:
        line = line[: shown - 1] + "…"
    return _ACTIVE.sub(_literal, line)


def _literal(match: re.Match[str]) -> str:
    # A backslash does not keep GitHub from making links of addresses, an entity does.
    before, character = match[0][:-1], match[0][-1]
    return f"{before}&#{ord(character)};" if character in "<>&@:" else f"{before}\\{character}"
