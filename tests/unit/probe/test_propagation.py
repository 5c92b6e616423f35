"""`harness.probe.propagation`: shardings of what an optimizer keeps of a matrix."""

from __future__ import annotations

import pytest

from harness.probe.propagation import PARTIAL, REPLICATED, TILED, Sharding, reduced

ROWS = Sharding([0, 1, 2, 3], [], [], TILED)
NONE = Sharding([], [], [], REPLICATED)


@pytest.mark.parametrize(
    ("annotation", "dimension", "mean"),
    [
        ("{devices=[4,1]0,1,2,3}", -1, ROWS),
        ("{devices=[4,1]<=[4]}", -1, ROWS),
        ("{devices=[4,1]0,1,2,3}", -2, NONE),
        ("{devices=[1,4]0,1,2,3}", -2, ROWS),
        ("{devices=[1,4]0,1,2,3}", -1, NONE),
        ("{devices=[3,4,1]<=[12]}", -2, Sharding(
            [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[8, 9, 10, 11]]], [[0], [1], [2]],
            [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], PARTIAL,
        )),
        ("{devices=[2,2]0,1,2,3}", -1, Sharding(
            [[0, 1], [2, 3]], [0, 1], [[0, 1], [2, 3]], PARTIAL
        )),
        ("{devices=[2,2]0,1,2,3}", -2, Sharding(
            [[0, 2], [1, 3]], [0, 1], [[0, 2], [1, 3]], PARTIAL
        )),
        ("{devices=[2,2]<=[2,2]T(1,0)}", -1, Sharding(
            [[0, 2], [1, 3]], [0, 1], [[0, 2], [1, 3]], PARTIAL
        )),
        ("{devices=[2,1,2]0,1,2,3 last_tile_dim_replicate}", -1, Sharding(
            [[0, 1], [2, 3]], [0, 1], [[0, 1], [2, 3]], PARTIAL
        )),
        ("{devices=[2,1,2]0,1,2,3 last_tile_dim_replicate}", -2, NONE),
        ("{replicated}", -1, NONE),
        ("", -1, NONE),
    ],
)  # fmt: skip
def test_a_mean_is_cut_as_what_is_left_of_it(
    annotation: str, dimension: int, mean: Sharding
) -> None:
    assert reduced(annotation, dimension) == mean


def test_another_form_is_no_guess() -> None:
    with pytest.raises(ValueError, match="maximal"):
        reduced("{maximal device=1}", -1)
