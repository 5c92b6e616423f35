"""What explains that two optimizers update otherwise, by the sketches of their updates alone."""

from __future__ import annotations

import pytest

from harness.ladder.updates import decayed, uncorrected

NAMES = ("hf", "torchprime")
WEIGHTS = {"head": (3.0, -1.0, 2.0), "norm": (0.5, 4.0, -1.0)}
MOVED = {"head": (0.1, 0.2, -0.3), "norm": (-0.2, 0.1, 0.4)}
RATE = 0.01
BETAS, STEP = [0.9, 0.999], 2
FIRST = 1 - BETAS[0] ** STEP
SECOND = (1 - BETAS[1] ** STEP) ** 0.5


def decaying(head: float, norm: float) -> dict[str, tuple[float, ...]]:
    """`MOVED`, with weights that are decayed by so much as well."""
    by = {"head": head, "norm": norm}
    return {
        name: tuple(u - RATE * by[name] * w for u, w in zip(update, WEIGHTS[name], strict=True))
        for name, update in MOVED.items()
    }


def longer(**by: float) -> dict[str, tuple[float, ...]]:
    """`MOVED`, each so many times as long."""
    return {name: tuple(by[name] * u for u in update) for name, update in MOVED.items()}


class TestDecay:
    def test_who_decays_more(self) -> None:
        text = "decays 2 of 2 parameters by 0.1 more than"
        assert decayed(NAMES, MOVED, decaying(0.1, 0.1), WEIGHTS, RATE) == f"torchprime {text} hf"
        assert decayed(NAMES, decaying(0.1, 0.1), MOVED, WEIGHTS, RATE) == f"hf {text} torchprime"

    def test_of_one_parameter_alone(self) -> None:
        told = decayed(NAMES, MOVED, decaying(0.1, 0.0), WEIGHTS, RATE)
        assert told == "torchprime decays 1 of 2 parameters by 0.1 more than hf"

    @pytest.mark.parametrize("norm", [0.09802, 0.10198])
    def test_parameters_that_agree_within_two_percent(self, norm: float) -> None:
        told = decayed(NAMES, MOVED, decaying(0.1, norm), WEIGHTS, RATE)
        assert told == "torchprime decays 2 of 2 parameters by 0.1 more than hf"

    @pytest.mark.parametrize("norm", [0.097, 0.103, -0.1])
    def test_parameters_that_disagree_explain_nothing(self, norm: float) -> None:
        assert decayed(NAMES, MOVED, decaying(0.1, norm), WEIGHTS, RATE) is None

    def test_equal_updates_explain_nothing(self) -> None:
        assert decayed(NAMES, MOVED, MOVED, WEIGHTS, RATE) is None

    @pytest.mark.parametrize("size", [0.1, 10.0])
    @pytest.mark.parametrize(("by", "explains"), [(0.015, True), (0.025, False)])
    def test_a_difference_in_another_direction_explains_nothing(
        self, by: float, explains: bool, size: float
    ) -> None:
        weights = {"w": (size, 0.0)}
        told = decayed(NAMES, {"w": (0.0, 0.0)}, {"w": (size, by * size)}, weights, RATE)
        assert (told is not None) == explains

    def test_without_a_learning_rate_it_is_no_decay(self) -> None:
        assert decayed(NAMES, MOVED, decaying(0.1, 0.1), WEIGHTS, 0.0) is None

    @pytest.mark.parametrize("size", [0, 2])
    def test_sketches_of_another_kind_explain_nothing(self, size: int) -> None:
        cut = {name: update[:size] for name, update in decaying(0.1, 0.1).items()}
        assert decayed(NAMES, MOVED, cut, WEIGHTS, RATE) is None
        assert decayed(NAMES, MOVED, decaying(0.1, 0.1), {"head": (), "norm": ()}, RATE) is None


class TestBiasCorrection:
    @pytest.mark.parametrize(
        ("by", "what"),
        [
            (FIRST / SECOND, ""),
            (FIRST, " of the first moment"),
            (1 / SECOND, " of the second moment"),
        ],
    )
    def test_which_and_whose(self, by: float, what: str) -> None:
        other = longer(head=by, norm=by)
        told = f"updates without bias correction{what}"
        assert uncorrected(NAMES, MOVED, other, BETAS, STEP) == f"torchprime {told}"
        assert uncorrected(NAMES, other, MOVED, BETAS, STEP) == f"hf {told}"

    @pytest.mark.parametrize("norm", [0.97, 1.03, -1.0])
    def test_parameters_that_disagree_explain_nothing(self, norm: float) -> None:
        other = longer(head=FIRST, norm=FIRST * norm)
        assert uncorrected(NAMES, MOVED, other, BETAS, STEP) is None

    @pytest.mark.parametrize("size", [0.1, 10.0])
    @pytest.mark.parametrize(("by", "explains"), [(0.015, True), (0.025, False)])
    def test_another_direction_explains_nothing(
        self, by: float, explains: bool, size: float
    ) -> None:
        turned = {"w": (FIRST * size, by * FIRST * size)}
        told = uncorrected(NAMES, {"w": (size, 0.0)}, turned, BETAS, STEP)
        assert (told is not None) == explains

    def test_no_update_explains_nothing(self) -> None:
        still = longer(head=0.0, norm=0.0)
        assert uncorrected(NAMES, still, MOVED, BETAS, STEP) is None
        assert uncorrected(NAMES, MOVED, still, BETAS, STEP) is None
        assert uncorrected(NAMES, {}, {}, BETAS, STEP) is None

    @pytest.mark.parametrize("betas", [None, "nothing", 0.9, [0.9], [0.9, 0.99, 0.999]])
    def test_betas_of_another_kind_explain_nothing(self, betas: object) -> None:
        assert uncorrected(NAMES, MOVED, longer(head=FIRST, norm=FIRST), betas, STEP) is None
