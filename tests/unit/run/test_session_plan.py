"""Planning a session: an engine that cannot be had, and what takes its place."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from builders import Trainer, with_manifest
from gate_samples import INTERPRETER, Silent

from harness.base.errors import BadInput
from harness.config.compose import load
from harness.engines import sources
from harness.engines.sources import MissingSource, named_source
from harness.engines.spec import engine
from harness.ladder.result import Result
from harness.record.evidence import Record
from harness.run import execute, session
from harness.run import plan as planning
from harness.run.plan import Plan


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def resolve(*_: object) -> None:
        raise BadInput("no network.")

    monkeypatch.setattr(sources, "resolve", resolve)
    monkeypatch.setattr(planning, "interpreter_for", lambda *_: INTERPRETER)
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHPRIME_DIR", raising=False)


def planned(tmp_path: Path, *words: str, may_substitute: bool = True) -> session.Planned:
    return session.plan(load([f"workspace='{tmp_path}'", *words]), Silent(), may_substitute)


def test_the_stand_in_takes_its_place_and_the_first_line_says_so(tmp_path: Path) -> None:
    found = planned(tmp_path)
    assert [plan.engine for plan in found.subjects] == ["hf", "reference"]
    assert found.missing == ("torchprime",)
    assert "torchprime is missing, see the notes" in found.compared
    (note,) = found.notes
    assert note.startswith("torchprime was not compared, the reference was, in its place: no torch")
    assert note.endswith("no network. Name one by --torchprime PATH or TORCHPRIME_DIR=PATH")


def test_it_is_compared_once(tmp_path: Path) -> None:
    found = planned(tmp_path, "engines=[hf,torchprime,reference]")
    assert [plan.engine for plan in found.subjects] == ["hf", "reference"]


@pytest.mark.parametrize("word", ["case=llama-tiny", "case=llama-tiny-as-shipped"])
def test_it_is_missing_where_nothing_may_take_its_place(tmp_path: Path, word: str) -> None:
    aligned = word == "case=llama-tiny"
    with pytest.raises(MissingSource) as error:
        planned(tmp_path, word, may_substitute=not aligned)
    assert error.value.engine == "torchprime"


def test_a_source_that_is_named_has_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no network") as error:
        planned(tmp_path, "engine.torchprime.source=https://example.com/a/b@main")
    assert not isinstance(error.value, MissingSource)


def test_nothing_is_missing(tmp_path: Path) -> None:
    found = planned(tmp_path, "engines=[hf,reference]")
    assert (found.missing, found.notes) == ((), ())
    assert "missing" not in found.compared


def test_a_plugin_in_the_place_of_the_devices_own_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("engines=[hf,reference]", "launcher.device=tpu", "case.mesh.fsdp=1")
    plugin = tmp_path / "pjrt_other.so"
    plugin.touch()
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(plugin))
    found = planned(tmp_path, *words)
    assert found.compared.endswith("on pjrt_other.so (launcher.device=tpu)")


def test_an_engine_that_comes_with_its_package_takes_no_source(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"engines: reference@main: .*takes no source"):
        planned(tmp_path, "engines=[hf,reference@main]")


def test_a_fault_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"engine\.hf\.faults: there is no fault `hung`.* hang"):
        planned(tmp_path, "engine.hf.faults=[{name: hung}]", "engines=[hf,hf]")


class TestRunning:
    """What is launched, of a session of two engines."""

    WORDS = ("tolerance.noise_floor=table", "float64=never")

    def run(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        engines: str,
        runs: dict[str, Record],
    ) -> tuple[session.Outcome, list[str]]:
        launched = []

        def launch(plan: Plan, *_: object) -> Record:
            launched.append(plan.label)
            return runs[plan.engine]

        monkeypatch.setattr(execute, "run_or_reuse", launch)
        monkeypatch.setattr(session, "expect", lambda *_: None)
        given = planned(tmp_path, f"engines=[{engines}]", *self.WORDS)
        return session.run(given, Silent()), launched

    def broken(self, label: str) -> Record:
        ended = {"status": "failed", "reason": "exit 3", "log": ["Traceback", "boom"]}
        return with_manifest(Trainer(label=label).record(), lambda m: m["ended"].update(ended))

    @pytest.mark.parametrize("engines", ["reference,hf", "hf,reference"])
    def test_a_run_that_fails_spares_the_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines: str
    ) -> None:
        """Whichever is launched first: here the one that needs few libraries."""
        broken = self.broken("reference")
        outcome, launched = self.run(tmp_path, monkeypatch, engines, {"reference": broken})
        assert launched == ["reference"]
        (pair,) = outcome.verdict.pairs
        assert outcome.verdict.result is Result.INVALID
        assert [pair.a, pair.b] == engines.split(",")
        spared, trained = pair.a_record, pair.b_record
        if engines.startswith("reference"):
            spared, trained = trained, spared
        assert (spared, trained) == ("", str(broken.directory))
        assert "exit 3" in pair.headline
        assert any("boom" in note for note in pair.notes)
        assert any(note.startswith("hf was not trained") for note in pair.notes)
        assert list(outcome.records) == [str(broken.directory)]

    def test_one_that_only_some_pairs_rest_on_spares_nobody(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs = {"hf": Trainer().record(), "reference": self.broken("reference")}
        words = "hf,reference,hf"
        outcome, launched = self.run(tmp_path, monkeypatch, words, runs)
        assert sorted(launched) == ["hf", "hf", "reference"]
        assert [pair.b for pair in outcome.verdict.pairs] == ["reference", "hf"]

    def test_one_that_stops_early_spares_nobody(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        early = with_manifest(
            Trainer(label="reference", requested=9).record(),
            lambda m: m["ended"].update(status="stopped early"),
        )
        runs = {"hf": Trainer().record(), "reference": early}
        outcome, launched = self.run(tmp_path, monkeypatch, "hf,reference", runs)
        assert sorted(launched) == ["hf", "reference"]
        assert outcome.verdict.result is not Result.PASS

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ((), 3),
            (("tolerance.noise_floor=ulp",), 4),
            (("tolerance.repeat=always", "graph=hlo"), 3 + 1 + 2 * 2),
            (("tolerance.step_time=0.02", "timing.launches=5"), 3 + 2 * 5),
        ],
    )
    def test_how_many_runs_are_coming(
        self, tmp_path: Path, words: tuple[str, ...], expected: int
    ) -> None:
        given = planned(tmp_path, "engines=[hf,reference,reference]", *self.WORDS, *words)
        assert session._runs(given) == expected


class TestWhichSource:
    SPEC = engine("torchprime").source

    def test_the_option_comes_before_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.SPEC is not None
        assert named_source(self.SPEC, None) is None
        monkeypatch.setenv("TORCHPRIME_DIR", "/variable")
        assert named_source(self.SPEC, None) == "/variable"
        assert named_source(self.SPEC, "/option") == "/option"
        assert named_source(dataclasses.replace(self.SPEC, variable=None), None) is None

    def test_a_word_that_is_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """For torchprime it is that folder; for transformers it is a branch."""
        (tmp_path / "main").mkdir()
        monkeypatch.chdir(tmp_path)
        hf = engine("hf").source
        assert self.SPEC is not None
        assert hf is not None
        assert str(sources._parse(self.SPEC, "main")) == str(tmp_path / "main")
        assert str(sources._parse(hf, "main")).endswith("/transformers@main")
