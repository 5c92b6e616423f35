"""Which values nobody but their owner may read, and what is kept of a run without them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.base.files import replacing

SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?<!eos_)(?<!bos_)(?<!pad_)(?<!unk_)(?<!cls_)(?<!sep_)(?<!mask_)"
    r"(?:token|secrets?|password|passwd|pass|pat|credentials?|(?:api|access|private|secret)_?key)$"
    r"|_pwd$",
    re.IGNORECASE,
)
"""Names of variables and arguments whose values are secret. A tokenizer's tokens are not."""

SHORTEST = 8
"""A value with fewer characters is a switch, not a secret, and is found in any text."""

SECRET = "(secret)"

_CHUNK = 1 << 20


def redact(text: str) -> str:
    """`text` with the user names, passwords and queries of its URLs taken out."""
    text = re.sub(r"(https?://)[^/\s]*@", r"\1***@", text)
    text = re.sub(r"(\w://[^/\s:@]*):[^/\s]*@", r"\1:***@", text)
    return re.sub(r"(\w://[^\s?]*)\?\S*", r"\1?***", text)


def public(value: Any, name: str = "") -> Any:
    """`value`, plain values of mappings and lists, without what is secret by its name or in a URL.

    >>> public({"hub_token": "hf_abcdefgh", "url": "https://me:pass@host/x", "steps": 3})
    {'hub_token': '(secret)', 'url': 'https://***@host/x', 'steps': 3}
    """
    if isinstance(value, Mapping):
        return {key: public(one, str(key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(public(one, name) for one in value)
    if not isinstance(value, str):
        return value
    return SECRET if SECRET_NAME.search(name) and value else redact(value)


def public_argv(argv: Iterable[str]) -> tuple[str, ...]:
    """A command line without secrets: --NAME=VALUE, --NAME VALUE and NAME=VALUE."""
    kept, name = [], ""
    for word in argv:
        key, equals, value = word.partition("=")
        if equals:
            kept.append(f"{key}={public(value, key)}")
        elif word.startswith("-"):
            kept.append(word)
        else:
            kept.append(public(word, name))
        name = word if word.startswith("-") and not equals else ""
    return tuple(kept)


def secrets_in(value: Any, name: str = "") -> Iterator[str]:
    """The secret values among plain values, mappings and command lines included."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from secrets_in(one, str(key))
    elif isinstance(value, list | tuple):
        before = ""
        for one in value:
            key, equals, rest = str(one).partition("=")
            yield from secrets_in(rest, key) if equals else secrets_in(one, name or before)
            before = key if key.startswith("-") else ""
    elif isinstance(value, str) and len(value) >= SHORTEST:
        if SECRET_NAME.search(name):
            yield value
        else:
            yield from (found for found in re.findall(r"\w://[^/\s:@]*:([^/\s@]{8,})@", value))


def scrub(file: Path, secrets: Iterable[str]) -> bool:
    """Replace the values `secrets` in a file, whatever its size. Returns whether there were any."""
    spelled = {one for value in secrets for one in (value, json.dumps(value)[1:-1])}
    longest_first = sorted((one.encode() for one in spelled), key=len, reverse=True)
    if not longest_first:
        return False
    pattern = re.compile(b"|".join(map(re.escape, longest_first)))
    overlap = len(longest_first[0]) - 1
    if not any(pattern.search(chunk) for chunk in _overlapping(file, overlap)):
        return False
    with file.open("rb") as stream, replacing(file) as target:
        rest = b""
        while chunk := stream.read(_CHUNK):
            rest = pattern.sub(SECRET.encode(), rest + chunk)
            # The end may be the beginning of one.
            end = max(len(rest) - overlap, 0)
            target.write(rest[:end])
            rest = rest[end:]
        target.write(rest)
    return True


def _overlapping(file: Path, overlap: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        before = b""
        while chunk := stream.read(_CHUNK):
            both = before + chunk
            yield both
            before = both[max(len(both) - overlap, 0) :]
