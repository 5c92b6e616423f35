"""What a person writes as key=value, as Hydra's grammar has it."""

from __future__ import annotations

import dataclasses
import re
import typing
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.base.errors import BadInput

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def quoted(text: str) -> str:
    """`text` as a value that Hydra takes as it stands, whatever is in it: a path, a URL.

    https://hydra.cc/docs/1.3/advanced/override_grammar/basic/#quoted-values: a quote is escaped by
    a backslash, and so are the backslashes before one and at the end. OmegaConf would take ${ for
    an interpolation.
    """
    text = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    text = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (found[2] and r"\'"), text)
    return f"'{text}'"


def parsed(word: str) -> Override:
    """An override, in Hydra's terms. Raises HydraException where it is none."""
    override: Override = _parser().parse_override(word)
    return override


@cache
def _parser() -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser  # it takes 0.1 s

    return OverridesParser.create()


EXAMPLE = "for example case=llama-tiny or case.steps=40 (`parity cases` lists the cases)"


def readable(word: str, schema: type[Any], example: str = EXAMPLE) -> str:
    """`word` as an override that Hydra can read and that does what it says.

    A value outside of Hydra's grammar, such as a path with an umlaut, is taken as it stands.

    schema:  dataclass of the whole configuration
    example: what a person is shown who wrote something else

    Raises:
        BadInput: it is no override, or nothing would change by it.
    """
    from hydra.errors import HydraException

    key, sign, _ = word.partition("=")
    if not key or (not sign and not key.startswith("~")):
        raise BadInput(f"`{word}` is no override: write key=value, {example}")
    try:
        override = parsed(word)
    except HydraException:
        key, _, value = word.partition("=")
        word = f"{key}={quoted(value)}"
        try:
            override = parsed(word)
        except HydraException:
            raise BadInput(f"`{word}`: {key!r} cannot be the name of a key") from None
    _check_effect(word, override, schema)
    return word


def _check_effect(word: str, override: Override, schema: type[Any]) -> None:
    """Raise BadInput where Hydra would take the override, and nothing would change."""
    key = override.key_or_group
    if override.is_delete() and _is_field(key.split("."), schema):
        raise BadInput(
            f"~{key}: {key} cannot be left out; {key}=VALUE changes it, and without an override it "
            "has the value of its case or its default"
        )
    if override.is_delete():
        return
    value = override.value()
    group = typing.get_type_hints(schema).get(key)
    if dataclasses.is_dataclass(group) and not isinstance(value, str | dict):
        raise BadInput(
            f"{word}: {key} is one of the files of configs/{key}, such as {key}=NAME; what is in "
            f"it is changed by {key}.KEY=VALUE"
        )
    if value == {}:
        raise BadInput(
            f"{key}={{}}: a mapping is merged into the one that is there, so that an empty one "
            f"changes nothing; take entries away by ~{key}.NAME"
        )


def _is_field(parts: list[str], schema: Any) -> bool:
    """Whether a key of several parts is a field of a dataclass; an entry of a mapping is none."""
    for part in parts:
        if not dataclasses.is_dataclass(schema):
            return False
        hints = typing.get_type_hints(schema)
        if part not in hints:
            return False
        schema = hints[part]
    return True
