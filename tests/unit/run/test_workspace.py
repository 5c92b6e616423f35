"""The workspace: an unchanged run is found again, a changed or broken one never is."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import manifests
import pytest
from builders import Trainer

from harness.base.errors import BadInput
from harness.record import layout
from harness.record.checksums import write_checksums
from harness.record.reader import read_record
from harness.record.writer import write_json
from harness.run import workspace
from harness.run.workspace import Slot, key_of, observer_digest, slot

KEY = "0123456789ab"


@pytest.fixture
def place(tmp_path: Path) -> Slot:
    return slot(tmp_path, "toy", "hf", KEY)


def train(place: Slot, **fields: Any) -> None:
    """A run that left its Record where runs in progress are."""
    trainer = Trainer(steps=3, key=KEY, **fields)
    place.begin()
    trainer.write(place.running)
    place.finish(manifests.parsed(trainer.manifest()))


def change_manifest(place: Slot, **fields: Any) -> None:
    path = place.directory / layout.MANIFEST
    write_json(path, {**json.loads(path.read_text()), **fields})
    write_checksums(place.directory)  # so that it is refused for what it says


class TestReuse:
    def test_a_complete_one_is_found(self, place: Slot) -> None:
        assert place.complete_record() is None
        train(place)
        found = place.complete_record()
        assert found is not None
        assert found.complete
        assert found.directory == place.directory

    def test_one_that_stopped_early_is_not(self, place: Slot) -> None:
        train(place, requested=8)
        assert place.complete_record() is None

    @pytest.mark.parametrize("status", ["failed", "killed", "timed out", "collectives starved"])
    def test_one_that_broke_is_not(self, place: Slot, status: str) -> None:
        train(place)
        change_manifest(place, ended={"status": status})
        assert place.complete_record() is None

    @pytest.mark.parametrize("name", [layout.MANIFEST, layout.STEPS, layout.PARAMETERS])
    def test_one_without_all_its_files_is_not(self, place: Slot, name: str) -> None:
        train(place)
        (place.directory / name).unlink()
        assert place.complete_record() is None

    @pytest.mark.parametrize("name", [layout.MANIFEST, layout.STEPS, layout.PARAMETERS])
    def test_one_that_was_truncated_is_not(self, place: Slot, name: str) -> None:
        train(place)
        whole = (place.directory / name).read_bytes()
        for length in range(0, len(whole) - 2, max(1, len(whole) // 25)):
            (place.directory / name).write_bytes(whole[:length])
            assert place.complete_record() is None
        (place.directory / name).write_bytes(whole)
        assert place.complete_record() is not None

    def test_one_with_another_number_is_not(self, place: Slot) -> None:
        """Which could have been observed as well: that it was not, its checksum tells."""
        train(place)
        path = place.directory / layout.PARAMETERS
        text = path.read_text()
        at = text.index('"norm"') + text[text.index('"norm"') :].index(".") + 1
        path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
        assert read_record(place.directory).complete
        assert place.complete_record() is None

    def test_one_of_another_schema_is_not(self, place: Slot) -> None:
        train(place)
        change_manifest(place, schema=0)
        assert place.complete_record() is None

    def test_one_of_another_run_is_not(self, place: Slot, tmp_path: Path) -> None:
        """A folder that was copied or renamed by hand."""
        train(place)
        other = slot(tmp_path, "toy", "hf", "ba9876543210")
        shutil.copytree(place.directory, other.directory)
        assert other.complete_record() is None
        assert place.complete_record() is not None
        change_manifest(place, key=None)
        assert place.complete_record() is None

    def test_one_in_progress_is_not(self, place: Slot) -> None:
        place.begin()
        Trainer(steps=3, key=KEY).write(place.running)
        assert place.complete_record() is None


class TestRuns:
    def test_one_begins_with_nothing_of_the_last(self, place: Slot) -> None:
        """Whatever a trainer of a killed session still writes goes elsewhere."""
        place.begin()
        (place.running / layout.STEPS).write_text("stale\n")
        again = place.again()
        with again.locked():
            assert not place.running.exists()
            again.begin()
        assert again.running != place.running
        assert os.listdir(again.running) == []

    def test_folders_of_killed_sessions_are_removed_and_of_others_are_not(
        self, place: Slot, tmp_path: Path
    ) -> None:
        other, busy = (slot(tmp_path, "toy", name, KEY) for name in ("killed", "busy"))
        older = place.directory.with_name(f".hf-{KEY}.running")  # as earlier versions named it
        unrelated = place.directory.with_name(".git")
        with busy.locked():
            for folder in (other.scratch, busy.running, older, unrelated):
                folder.mkdir(parents=True)
            with place.locked():
                assert busy.running.is_dir()
        assert not other.scratch.exists()
        assert not older.exists()
        assert unrelated.is_dir()

    def test_a_failed_one_is_replaced(self, place: Slot) -> None:
        train(place, requested=8)
        (place.directory / "old").write_text("x")
        train(place)
        assert place.complete_record() is not None
        assert not (place.directory / "old").exists()

    def test_nothing_else_is_left(self, place: Slot) -> None:
        place.scratch.mkdir(parents=True)
        train(place)
        assert not place.running.exists()
        assert not place.scratch.exists()

    def test_what_is_not_a_record_is_hidden(self, place: Slot) -> None:
        for path in (place.running, place.scratch):
            assert path.name.startswith(".")
            assert path.parent == place.directory.parent


class TestLock:
    def test_a_second_session_waits_and_then_finds_it(self, place: Slot) -> None:
        order: list[str] = []
        inside = threading.Event()

        def second() -> None:
            inside.wait(5)
            with Slot(place.directory).locked():
                order.append("found" if place.complete_record() else "nothing")

        thread = threading.Thread(target=second)
        thread.start()
        with place.locked():
            inside.set()
            train(place)
            thread.join(0.3)
            assert thread.is_alive()
            order.append("trained")
        thread.join(5)
        assert order == ["trained", "found"]

    def test_it_is_given_back_after_an_error(self, place: Slot) -> None:
        with pytest.raises(RuntimeError, match="broken"), place.locked():
            raise RuntimeError("broken")
        with Slot(place.directory).locked():
            pass

    def test_a_workspace_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        place = slot(tmp_path / "file", "toy", "hf", KEY)
        with (
            pytest.raises(BadInput, match=r"workspace=.*file: it cannot be written"),
            place.locked(),
        ):
            pass


class TestKeys:
    FACTS: dict[str, Any] = {  # noqa: RUF012
        "case": {"steps": 20, "max_norm": None},
        "command": {"argv": ["train.py", "--x=1"], "environment": {"XLA_FLAGS": "--a"}},
        "origin": {"commit": "abc", "dirty": None},
        "repeat": 0,
    }

    def test_it_is_stable_and_short(self) -> None:
        assert key_of(self.FACTS) == key_of(json.loads(json.dumps(self.FACTS)))
        assert len(key_of(self.FACTS)) == 12
        assert int(key_of(self.FACTS), 16) >= 0

    def test_the_order_of_keys_does_not_count(self) -> None:
        assert key_of(dict(reversed(self.FACTS.items()))) == key_of(self.FACTS)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("case.steps", 21), ("case.max_norm", 0), ("command.argv", ["--x=1", "train.py"]),
            ("command.environment", {"XLA_FLAGS": "--b"}), ("origin.commit", "abd"),
            ("origin.dirty", "0123"), ("repeat", 1), ("new", None),
        ],
    )  # fmt: skip
    def test_whatever_changes_a_run_changes_it(self, path: str, value: Any) -> None:
        facts = json.loads(json.dumps(self.FACTS))
        *parents, key = path.split(".")
        holder = facts
        for parent in parents:
            holder = holder[parent]
        holder[key] = value
        assert key_of(facts) != key_of(self.FACTS)

    def test_our_own_code_that_runs_in_a_trainer_is_part_of_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = key_of(self.FACTS)
        monkeypatch.setattr(workspace, "observer_digest", lambda: "other")
        assert key_of(self.FACTS) != before

    def test_the_digest_of_that_code(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = Path(workspace.__file__).parents[1]
        for name in workspace.OBSERVING:
            source = package / name
            if source.is_dir():
                shutil.copytree(source, tmp_path / name)
            else:
                (tmp_path / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source, tmp_path / name)
        monkeypatch.setattr(workspace, "__file__", str(tmp_path / "run" / "workspace.py"))
        compute = observer_digest.__wrapped__
        before = compute()
        assert before == observer_digest()
        for name in ("probe/observer.py", "probe/fingerprint.py", "trainers/reference.py"):
            path = tmp_path / name
            text = path.read_text()
            path.write_text(text + "#")
            assert compute() != before
            path.write_text(text)
            assert compute() == before
        (tmp_path / "probe" / "new.py").write_text("")
        assert compute() != before
