"""The search: releases by halves, commits by git bisect, and what was found survives."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gate_samples as samples
import pytest

from harness.base.errors import BadInput
from harness.environments.git import git
from harness.gate import bisect
from harness.gate import commits as by_commit
from harness.gate.bisect import (
    BAD,
    GOOD,
    SKIP,
    Notebook,
    Question,
    answer,
    first_bad_release,
    search,
)
from harness.gate.commits import first_bad_commit, walk
from harness.gate.refs import Ref
from harness.gate.selection import GatePair
from harness.inputs.prepared import Inputs
from harness.ladder.ladder import names
from harness.ladder.result import Result, RungResult
from harness.ladder.verdict import PairVerdict, Verdict
from harness.launchers.launcher import Local
from harness.launchers.local import Limits
from harness.run.plan import Plan
from harness.run.session import Outcome

VERSIONS = [f"1.{n}" for n in range(12)]


class TestSearch:
    @pytest.mark.parametrize("first", range(1, len(VERSIONS)))
    def test_every_place_is_found(self, first: int) -> None:
        requested: list[str] = []

        def ask(version: str) -> str:
            requested.append(version)
            return BAD if VERSIONS.index(version) >= first else GOOD

        assert search(VERSIONS, ask) == (VERSIONS[first - 1], VERSIONS[first], ())
        assert len(requested) <= 4
        assert len(set(requested)) == len(requested)

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
        for name in names()
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


def planned(pair: GatePair, reporter: Any) -> Plan:
    """A Plan of the candidate that is never launched."""
    return samples.plan(str(pair.candidate), pair.settings)


Gate = Callable[[dict[str, PairVerdict]], list[str]]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """The gate's verdict by the candidate's version; the list of what was asked."""
    monkeypatch.setattr(bisect, "plan_candidate", planned)

    def make(verdicts: dict[str, PairVerdict]) -> list[str]:
        requested: list[str] = []

        def judge_pair(pair: GatePair, reporter: Any) -> Outcome:
            requested.append(f"{pair.against} {pair.candidate}")
            found = verdicts[str(pair.candidate.source)]
            return Outcome(Verdict("compared", pair.case, (found,)), {})

        monkeypatch.setattr(bisect, "judge_pair", judge_pair)
        return requested

    return make


def question(tmp_path: Path, rung: str | None = None) -> Question:
    good = Ref("transformers", VERSIONS[0])
    pair = GatePair(samples.settings(tmp_path), good, good, False, tmp_path / "stored")
    return Question(pair, rung)


def run(tmp_path: Path, rung: str | None = None) -> bisect.FirstBad:
    ends = Ref("transformers", VERSIONS[0]), Ref("transformers", VERSIONS[-1])
    return first_bad_release(question(tmp_path, rung), *ends, VERSIONS, samples.Silent())


def broken_from(first: int, rung: str) -> dict[str, PairVerdict]:
    return {
        version: verdict(**{rung: Result.FAIL if index >= first else Result.PASS})
        for index, version in enumerate(VERSIONS)
    }


class TestReleases:
    def test_the_first_bad_one_and_its_numbers(self, gate: Gate, tmp_path: Path) -> None:
        requested = gate(broken_from(7, "forward"))
        found = run(tmp_path)
        assert (found.rung, str(found.first_bad)) == ("forward", "transformers@1.7")
        assert str(found.last_good) == "transformers@1.6"
        assert requested[-1] == "transformers@1.6 transformers@1.7"
        assert found.outcome.verdict.pairs[0].headline_rung is not None

    def test_it_goes_on_where_it_was_interrupted(self, gate: Gate, tmp_path: Path) -> None:
        requested = gate(broken_from(7, "forward"))
        run(tmp_path)
        first = len(requested)
        run(tmp_path)
        assert len(requested) - first == 2, "the bad end and the numbers, nothing between"

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


class TestMemory:
    """What was found otherwise is no answer."""

    def path(self, question: Question, rung: str = "forward") -> Path:
        return Notebook(question, rung, samples.Silent()).path

    @pytest.fixture(autouse=True)
    def good(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bisect, "plan_candidate", planned)

    @pytest.mark.parametrize(
        "override",
        [
            "tolerance.margin=5", "graph=hlo", "timing.windows=7", "tolerance.step_time=0.01",
            "target=v6e:2x2", "slices=2", "compiler.libtpu=0.0.52",
        ],
    )  # fmt: skip
    def test_how_it_is_judged(self, tmp_path: Path, override: str) -> None:
        requested = question(tmp_path)
        settings = samples.settings(tmp_path, override)
        pair = dataclasses.replace(requested.pair, settings=settings)
        assert self.path(Question(pair, None)) != self.path(requested)

    def test_what_changes_no_answer(self, tmp_path: Path) -> None:
        requested = question(tmp_path)
        settings = samples.settings(tmp_path, "launcher.time_limit=7")
        pair = dataclasses.replace(requested.pair, settings=settings)
        assert self.path(Question(pair, None)) == self.path(requested)

    @pytest.mark.parametrize(
        "changed",
        [
            {"interpreter": dataclasses.replace(samples.INTERPRETER, key="other packages")},
            {"inputs": Inputs(Path("of another text"))},
            {"environment": {"XLA_FLAGS": "--xla_x=2"}},
            {"origin": {"commit": "2"}},
        ],
        ids=lambda changed: next(iter(changed)),
    )
    def test_how_the_good_one_trains(
        self, tmp_path: Path, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = self.path(question(tmp_path))

        def otherwise(pair: GatePair, reporter: Any) -> Plan:
            assert pair.candidate == pair.against
            return dataclasses.replace(planned(pair, reporter), **changed)

        monkeypatch.setattr(bisect, "plan_candidate", otherwise)
        assert self.path(question(tmp_path)) != before

    def test_the_image_that_it_trains_in(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = self.path(question(tmp_path))

        class InImage(Local):
            identity = {"PARITY_IMAGE": "another"}  # noqa: RUF012

        monkeypatch.setattr(bisect, "launcher_for", lambda *_: InImage(Limits(1, 1)))
        assert self.path(question(tmp_path)) != before

    def test_the_code_that_judges(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = self.path(question(tmp_path))
        assert "ladder" in bisect.JUDGING
        monkeypatch.setattr(bisect, "code_digest", lambda parts: f"other {parts}")
        assert self.path(question(tmp_path)) != before

    def test_another_search_does_not_lose_what_this_one_found(
        self, gate: Gate, tmp_path: Path
    ) -> None:
        gate(broken_from(7, "forward"))
        searches = [Notebook(question(tmp_path), "forward", samples.Silent()) for _ in range(2)]
        for search_, version in zip(searches, ("1.1", "1.2"), strict=True):
            search_.ask(Ref("transformers", version))
        found = json.loads(searches[0].path.read_text())
        assert list(found) == ["transformers@1.1", "transformers@1.2"]


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
        requested: list[str] = []

        def interrupted(commit: str) -> str:
            requested.append(commit)
            if len(requested) == 2:
                raise KeyboardInterrupt
            return GOOD if commits.index(commit) < 6 else BAD

        with pytest.raises(KeyboardInterrupt):
            walk(bare, commits[0], commits[-1], interrupted)
        assert walk(bare, commits[0], commits[-1], interrupted)[:2] == (commits[5], commits[6])

    def test_an_answer_is_of_the_commit_that_was_asked(
        self, repository: tuple[Path, list[str]]
    ) -> None:
        bare, commits = repository
        requested: list[str] = []

        def ask(commit: str) -> str:
            assert commit not in requested, "its answer was lost"
            requested.append(commit)
            # As another search in this repository would do.
            git("--git-dir", str(bare), "update-ref", "--no-deref", "BISECT_HEAD", commits[1])
            return BAD if commits.index(commit) >= 6 else GOOD

        assert walk(bare, commits[0], commits[-1], ask) == (commits[5], commits[6], ())

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


class TestRepository:
    """Whole searches between commits; only the gate is not the real one."""

    commits: list[str]
    requested: list[str]

    @pytest.fixture(autouse=True)
    def history(
        self,
        repository: tuple[Path, list[str]],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        """Ten commits, of which the seventh is the first bad one."""
        self.bare, self.commits = repository
        self.requested = []
        git("--git-dir", str(self.bare), "update-ref", "refs/heads/main", self.commits[-1])
        monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(bisect, "plan_candidate", planned)
        monkeypatch.setattr(bisect, "judge_pair", self.judge)

    def judge(self, pair: GatePair, reporter: Any) -> Outcome:
        commit = str(pair.candidate.source).rpartition("@")[2]
        self.requested.append(commit)
        failed = self.commits.index(commit) >= 6
        found = verdict(forward=Result.FAIL if failed else Result.PASS)
        return Outcome(Verdict("compared", pair.case, (found,)), {})

    def ref(self, index: int) -> Ref:
        return Ref("transformers", f"file://{self.bare}@{self.commits[index]}")

    def search(self, tmp_path: Path) -> int:
        """Index of the first bad commit."""
        good, bad = self.ref(0), self.ref(9)
        pair = GatePair(samples.settings(tmp_path), good, good, False, tmp_path / "stored")
        found = first_bad_commit(Question(pair, None), good, bad, samples.Silent())
        return self.commits.index(str(found.first_bad.source).rpartition("@")[2])

    def test_two_at_once_do_not_disturb_each_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inner: list[int] = []
        used: list[Path] = []

        def watched(repository: Path, *others: Any) -> Any:
            used.append(repository)
            return walk(repository, *others)

        def judge_pair(pair: GatePair, reporter: Any) -> Outcome:
            outcome = self.judge(pair, reporter)
            if len(self.requested) == 2:  # the first in the middle
                inner.append(self.search(tmp_path))
            return outcome

        monkeypatch.setattr(bisect, "judge_pair", judge_pair)
        monkeypatch.setattr(by_commit, "walk", watched)
        assert self.search(tmp_path) == 6
        assert inner == [6]
        assert used[0] != used[1], "git keeps the state of one bisection in a repository"
        assert not any(repository.exists() for repository in used)

    def test_it_goes_on_after_the_cache_was_moved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.search(tmp_path) == 6
        first = len(self.requested)
        shutil.rmtree(tmp_path / "cache")
        monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "elsewhere"))
        assert self.search(tmp_path) == 6
        assert len(self.requested) - first == 2, "the bad end and the numbers, nothing between"
