from __future__ import annotations

import pytest

from harness.base.errors import BadInput
from harness.compiler.target import Target, parse_targets


def test_names() -> None:
    one, two = parse_targets(["v6e:2x2", "v5p:2x2x1"], 1)
    assert (one.name, one.chip, one.file_name) == ("v6e:2x2", "v6e", "v6e-2x2")
    assert two == Target("v5p:2x2x1")
    (pair,) = parse_targets(["v6e:2x2"], 2)
    assert pair.name != one.name
    assert pair.file_name != one.file_name


@pytest.mark.parametrize(
    "text", ["", "v6e", "v6e:", "v6e:2", "v6e-4", "v6e:2x2x2x2", "v6e:2x2 ", "../v6e:2x2", "2x2"]
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(BadInput, match="target="):
        parse_targets([text], 1)


def test_twice() -> None:
    with pytest.raises(BadInput, match="twice"):
        parse_targets(["v6e:2x2", "v6e:2x2"], 1)


@pytest.mark.parametrize("slices", [0, -1])
def test_slices(slices: int) -> None:
    with pytest.raises(BadInput, match="slices="):
        parse_targets(["v6e:2x2"], slices)
