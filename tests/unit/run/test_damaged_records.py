"""Damage to a Record is one BadInput, or a Record that can be judged: never anything else.

A fixed number of mutants, from a fixed seed: each is one or two changes to one of the Record's JSON
files, and what can still be read is held against an intact Record on the whole ladder.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import TOLERANCE, Trainer, comparison, compiled_step

from harness.base.crash import CRASHED
from harness.base.errors import BadInput
from harness.cli.main import exit_code
from harness.ladder.judge import judge
from harness.ladder.noise_floor import needs_repeat
from harness.record.evidence import DeviceTimes, Record
from harness.record.layout import DEVICE_TIMES, GRAPH, MANIFEST, PARAMETERS, SCHEMA, STEPS
from harness.record.reader import read_record
from harness.record.writer import write_json
from harness.run.session import compare

MUTANTS = 400
"""Of each file."""

HUGE = 10**30
DEEP = 3000
"""Levels of nesting: more than Python's own reader of JSON takes."""

VALUES: tuple[Any, ...] = (
    None, True, "", "x", "nan", "-inf", 0, -1, 1, 0.5, 1e308, HUGE, -HUGE, 10**9, [], {}, [[]],
    [None], {"a": None}, "\x1b[31m", "é" * 9,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An intact Record that has every file that is read."""
    folder = Trainer(steps=5, groups=2).write(tmp_path_factory.mktemp("whole") / "record")
    step = dataclasses.asdict(compiled_step())
    write_json(folder / GRAPH, {"schema": SCHEMA, "step": step})
    times = DeviceTimes("step", {"TPU:0": (0.5, 0.25, 0.5)}, (), ())
    write_json(folder / DEVICE_TIMES, dataclasses.asdict(times))
    read_record(folder)
    return folder


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything within a plain value."""
    if not isinstance(value, dict | list):
        return [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


def change(value: Any, rng: random.Random) -> Any:
    """The value with one thing in it gone, replaced, repeated, renamed or moved."""
    path = rng.choice([place for place in places(value) if place] or [()])
    if not path:
        return rng.choice(VALUES)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    key, how = path[-1], rng.randrange(5)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif how == 1:
        holder[f"{key}s"] = holder.pop(key)
    elif how == 2 and isinstance(holder[key], int | float):
        holder[key] = rng.choice((-holder[key], holder[key] * 2, holder[key] + 1, float("nan")))
    elif how == 3:
        holder[key] = {"deeper": holder[key]} if rng.random() < 0.5 else [holder[key]]
    else:
        holder[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def changed_text(text: str, rng: random.Random) -> bytes:
    """The text of a file cut short, doubled, with a byte changed, or nested beyond measure."""
    data = text.encode()
    position = rng.randrange(len(data))
    return rng.choice(
        (
            data[:position],
            data + data,
            data[:position] + bytes([rng.randrange(256)]) + data[position + 1 :],
            b'{"a":' * DEEP + b"1" + b"}" * DEEP,
            b"[" * DEEP + b"]" * DEEP,
            data.replace(b"1", b"9" * 5000, 1),
            b"\xff\xfe" + data,
            b"",
        )
    )


def mutant_of_json(text: str, rng: random.Random) -> bytes:
    """A mutant of a file of one JSON value."""
    if rng.random() < 0.15:
        return changed_text(text, rng)
    value = json.loads(text)
    for _ in range(rng.choice((1, 1, 2))):
        value = change(value, rng)
    return json.dumps(value).encode()


def mutant_of_lines(text: str, rng: random.Random) -> bytes:
    """A mutant of a file of one JSON value a line."""
    if rng.random() < 0.15:
        return changed_text(text, rng)
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    how = rng.randrange(6)
    if how == 0:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif how == 1:
        del lines[at]
    elif how == 2:
        lines.append(lines.pop(at))
    else:
        lines[at] = json.dumps(change(json.loads(lines[at]), rng))
    return ("\n".join(lines) + "\n").encode()


Mutate = Callable[[str, random.Random], bytes]


@pytest.mark.parametrize(
    ("name", "mutate", "seed"),
    [(MANIFEST, mutant_of_json, 1), (PARAMETERS, mutant_of_json, 2), (STEPS, mutant_of_lines, 3),
     (GRAPH, mutant_of_json, 4), (DEVICE_TIMES, mutant_of_json, 5)],
)  # fmt: skip
def test_a_mutant_is_refused_or_judged(
    whole: Path, tmp_path: Path, name: str, mutate: Mutate, seed: int
) -> None:
    intact, rng = read_record(whole), random.Random(seed)
    text, folder = (whole / name).read_text(), tmp_path / "mutant"
    shutil.copytree(whole, folder)
    counted: Counter[str] = Counter()
    for number in range(MUTANTS):
        mutated = mutate(text, rng)
        (folder / name).write_bytes(mutated)
        counted[_outcome(intact, folder, name, f"mutant {number}: {mutated[:2000]!r}")] += 1
    # Both ways are taken: a reader that refuses everything, or nothing, would be no test of either.
    assert counted["refused"] > MUTANTS // 4, counted
    assert counted["judged"] > 0, counted


def _outcome(intact: Record, folder: Path, name: str, shown: str) -> str:
    """What came of a mutant; anything but a BadInput or a verdict fails the test."""
    said, mutant = None, None
    try:
        mutant = read_record(folder)
    except BadInput as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"{shown}\nraises {error!r}") from error
    if mutant is None:
        assert said is not None
        assert name in said, f"{shown}\nis not named: {said}"
        assert "\n" not in said, shown
        return "refused"
    try:
        for pair in ((intact, mutant), (mutant, intact), (mutant, mutant)):
            compare(*pair, TOLERANCE)
        # As another launch of the intact run's, from which its noise is to be learnt.
        started = mutant.manifest.started + 1
        other = dataclasses.replace(mutant.manifest, started=started, key="another")
        noise = intact, dataclasses.replace(mutant, manifest=other)
        needs_repeat(noise, TOLERANCE)
        judge(comparison(intact, intact, noise_floor=noise, repeat=noise))
    except BadInput:
        return "not judged"
    except Exception as error:
        raise AssertionError(f"{shown}\nis read, and judging raises {error!r}") from error
    return "judged"


@pytest.fixture
def another(tmp_path: Path) -> Path:
    """Another run of the same case."""
    return Trainer(label="b", steps=5, groups=2).write(tmp_path / "another")


def test_the_command_fails_a_mutant_by_a_verdict_alone(
    whole: Path, another: Path, tmp_path: Path
) -> None:
    """1 is the code of a FAIL that was judged and written, and never of damage."""
    rng, codes = random.Random(6), Counter[int]()
    text, folder, path = (whole / MANIFEST).read_text(), tmp_path / "mutant", tmp_path / "v.json"
    shutil.copytree(whole, folder)
    for number in range(120):
        path.unlink(missing_ok=True)
        mutated = mutant_of_json(text, rng)
        (folder / MANIFEST).write_bytes(mutated)
        code = exit_code(["compare", str(another), str(folder), "--json", str(path)])
        codes[code] += 1
        shown = f"mutant {number} ended with {code}: {mutated[:2000]!r}"
        assert code in (0, 1, 2, 3), shown
        assert path.is_file() == (code != 2), shown
        if code == 1:
            assert json.loads(path.read_text())["result"] == "FAIL", shown
    assert codes[2] > 30, codes
    assert codes[0] + codes[1] + codes[3] > 5, codes


def test_a_defect_of_the_harness_has_a_code_of_its_own(
    whole: Path, another: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*arguments: Any) -> Any:
        raise ZeroDivisionError("in a rung")

    monkeypatch.setattr("harness.run.session.judge", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert exit_code(["compare", str(another), str(whole)]) == CRASHED
