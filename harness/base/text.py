"""Text of others, such as a trainer's output, as a terminal may be shown it."""

from __future__ import annotations

import re

_ESCAPE_SEQUENCE = re.compile(
    r"\x1b(?:"
    r"\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC and other strings: titles, links
    r"|(?![\[\]PX^_])[ -/]*[0-~])"
    r"|\x9b[0-?]*[ -/]*[@-~]"  # CSI as one character
)
"""ECMA-48, sections 5.3 to 5.6."""


def printable(text: str) -> str:
    """`text` without what drives a terminal.

    Escape sequences are taken out; any other control character becomes U+FFFD, but for line ends
    and tabs.
    """
    text = _ESCAPE_SEQUENCE.sub("", text)
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in lines)
