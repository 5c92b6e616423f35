"""One Record out of those of many hosts: what is put together, and what may not differ."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_samples import (
    LABELS,
    OBSERVED,
    ROWS,
    STEPS,
    TOKENS,
    Host,
    batch,
    complete,
    fingerprint,
    hosts,
    merge,
    records,
    write,
)

from harness.base.errors import BadInput
from harness.launchers.merge_hosts import merge_hosts, merge_records
from harness.probe import hashing
from harness.record import writer
from harness.record.evidence import DeviceTimes, ScriptEnd
from harness.record.hosts import host_findings
from harness.record.layout import DEVICE_TIMES, MANIFEST, MODULES
from harness.record.writer import write_json


@pytest.mark.parametrize("parts", [[8], [4, 4], [1, 7], [3, 0, 5], [1] * 8])
def test_the_hash_of_a_batch_does_not_depend_on_how_it_was_cut(parts: list[int]) -> None:
    rows = [hashing.of_array(row) for row in TOKENS[0]]
    cut, start = [], 0
    for size in parts:
        cut.append((hashing.of_rows(rows[start : start + size]), size))
        start += size
    assert hashing.joined(cut) == hashing.of_rows(rows)


@pytest.mark.parametrize(
    "change", [lambda r: r[::-1], lambda r: [*r[:2], r[3], r[2], *r[4:]], lambda r: r[:-1],
               lambda r: [*r, r[-1]], lambda r: [hashing.of_array(np.zeros(3)), *r[1:]]]
)  # fmt: skip
def test_other_rows_or_another_order_have_another_hash(change: Callable[[Any], Any]) -> None:
    rows = [hashing.of_array(row) for row in TOKENS[0]]
    assert hashing.of_rows(change(rows)) != hashing.of_rows(rows)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_of_batches_are_put_together_by_rank(tmp_path: Path, count: int) -> None:
    merged = merge(tmp_path, hosts(count))
    assert host_findings(merged) == ()
    for step in merged.steps:
        (found,) = step.batches
        expected = batch(step.index, slice(None))
        assert dataclasses.asdict(found) == {
            **{k: v for k, v in expected.items() if k not in ("event", "index")},
            "rows": tuple(expected["rows"]),
            "shape": tuple(expected["shape"]),
            "own": "",
        }


def test_hosts_that_load_whole_batches_are_equal_to_hosts_that_load_parts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    parts = merge(tmp_path / "a", hosts(2))
    whole = merge(tmp_path / "b", hosts(2, whole=True))
    assert [step.batches for step in parts.steps] == [step.batches for step in whole.steps]
    assert host_findings(whole) == ()


def test_the_rank_is_the_processes_and_not_the_folders(tmp_path: Path) -> None:
    first, second = hosts(2)
    merged = merge(tmp_path, [second, first])
    assert host_findings(merged) == ()
    assert list(merged.steps[0].batches[0].rows) == batch(0, slice(None))["rows"]


def test_whole_batches_that_differ_are_a_finding(tmp_path: Path) -> None:
    run = hosts(2, whole=True)
    run[1].events[0]["tokens"] = "00000000deadbeef"
    (finding,) = host_findings(merge(tmp_path, run))
    assert "batch 0: hosts 0 and 1 loaded other rows" in finding


def test_parts_that_do_not_make_a_batch_are_a_finding(tmp_path: Path) -> None:
    run = hosts(2)
    run[1].events[0] = batch(0, slice(4, 7))
    (finding,) = host_findings(merge(tmp_path, run))
    assert "batch 0: the hosts loaded 7 rows together, the micro-batch has 8" in finding


def test_a_batch_that_one_host_did_not_load_is_missing(tmp_path: Path) -> None:
    run = hosts(2)
    run[1].events = [e for e in run[1].events if (e["event"], e.get("index")) != ("batch", 1)]
    merged = merge(tmp_path, run)
    assert [len(step.batches) for step in merged.steps] == [1, 0, 1]


def test_the_first_batch_is_put_together_for_the_float64_reference(tmp_path: Path) -> None:
    folders = write(tmp_path, hosts(2))
    for rank, folder in enumerate(folders):
        rows = slice(4 * rank, 4 * rank + 4)
        np.savez(folder / "first.npz", input_ids=TOKENS[0][rows], labels=LABELS[0][rows])
    merge_hosts(folders, tmp_path, ROWS, 2)
    with np.load(tmp_path / "first.npz") as first:
        assert (first["input_ids"] == TOKENS[0]).all()
        assert (first["labels"] == LABELS[0]).all()


def with_modules(folders: list[Path], *executions: int) -> None:
    """The step of every host executes these modules so often."""
    for folder in folders:
        (folder / "modules").mkdir()
        step = []
        for number, count in enumerate(executions):
            name = f"modules/{number}.hlo.pb"
            (folder / name).write_bytes(bytes([number]))
            step.append({"file": name, "executions": count})
        write_json(folder / MODULES, {"step": step})


def test_the_modules_of_a_step_are_those_of_the_first_host(tmp_path: Path) -> None:
    folders = write(tmp_path, hosts(2))
    with_modules(folders, 1, 4)
    assert merge_hosts(folders, tmp_path, ROWS, 2).disagreements == ()
    kept = json.loads((tmp_path / MODULES).read_text())["step"]
    assert [module["executions"] for module in kept] == [1, 4]
    assert [(tmp_path / module["file"]).read_bytes() for module in kept] == [b"\0", b"\1"]


def test_hosts_that_execute_other_modules_are_a_finding(tmp_path: Path) -> None:
    folders = write(tmp_path, hosts(2))
    with_modules(folders[:1], 1, 4)
    with_modules(folders[1:], 1, 3)
    (finding,) = merge_hosts(folders, tmp_path, ROWS, 2).disagreements
    assert "the modules of a step is [1, 4] on host 0 and [1, 3] on host 1" in finding


# --- what may not differ --------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Host], object]] = {
    "losses": lambda h: h.event("values", 1).update(losses=[5.5000005]),
    "gradient norm": lambda h: h.event("values", 1).update(gradient_norm=2.5),
    "lr": lambda h: h.event("step", 1).update(lr=[0.2]),
    "micro": lambda h: (
        h.event("step", 1).update(micro=2), h.event("values", 1).update(losses=[4.0, 0.5])
    ),
    "max norm": lambda h: h.event("step", 1).update(max_norm=None),
    "the optimizer": lambda h: h.event("optimizer", 0)["groups"][0]["hyper"].update(eps=1e-6),
    "NaN": lambda h: h.event("values", 1).update(losses=["nan"]),
    "shape": lambda h: h.parameters[0].update(shape=[2, 4]),
    "dtype": lambda h: h.parameters[0].update(dtype="bfloat16"),
    "sharding": lambda h: h.parameters[0].update(sharding=""),
    "group": lambda h: h.parameters[0].update(group=1),
    "initial": lambda h: h.parameters[0].update(initial=fingerprint(9)),
    "gradient": lambda h: h.parameters[0].update(gradient=None),
    "clipped norm": lambda h: h.parameters[0].update(clipped_norm=0.25),
    "clipped by": lambda h: h.parameters[0].update(clipped_by=[0]),
    "after": lambda h: h.parameters[0]["after"].pop(),
    "final": lambda h: h.parameters[0].update(final=fingerprint(9)),
    "a parameter": lambda h: h.parameters.clear(),
    "device kind": lambda h: h.observed.update(device_kind="TPU v5e"),
    "devices": lambda h: h.observed.update(devices=4),
    "processes": lambda h: h.observed.update(processes=3),
    "mesh": lambda h: h.observed["mesh"].update(device_order=[1, 0, 2, 3, 4, 5, 6, 7]),
    "torch_xla": lambda h: h.observed["versions"].update(torch_xla="2.8.0"),
    "a flag": lambda h: h.observed["flags"].pop("LIBTPU_INIT_ARGS"),
    "input sharding": lambda h: h.observed.update(input_sharding=None),
    "model": lambda h: h.observed.update(model="Other"),
    "compilations": lambda h: h.window(2).update(compilations=1),
    "a window": lambda h: h.window(2).update(last=5),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("on", [0, 1])
def test_what_differs_between_hosts_is_a_finding(tmp_path: Path, name: str, on: int) -> None:
    run = hosts(2)
    CHANGES[name](run[on])
    found = host_findings(merge(tmp_path, run))
    assert found
    if name not in ("NaN", "a parameter", "a flag", "a window"):
        assert any(name in finding for finding in found)


def test_hosts_that_agree_have_no_finding(tmp_path: Path) -> None:
    merged = merge(tmp_path, hosts(4))
    assert host_findings(merged) == ()
    assert merged.complete
    assert [step.loss for step in merged.steps] == [5.5, 4.5, 3.5]
    assert merged.parameters[0].final is not None


def test_what_tells_hosts_apart_is_not_compared_and_not_kept(tmp_path: Path) -> None:
    run = hosts(2)
    run[1].observed["flags"]["TPU_WORKER_HOSTNAMES"] = "other"
    merged = merge(tmp_path, run)
    assert host_findings(merged) == ()
    assert merged.observed.flags == OBSERVED["flags"]


def test_a_loss_that_is_nan_on_every_host_stays_nan(tmp_path: Path) -> None:
    run = hosts(2)
    for host in run:
        host.event("values", 1).update(losses=["nan"])
    merged = merge(tmp_path, run)
    assert host_findings(merged) == ()
    assert merged.steps[1].loss is not None
    assert math.isnan(merged.steps[1].loss)


def test_many_disagreements_of_a_kind_are_one_line(tmp_path: Path) -> None:
    run = hosts(2)
    for step in range(STEPS):
        run[1].event("values", step).update(losses=[9.0])
    assert host_findings(merge(tmp_path, run)) == (
        "step 0: losses is 5.5 on host 0 and 9.0 on host 1 (and 2 more)",
    )


# --- what is missing ------------------------------------------------------------------------------


def test_a_step_that_one_host_did_not_finish_is_not_finished(tmp_path: Path) -> None:
    run = hosts(2)
    run[1].events = [e for e in run[1].events if (e["event"], e.get("step")) != ("values", 2)]
    merged = merge(tmp_path, run)
    assert [step.finished for step in merged.steps] == [True, True, False]
    assert not merged.complete
    assert host_findings(merged)


def test_a_host_that_left_nothing_is_a_finding(tmp_path: Path) -> None:
    found = host_findings(merge(tmp_path, hosts(4)[:3], expected=4))
    assert "3 of 4 hosts left a Record" in found


def test_a_host_that_ended_before_its_first_step_is_a_finding(tmp_path: Path) -> None:
    folders = write(tmp_path, hosts(2))
    (folders[1] / "observed.json").unlink()
    (folders[1] / "steps.jsonl").unlink()
    merged = merge_hosts(folders, tmp_path, ROWS, 2)
    assert "host-1 ended before its first step" in merged.disagreements


def test_two_hosts_of_one_rank_are_a_finding(tmp_path: Path) -> None:
    run = hosts(2)
    run[1].observed["process"] = 0
    assert any("[0, 0], not 0 to 1" in line for line in host_findings(merge(tmp_path, run)))


@pytest.mark.parametrize("name", ["steps.jsonl", "observed.json", "parameters.json"])
def test_a_damaged_file_is_a_finding(tmp_path: Path, name: str) -> None:
    folders = write(tmp_path, hosts(2))
    text = (folders[1] / name).read_text()
    (folders[1] / name).write_text("{" + text)
    assert merge_hosts(folders, tmp_path, ROWS, 2).disagreements


def test_an_event_without_a_field_is_a_finding(tmp_path: Path) -> None:
    run = hosts(2)
    del run[1].events[0]["shape"]
    folders = write(tmp_path, run)
    assert "shape is missing" in merge_hosts(folders, tmp_path, ROWS, 2).disagreements[0]


def test_one_hosts_record_does_not_pass_for_the_whole_run(tmp_path: Path) -> None:
    (folder,) = write(tmp_path, hosts(2)[:1])
    alone = complete(folder, {**OBSERVED, "processes": 4, "process": 0}, None)
    assert "of only one of them" in host_findings(alone)[0]
    single = complete(folder, {**OBSERVED, "processes": 1, "process": 0}, None)
    assert host_findings(single) == ()


def test_a_trainer_that_saw_other_hosts_than_were_launched_is_a_finding(tmp_path: Path) -> None:
    run = hosts(2)
    for host in run:
        host.observed["processes"] = 1  # each host trained by itself
    found = host_findings(merge(tmp_path, run))
    assert "the trainer saw 1 hosts, the launcher 2" in found


# --- times, logs, endings -------------------------------------------------------------------------


def test_a_step_takes_as_long_as_on_its_slowest_host(tmp_path: Path) -> None:
    window = merge(tmp_path, hosts(2)).windows[2]
    assert (window.seconds, window.cpu_seconds) == (2.0, 2.0)
    assert (window.transfers, window.fallbacks) == (1, {"aten::nonzero": 1})


def test_the_log_ends_with_the_host_that_failed(tmp_path: Path) -> None:
    run = hosts(3)
    run[0].log, run[0].code = "ValueError: broken\n", 1
    merge_hosts(write(tmp_path, run), tmp_path, ROWS, 3)
    log = (tmp_path / "trainer.log").read_text()
    assert log.rstrip().endswith("ValueError: broken")
    assert [line for line in log.splitlines() if line.startswith("==>")] == [
        "==> host-1 <==", "==> host-2 <==", "==> host-0 <==",
    ]  # fmt: skip


def test_a_script_that_failed_on_one_host_has_failed(tmp_path: Path) -> None:
    run = hosts(2)
    run[1].observed["script"] = {"returned": False, "error": "ValueError: broken"}
    script = merge(tmp_path, run).observed.script
    assert script == ScriptEnd(False, error="ValueError: broken")


# --- whole Records --------------------------------------------------------------------------------


def test_records_of_a_pod_slice_are_merged(tmp_path: Path) -> None:
    folders = records(tmp_path, hosts(2))
    merged = merge_records(folders[::-1], tmp_path / "merged")
    assert host_findings(merged) == ()
    assert merged.complete
    assert list(merged.steps[0].batches[0].rows) == batch(0, slice(None))["rows"]


def test_a_record_that_is_missing_from_the_merged_one_is_a_finding(tmp_path: Path) -> None:
    folders = records(tmp_path, hosts(4))
    assert "2 of 4 hosts" in str(host_findings(merge_records(folders[:2], tmp_path / "merged")))


def test_device_times_of_all_hosts_are_merged(tmp_path: Path) -> None:
    folders = records(tmp_path, hosts(2))
    for folder, seconds in zip(folders, (0.25, 0.5), strict=True):
        times = DeviceTimes("step(1)", {"/device:TPU:0": (seconds,)}, ("/device:TPU:1",), ("x",))
        write_json(folder / DEVICE_TIMES, dataclasses.asdict(times))
    merged = merge_records(folders, tmp_path / "merged")
    assert merged.device_times == DeviceTimes(
        "step(1)",
        {"host-0/device:TPU:0": (0.25,), "host-1/device:TPU:0": (0.5,)},
        ("host-0/device:TPU:1", "host-1/device:TPU:1"),
        ("host-0: x", "host-1: x"),
    )


def test_a_profile_that_one_host_could_not_keep_is_said_of_the_merged_record(
    tmp_path: Path,
) -> None:
    folders = records(tmp_path, hosts(2))
    manifest = json.loads((folders[1] / MANIFEST).read_text())
    write_json(folders[1] / MANIFEST, {**manifest, "profile": "it is truncated"})
    assert merge_records(folders, tmp_path / "merged").manifest.profile == "it is truncated"


def test_records_of_different_runs_are_not_merged(tmp_path: Path) -> None:
    folders = records(tmp_path, hosts(2))
    manifest = json.loads((folders[1] / MANIFEST).read_text())
    write_json(folders[1] / MANIFEST, {**manifest, "key": "k2"})
    with pytest.raises(BadInput, match="not of the same run"):
        merge_records(folders, tmp_path / "merged")


def test_nothing_is_merged_into_a_folder_that_is_there(tmp_path: Path) -> None:
    folders = records(tmp_path, hosts(2))
    with pytest.raises(BadInput, match="is there already"):
        merge_records(folders, tmp_path)


def test_records_of_which_none_observed_anything(tmp_path: Path) -> None:
    folders = records(tmp_path, hosts(2))
    for folder in folders:
        (folder / "observed.json").rename(folder / "away")
    with pytest.raises(BadInput, match=r"host-0 ended before its first step.* observed\.json"):
        merge_records(folders, tmp_path / "merged")
    assert not list(tmp_path.glob("merged*")), "it would be in the way of the next try"
    for folder in folders:
        (folder / "away").rename(folder / "observed.json")
    assert merge_records(folders, tmp_path / "merged").directory == tmp_path / "merged"


def test_half_of_a_merged_record_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = records(tmp_path, hosts(2))

    def full(path: Path, value: object) -> None:
        if path.name == MANIFEST:
            raise OSError("no space left")
        write_json(path, value)

    monkeypatch.setattr(writer, "write_json", full)
    with pytest.raises(OSError, match="no space"):
        merge_records(folders, tmp_path / "merged")
    assert not list(tmp_path.glob("merged*"))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", ["step", "values"])
def test_an_event_that_a_host_tells_twice_is_damage(tmp_path: Path, rank: int, kind: str) -> None:
    run = hosts()
    run[rank].events.append(dict(run[rank].event(kind, 1)))
    assert any("is there twice" in line for line in host_findings(merge(tmp_path, run)))


def test_a_sketch_that_a_host_cut_short_is_seen(tmp_path: Path) -> None:
    other, first = hosts(), hosts()
    other[1].parameters[0]["gradient"]["sketch"].pop()
    assert host_findings(merge(tmp_path / "other", other))
    first[0].parameters[0]["gradient"]["sketch"].pop()
    with pytest.raises(BadInput, match="a sketch is cut short"):
        merge(tmp_path / "first", first)
