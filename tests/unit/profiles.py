"""XLA profiles (XSpace messages), encoded byte by byte from the published xplane.proto.

So a wrong field number in the reader cannot be matched by the same mistake in a test.
"""

from collections.abc import Sequence

MS = 10**9  # picoseconds

# (module, start in ms, duration in ms)
Run = tuple[str, float, float]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def nested(field: int, *payload: bytes) -> bytes:
    data = b"".join(payload)
    return varint(field << 3 | 2) + varint(len(data)) + data


def text(field: int, value: str) -> bytes:
    return nested(field, value.encode())


def line(runs: Sequence[Run], ids: dict[str, int], *, name: str, timestamp_ns: int = 0) -> bytes:
    """XPlane.lines. Events carry a stat (field 4) that the reader does not know."""
    events = [
        nested(
            4,
            number(1, ids[module]),
            number(2, round(start * MS)),
            number(3, round(duration * MS)),
            nested(4, number(1, 7), number(3, 42)),
        )
        for module, start, duration in runs
    ]
    return nested(3, number(1, 2), text(2, name), number(3, timestamp_ns), *events)


def plane(
    name: str,
    runs: Sequence[Run] = (),
    *,
    line_name: str = "XLA Modules",
    later: tuple[int, Sequence[Run]] | None = None,
) -> bytes:
    """XSpace.planes, with a second piece of the same line from `later` = (timestamp_ns, runs)."""
    modules = sorted({r[0] for r in [*runs, *(later[1] if later else ())]})
    ids = {module: i + 1 for i, module in enumerate(modules)}
    metadata = [
        nested(4, number(1, i), nested(2, number(1, i), text(2, module), text(4, "shown")))
        for module, i in ids.items()
    ]
    lines = [line(runs, ids, name=line_name)] if runs else []
    if later:
        lines.append(line(later[1], ids, name=line_name, timestamp_ns=later[0]))
    return nested(1, number(1, 2), text(2, name), *lines, *metadata)


def steps(module: str, starts: Sequence[float], duration: float = 9.0) -> list[Run]:
    return [(module, start, duration) for start in starts]
