"""What is known of the noise between two runs, and of what their findings have in common."""

from __future__ import annotations

import dataclasses
import math

import pytest
from builders import Trainer, comparison, imported, tolerance, with_manifest, with_observed

from harness.ladder.comparison import ROUNDING
from harness.ladder.metric import ANY_DEVICE, Floor, Metric
from harness.ladder.result import Finding
from harness.record.evidence import Record

A = Trainer().record()
B = Trainer(label="b").record()
AGAIN = Trainer(label="again").record()
UNKNOWN = with_observed(A, device_kind="a device of which nothing is known")

FLOORS = (
    Floor("CPU", "float32", "", 1e-3, ""),
    Floor("TPU v6e", "float32", "highest", 1e-2, ""),
    Floor("TPU v6e", "bfloat16", "", 0.5, ""),
)
METRIC = Metric("number", "", FLOORS, distance=lambda x, y: 0.0)


class TestUnshared:
    """To versions of one trainer what both do wrong is no change."""

    FOUND = (
        Finding("x", 1, "w", run="a", kind="lost"),
        Finding("x, by other numbers", 1, "w", run="b", kind="lost"),
        Finding("another step", 2, "w", run="b", kind="lost"),
        Finding("another parameter", 1, "v", run="b", kind="lost"),
        Finding("another kind", 1, "w", run="b", kind="moved"),
        Finding("of no kind", 1, "w", run="a"),
        Finding("of no kind", 1, "w", run="b"),
    )

    @pytest.mark.parametrize(("versions", "left"), [(True, FOUND[2:]), (False, FOUND)])
    def test_it(self, versions: bool, left: tuple[Finding, ...]) -> None:
        c = comparison(A, B, versions=versions)
        assert c.unshared(list(self.FOUND)) == list(left)
        found = {A.label: [self.FOUND[0]], B.label: list(self.FOUND[1:])}
        assert len(c.changed(lambda record: found[record.label])) == len(left)


@pytest.mark.parametrize(
    ("broken", "references", "per_run"),
    [((), {}, False), ((), {"/a": A}, False), (("init",), {}, False), (("init",), {"/a": A}, True)],
)
def test_each_run_is_held_against_its_own_float64_where_they_start_elsewhere(
    broken: tuple[str, ...], references: dict[str, Record], per_run: bool
) -> None:
    c = comparison(A, B, broken=broken, float64_per_run=references)
    assert c.judges_per_run("data", "init") is per_run
    assert not c.judges_per_run("data")


def test_the_coarser_of_two_logs_rounds() -> None:
    fine, coarse = imported(A, loss=1e-5), imported(B, loss=1e-3)
    for pair in ((fine, coarse), (coarse, fine)):
        assert comparison(*pair).rounding("loss") == 1e-3
        assert comparison(*pair).rounding("learning_rate") == 0
    assert comparison(A, fine).rounding("loss") == 1e-5
    assert comparison(A, B).rounding("loss") == 0


class TestLimit:
    def test_it_says_whose_noise_it_comes_from(self) -> None:
        c = comparison(UNKNOWN, B, noise_floor=(A, AGAIN), repeat=(A, AGAIN), deterministic=False)
        perturbed, repeated = c.limit_over(METRIC, 0.2, 0.1), c.limit_over(METRIC, 0.1, 0.2)
        assert perturbed.source.endswith("perturbed by one unit in the last place do to hf")
        assert repeated.source.endswith("what hf differs by from its own repeat")
        assert perturbed.value == repeated.value == 0.4

    @pytest.mark.parametrize(("beyond", "value"), [(1.0, 2e-2), (1.01, 2e-3)])
    def test_the_most_that_is_believed_still_is(self, beyond: float, value: float) -> None:
        limit = comparison(A, B).limit_over(METRIC, beyond * ROUNDING * 1e-3)
        assert limit.value == pytest.approx(value)

    @pytest.mark.parametrize(
        ("deterministic", "repeated", "value"),
        [
            (False, 0.2, 0.4),
            (False, None, 2e-3),
            (False, math.nan, 2e-3),
            (True, 0.2, 2e-3),
            (None, 0.2, 2e-3),
        ],
    )
    def test_a_repeat_is_noise_on_a_device_that_is_not_deterministic(
        self, deterministic: bool | None, repeated: float | None, value: float
    ) -> None:
        c = comparison(A, B, deterministic=deterministic)
        assert c.limit_over(METRIC, None, repeated).value == value

    @pytest.mark.parametrize(
        ("resolution", "perturbed", "value"),
        [
            (0.0, 0.01, 0.02),
            (0.05, 0.01, 0.1),
            (0.05, 0.05, 0.1),
            (0.05, 0.2, 0.4),
            (0.05, 0.0, 0.1),
            (0.0, 0.0, math.inf),
            (0.05, None, math.inf),
        ],
    )
    def test_numbers_are_no_nearer_than_they_are_rounded(
        self, resolution: float, perturbed: float | None, value: float
    ) -> None:
        metric = dataclasses.replace(METRIC, resolution={"float32": resolution})
        there = comparison(UNKNOWN, UNKNOWN, deterministic=True).limit_over(metric, perturbed)
        assert there.value == value
        assert ("rounding of the number" in there.source) == (value == 0.1 and perturbed != 0.05)
        assert comparison(A, B).limit_over(metric).value == 2e-3

    def test_a_perturbed_run_that_is_no_further_is_told(self) -> None:
        for measured, told in ((1e-4, True), (1e-3, True), (2e-3, False)):
            source = comparison(A, B).limit_over(METRIC, measured).source
            assert ("(the perturbed run measured" in source) == told

    @pytest.mark.parametrize(("rounding", "value"), [(1e-4, 2e-3), (1e-2, 2e-2)])
    def test_digits_that_were_not_printed_are_no_difference(
        self, rounding: float, value: float
    ) -> None:
        limit = comparison(A, imported(B, number=rounding)).limit_over(METRIC)
        assert limit.value == value
        assert ("printed" in limit.source) == (value > 2e-3)

    @pytest.mark.parametrize(("rounding", "exact"), [(0.0, True), (1e-3, False)])
    def test_what_was_printed_is_not_known_to_be_equal(self, rounding: float, exact: bool) -> None:
        c = comparison(UNKNOWN, imported(UNKNOWN, number=rounding))
        assert c.limit_over(METRIC).exact is exact


class TestMost:
    """How far a perturbed run may be, and be believed."""

    def most(
        self, deterministic: bool | None, documented: float | None, repeated: float | None = None
    ) -> float:
        return comparison(A, B, deterministic=deterministic).most(METRIC, documented, repeated)

    @pytest.mark.parametrize(
        ("deterministic", "documented", "most"),
        [
            (True, 1e-3, math.inf),
            (True, None, math.inf),
            (None, 1e-3, 1e-2),
            (None, None, 0.5),
            (False, 1e-3, 0.5),
            (False, None, 0.5),
        ],
    )
    def test_by_what_is_known(
        self, deterministic: bool | None, documented: float | None, most: float
    ) -> None:
        assert self.most(deterministic, documented) == most

    def test_rounding_that_differs_is_at_least_that_of_the_dtype(self) -> None:
        fine = dataclasses.replace(METRIC, floors=FLOORS[:2])
        assert comparison(A, B).most(fine, None) == pytest.approx(ROUNDING * 1e-2)

    @pytest.mark.parametrize(
        ("repeated", "most"), [(1e-3, 0.5), (0.2, 2.0), (math.nan, 0.5), (math.inf, 0.5)]
    )
    def test_by_a_repeat(self, repeated: float, most: float) -> None:
        assert self.most(False, None, repeated) == most

    @pytest.mark.parametrize(
        ("bound", "most"), [(1e-4, 1e-4), (1.0, 0.5), (None, 0.5), (math.nan, 0.5)]
    )
    def test_by_what_it_follows_from(self, bound: float | None, most: float) -> None:
        bounded = dataclasses.replace(METRIC, bound=lambda x, y: bound)
        assert comparison(A, B, noise_floor=(A, AGAIN)).most(bounded, None) == most
        assert comparison(A, B).most(bounded, None) == 0.5


class TestDocumented:
    def documented(self, a: Record, b: Record, **given: float) -> tuple[float | None, str, str]:
        floor = {"float32": given} if given else {}
        return comparison(a, b, tolerance=tolerance(floor=floor)).documented(METRIC)

    def test_by_device_dtype_and_precision(self) -> None:
        tpu = {
            name: with_observed(A, device_kind="TPU v6e", matmul_precision=name)
            for name in ("highest", "default")
        }
        assert self.documented(tpu["highest"], A) == (1e-3, "float32 on CPU", "float32")
        assert self.documented(tpu["highest"], tpu["highest"])[0] == 1e-2
        for pair in ((tpu["default"], A), (A, tpu["default"])):
            assert self.documented(*pair) == (None, "float32 on TPU v6e (default)", "float32")
        coarse = with_manifest(tpu["default"], lambda m: m["case"].update(dtype="bfloat16"))
        assert self.documented(coarse, coarse) == (0.5, "bfloat16 on TPU v6e", "bfloat16")

    def test_what_the_user_states_comes_first(self) -> None:
        where = "float32 (tolerance.floor.float32.number)"
        assert self.documented(UNKNOWN, A, number=0.2) == (0.2, where, "float32")
        assert self.documented(A, A, number=0.0) == (0.0, where, "float32")

    def test_what_follows_from_arithmetic_holds_on_any_device(self) -> None:
        metric = dataclasses.replace(METRIC, floors=(Floor(ANY_DEVICE, "float32", "", 0.1, ""),))
        for run in (A, UNKNOWN, with_observed(A, device_kind=None)):
            found = comparison(run, run).documented(metric)
            assert found == (0.1, "float32 on any device", "float32")
