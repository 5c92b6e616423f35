"""verdict.json, held against its JSON schema and against the Records that it speaks of."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from report_samples import CLIP, MADE, pair, record, rung, verdict

from harness.ladder.result import Finding, Result
from harness.ladder.verdict import Verdict
from harness.record.writer import json_text
from harness.report.made import made_by, versions
from harness.report.verdict_file import SCHEMA_FILE, verdict_json

SCHEMA = json.loads(SCHEMA_FILE.read_text())


def written(shown: Verdict, **records: Any) -> dict[str, Any]:
    """What is in the file, which the schema admits."""
    found: dict[str, Any] = json.loads(json_text(verdict_json(shown, records, MADE)))
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    return found


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_kind_of_result_number_and_evidence_is_admitted(tmp_path: Path) -> None:
    odd = rung("forward", Result.FAIL, value=math.nan, limit=math.inf,
               findings=(Finding("x", 3, "p", {"a": math.nan}, [1, 2]),))  # fmt: skip
    others = [rung("graph", Result.NOT_EXERCISED), rung("compiled", Result.INCONCLUSIVE),
              rung("data", Result.INVALID)]  # fmt: skip
    found = written(verdict(pair(odd, CLIP, *others), pair(b_record="")))
    assert found["result"] == "FAIL"
    assert Verdict.from_json(found).to_json().items() <= found.items()


def test_it_says_how_it_was_made_and_what_ran(tmp_path: Path) -> None:
    run = record(tmp_path / "a", manifest={"started": 1751450400.0})
    found = written(verdict(pair()), **{str(run.directory): run})
    assert found["made"] == {
        "command": MADE.command, "date": MADE.date, "harness": MADE.harness,
    }  # fmt: skip
    (entry,) = found["runs"]
    assert entry["record"] == str(run.directory)
    assert entry["started"] == "2025-07-02T10:00:00Z"
    assert entry["versions"] == versions(run)
    assert entry["steps"] == 3


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("made", "date"), "yesterday"),
        (("result",), "GREEN"),
        (("pairs", 0, "rungs", 0, "value"), "0.5"),
        (("pairs", 0, "rungs", 0, "surprise"), 1),
        (("runs", 0, "versions", "torch"), 2.9),
    ],
)
def test_the_schema_bites(tmp_path: Path, path: tuple[Any, ...], value: object) -> None:
    run = record(tmp_path / "a")
    found = written(verdict(pair()), **{str(run.directory): run})
    place: Any = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, SCHEMA)


def test_versions_are_of_the_process_before_those_of_the_interpreter(tmp_path: Path) -> None:
    installed = {"python": "/usr/bin/python3", "key": "k",
                 "packages": {"torch": "2.8.0", "torch-xla": "2.9.0", "six": "1"}}  # fmt: skip
    run = record(tmp_path / "a", manifest={"interpreter": installed})
    assert versions(run) == {"torch": "2.9.0", "torch_xla": "2.9.0"}


def test_a_command_is_written_so_that_it_can_be_pasted_and_has_no_password() -> None:
    words = ["run", "engines=[hf,reference]", "engine.hf.source=https://me:secret@host/x"]
    made = made_by("parity", words, datetime(2025, 7, 2, tzinfo=UTC))
    assert made.command.startswith("parity run 'engines=[hf,reference]' ")
    assert "secret" not in made.command
    assert made.date == "2025-07-02T00:00:00Z"
