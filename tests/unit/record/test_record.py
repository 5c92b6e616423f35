"""Reading and writing Records: what is missing, damaged or told twice is never read as evidence."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import Trainer, as_training, compiled_step
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import BadInput
from harness.base.files import write_text
from harness.record.evidence import DeviceTimes
from harness.record.layout import DEVICE_TIMES, GRAPH, MANIFEST, PARAMETERS, SCHEMA, STEPS
from harness.record.reader import read_events, read_record
from harness.record.writer import decode_number, encode, write_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Trainer(steps=4, groups=2).write(tmp_path / "record")


def change(path: Path, how: Callable[[Any], Any]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    how(value)
    path.write_text(json.dumps(value))


def change_event(
    folder: Path, kind: str, how: Callable[[dict[str, Any]], Any], nth: int = 0
) -> None:
    """Change the nth event of a kind."""
    events = [json.loads(line) for line in (folder / STEPS).read_text().splitlines()]
    how([e for e in events if e["event"] == kind][nth])
    (folder / STEPS).write_text("".join(json.dumps(e) + "\n" for e in events))


def drop(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda value: value.pop(key)


class TestNumbers:
    @given(st.one_of(st.floats(), st.integers(-(2**53), 2**53)))
    def test_every_number_survives_strict_json(self, value: float) -> None:
        again = decode_number(json.loads(json.dumps(encode(value), allow_nan=False)))
        assert again == value or (math.isnan(value) and again is not None and math.isnan(again))

    def test_a_nan_is_no_number_of_json(self) -> None:
        assert encode([math.nan, {"x": math.inf}, (-math.inf, 1.5)]) == [
            "nan", {"x": "inf"}, ["-inf", 1.5],
        ]  # fmt: skip

    def test_missing_stays_missing(self) -> None:
        assert decode_number(None) is None

    @pytest.mark.parametrize("value", [True, "1.5", "", "NaN", "infinity", [1.0], {}])
    def test_nothing_else_is_a_number(self, value: Any) -> None:
        with pytest.raises(ValueError, match="not a number"):
            decode_number(value)


class TestWhole:
    def test_everything_is_read(self, folder: Path) -> None:
        run = read_record(folder)
        assert run.complete
        assert (run.requested_steps, run.trained_steps, run.first_missing_step) == (4, 4, None)
        assert [step.index for step in run.steps] == [0, 1, 2, 3]
        assert all(len(step.batches) == 1 and step.loss for step in run.steps)
        assert [w.first for w in run.windows] == [0, 1, 2]
        assert [w.steps for w in run.windows] == [1, 1, 2]
        assert [p.group for p in run.parameters] == [0, 1, 0]
        assert all(p.initial and p.gradient and p.final for p in run.parameters)
        assert all(len(p.after) == 2 for p in run.parameters)
        assert [(step, len(groups)) for step, _, groups in run.groups] == [(0, 2)]
        assert run.label == run.engine == "hf"
        assert run.graph is None

    def test_a_graph_is_read_where_there_is_one(self, folder: Path) -> None:
        step = compiled_step()
        write_json(folder / GRAPH, {"schema": SCHEMA, "step": dataclasses.asdict(step)})
        assert read_record(folder).graph == step

    def test_a_profiles_times_are_read_where_there_are_any(self, folder: Path) -> None:
        times = DeviceTimes("step", {"TPU:0": (0.5, 0.25)}, ("TPU:1",), ("dropped",))
        write_json(folder / DEVICE_TIMES, dataclasses.asdict(times))
        assert read_record(folder).device_times == times

    def test_what_parity_train_was_asked_is_read(self, folder: Path) -> None:
        requested = as_training(read_record(folder), mesh=None, arguments={"a": [1, None, "x"]})
        write_json(folder / MANIFEST, dataclasses.asdict(requested.manifest))
        assert read_record(folder).manifest == requested.manifest

    def test_micro_batches_belong_to_their_steps(self, tmp_path: Path) -> None:
        run = read_record(Trainer(steps=4, accumulation=2).write(tmp_path))
        assert [len(step.batches) for step in run.steps] == [2, 2, 2, 2]
        assert [len(step.micro_losses) for step in run.steps] == [2, 2, 2, 2]
        assert run.steps[1].loss == math.fsum(run.steps[1].micro_losses)
        tokens = [batch.tokens for step in run.steps for batch in step.batches]
        assert len(set(tokens)) == 8

    def test_batches_that_were_read_ahead_are_left_over(self, folder: Path) -> None:
        before = read_record(folder)
        events = (folder / STEPS).read_text().splitlines()
        batch = json.loads(next(e for e in events if '"batch"' in e)) | {"index": 4}
        (folder / STEPS).write_text("\n".join([json.dumps(batch), *events]) + "\n")
        assert read_record(folder).steps == before.steps


class TestCutShort:
    """A run that was killed reads up to its last whole line, and is not complete."""

    def killed(self, folder: Path) -> None:
        change(folder / MANIFEST, lambda m: m["ended"].update(status="killed"))

    def test_at_any_byte(self, folder: Path) -> None:
        self.killed(folder)
        whole = (folder / STEPS).read_bytes()
        trained = []
        for length in range(0, len(whole), 97):
            (folder / STEPS).write_bytes(whole[:length])
            run = read_record(folder)
            assert not run.complete
            trained.append(run.trained_steps)
        assert trained == sorted(trained)
        assert trained[0] == 0
        assert trained[-1] >= 3

    def test_within_a_character(self, folder: Path) -> None:
        self.killed(folder)
        with (folder / STEPS).open("ab") as stream:
            stream.write('{"event": "é'.encode()[:-1])
        assert read_record(folder).trained_steps == 4

    def test_a_damaged_line_in_the_middle_is_an_error(self, folder: Path) -> None:
        self.killed(folder)
        lines = (folder / STEPS).read_text().splitlines()
        lines[3] = lines[3][:-5]
        (folder / STEPS).write_text("\n".join(lines) + "\n")
        with pytest.raises(BadInput, match=r"steps\.jsonl, line 4 is damaged"):
            read_record(folder)

    def test_a_run_that_ended_well_has_no_damaged_last_line(self, folder: Path) -> None:
        with (folder / STEPS).open("a") as stream:
            stream.write('{"event": "va')
        with pytest.raises(BadInput, match="is damaged"):
            read_record(folder)

    def test_a_step_without_its_values_is_not_finished(self, folder: Path) -> None:
        lines = [e for e in (folder / STEPS).read_text().splitlines() if '"step": 3' not in e]
        (folder / STEPS).write_text("\n".join(lines) + "\n")
        run = read_record(folder)
        assert not run.complete
        assert run.first_missing_step == 3

    def test_nothing_at_all_was_observed(self, folder: Path) -> None:
        self.killed(folder)
        (folder / STEPS).unlink()
        (folder / PARAMETERS).unlink()
        run = read_record(folder)
        assert (run.steps, run.parameters, run.trained_steps) == ((), (), 0)

    def test_events_of_no_file_are_none_unless_they_have_to_be(self, tmp_path: Path) -> None:
        assert read_events(tmp_path / STEPS) == []
        with pytest.raises(BadInput, match="is missing from a Record that claims to be whole"):
            read_events(tmp_path / STEPS, strict=True)


class TestComplete:
    """`complete` says that exactly the steps that were asked for were trained, and ended well."""

    def test_a_step_in_the_middle_is_missing(self, folder: Path) -> None:
        events = [json.loads(line) for line in (folder / STEPS).read_text().splitlines()]
        kept = [e for e in events if e.get("step") != 1]
        kept += [e | {"step": 9} for e in events if e.get("step") == 1]
        (folder / STEPS).write_text("".join(json.dumps(e) + "\n" for e in kept))
        run = read_record(folder)
        assert run.trained_steps == 4
        assert run.first_missing_step == 1
        assert not run.complete

    @pytest.mark.parametrize("requested", [3, 5])
    def test_another_number_of_steps(self, folder: Path, requested: int) -> None:
        change(folder / MANIFEST, lambda m: m["case"].update(steps=requested))
        assert not read_record(folder).complete

    def test_a_traced_step_has_no_values(self, folder: Path) -> None:
        """It is over when it was taken: nothing was executed."""
        events = [json.loads(line) for line in (folder / STEPS).read_text().splitlines()]
        kept = [e for e in events if e["event"] != "values"]
        for traced in (False, True):
            marked = [e | {"staged": traced} if e["event"] == "step" else e for e in kept]
            (folder / STEPS).write_text("".join(json.dumps(e) + "\n" for e in marked))
            assert read_record(folder).complete is traced

    def test_another_ending(self, folder: Path) -> None:
        change(folder / MANIFEST, lambda m: m["ended"].update(status="stopped early"))
        assert not read_record(folder).complete


class TestNaN:
    def test_a_nan_loss_is_a_nan(self, folder: Path) -> None:
        change_event(folder, "values", lambda e: e.update(losses=["nan"]), nth=2)
        loss = read_record(folder).steps[2].loss
        assert loss is not None
        assert math.isnan(loss)

    @pytest.mark.parametrize("losses", [["inf", "-inf"], [1.0, "nan"], ["inf", 2.0]])
    def test_any_micro_step_poisons_the_sum(self, tmp_path: Path, losses: list[Any]) -> None:
        folder = Trainer(steps=4, accumulation=2).write(tmp_path)
        change_event(folder, "values", lambda e: e.update(losses=losses), nth=1)
        loss = read_record(folder).steps[1].loss
        assert loss is not None
        assert math.isnan(loss)

    def test_a_nan_in_a_fingerprint_is_a_nan(self, folder: Path) -> None:
        nowhere = {"norm": "nan", "sketch": ["nan"] * 8}
        change(folder / PARAMETERS, lambda p: p["parameters"][0]["initial"].update(nowhere))
        initial = read_record(folder).parameters[0].initial
        assert initial is not None
        assert math.isnan(initial.norm)


@pytest.mark.parametrize("name", [MANIFEST, STEPS, "baseline.json"])
def test_a_file_is_no_record(folder: Path, name: str) -> None:
    (folder / "baseline.json").write_text("{}")
    with pytest.raises(BadInput, match=f"{name} is a file, and a Record is a folder"):
        read_record(folder / name)


def test_a_role_of_another_version(folder: Path) -> None:
    change(folder / MANIFEST, lambda m: m.update(role="control"))
    with pytest.raises(BadInput, match=r"manifest\.json: role"):
        read_record(folder)


class TestMissing:
    """Every field that the probe writes has to be there: no default takes its place."""

    @pytest.mark.parametrize("name", [MANIFEST, STEPS, PARAMETERS])
    def test_a_file(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        with pytest.raises(BadInput, match=name):
            read_record(folder)

    @pytest.mark.parametrize(
        ("kind", "key"),
        [
            ("batch", "index"), ("batch", "tokens"), ("batch", "labels"), ("batch", "mask"),
            ("batch", "rows"), ("batch", "shape"), ("batch", "targets"), ("batch", "first_targets"),
            ("step", "step"), ("step", "micro"), ("step", "lr"), ("step", "max_norm"),
            ("values", "step"), ("values", "losses"), ("values", "gradient_norm"),
            ("optimizer", "step"), ("optimizer", "name"), ("optimizer", "groups"),
            ("window", "window"), ("batch", "event"),
        ],
    )  # fmt: skip
    def test_a_field_of_an_event(self, folder: Path, kind: str, key: str) -> None:
        change_event(folder, kind, drop(key))
        with pytest.raises(BadInput, match=rf"steps\.jsonl, line \d+: .*{key}"):
            read_record(folder)

    @pytest.mark.parametrize(
        "key",
        [
            "first", "last", "seconds", "cpu_seconds", "compilations", "executions", "transfers",
            "fallbacks", "profiled", "compile_seconds",
        ],
    )  # fmt: skip
    def test_a_field_of_a_window(self, folder: Path, key: str) -> None:
        change_event(folder, "window", lambda e: e["window"].pop(key))
        with pytest.raises(BadInput, match=key):
            read_record(folder)

    @pytest.mark.parametrize("key", ["hyper", "parameters"])
    def test_a_field_of_a_group(self, folder: Path, key: str) -> None:
        change_event(folder, "optimizer", lambda e: e["groups"][0].pop(key))
        with pytest.raises(BadInput, match=key):
            read_record(folder)

    @pytest.mark.parametrize("key", ["name", "shape", "dtype", "sharding", "group"])
    def test_a_field_of_a_parameter(self, folder: Path, key: str) -> None:
        change(folder / PARAMETERS, lambda p: p["parameters"][1].pop(key))
        with pytest.raises(BadInput, match=rf"parameters\.json: parameters\.1\.{key} is missing"):
            read_record(folder)

    @pytest.mark.parametrize("key", ["initial", "gradient", "clipped_norm", "final"])
    def test_what_was_not_observed_of_a_parameter_is_none(self, folder: Path, key: str) -> None:
        change(folder / PARAMETERS, lambda p: p["parameters"][1].pop(key))
        assert getattr(read_record(folder).parameters[1], key) is None

    @pytest.mark.parametrize("key", ["bits", "sketch", "norm"])
    def test_a_field_of_a_fingerprint(self, folder: Path, key: str) -> None:
        change(folder / PARAMETERS, lambda p: p["parameters"][1]["gradient"].pop(key))
        with pytest.raises(BadInput, match=key):
            read_record(folder)

    @pytest.mark.parametrize(
        "path",
        ["engine", "case", "ended", "case.name", "case.dtype", "case.steps", "ended.status"],
    )
    def test_a_field_of_the_manifest(self, folder: Path, path: str) -> None:
        def remove(manifest: dict[str, Any]) -> None:
            *parents, key = path.split(".")
            holder = manifest
            for parent in parents:
                holder = holder[parent]
            del holder[key]

        change(folder / MANIFEST, remove)
        with pytest.raises(BadInput, match=rf"manifest\.json: {path} is missing"):
            read_record(folder)

    def test_the_parameters_themselves(self, folder: Path) -> None:
        change(folder / PARAMETERS, drop("parameters"))
        with pytest.raises(BadInput, match="parameters"):
            read_record(folder)

    def test_no_parameters_at_all_are_read_as_none(self, folder: Path) -> None:
        change(folder / PARAMETERS, lambda p: p.update(parameters=[]))
        assert read_record(folder).parameters == ()


class TestEmptyOrOfAnotherKind:
    @pytest.mark.parametrize(
        ("kind", "fields"),
        [
            ("batch", {"index": -1}), ("batch", {"index": "0"}), ("batch", {"tokens": None}),
            ("batch", {"labels": None}), ("batch", {"targets": 1.5}), ("batch", {"mask": 0}),
            ("step", {"step": 1.0}), ("step", {"step": True}), ("step", {"micro": None}),
            ("step", {"lr": [None]}), ("step", {"lr": ["x"]}), ("step", {"max_norm": "1"}),
            ("values", {"losses": [None]}), ("values", {"losses": None}),
            ("values", {"gradient_norm": [1.0]}), ("optimizer", {"name": None}),
            ("batch", {"event": "bacth"}),
        ],
    )  # fmt: skip
    def test_in_an_event(self, folder: Path, kind: str, fields: dict[str, Any]) -> None:
        change_event(folder, kind, lambda e: e.update(fields))
        with pytest.raises(BadInput, match=r"steps\.jsonl, line \d+: "):
            read_record(folder)

    @pytest.mark.parametrize(
        "fields",
        [
            {"compilations": None}, {"compilations": -1}, {"compilations": 0.5},
            {"seconds": None}, {"seconds": "fast"}, {"first": None}, {"transfers": None},
            {"fallbacks": None}, {"fallbacks": {"aten::x": None}}, {"executions": True},
        ],
    )  # fmt: skip
    def test_in_a_window(self, folder: Path, fields: dict[str, Any]) -> None:
        change_event(folder, "window", lambda e: e["window"].update(fields))
        with pytest.raises(BadInput, match=r"steps\.jsonl"):
            read_record(folder)

    @pytest.mark.parametrize(
        "fields",
        [
            {"bits": 1.5}, {"bits": None}, {"bits": -1}, {"sketch": []}, {"sketch": [None] * 8},
            {"norm": None}, {"norm": "1"}, {"sketch": None},
        ],
    )  # fmt: skip
    def test_in_a_fingerprint(self, folder: Path, fields: dict[str, Any]) -> None:
        change(folder / PARAMETERS, lambda p: p["parameters"][0]["initial"].update(fields))
        with pytest.raises(BadInput, match=r"parameters\.json"):
            read_record(folder)

    @pytest.mark.parametrize(
        "fields",
        [{"name": None}, {"shape": None}, {"dtype": 1}, {"sharding": None}, {"group": "0"},
         {"group": -1}, {"after": [None]}, {"clipped_norm": "small"}],
    )  # fmt: skip
    def test_in_a_parameter(self, folder: Path, fields: dict[str, Any]) -> None:
        change(folder / PARAMETERS, lambda p: p["parameters"][0].update(fields))
        with pytest.raises(BadInput, match=r"parameters\.json"):
            read_record(folder)

    def test_an_update_is_not_taken_for_that_of_another_step(self, folder: Path) -> None:
        """Without the first of two values, the second one must not move up to its place."""
        change(folder / PARAMETERS, lambda p: p["parameters"][0]["after"].__setitem__(0, None))
        with pytest.raises(BadInput, match=r"parameters\.json"):
            read_record(folder)

    @pytest.mark.parametrize("steps", [None, -1, 4.0, "4", True])
    def test_in_the_manifest(self, folder: Path, steps: Any) -> None:
        change(folder / MANIFEST, lambda m: m["case"].update(steps=steps))
        with pytest.raises(BadInput, match=r"manifest\.json"):
            read_record(folder)

    @pytest.mark.parametrize("name", [MANIFEST, PARAMETERS])
    @pytest.mark.parametrize("text", ["", "[]", "{", "null", "\xff"])
    def test_a_file_that_is_no_json_object(self, folder: Path, name: str, text: str) -> None:
        (folder / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(BadInput, match=name):
            read_record(folder)

    @pytest.mark.parametrize("name", [MANIFEST, PARAMETERS])
    @pytest.mark.parametrize("schema", [None, 0, 1, 3, "2", 2.0])
    def test_another_schema(self, folder: Path, name: str, schema: Any) -> None:
        change(folder / name, lambda value: value.update(schema=schema))
        with pytest.raises(BadInput, match=rf"{name}: schema .* is not 2"):
            read_record(folder)

    def test_an_event_that_is_no_object(self, folder: Path) -> None:
        with (folder / STEPS).open("a") as stream:
            stream.write("[]\n")
        with pytest.raises(BadInput, match=r"steps\.jsonl"):
            read_record(folder)


class TestToldTwice:
    """Two runs in one file, or two observers: neither may silently win."""

    @pytest.mark.parametrize("kind", ["batch", "step", "values"])
    def test_an_event(self, folder: Path, kind: str) -> None:
        lines = (folder / STEPS).read_text().splitlines()
        again = next(line for line in lines if json.loads(line)["event"] == kind)
        (folder / STEPS).write_text("\n".join([*lines, again]) + "\n")
        with pytest.raises(BadInput, match="is there twice"):
            read_record(folder)

    def test_a_parameter(self, folder: Path) -> None:
        change(folder / PARAMETERS, lambda p: p["parameters"][1].update(name="lm_head.weight"))
        with pytest.raises(BadInput, match=r"lm_head\.weight is there twice"):
            read_record(folder)

    def test_micro_steps_and_losses_that_do_not_match(self, folder: Path) -> None:
        change_event(folder, "step", lambda e: e.update(micro=2))
        with pytest.raises(BadInput, match="2 micro-steps, but 1 losses"):
            read_record(folder)


class TestContradictions:
    """Numbers that cannot both be true: one of them was lost, or made up."""

    @pytest.mark.parametrize("where", ["state_after", "state_final"])
    def test_a_state_whose_sketch_is_cut_short(self, folder: Path, where: str) -> None:
        def cut(value: dict[str, Any]) -> None:
            state = value["parameters"][1][where]
            (state[1] if where == "state_after" else state)["exp_avg"]["sketch"].pop()

        change(folder / PARAMETERS, cut)
        with pytest.raises(BadInput, match=r"a sketch is cut short: 7 sums in model\.norm\.weight"):
            read_record(folder)

    @pytest.mark.parametrize("where", ["state_saved", "state_loaded"])
    def test_a_state_that_was_saved_or_loaded_and_is_cut_short(
        self, folder: Path, where: str
    ) -> None:
        def cut(value: dict[str, Any]) -> None:
            parameter = value["parameters"][1]
            kept = parameter["state_final"]["exp_avg"]
            parameter[where] = {"exp_avg": {**kept, "sketch": kept["sketch"][:7]}}

        change(folder / PARAMETERS, cut)
        with pytest.raises(BadInput, match=r"a sketch is cut short: 7 sums in model\.norm\.weight"):
            read_record(folder)

    @pytest.mark.parametrize("where", ["initial", "gradient", "final"])
    @pytest.mark.parametrize(
        "fields",
        [{"norm": "nan"}, {"norm": -1.0}, {"sketch": ["nan"] * 8}, {"sketch": ["inf"] * 8}],
    )
    def test_a_norm_and_its_sketch(self, folder: Path, where: str, fields: dict[str, Any]) -> None:
        change(folder / PARAMETERS, lambda p: p["parameters"][1][where].update(fields))
        with pytest.raises(BadInput, match=r"model\.norm\.weight: a norm contradicts its sketch"):
            read_record(folder)

    @pytest.mark.parametrize("fields", [
        {"norm": "nan", "sketch": ["nan"] * 8}, {"norm": "inf", "sketch": ["inf"] * 8},
        {"norm": "inf"},  # squares overflow before sums do
    ])  # fmt: skip
    def test_a_tensor_that_is_not_finite_is_none(
        self, folder: Path, fields: dict[str, Any]
    ) -> None:
        change(folder / PARAMETERS, lambda p: p["parameters"][1]["final"].update(fields))
        final = read_record(folder).parameters[1].final
        assert final is not None
        assert not math.isfinite(final.norm)

    @pytest.mark.parametrize("what", ["after", "state_after"])
    def test_more_updates_than_are_observed(self, folder: Path, what: str) -> None:
        def longer(value: dict[str, Any]) -> None:
            updates = value["parameters"][1][what]
            updates.append(updates[0])

        change(folder / PARAMETERS, longer)
        with pytest.raises(BadInput, match=r"model\.norm\.weight: more than two first updates"):
            read_record(folder)

    def test_a_finite_loss_of_what_is_none(self, folder: Path) -> None:
        calls = [{"reduction": "mean", "value": "nan"}]
        change_event(folder, "values", lambda e: e.update(cross_entropies=calls))
        with pytest.raises(BadInput, match="step 0 has finite losses, but a cross-entropy is not"):
            read_record(folder)

    @pytest.mark.parametrize("rows", [[], ["0"], ["0"] * 99])
    def test_another_number_of_rows_than_the_shape_has(self, folder: Path, rows: list[str]) -> None:
        change_event(folder, "batch", lambda e: e.update(rows=rows))
        with pytest.raises(BadInput, match=rf"batch 0 has the shape .*, but {len(rows)} rows"):
            read_record(folder)

    def test_a_good_end_with_an_exit_code(self, folder: Path) -> None:
        change(folder / MANIFEST, lambda m: m["ended"].update(code=1))
        with pytest.raises(BadInput, match=r"ended\.status='ok', but ended\.code=1"):
            read_record(folder)


class TestWriting:
    def test_no_reader_sees_half_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "value.json"
        write_json(path, {"a": 1})
        inode = path.stat().st_ino
        write_json(path, {"a": math.nan})
        assert json.loads(path.read_text()) == {"a": "nan"}
        assert path.stat().st_ino != inode
        assert os.listdir(tmp_path) == ["value.json"]

    def test_everyone_may_read_it(self, tmp_path: Path) -> None:
        write_text(tmp_path / "text", "é\n")
        assert (tmp_path / "text").read_bytes() == "é\n".encode()
        assert (tmp_path / "text").stat().st_mode & 0o777 == 0o644

    def test_what_was_written_is_read(self, tmp_path: Path) -> None:
        one = read_record(Trainer(steps=5, accumulation=2, max_norm=None).write(tmp_path / "a"))
        other = read_record(Trainer(steps=5, accumulation=2, max_norm=None).write(tmp_path / "b"))
        launch = other.manifest
        manifest = dataclasses.replace(one.manifest, started=launch.started, key=launch.key)
        assert dataclasses.replace(one, directory=other.directory, manifest=manifest) == other
