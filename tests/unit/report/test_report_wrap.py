"""Where lines are broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.wrap import wrap

LONG = "model.layers.11.block_sparse_moe.experts.63.self_attn.k_proj.weight"


@pytest.mark.parametrize("width", [40, 60, 80])
def test_names_are_broken_between_their_parts_and_only_where_they_have_to_be(width: int) -> None:
    lines = wrap(f"the largest is in {LONG}, by far", width, "  ", "      ")
    assert max(map(len, lines)) <= width
    for line in lines[:-1]:
        assert not line[-1].isalnum() or line.endswith(("is in", "largest", "by"))
    assert "".join(line.strip() for line in lines).replace(" ", "").count(LONG) == 1


def test_a_word_that_fits_on_a_line_of_its_own_is_not_broken() -> None:
    assert wrap("one model.norm.weight two", 17) == ["one", "model.norm.weight", "two"]


def test_what_cannot_be_broken_between_parts_is_broken_anyway() -> None:
    assert wrap("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]


def test_line_breaks_and_what_stands_before_a_line_are_kept() -> None:
    assert wrap("a\n  b\n\nc", 10) == ["a", "  b", "", "c"]


@given(st.text(alphabet="ab.c/ \n", max_size=60), st.integers(1, 30))
def test_nothing_is_lost_and_nothing_is_wider(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert all(len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
