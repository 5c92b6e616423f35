"""Plain values (YAML, JSON) to typed dataclasses, with errors that name the key.

Dataclasses that are read so import nothing but this module, and this module imports pydantic only
where something is read: the ladder imports the dataclasses and has to be imported quickly.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from harness.base.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic_core import CoreSchema

T = TypeVar("T")

STRICT: ConfigDict = {"extra": "forbid"}
"""`__pydantic_config__` of every dataclass that is read from a file: no key is ignored."""

LARGEST_COUNT = 2**64 - 1

ANY_KEY = "*"
"""The part of a key that a user chooses: a key of a mapping, or the index in a list."""

NOT_FINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
"""What a float that is not finite is in strict JSON, and back."""


@dataclasses.dataclass(frozen=True)
class _Float:
    """A number of JSON, never a text or a boolean; "nan", "inf" and "-inf" where they may be."""

    finite: bool

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        from pydantic_core import core_schema

        number = core_schema.float_schema(strict=True, allow_inf_nan=False)
        if self.finite:
            return number
        return core_schema.no_info_wrap_validator_function(_decode, number)


def _decode(value: Any, number: Callable[[Any], float]) -> float:
    return NOT_FINITE[value] if isinstance(value, str) and value in NOT_FINITE else number(value)


class _Count:
    """A whole number that is not negative, and no boolean."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.int_schema(strict=True, ge=0, le=LARGEST_COUNT)


Number = Annotated[float, _Float(finite=False)]
"""A float as `harness.record.writer.encode` writes it."""
Finite = Annotated[float, _Float(finite=True)]
"""A float that has to be finite, such as a time that was measured."""
Count = Annotated[int, _Count()]
"""A whole number from 0 up to 2^64 - 1."""


def typed(kind: type[T], raw: Any, at: str = "") -> T:
    """`raw` as a `kind`, a dataclass of dataclasses; numbers written as text are converted.

    `at` is the key under which `raw` stands. Raises BadInput that names the first key that is
    unknown, missing or of the wrong type.
    """
    from pydantic import ValidationError

    try:
        return cast(T, _adapter(cast(Any, kind)).validate_python(raw))
    except ValidationError as error:
        raise BadInput(_explain(error, kind, at)) from None


def typed_json(kind: type[T], text: bytes) -> T:
    """The JSON in `text` as a `kind`; nothing is converted.

    Raises BadInput that names the first key that is unknown, missing or of the wrong type, or says
    that it is no strict JSON.
    """
    from pydantic import ValidationError

    try:
        return cast(T, _adapter(cast(Any, kind)).validate_json(text, strict=True))
    except ValidationError as error:
        raise BadInput(_explain(error, kind)) from None


def plain_json(text: bytes) -> Any:
    """The plain values in a strict JSON text. Raises BadInput where it is not one."""
    from pydantic_core import from_json

    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise BadInput(f"no strict JSON: {error}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Building one takes milliseconds, and a file of events has hundreds of lines."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _explain(error: ValidationError, kind: Any, at: str = "") -> str:
    """The first thing that is wrong, as one sentence."""
    errors = error.errors(include_url=False, include_context=False)
    # A misspelt key is missing too: what there is says more than what there is not.
    unknown = [e for e in errors if e["type"] == "unexpected_keyword_argument"]
    first = (unknown or errors)[0]
    # The tag of a union, such as "<case>", is no key of the file.
    where = [str(part) for part in first["loc"] if not str(part).startswith("<")]
    key = ".".join([at, *where] if at else where)
    if unknown:
        return f"{key}: there is no such key{_nearest_key(kind, at, where)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    if not key:
        return first["msg"]
    shown = repr(first.get("input"))
    return f"{key}={shown if len(shown) <= 80 else shown[:77] + '…'}: {first['msg']}"


def _nearest_key(kind: Any, at: str, wrong: Sequence[str]) -> str:
    """What was meant, as a whole key: one of just this name, else one beside it, else any.

    A name without a parent has nothing beside it: it was written without its path.
    """
    *parent, name = [*at.split("."), *wrong] if at else wrong
    beside: dict[str, str] = {}
    anywhere: dict[str, str] = {}
    for key in _keys(kind, at.split(".") if at else []):
        if parent and len(key) == len(parent) + 1 and all(map(_matches, key, parent)):
            beside[key[-1]] = ".".join([*parent, key[-1]])
        anywhere.setdefault(key[-1], ".".join(key))
    near = difflib.get_close_matches(name, beside, 1) or difflib.get_close_matches(
        name, anywhere, 1
    )
    nearest = name if name in anywhere else near[0] if near else None
    return (
        f"; did you mean {beside.get(nearest, anywhere[nearest])}?" if nearest is not None else ""
    )


def _matches(part: str, other: str) -> bool:
    return part in (ANY_KEY, other)


def _keys(kind: Any, at: list[str]) -> Iterator[list[str]]:
    """The key of every field of `kind`, which stands at `at`, and of the dataclasses within it."""
    if dataclasses.is_dataclass(kind):
        for name, hint in typing.get_type_hints(kind).items():
            yield [*at, name]
            yield from _keys(hint, [*at, name])
    else:
        inner = [ANY_KEY] if typing.get_origin(kind) in (dict, list, tuple) else []
        for part in typing.get_args(kind):
            yield from _keys(part, [*at, *inner])
