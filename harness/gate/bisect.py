"""Finds the first version that trains otherwise than a good one.

Releases are searched by halves; commits by `git bisect`. What was found of each version is kept in
a file, and its run in the workspace, so that an interrupted search goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import BadInput
from harness.gate.gate import judge_pair, plan_candidate
from harness.gate.refs import Ref
from harness.gate.selection import GatePair
from harness.ladder.ladder import names
from harness.ladder.result import Result
from harness.ladder.verdict import PairVerdict
from harness.launchers.registry import launcher_for
from harness.record.writer import write_json
from harness.run.execute import with_launcher_identity
from harness.run.reporter import Reporter
from harness.run.session import Outcome
from harness.run.workspace import code_digest, key_of

GOOD, BAD, SKIP = "good", "bad", "skip"

JUDGING = ("ladder", "compiler", "gate")
"""Parts of the package whose code makes an answer out of Records."""


@dataclass(frozen=True)
class Question:
    """What a bisection finds out about each version: does `rung` fail against the good one?

    pair: the case, and the good version as `against`; its candidate is replaced
    rung: the rung that is asked for; None takes the first that fails at the bad end
    """

    pair: GatePair
    rung: str | None

    def about(self, ref: Ref) -> GatePair:
        """The pair that answers it for `ref`."""
        return dataclasses.replace(self.pair, candidate=ref)


@dataclass(frozen=True)
class FirstBad:
    """The end of a search.

    last_good, first_bad: neighbours among the versions that could be judged
    skipped:              versions between them that could not be judged
    outcome:              the gate of `first_bad` against `last_good`
    """

    rung: str
    last_good: Ref
    first_bad: Ref
    skipped: tuple[str, ...]
    outcome: Outcome


def answer(verdict: PairVerdict, rung: str) -> str:
    """GOOD, BAD, or SKIP where the rung could not be judged."""
    result = verdict.rung(rung).result
    if result is Result.FAIL:
        return BAD
    return GOOD if result in (Result.PASS, Result.NOT_EXERCISED) else SKIP


class Notebook:
    """The answers so far, by version, kept in a file of the workspace.

    The file is named by all that an answer depends on: how the good version trains, from its Plan,
    and how it is judged. What was found otherwise is not taken for an answer. Asking again is cheap
    where nothing else changed: the runs are in the workspace.
    """

    def __init__(self, question: Question, rung: str, reporter: Reporter) -> None:
        self.question, self.rung, self.reporter = question, rung, reporter
        settings, good = question.pair.settings, question.pair.against
        assert good is not None, "a stored baseline is no end of a search"
        launcher = launcher_for(settings.launcher, reporter.note)
        key = key_of(
            {
                "good": with_launcher_identity(
                    plan_candidate(question.about(good), reporter), launcher
                ).key,
                "rung": rung,
                "tolerance": dataclasses.asdict(settings.tolerance),
                "graph": settings.graph,
                "compiled": [settings.targets, settings.slices, settings.compiler.libtpu],
                "timing": dataclasses.asdict(settings.timing),
                "judging": code_digest(JUDGING),
            }
        )
        self.path = Path(settings.workspace) / "bisect" / f"{key}.json"

    def ask(self, ref: Ref) -> str:
        """GOOD, BAD or SKIP for `ref`, from the file or by the gate."""
        entry = self._answers().get(str(ref))
        if entry is None:
            verdict = judge_pair(self.question.about(ref), self.reporter).verdict.pairs[0]
            found = answer(verdict, self.rung)
            because = verdict.rung(self.rung).explanation
            if found == SKIP:  # not kept: what could not be judged today may be tomorrow
                self.reporter.note(f"{ref} is skipped: {because}")
                return SKIP
            entry = {"answer": found, "because": because}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Read again: another search for the same may have found something in the meantime.
            write_json(self.path, {**self._answers(), str(ref): entry})
        self.reporter.note(f"{ref} is {entry['answer']}: {entry['because']}")
        return entry["answer"]

    def _answers(self) -> dict[str, dict[str, str]]:
        answers: dict[str, dict[str, str]] = {}
        if self.path.is_file():
            answers = json.loads(self.path.read_text())
        return answers


def rung_of(question: Question, bad: Ref, reporter: Reporter) -> str:
    """The rung to search by. Raises BadInput where the bad end does not fail it."""
    if question.rung is not None and question.rung not in names():
        raise BadInput(f"--rung {question.rung}: the rungs are {', '.join(names())}")
    verdict = judge_pair(question.about(bad), reporter).verdict.pairs[0]
    headline = verdict.headline_rung
    rung = question.rung or (headline.rung if headline is not None else None)
    if rung is None or answer(verdict, rung) != BAD:
        where = f"at the rung {question.rung}" if question.rung else "anywhere"
        raise BadInput(
            f"{bad} does not fail {where} against {question.pair.against}, so that there is "
            f"nothing to be found: {verdict.headline}"
        )
    return rung


def search(versions: Sequence[str], ask: Callable[[str], str]) -> tuple[str, str, tuple[str, ...]]:
    """Last good and first bad of versions of which the first is good and the last is bad.

    Also those between them that had to be skipped. Versions are asked as few times as halving
    takes; where one is skipped, its neighbours are asked, the nearest first.
    """
    low, high = 0, len(versions) - 1
    skipped: set[int] = set()
    while True:
        open_ = [i for i in range(low + 1, high) if i not in skipped]
        if not open_:
            between = tuple(versions[i] for i in range(low + 1, high))
            return versions[low], versions[high], between
        middle = (low + high) / 2
        index = min(open_, key=lambda i: abs(i - middle))
        found = ask(versions[index])
        if found == GOOD:
            low = index
        elif found == BAD:
            high = index
        else:
            skipped.add(index)


def finish(
    question: Question, rung: str, good: Ref, bad: Ref, skipped: tuple[str, ...], reporter: Reporter
) -> FirstBad:
    """The gate of the first bad version against the last good one: the numbers before and after."""
    pair = dataclasses.replace(question.pair, against=good, candidate=bad)
    return FirstBad(rung, good, bad, skipped, judge_pair(pair, reporter))


def first_bad_release(
    question: Question, good: Ref, bad: Ref, versions: Sequence[str], reporter: Reporter
) -> FirstBad:
    """The first bad one of releases, of which `versions` lists all from `good` to `bad`."""
    rung = rung_of(question, bad, reporter)
    notebook = Notebook(question, rung, reporter)
    last, first, skipped = search(
        versions, lambda version: notebook.ask(Ref(good.package, version))
    )
    return finish(
        question, rung, Ref(good.package, last), Ref(good.package, first), skipped, reporter
    )
