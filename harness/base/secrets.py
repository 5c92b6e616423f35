"""Which values nobody but their owner may read, and what is kept of a run without them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.base.files import replacing

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""A word of a name: HUB_TOKEN, hub-token, hubToken and HubToken2 are hub and token."""

_SECRETS = (
    r"(?<!\beos )(?<!\bbos )(?<!\bpad )(?<!\bunk )(?<!\bcls )(?<!\bsep )(?<!\bmask )(?<!\bimage )"
    r"(?<!\bstart )(?<!\bend )(?<!\bstop )(?<!\bper )\btoken"
    r"|\w*(?:secret|password|credential|apikey)s?|\w*(?:passwd|passphrase)"
    r"|\b(?:db|user)?pass|\bpat|\w pwd|\bauth|\bauthorization|\bbearer|\bjwt|\bcookies?"
    r"|\bwebhook(?: url)?|\bconnection string"
    r"|\b(?:api|access|private|secret|ssh|signing|encryption|deploy|account|storage|master|license)"
    r" (?:keys?|key id)"
    r"|\b(?:access|secret|private|account)key|\b(?:openai|anthropic|kaggle|wandb|comet) key"
)
_SECRET_NAME = re.compile(rf"(?:{_SECRETS})$")
"""Ends of the names, as words, of what is secret. A tokenizer's tokens are not."""

_URL_PASSWORD = re.compile(r"\w://[^/\s:@]*:([^/\s@]+)@")
_ASSIGNED = re.compile(
    r"""([\w.-]+)["']?\s*[:=]\s*(?:"([^"]+)"|'([^']+)'|((?:Bearer |Basic )?[^\s,;"'{}\[\]&]+))"""
)
"""NAME=VALUE, NAME: VALUE and "NAME": "VALUE" within a text, as in an override by a mapping."""

_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}"
    r"|sk-[\w-]{20,}|xox[abeprs]-[\w-]{10,}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,}|AKIA[0-9A-Z]{16}"
    r"|AIza[\w-]{35}|ya29\.[\w-]{20,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]+(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
"""Values that tell by themselves what they are: of Hugging Face, GitHub, GitLab, OpenAI, Slack,
npm, PyPI, AWS and Google, signed tokens (RFC 7519) and private keys (RFC 7468)."""

SHORTEST = 8
"""A value with fewer characters is a switch, not a secret, and is found in any text."""

SECRET = "(secret)"

_CHUNK = 1 << 20


def redact(text: str) -> str:
    """`text` with the user names, passwords and queries of its URLs taken out."""
    text = re.sub(r"(https?://)[^/\s]*@", r"\1***@", text)
    text = re.sub(r"(\w://[^/\s:@]*):[^/\s]*@", r"\1:***@", text)
    return re.sub(r"(\w://[^\s?]*)\?\S*", r"\1?***", text)


def is_secret(name: str) -> bool:
    """Whether what has this name, of a variable or an argument, is secret.

    >>> is_secret("HF_TOKEN"), is_secret("--hubToken"), is_secret("DB_PASS"), is_secret("eos_token")
    (True, True, True, False)
    """
    words = " ".join(_WORD.findall(name)).lower()
    return _SECRET_NAME.search(words) is not None


def public(value: Any, name: str = "") -> Any:
    """`value`, plain values of mappings and lists, without what is secret by its name, by its form
    or in a URL.

    >>> public({"hub_token": "hf_abcdefgh", "url": "https://me:pass@host/x", "steps": 3})
    {'hub_token': '(secret)', 'url': 'https://***@host/x', 'steps': 3}
    >>> public("env={HUB_TOKEN: abcdefgh, A: 1}")
    'env={HUB_TOKEN: (secret), A: 1}'
    """
    if isinstance(value, Mapping):
        return {key: public(one, _inherited(name, str(key))) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(public(one, name) for one in value)
    if not isinstance(value, str):
        return value
    for start, end in reversed(_spans(value, name)):
        value = value[:start] + SECRET + value[end:]
    return redact(value)


def _inherited(name: str, key: str) -> str:
    """The name that decides on a value in a mapping: all that credentials hold are some."""
    return name if is_secret(name) else key


def _spans(text: str, name: str) -> list[tuple[int, int]]:
    """Where a text is secret, in order and apart."""
    if not text:
        return []
    if is_secret(name):
        return [(0, len(text))]
    found = [match.span() for match in _SHAPES.finditer(text)]
    found += [match.span(1) for match in _URL_PASSWORD.finditer(text)]
    found += [
        match.span(match.lastindex)
        for match in _ASSIGNED.finditer(text)
        if match.lastindex is not None and is_secret(match[1])
    ]
    apart: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if apart and start < apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((start, end))
    return apart


def public_argv(argv: Iterable[str]) -> tuple[str, ...]:
    """A command line without secrets: --NAME=VALUE, --NAME VALUE and NAME=VALUE."""
    kept, name = [], ""
    for word in argv:
        key, equals, value = word.partition("=")
        if equals:
            kept.append(f"{key}={public(value, key)}")
        elif word.startswith("-"):
            kept.append(public(word))
        else:
            kept.append(public(word, name))
        name = word if word.startswith("-") and not equals else ""
    return tuple(kept)


def secrets_in(value: Any, name: str = "") -> Iterator[str]:
    """The secret values among plain values, mappings and command lines included."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from secrets_in(one, _inherited(name, str(key)))
    elif isinstance(value, list | tuple):
        before = ""
        for one in value:
            key, equals, rest = str(one).partition("=")
            yield from secrets_in(rest, key) if equals else secrets_in(one, name or before)
            before = key if key.startswith("-") else ""
    elif isinstance(value, str):
        yield from (
            value[start:end] for start, end in _spans(value, name) if end - start >= SHORTEST
        )


def without(text: str, secrets: Iterable[str]) -> str:
    """`text` with the values `secrets` replaced."""
    for value in _spelled(secrets):
        text = text.replace(value, SECRET)
    return text


def _spelled(secrets: Iterable[str]) -> list[str]:
    """Values as they are and as JSON has them, the longest first: one may hold another."""
    spelled = {one for value in secrets for one in (value, json.dumps(value)[1:-1])}
    return sorted(spelled, key=len, reverse=True)


def scrub(file: Path, secrets: Iterable[str]) -> bool:
    """Replace the values `secrets` in a file, whatever its size. Returns whether there were any."""
    longest_first = sorted((one.encode() for one in _spelled(secrets)), key=len, reverse=True)
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
