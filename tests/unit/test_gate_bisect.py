"""The search: releases by halves, commits by git bisect, and what was found survives."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gate_samples as samples
import pytest

from harness.errors import BadInput
from harness.gate import bisect
from harness.gate.bisect import BAD, GOOD, SKIP, Question, answer, first_bad_release, search
from harness.gate.commits import walk
from harness.gate.gating import GatePair
from harness.gate.refs import Ref
from harness.ladder.verdict import RUNGS, PairVerdict, Result, RungResult, Verdict
from harness.session import Outcome

VERSIONS = [f"1.{n}" for n in range(12)]


class TestSearch:
    @pytest.mark.parametrize("first", range(1, len(VERSIONS)))
    def test_every_place_is_found(self, first: int) -> None:
        asked: list[str] = []

        def ask(version: str) -> str:
            asked.append(version)
            return BAD if VERSIONS.index(version) >= first else GOOD

        assert search(VERSIONS, ask) == (VERSIONS[first - 1], VERSIONS[first], ())
        assert len(asked) <= 4
        assert len(set(asked)) == len(asked)

    def test_two_versions_need_no_question(self) -> None:
        def never(version: str) -> str:
            raise AssertionError(version)

        assert search(["a", "b"], never) == ("a", "b", ())

    @pytest.mark.parametrize(
        ("first", "skipped"),
        list(itertools.product(range(1, 12), [{5}, {5, 6}, {4, 5, 6, 7}])),
    )
    def test_skipped_ones_are_walked_around(self, first: int, skipped: set[int]) -> None:
        def ask(version: str) -> str:
            index = VERSIONS.index(version)
            return SKIP if index in skipped else (BAD if index >= first else GOOD)

        good, bad, between = search(VERSIONS, ask)
        low, high = VERSIONS.index(good), VERSIONS.index(bad)
        assert low < first <= high
        assert {VERSIONS.index(v) for v in between} == set(range(low + 1, high)) <= skipped

    def test_nothing_can_be_judged(self) -> None:
        assert search(VERSIONS, lambda _: SKIP) == ("1.0", "1.11", tuple(VERSIONS[1:-1]))


def verdict(**results: Result) -> PairVerdict:
    rungs = [
        RungResult(name, results.get(name, Result.PASS), f"{name} of it", 1.0, 0.5)
        for name in RUNGS
    ]
    return PairVerdict("a", "b", "", "", tuple(rungs))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Result.PASS, GOOD),
        (Result.NOT_EXERCISED, GOOD),
        (Result.FAIL, BAD),
        (Result.INVALID, SKIP),
        (Result.INCONCLUSIVE, SKIP),
    ],
)
def test_answer(result: Result, expected: str) -> None:
    assert answer(verdict(backward=result), "backward") == expected


Gate = Callable[[dict[str, PairVerdict]], list[str]]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """The gate's verdict by the candidate's version; the list of what was asked."""

    def make(verdicts: dict[str, PairVerdict]) -> list[str]:
        asked: list[str] = []

        def judge_pair(pair: GatePair, reporter: Any) -> Outcome:
            asked.append(f"{pair.against} {pair.candidate}")
            found = verdicts[str(pair.candidate.source)]
            return Outcome(Verdict("compared", pair.case, (found,)), {})

        monkeypatch.setattr(bisect, "judge_pair", judge_pair)
        return asked

    return make


def question(tmp_path: Path, rung: str | None = None) -> Question:
    good = Ref("transformers", VERSIONS[0])
    pair = GatePair(samples.settings(tmp_path), good, good, False, tmp_path / "stored")
    return Question(pair, rung)


def run(tmp_path: Path, rung: str | None = None) -> bisect.Found:
    ends = Ref("transformers", VERSIONS[0]), Ref("transformers", VERSIONS[-1])
    return first_bad_release(question(tmp_path, rung), *ends, VERSIONS, samples.Silent())


def broken_from(first: int, rung: str) -> dict[str, PairVerdict]:
    return {
        version: verdict(**{rung: Result.FAIL if index >= first else Result.PASS})
        for index, version in enumerate(VERSIONS)
    }


class TestReleases:
    def test_the_first_bad_one_and_its_numbers(self, gate: Gate, tmp_path: Path) -> None:
        asked = gate(broken_from(7, "forward"))
        found = run(tmp_path)
        assert (found.rung, str(found.first_bad)) == ("forward", "transformers@1.7")
        assert str(found.last_good) == "transformers@1.6"
        assert asked[-1] == "transformers@1.6 transformers@1.7"
        assert found.outcome.verdict.pairs[0].headline_rung is not None

    def test_it_goes_on_where_it_was_interrupted(self, gate: Gate, tmp_path: Path) -> None:
        asked = gate(broken_from(7, "forward"))
        run(tmp_path)
        first = len(asked)
        run(tmp_path)
        assert len(asked) - first == 2, "the bad end and the numbers, nothing between"

    def test_another_question_has_another_memory(self, gate: Gate, tmp_path: Path) -> None:
        verdicts = {
            version: verdict(
                forward=Result.FAIL if index >= 3 else Result.PASS,
                clip=Result.FAIL if index >= 9 else Result.PASS,
            )
            for index, version in enumerate(VERSIONS)
        }
        gate(verdicts)
        assert str(run(tmp_path).first_bad) == "transformers@1.3"
        assert str(run(tmp_path, "clip").first_bad) == "transformers@1.9"

    def test_one_that_cannot_be_judged_is_skipped(self, gate: Gate, tmp_path: Path) -> None:
        verdicts = broken_from(6, "backward")
        verdicts["1.6"] = verdict(environment=Result.FAIL, backward=Result.INVALID)
        gate(verdicts)
        found = run(tmp_path, "backward")
        assert (found.last_good.source, found.first_bad.source) == ("1.5", "1.7")
        assert found.skipped == ("1.6",)
        (file,) = (tmp_path / "workspace" / "bisect").glob("*.json")
        assert "transformers@1.6" not in json.loads(file.read_text()), "it may work another day"

    def test_a_good_bad_end_is_bad_input(self, gate: Gate, tmp_path: Path) -> None:
        gate({version: verdict() for version in VERSIONS})
        with pytest.raises(BadInput, match="does not fail anywhere"):
            run(tmp_path)
        with pytest.raises(BadInput, match="at the rung clip"):
            run(tmp_path, "clip")

    def test_an_unknown_rung_is_bad_input(self, gate: Gate, tmp_path: Path) -> None:
        gate({})
        with pytest.raises(BadInput, match="the rungs are environment"):
            run(tmp_path, "loss")

    def test_the_memory_can_be_read(self, gate: Gate, tmp_path: Path) -> None:
        gate(broken_from(7, "forward"))
        run(tmp_path)
        (file,) = (tmp_path / "workspace" / "bisect").glob("*.json")
        entry = json.loads(file.read_text())["transformers@1.6"]
        assert entry == {"answer": GOOD, "because": "forward of it"}


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, list[str]]:
    """A bare repository with a line of ten commits, and these, oldest first."""
    work = tmp_path / "work"

    def git(*words: str) -> str:
        named = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", *named, *words], cwd=work, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    work.mkdir()
    git("init", "--quiet")
    for n in range(10):
        git("commit", "--quiet", "--allow-empty", "-m", f"commit {n}")
    commits = git("rev-list", "--reverse", "HEAD").split()
    bare = str(tmp_path / "bare.git")
    git("clone", "--quiet", "--bare", ".", bare)
    git("--git-dir", bare, "symbolic-ref", "HEAD", "refs/heads/none")  # as a mirror's may be
    return tmp_path / "bare.git", commits


class TestCommits:
    @pytest.mark.parametrize("first", [1, 4, 9])
    def test_the_first_bad_commit(self, first: int, repository: tuple[Path, list[str]]) -> None:
        bare, commits = repository

        def ask(commit: str) -> str:
            return BAD if commits.index(commit) >= first else GOOD

        found = walk(bare, commits[0], commits[-1], ask)
        assert found == (commits[first - 1], commits[first], ())

    def test_it_starts_anew_after_an_interruption(self, repository: tuple[Path, list[str]]) -> None:
        bare, commits = repository
        asked: list[str] = []

        def interrupted(commit: str) -> str:
            asked.append(commit)
            if len(asked) == 2:
                raise KeyboardInterrupt
            return GOOD if commits.index(commit) < 6 else BAD

        with pytest.raises(KeyboardInterrupt):
            walk(bare, commits[0], commits[-1], interrupted)
        assert walk(bare, commits[0], commits[-1], interrupted)[:2] == (commits[5], commits[6])

    def test_skipped_ones_are_told(self, repository: tuple[Path, list[str]]) -> None:
        bare, commits = repository

        def ask(commit: str) -> str:
            index = commits.index(commit)
            return SKIP if index in (4, 5) else (BAD if index > 5 else GOOD)

        good, bad, skipped = walk(bare, commits[0], commits[-1], ask)
        assert (good, bad) == (commits[3], commits[6])
        assert set(skipped) == {commits[4], commits[5]}

    def test_only_skipped_ones(self, repository: tuple[Path, list[str]]) -> None:
        bare, commits = repository
        good, bad, skipped = walk(bare, commits[0], commits[3], lambda _: SKIP)
        assert (good, bad, set(skipped)) == (commits[0], commits[3], set(commits[1:3]))

    def test_ends_in_the_wrong_order_are_bad_input(
        self, repository: tuple[Path, list[str]]
    ) -> None:
        bare, commits = repository
        with pytest.raises(BadInput, match="git bisect between"):
            walk(bare, commits[-1], commits[0], lambda _: GOOD)
