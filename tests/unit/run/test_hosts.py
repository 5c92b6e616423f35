"""The hosts of a slice over one workspace: they meet, decide as one, and merge by themselves."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gate_samples import Silent, plan, settings
from host_samples import Host, complete, hosts, write

from harness.base.errors import BadInput
from harness.config.settings import LauncherSettings
from harness.record.evidence import Record
from harness.record.hosts import host_findings
from harness.record.layout import MANIFEST
from harness.record.reader import read_record
from harness.run import execute
from harness.run.again import find_records
from harness.run.execute import run_or_reuse
from harness.run.hosts import FRESH, Meeting, index_of, meet
from harness.run.plan import Plan
from harness.run.workspace import Slot


def together(count: int, act: Callable[[int], Any]) -> list[Any]:
    """What each host comes to, all at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return [f.result(20) for f in [pool.submit(act, n) for n in range(count)]]


class TestMeeting:
    def test_all_are_in_one(self, tmp_path: Path) -> None:
        met = together(3, lambda n: meet(tmp_path, n, 3, 10))
        assert len({m.folder for m in met}) == 1
        assert [(m.index, m.first) for m in met] == [(0, True), (1, False), (2, False)]
        assert not list(tmp_path.glob("come-*"))

    def test_two_sessions_are_two(self, tmp_path: Path) -> None:
        """What the last session left calls nobody."""
        first = together(2, lambda n: meet(tmp_path, n, 2, 10))
        second = together(2, lambda n: meet(tmp_path, n, 2, 10))
        assert {m.folder for m in first}.isdisjoint(m.folder for m in second)

    def test_one_that_was_killed_as_it_waited_is_not_waited_for(self, tmp_path: Path) -> None:
        dead = tmp_path / "come-1-dead"
        dead.touch()
        os.utime(dead, (time.time() - 2 * FRESH,) * 2)
        met = together(2, lambda n: meet(tmp_path, n, 2, 10))
        assert met[0].folder == met[1].folder

    @pytest.mark.parametrize("number", [0, 1])
    def test_one_alone_gives_up(self, tmp_path: Path, number: int) -> None:
        with pytest.raises(BadInput, match="the other hosts did not come within 0 s"):
            meet(tmp_path, number, 2, 0.3)
        assert not list(tmp_path.glob("come-*"))

    def test_the_first_decides(self, tmp_path: Path) -> None:
        def act(n: int) -> Any:
            met = meet(tmp_path, n, 2, 10)
            return [met.decided("a", lambda: n), met.decided("b", lambda: n + 5)]

        assert together(2, act) == [[0, 5]] * 2

    def test_another_question_is_no_answer(self, tmp_path: Path) -> None:
        def act(n: int) -> str:
            try:
                meet(tmp_path, n, 2, 10).decided(f"run-{n}", lambda: 1)
            except BadInput as error:
                return str(error)
            return ""

        first, second = together(2, act)
        assert first == ""
        assert "host 1 comes to run-1, and the first host to run-0" in second

    def test_a_host_that_is_gone_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="host 1, 2 did not come to launched within 0 s"):
            Meeting(tmp_path, 0, 3, 0.3).all_here("launched")

    def test_what_is_a_day_old_is_removed(self, tmp_path: Path) -> None:
        old = tmp_path / "0123"
        old.mkdir()
        os.utime(old, (time.time() - 100_000,) * 2)
        together(2, lambda n: meet(tmp_path, n, 2, 10))
        assert not old.exists()


def test_which_host_this_is() -> None:
    several = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_SLICE_ID": "1"}
    assert index_of(4, several) == 3
    with pytest.raises(BadInput, match="set TPU_WORKER_ID to its number, 0 to 3"):
        index_of(4, {})
    with pytest.raises(BadInput, match="this is host 3; they count from 0"):
        index_of(2, several)


class TestRuns:
    """`run_or_reuse` on two hosts, each of which leaves what a host of a real run leaves."""

    @pytest.fixture
    def launched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The hosts that have launched something, in order; they take part in one meeting."""
        mine = threading.local()
        found: list[int] = []
        run = hosts(2)

        def launch(plan: Plan, place: Slot, settings: LauncherSettings, reporter: object) -> Record:
            found.append(mine.met.index)
            return self.leave(place.directory, run[mine.met.index], plan.key)

        def met(workspace: Path, count: int, limit: float) -> Meeting:
            assert isinstance(mine.met, Meeting)
            return mine.met

        monkeypatch.setattr(execute, "launch_alone", launch)
        monkeypatch.setattr(execute, "meeting", met)
        monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
        self.mine, self.run = mine, run
        return found

    def leave(self, directory: Path, host: Host, key: str) -> Record:
        (folder,) = write(directory.with_name(f"of-{directory.name}"), [host])
        folder.rename(directory)
        record = complete(directory, host.observed, None)
        manifest = json.loads((directory / MANIFEST).read_text())
        (directory / MANIFEST).write_text(json.dumps({**manifest, "key": key}))
        return record

    def both(self, tmp_path: Path) -> list[Record]:
        wanted = plan("hf", settings(tmp_path))
        launcher = LauncherSettings(hosts=2, silence=10.0)

        def act(n: int) -> Record:
            self.mine.met = meet(tmp_path / ".hosts", n, 2, 10)
            return run_or_reuse(wanted, tmp_path, launcher, Silent())

        return together(2, act)

    def test_every_host_has_the_merged_record(self, tmp_path: Path, launched: list[int]) -> None:
        first, second = self.both(tmp_path)
        assert sorted(launched) == [0, 1]
        assert first == second
        assert host_findings(first) == ()
        assert first.steps[0].batches[0].shape[0] == 8  # both halves of the rows
        assert "host-0" in (first.directory / "trainer.log").read_text()
        parts = [read_record(first.directory / f"host-{n}") for n in range(2)]
        assert [part.observed.process for part in parts] == [0, 1]
        assert [r.directory for r in find_records([tmp_path]).records] == [first.directory]
        assert [p.name for p in first.directory.parent.iterdir() if not p.name.startswith(".")] == [
            first.directory.name
        ]

    def test_what_is_there_is_launched_on_none(self, tmp_path: Path, launched: list[int]) -> None:
        before = self.both(tmp_path)
        assert self.both(tmp_path) == before
        assert len(launched) == 2

    def test_hosts_that_disagree_say_so(self, tmp_path: Path, launched: list[int]) -> None:
        self.run[1].event("values", 1)["losses"] = [0.5]
        first, second = self.both(tmp_path)
        assert first == second
        assert any("loss" in text for text in host_findings(first))

    def test_where_nothing_can_be_merged_the_first_part_stands(
        self, tmp_path: Path, launched: list[int]
    ) -> None:
        for host in self.run:
            host.observed["process"] = None
        first, second = self.both(tmp_path)
        assert first == second
        assert first.manifest.hosts is None
