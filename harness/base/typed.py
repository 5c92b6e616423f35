"""Plain values (YAML, JSON) to typed dataclasses, with errors that name the key."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from typing import TYPE_CHECKING, Any, TypeVar

from harness.base.errors import BadInput

if TYPE_CHECKING:
    from pydantic import ConfigDict

T = TypeVar("T")

STRICT: ConfigDict = {"extra": "forbid"}
"""`__pydantic_config__` of every dataclass that is read from a file: no key is ignored."""


def typed(kind: type[T], raw: Any, at: str = "") -> T:
    """`raw` as a `kind`, a dataclass of dataclasses; numbers written as text are converted.

    `at` is the key under which `raw` stands. Raises BadInput that names the first key that is
    unknown, missing or of the wrong type.
    """
    # Not above: whoever only makes or reads these dataclasses does not wait for pydantic.
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ((at,) if at else ()) + first["loc"])
        if first["type"] == "unexpected_keyword_argument":
            name = str(first["loc"][-1])
            # Its own name is a key elsewhere, which is no help here.
            near = difflib.get_close_matches(name, _field_names(kind) - {name}, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(f"{key}: there is no such key{hint}") from None
        if first["type"] == "missing":
            raise BadInput(f"{key} is missing") from None
        raise BadInput(f"{key}={first.get('input')!r}: {first['msg']}") from None


def _field_names(kind: Any) -> set[str]:
    """Names of the fields of `kind` and of all dataclasses within it."""
    if not dataclasses.is_dataclass(kind):
        return set().union(*(_field_names(part) for part in typing.get_args(kind)), set())
    hints = typing.get_type_hints(kind)
    return set(hints).union(*(_field_names(hint) for hint in hints.values()), set())
