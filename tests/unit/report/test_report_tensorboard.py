"""Event files, read back by TensorBoard itself."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from record_files import window_event
from report_samples import of, record, rung, verdict
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from harness.report.tensorboard import write_events, write_logdir


def scalars(folder: Path) -> dict[str, list[Any]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in scalars(folder)[tag]]


def values(folder: Path, tag: str) -> list[float]:
    return [value for _, value in points(folder, tag)]


def test_every_curve_is_there_under_its_tag(tmp_path: Path) -> None:
    rates = [[0.0, 5e-4], [2e-3, 5e-4], [3e-3, 5e-4]]  # a warm-up starts at zero
    folder = write_events(record(tmp_path / "hf", losses=(6.5, 6.25, 6.0), rates=rates))
    assert folder == tmp_path / "hf" / "tensorboard"
    assert points(folder, "train/loss") == [(0, 6.5), (1, 6.25), (2, 6.0)]
    assert points(folder, "train/grad_norm") == [(0, 1.5), (1, 1.5), (2, 1.5)]
    shown = points(folder, "train/learning_rate")
    assert [step for step, _ in shown] == [0, 1, 2]
    assert [value for _, value in shown] == pytest.approx([0.0, 2e-3, 3e-3], rel=1e-7)


def test_only_what_was_observed_has_a_tag(tmp_path: Path) -> None:
    folder = write_events(record(tmp_path / "hf", norm=None, rates=[[], [], []]))
    assert set(scalars(folder)) == {"train/loss"}


def test_step_times_leave_out_windows_in_which_xla_compiled(tmp_path: Path) -> None:
    events = [
        window_event(0, 1, 9.0, compilations=2),
        window_event(2, 3, 0.5),
        window_event(4, 4, 0.75, compilations=1),
    ]
    folder = write_events(record(tmp_path / "hf", losses=(1.0,) * 4, events=events))
    assert points(folder, "train/step_seconds") == [(3, 0.25)]


def test_a_nan_is_written_and_later_steps_too(tmp_path: Path) -> None:
    folder = write_events(record(tmp_path / "hf", losses=(6.5, math.nan, math.inf, 6.0)))
    steps, values = zip(*points(folder, "train/loss"), strict=True)
    assert steps == (0, 1, 2, 3)
    assert math.isnan(values[1])
    # A Record poisons a sum that is not finite: whether inf or NaN, it is not a number any more.
    assert not math.isfinite(values[2])
    assert values[3] == 6.0


def test_a_loss_beyond_float32_does_not_stop_the_writer(tmp_path: Path) -> None:
    folder = write_events(record(tmp_path / "hf", losses=(6.5, 1e300)))
    assert points(folder, "train/loss")[1] == (1, math.inf)


def test_wall_times_are_those_of_the_steps_and_never_fall(tmp_path: Path) -> None:
    run = record(tmp_path / "hf", losses=(6.5, 6.4, 6.3), at=1795563400.25)
    steps = run.directory / "steps.jsonl"
    steps.write_text(steps.read_text().replace("1795563402.25", "17.0"))  # the clock was set back
    times = [event.wall_time for event in scalars(write_events(run))["train/loss"]]
    assert times == [1795563400.25, 1795563401.25, 1795563401.25]


def test_a_second_write_replaces_and_gives_the_same_bytes(tmp_path: Path) -> None:
    run = record(tmp_path / "hf", events=[window_event(0, 1, 0.5)])
    (first,) = write_events(run).iterdir()
    written = first.read_bytes()
    first.write_bytes(b"damaged")
    (second,) = write_events(run).iterdir()
    assert second == first
    assert second.read_bytes() == written


def test_a_run_that_was_killed_has_the_curves_up_to_its_end(tmp_path: Path) -> None:
    run = record(tmp_path / "hf", manifest={"ended": {"status": "killed"}})
    with (run.directory / "steps.jsonl").open("a") as stream:
        stream.write('{"event": "ste')
    assert [step for step, _ in points(write_events(run), "train/loss")] == [0, 1, 2]


def test_a_run_that_trained_nothing_has_no_tag(tmp_path: Path) -> None:
    assert scalars(write_events(record(tmp_path / "hf", losses=()))) == {}


def serve(logdir: Path) -> Any:
    """A client of TensorBoard's own HTTP application over `logdir`, called in this process."""
    from tensorboard.backend.application import TensorBoardWSGI  # type: ignore[import-untyped]
    from tensorboard.backend.event_processing.data_provider import (  # type: ignore[import-untyped]
        MultiplexerDataProvider,
    )
    from tensorboard.backend.event_processing.plugin_event_multiplexer import (  # type: ignore[import-untyped]
        EventMultiplexer,
    )
    from tensorboard.plugins.base_plugin import TBContext  # type: ignore[import-untyped]
    from tensorboard.plugins.scalar.scalars_plugin import (  # type: ignore[import-untyped]
        ScalarsPlugin,
    )
    from werkzeug.test import Client

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(logdir))
    plugin = ScalarsPlugin(TBContext(data_provider=provider, multiplexer=multiplexer))
    return Client(TensorBoardWSGI([plugin], data_provider=provider))


# TensorBoard's application imports its own copy of html5lib, which warns about itself.
@pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")
def test_one_logdir_overlays_two_records_over_http(tmp_path: Path) -> None:
    write_events(record(tmp_path / "hf-1", losses=(6.5, 6.25)))
    write_events(record(tmp_path / "torchprime-2", "torchprime", losses=(6.5, math.nan)))
    served = serve(tmp_path)
    tags = served.get("/data/plugin/scalars/tags").get_json()
    runs = {"hf-1/tensorboard", "torchprime-2/tensorboard"}
    assert set(tags) == runs
    assert set(tags["hf-1/tensorboard"]) == set(tags["torchprime-2/tensorboard"])
    answers = {}
    for run in runs:
        query = {"run": run, "tag": "train/loss"}
        answer = served.get("/data/plugin/scalars/scalars", query_string=query)
        assert answer.status_code == 200
        answers[run] = [[step, value] for _, step, value in json.loads(answer.text)]
    assert answers["hf-1/tensorboard"] == [[0, 6.5], [1, 6.25]]
    assert answers["torchprime-2/tensorboard"] == [[0, 6.5], [1, "NaN"]]


def test_a_logdir_overlays_the_runs_and_shows_what_they_differ_by(tmp_path: Path) -> None:
    a = record(tmp_path / "a", "hf", (6.5, 6.4, 6.3))
    b = record(tmp_path / "b", "torchprime", (6.5, 6.4, 6.0), norm=3.0)
    judged = rung("loss_curve", value=0.5, limit=1e-6)
    write_logdir(tmp_path / "log", verdict(of(a, b, judged)), {str(r.directory): r for r in (a, b)})
    case = tmp_path / "log" / "llama-tiny"
    assert sorted(p.name for p in case.iterdir()) == ["hf", "hf and torchprime", "torchprime"]
    assert values(case / "hf", "train/loss") == values(write_events(a), "train/loss")
    both = case / "hf and torchprime"
    assert values(both, "parity/loss") == pytest.approx([0, 0, 0.3 / 6.3], rel=1e-5)
    assert values(both, "parity/grad_norm") == pytest.approx([0.5] * 3)
    assert values(both, "parity/loss_curve") == [0.5]
    assert values(both, "parity/loss_curve_limit") == pytest.approx([1e-6])


def test_runs_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    runs = [record(tmp_path / name, "hf", (loss,)) for name, loss in (("a", 6.0), ("b", 5.0))]
    runs.append(record(tmp_path / "c", "odd/../name", (4.0,)))
    records = {str(r.directory): r for r in runs}
    write_logdir(tmp_path / "log", verdict(of(runs[0], runs[2]), of(runs[1], runs[2])), records)
    case = tmp_path / "log" / "llama-tiny"
    assert values(case / "hf", "train/loss") == [6.0]
    assert values(case / "hf 2", "train/loss") == [5.0]
    assert values(case / "odd_.._name", "train/loss") == [4.0]
