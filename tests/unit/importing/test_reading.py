"""What is read of a trainer's logs, state, configuration and event files."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
from evidence_samples import (
    START,
    curve,
    event_file,
    losses,
    rates,
    torchprime_log,
    trainer_log,
    trainer_state,
)

from harness.base.errors import BadInput
from harness.importing.events import TRAINERS, read_events, read_scalars
from harness.importing.fetch import fetch
from harness.importing.folders import read_sources
from harness.importing.lines import read_lines
from harness.importing.numbers import LoggedSource, Point, RunFacts, first_of, joined, rounding

STEPS = 6


def only(path: Path) -> LoggedSource:
    (source,) = read_sources(path)
    return source


class TestLines:
    @pytest.mark.parametrize("texts", [False, True])
    def test_of_the_trainer(self, tmp_path: Path, texts: bool) -> None:
        source = only(trainer_log(tmp_path / "hf.log", STEPS, texts))
        assert source.facts.engine == "hf"
        assert [p.step for p in source.points] == list(range(STEPS))
        assert [p.loss for p in source.points] == [round(x, 4) for x in losses(STEPS)]
        assert [p.learning_rate for p in source.points] == rates(STEPS)
        assert source.points[2].gradient_norm == 1.0
        assert "no step numbers" in source.notes[0]

    def test_of_torchprime(self, tmp_path: Path) -> None:
        source = only(torchprime_log(tmp_path / "tp.log", STEPS))
        assert source.facts.engine == "torchprime"
        first = source.points[0]
        assert (first.step, first.loss) == (0, round(losses(STEPS)[0], 4))
        assert first.at == START + 0.5
        assert first.tracing == 0.4
        assert source.rounding["learning_rate"] == 0.005
        assert source.rounding["loss"] == pytest.approx(5e-5 / min(losses(STEPS)), rel=1e-3)

    def test_a_run_that_was_started_again_is_read_as_it_went_on(self, tmp_path: Path) -> None:
        path = torchprime_log(tmp_path / "tp.log", 4)
        path.write_text(path.read_text() + path.read_text().replace("loss: 2.", "loss: 7."))
        source = only(path)
        assert len(source.points) == 4
        assert all(p.loss is not None and p.loss > 7 for p in source.points)
        assert "4 steps are there twice" in source.notes[0]

    def test_what_is_not_finite_is_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "x.log"
        path.write_text("{'loss': nan, 'grad_norm': inf, 'learning_rate': 0.1, 'epoch': 0}\n")
        (point,) = only(path).points
        assert math.isnan(point.loss or 0)
        assert point.gradient_norm == math.inf

    def test_a_line_without_end_is_not_held_in_memory_as_one(self, tmp_path: Path) -> None:
        path = trainer_log(tmp_path / "hf.log", STEPS)
        path.write_bytes(b"x" * 3_000_000 + b"\n" + path.read_bytes())
        assert len(only(path).points) == STEPS

    def test_a_log_of_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "x.log"
        path.write_text("loss: 3\n{'eval_loss': 2}\n")
        assert read_lines(path) is None


class TestTrainerState:
    def test_steps_count_from_zero_here(self, tmp_path: Path) -> None:
        source = only(trainer_state(tmp_path / "trainer_state.json", STEPS))
        assert [p.step for p in source.points] == list(range(STEPS))
        assert source.every == 1
        assert source.facts.steps == STEPS

    def test_means_of_several_steps_are_known_as_such(self, tmp_path: Path) -> None:
        source = only(trainer_state(tmp_path / "trainer_state.json", STEPS, every=3))
        assert [p.step for p in source.points] == [2, 5]
        assert source.every == 3

    def test_of_several_checkpoints_the_folder_s_own_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoint-3").mkdir()
        trainer_state(tmp_path / "checkpoint-3" / "trainer_state.json", 3)
        trainer_state(tmp_path / "trainer_state.json", STEPS)
        assert len(only(tmp_path).points) == STEPS

    @pytest.mark.parametrize("state", [[], {}, {"log_history": [{"loss": 1.0}]}])
    def test_another_file_of_that_name(self, tmp_path: Path, state: object) -> None:
        (tmp_path / "trainer_state.json").write_text(json.dumps(state))
        with pytest.raises(BadInput, match="trainer_state"):
            read_sources(tmp_path)


class TestEvents:
    def read(self, tmp_path: Path, *series: list[tuple[str, int, float]]) -> LoggedSource:
        path = event_file(tmp_path / "events.out.tfevents.1", [one for s in series for one in s])
        source = read_events([path])
        assert source is not None
        return source

    @pytest.mark.parametrize("engine", ["maxtext", "torchtitan"])
    def test_trainers_are_known_by_their_tags(self, tmp_path: Path, engine: str) -> None:
        tags = TRAINERS[engine]
        first = {"maxtext": 0, "torchtitan": 1}[engine]
        source = self.read(
            tmp_path,
            curve(tags.loss[0], [2.5, 2.25], first),
            curve(tags.learning_rate[0], [0.5, 0.25], first),
            curve(tags.gradient_norm[0], [4.0, 3.0], first),
            curve(tags.seconds[0], [9.0, 0.5], first),
            curve("something/else", [1.0, 1.0], first),
        )
        assert source.facts.engine == engine
        at = START + 1 + first
        assert source.points == (
            Point(0, 2.5, 0.5, 4.0, at, 9.0),
            Point(1, 2.25, 0.25, 3.0, at + 1, 0.5),
        )

    def test_torchtitan_as_it_is_today(self, tmp_path: Path) -> None:
        """A rate an optimizer, and a log of the first step and of every tenth, in whose times the
        first step's is divided as the others are."""
        at = (1, 10, 20)
        loss, seconds = "loss_metrics/global_avg_loss", "time_metrics/end_to_end(s)"
        source = self.read(
            tmp_path,
            [(loss, step, 3.0 - step / 16) for step in at],
            [("lr/AdamW/0", step, step / 32) for step in at],
            [("lr/AdamW/1", step, step / 32) for step in at],
            [(seconds, step, 0.5) for step in at],
        )
        assert [p.step for p in source.points] == [0, 9, 19]
        assert [p.learning_rate for p in source.points] == [1 / 32, 10 / 32, 20 / 32]
        assert [p.seconds for p in source.points] == [5.0, 0.5, 0.5]

    def test_rates_that_differ_are_none_of_the_trainer_s(self, tmp_path: Path) -> None:
        source = self.read(
            tmp_path,
            curve("loss_metrics/global_avg_loss", [2.0, 1.0], 1),
            curve("lr/AdamW", [0.5, 0.5], 1),
            curve("lr/Muon", [0.5, 0.25], 1),
        )
        assert [p.learning_rate for p in source.points] == [None, None]

    def test_a_file_that_is_still_empty(self, tmp_path: Path) -> None:
        (tmp_path / "tfevents").touch()
        assert read_scalars(tmp_path / "tfevents", ["t"]) == ({}, None)

    def test_the_norm_before_clipping_is_the_one(self, tmp_path: Path) -> None:
        source = self.read(
            tmp_path,
            curve("learning/loss", [2.0]),
            curve("learning/grad_norm", [1.0]),
            curve("learning/raw_grad_norm", [5.0]),
        )
        assert source.points[0].gradient_norm == 5.0

    def test_torchprime_counts_from_zero_and_the_trainer_from_one(self, tmp_path: Path) -> None:
        ours = self.read(tmp_path / "a", curve("train/loss", [2.0, 1.0]))
        theirs = self.read(tmp_path / "b", curve("train/loss", [2.0, 1.0], first=1))
        assert [s.facts.engine for s in (ours, theirs)] == ["torchprime", "hf"]
        assert [p.step for p in ours.points] == [p.step for p in theirs.points] == [0, 1]

    def test_scalars_of_tensorflow_2_are_tensors(self, tmp_path: Path) -> None:
        path = event_file(tmp_path / "tfevents", curve("learning/loss", [2.5, 0.1]), tensors=True)
        series, _ = read_scalars(path, ["learning/loss"])
        values = [value for _, value in series["learning/loss"].values()]
        assert values == pytest.approx([2.5, 0.1], rel=1e-7)

    def test_it_reads_what_tensorboard_itself_reads(self, tmp_path: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
            EventAccumulator,
        )

        tags = ("train/loss", "train/grad_norm", "a longer tag/of another trainer", "t")
        rows = [(tag, step, step * 0.1 + len(tag)) for step in range(300) for tag in tags]
        path = event_file(tmp_path / "events.out.tfevents.1", rows)
        theirs = EventAccumulator(str(path), size_guidance={"scalars": 0})
        theirs.Reload()
        series, began = read_scalars(path, tags)
        assert began == START
        for tag in tags:
            assert [(s, *series[tag][s]) for s in series[tag]] == [
                (event.step, event.wall_time, event.value) for event in theirs.Scalars(tag)
            ]

    def test_several_scalars_in_one_event(self, tmp_path: Path) -> None:
        """As this harness writes them: then no event is like another."""
        from report_samples import record

        from harness.report.tensorboard import write_events

        run = record(tmp_path / "a", losses=(2.5, 2.25, 2.125))
        (path,) = write_events(run).iterdir()
        series, _ = read_scalars(path, ["train/loss", "train/grad_norm"])
        assert [value for _, value in series["train/loss"].values()] == [2.5, 2.25, 2.125]
        assert [value for _, value in series["train/grad_norm"].values()] == [1.5] * 3

    def test_a_value_whose_bytes_look_like_a_field(self, tmp_path: Path) -> None:
        (odd,) = struct.unpack("<f", bytes([0x15, 0x15, 0x15, 0x3F]))
        path = event_file(tmp_path / "tfevents", curve("t", [odd, 1.0, odd, 2.0]))
        series, _ = read_scalars(path, ["t"])
        assert [value for _, value in series["t"].values()] == [odd, 1.0, odd, 2.0]

    @pytest.mark.parametrize("cut", [1, 5, 20, 30])
    def test_a_run_that_was_cut_short_is_read_up_to_its_last_event(
        self, tmp_path: Path, cut: int
    ) -> None:
        path = event_file(tmp_path / "tfevents", curve("t", [1.0, 2.0, 3.0]))
        path.write_bytes(path.read_bytes()[:-cut])
        series, _ = read_scalars(path, ["t"])
        assert [value for _, value in series["t"].values()][:2] == [1.0, 2.0]

    def test_damage_is_said(self, tmp_path: Path) -> None:
        path = event_file(tmp_path / "tfevents", curve("t", [1.0, 2.0, 3.0]))
        data = bytearray(path.read_bytes())
        data[0:8] = struct.pack("<Q", 2**60)
        path.write_bytes(data)
        with pytest.raises(BadInput, match="damaged"):
            read_scalars(path, ["t"])
        path.write_bytes(struct.pack("<Q", 8) + b"\0" * 4 + b"\xff" * 8 + b"\0" * 4)
        with pytest.raises(BadInput, match="damaged"):
            read_scalars(path, ["t"])


class TestFolders:
    def test_the_most_exact_source_of_a_number_is_believed(self, tmp_path: Path) -> None:
        torchprime_log(tmp_path / "train.log", STEPS)
        exact = losses(STEPS)
        event_file(tmp_path / "tb" / "events.out.tfevents.1", curve("train/loss", exact))
        points = joined(read_sources(tmp_path))
        assert [p.loss for p in points] == pytest.approx(exact, rel=1e-7)
        assert points[0].gradient_norm == 3.0  # from the log: no event has it
        assert points[0].tracing == 0.4

    def test_an_output_folder_of_torchprime(self, tmp_path: Path) -> None:
        torchprime_log(tmp_path / "train.log", STEPS)
        task = {"max_steps": 9, "global_batch_size": 8, "max_grad_norm": 1.0,
                "lr_scheduler": {"warmup_steps": 3}}  # fmt: skip
        config = {"torch_dtype": "bfloat16", "task": task, "dataset": {"block_size": 128}}
        (tmp_path / "train_config.json").write_text(json.dumps(config))
        metrics = {"train_runtime": 9.0, "step_execution_time": 0.25, "num_steps": 9}
        (tmp_path / "train_metrics.json").write_text(json.dumps(metrics))
        sources = read_sources(tmp_path)
        facts = first_of(*(source.facts for source in sources))
        assert (facts.steps, facts.dtype, facts.global_batch) == (9, "bfloat16", 8)
        assert (facts.max_norm, facts.sequence_length) == (1.0, 128)
        assert any("0.25 s a step" in note for source in sources for note in source.notes)

    @pytest.mark.parametrize("name", ["x.log", "train_config.json", "model.safetensors"])
    def test_a_folder_without_a_step_says_what_is_known(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("{}")
        with pytest.raises(BadInput, match="no step of a training run was found"):
            read_sources(tmp_path)

    def test_what_is_elsewhere_is_brought_here_without_weights(self, tmp_path: Path) -> None:
        import fsspec  # type: ignore[import-untyped]

        system = fsspec.filesystem("memory")
        log = trainer_log(tmp_path / "hf.log", STEPS).read_bytes()
        system.pipe({"/bucket/run/logs/hf.log": log, "/bucket/run/model.safetensors": b"huge"})
        (tmp_path / "here").mkdir()
        here = fetch("memory://bucket/run", tmp_path / "here")
        assert [p.name for p in here.rglob("*") if p.is_file()] == ["hf.log"]
        assert len(only(here).points) == STEPS

    @pytest.mark.parametrize(
        "source", ["memory://nowhere/x", "nosuch://bucket/x", "/no/such/file", "~no-such-user/x"]
    )
    def test_what_cannot_be_fetched_is_named(self, tmp_path: Path, source: str) -> None:
        with pytest.raises(BadInput, match=source):
            fetch(source, tmp_path)


def test_rounding_is_that_of_the_last_digit_that_any_number_shows() -> None:
    assert rounding(["1.25", "0.5000"]) == 0.5e-4 / 0.5
    assert rounding(["1.00e-06", "nan", "5e-07"]) == 0.005
    assert rounding(["0", "inf"]) == 0.0


def test_the_first_that_knows_something_is_believed() -> None:
    facts = first_of(RunFacts(steps=3), RunFacts(engine="hf", steps=5, arguments={"a": 1}))
    assert (facts.engine, facts.steps, facts.arguments) == ("hf", 3, {"a": 1})
