"""Stored baselines: what was stored comes back, and what is damaged or foreign never passes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gate_samples as samples
import pytest
from compiled_samples import sample_step

from harness.base.errors import BadInput
from harness.config.compose import load
from harness.gate import baselines
from harness.gate.baselines import Baseline, Blessed
from harness.gate.change import BaselineChange, equal_parameters, table
from harness.record.evidence import Record
from harness.run.noise import NOT_MEASURED, Noise

BLESSED = Blessed("Ada", "2026-11-25T00:00:00+00:00", "0.1.0")
PLACE = Path("baselines/x.json")


def restored(record: Record) -> Record:
    return baselines.from_json(baselines.to_json(record, BLESSED), PLACE).record


def test_all_that_is_judged_comes_back(tmp_path: Path) -> None:
    record = samples.run(tmp_path / "r", losses=(6.507024765014648, 0.1, 1e-30, 5.0))
    back = restored(record)
    for part in ("steps", "windows", "parameters", "groups", "graph"):
        assert getattr(back, part) == getattr(record, part), part
    for key in ("case", "observed", "inputs", "origin", "engine", "label"):
        assert getattr(back.manifest, key) == getattr(record.manifest, key), key
    assert back.directory == PLACE
    assert back.complete


def test_nothing_of_this_machine_is_stored(tmp_path: Path) -> None:
    record = samples.run(tmp_path / "r", host={"name": "secret-host", "machine": "x86_64"})
    text = baselines.to_json(record, BLESSED)
    assert "/home/me" not in text
    assert "secret-host" not in text
    assert str(tmp_path) not in text
    stored = json.loads(text)["manifest"]["interpreter"]
    assert stored == {"packages": {"accelerate": "1.15.0"}, "python": "", "key": ""}


def test_one_line_a_step_and_a_parameter(tmp_path: Path) -> None:
    lines = baselines.to_json(samples.run(tmp_path / "r"), BLESSED).splitlines()
    assert sum('"micro_losses"' in line for line in lines) == 4
    assert sum('"name":"a.weight"' in line for line in lines) == 1


def test_compiled_steps_come_back(tmp_path: Path) -> None:
    steps = (sample_step(), sample_step(target="v5e:2x2"))
    path = baselines.save(tmp_path, samples.run(tmp_path / "r"), NOT_MEASURED, "Ada", steps)
    assert baselines.load(path).compiled == steps
    assert sum('"target":"v5e:2x2"' in line for line in path.read_text().splitlines()) == 1


@pytest.mark.parametrize("why", [{"error": "INTERNAL: no"}, {"unknown": "over its limit"}])
def test_only_a_step_that_compiles_can_be_stored(why: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=next(iter(why.values()))):
        baselines.to_json(samples.run(tmp_path / "r"), BLESSED, (sample_step(**why),))


def damage(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    def damaged(text: str) -> str:
        raw = json.loads(text)
        change(raw)
        return json.dumps(raw)

    return damaged


DAMAGES: dict[str, Callable[[str], str]] = {
    "truncated": lambda text: text[:-100],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "another schema": damage(lambda raw: raw.update(schema=99)),
    "no schema": damage(lambda raw: raw.pop("schema")),
    "a step is missing": damage(lambda raw: raw["steps"].pop()),
    "no parameters": damage(lambda raw: raw["parameters"].clear()),
    "a parameter without end": damage(lambda raw: raw["parameters"][0].update(final=None)),
    "a NaN loss": damage(lambda raw: raw["steps"][1].update(loss="nan")),
    "no loss": damage(lambda raw: raw["steps"][1].update(loss=None)),
    "a loss that is text": damage(lambda raw: raw["steps"][1].update(loss="small")),
    "a failed run": damage(lambda raw: raw["manifest"]["ended"].update(status="failed")),
    "an unknown key": damage(lambda raw: raw.update(tolerance=1)),
    "no manifest": damage(lambda raw: raw.pop("manifest")),
    "no case": damage(lambda raw: raw["manifest"].pop("case")),
    "a null": damage(lambda raw: raw["manifest"].update(engine=None)),
    "a misspelt key": damage(lambda raw: raw["manifest"]["case"].update(step=4)),
    "a sketch cut short": damage(lambda raw: raw["parameters"][0]["final"]["sketch"].pop()),
    "no end": damage(lambda raw: raw["manifest"].pop("ended")),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_baseline_is_named(name: str, tmp_path: Path) -> None:
    text = baselines.to_json(samples.run(tmp_path / "r"), BLESSED)
    with pytest.raises(BadInput, match="baselines/x"):
        baselines.from_json(DAMAGES[name](text), PLACE)


@pytest.mark.parametrize(
    "changed",
    [
        {"ended": {"status": "failed", "reason": "", "code": 1}},
        {"losses": (6.5, 6.4)},
        {"losses": (6.5, float("nan"), 6.3, 6.2)},
    ],
)
def test_only_a_good_run_can_be_stored(changed: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        baselines.to_json(samples.run(tmp_path / "r", **changed), BLESSED)


def test_saved_where_it_is_found_again(tmp_path: Path) -> None:
    record, again = samples.run(tmp_path / "a"), samples.run(tmp_path / "c")
    perturbed = samples.run(tmp_path / "b", scale=1.001)
    path = baselines.save(
        tmp_path / "stored", record, Noise((record, perturbed), (record, again)), "Ada"
    )
    assert path == tmp_path / "stored" / "CPU" / "llama-tiny" / "hf-1.0.json"
    found = baselines.latest(tmp_path / "stored", "hf", "llama-tiny", "CPU")
    assert found is not None
    assert found.record.steps == record.steps
    assert found.noise.floor is not None
    assert found.noise.repeat is not None
    assert found.noise.floor[0] is found.record
    assert found.noise.floor[1].parameters == perturbed.parameters
    assert found.noise.repeat[1].parameters == again.parameters
    assert found.blessed.by == "Ada"


def test_a_floor_that_is_no_longer_measured_does_not_stay(tmp_path: Path) -> None:
    record = samples.run(tmp_path / "a")
    baselines.save(tmp_path, record, Noise((record, record), (record, record)), "Ada")
    path = baselines.save(tmp_path, record, Noise(), "Ada")
    assert baselines.load(path).noise == Noise()


@pytest.mark.parametrize(
    "requested",
    [("reference", "llama-tiny", "CPU"), ("hf", "llama", "CPU"), ("hf", "llama-tiny", "T")],
)
def test_no_baseline_of_another_engine_case_or_device(
    requested: tuple[str, str, str], tmp_path: Path
) -> None:
    baselines.save(tmp_path, samples.run(tmp_path / "a"), Noise(), "Ada")
    assert baselines.latest(tmp_path, *requested) is None


def test_the_one_that_was_blessed_last_counts(tmp_path: Path) -> None:
    for name, at in (("1.0", "2026-02-01"), ("2.0", "2026-01-01")):
        record = samples.run(tmp_path / name, label=f"hf@{name}")
        path = baselines.save(tmp_path / "stored", record, Noise(), "Ada")
        path.write_text(baselines.to_json(record, dataclasses.replace(BLESSED, at=at)))
    found = baselines.latest(tmp_path / "stored", "hf", "llama-tiny", "CPU")
    assert found is not None
    assert baselines.version_of(found.record) == "1.0"


@pytest.mark.parametrize(
    ("origin", "version"),
    [
        ({"version": "5.0.0"}, "5.0.0"),
        ({"version": "5.0.0.dev0", "commit": "a" * 40}, "5.0.0.dev0-" + "a" * 12),
        ({"version": None, "commit": "b" * 40}, "b" * 12),
    ],
)
def test_version(origin: dict[str, Any], version: str, tmp_path: Path) -> None:
    assert baselines.version_of(samples.run(tmp_path / "r", origin=origin)) == version


@pytest.mark.parametrize("origin", [{"commit": "a" * 40, "dirty": "c" * 64}, {}])
def test_what_nobody_else_can_have_is_no_baseline(origin: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        baselines.save(tmp_path, samples.run(tmp_path / "r", origin=origin), Noise(), "Ada")


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    record = samples.run(
        tmp_path / "r", case={"name": "../../x"}, observed={"device_kind": "TPU v6e/8"}
    )
    assert baselines.folder(tmp_path, record) == tmp_path / "TPU-v6e-8" / "x"


def test_differences_are_named(tmp_path: Path) -> None:
    base = samples.run(tmp_path / "a")
    data = {**dataclasses.asdict(load([]).case)["data"], "sequence_length": 64}
    other = samples.run(tmp_path / "b", case={"data": data, "steps": 4, "description": "words"})
    assert baselines.differences(base, other) == ["case.data.sequence_length is 128 there, 64 here"]
    assert baselines.differences(base, samples.run(tmp_path / "c", inputs="other")) == [
        "the prepared rows or weights are others"
    ]
    assert baselines.differences(base, samples.run(tmp_path / "d", label="hf@2.0")) == []


def test_the_author_is_the_workflow_in_ci() -> None:
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_ACTOR": "ada", "GITHUB_RUN_ID": "7"}
    assert baselines.author(environ) == "ada in run 7"
    assert baselines.author({})


class TestTable:
    def change(self, tmp_path: Path, **after: Any) -> str:
        before = Baseline(restored(samples.run(tmp_path / "a")), BLESSED)
        return table([BaselineChange(before, samples.run(tmp_path / "b", label="hf@2.0", **after))])

    def test_it_is_a_table(self, tmp_path: Path) -> None:
        lines = self.change(tmp_path).splitlines()
        assert len(lines) == 3
        assert {line.count(" | ") for line in lines} == {11}
        assert "| llama-tiny | 4 CPU | hf | 1.0 | 2.0 | 6.5078125 | 5.75 | 0 |" in lines[2]
        assert "all 2 bitwise equal" in lines[2]
        assert "Ada, 2026-11-25" in lines[2]

    def test_one_bit_shows(self, tmp_path: Path) -> None:
        row = self.change(tmp_path, losses=(6.50781298, 6.25, 6.0, 5.75), final_bits=78)
        assert "6.5078125 → 6.50781298" in row
        assert "at step 0" in row
        assert "2 of 2 differ" in row

    def test_nan_shows(self, tmp_path: Path) -> None:
        assert "| NaN |" in self.change(tmp_path, losses=(6.5, float("nan"), 6.0, 5.75))

    def test_another_length_shows(self, tmp_path: Path) -> None:
        assert "4 → 3 steps" in self.change(tmp_path, losses=(6.5, 6.25, 6.0))

    def test_the_first_baseline(self, tmp_path: Path) -> None:
        assert "| none | 1.0 |" in table([BaselineChange(None, samples.run(tmp_path / "a"))])

    def test_a_name_cannot_break_it(self, tmp_path: Path) -> None:
        record = samples.run(tmp_path / "a", case={"name": "x|y\nz"})
        assert "| x\\|y z |" in table([BaselineChange(None, record)])


def test_parameters_that_are_not_the_same_are_not_equal(tmp_path: Path) -> None:
    a = samples.run(tmp_path / "a")
    fewer = dataclasses.replace(a, parameters=a.parameters[:1])
    unseen = dataclasses.replace(
        a, parameters=(dataclasses.replace(a.parameters[0], final=None), *a.parameters[1:])
    )
    assert equal_parameters(a, a) == "all 2 bitwise equal"
    assert equal_parameters(a, fewer) == "not the same parameters"
    assert equal_parameters(a, unseen) == "not all observed"
    assert equal_parameters(fewer, dataclasses.replace(fewer, parameters=())) != "all 0 bitwise"


STORED = sorted(Path(__file__).resolve().parents[3].glob("baselines/*/*/*.json"))


def test_the_default_case_has_a_baseline() -> None:
    assert any(path.parts[-3:-1] == ("CPU", "llama-tiny") for path in STORED)


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_what_is_stored_can_be_gated_against(path: Path) -> None:
    """It is small, whole, and of the case as it is now."""
    assert path.stat().st_size < 100_000
    record = baselines.from_json(path.read_text(), path).record
    now = load([f"case={path.parent.name}"]).case
    stored = dataclasses.replace(record, manifest=dataclasses.replace(record.manifest, case=now))
    assert baselines.differences(record, stored) == []
    assert path.name.startswith(f"{record.engine}-{baselines.version_of(record)}.")
    assert record.manifest.role == ("perturbed" if ".perturbed." in path.name else "subject")
