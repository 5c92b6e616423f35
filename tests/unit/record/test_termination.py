"""How a run ended, from its exit code and its log; and its events while it is running."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.errors import BadInput
from harness.record import termination
from harness.record.reader import OptimizerEvent
from harness.record.tail import EventTail
from harness.record.termination import LINE, TAIL_CHARACTERS, TAIL_LINES, Termination, explain


def ended(tmp_path: Path, code: int, log: str = "", given_up: str | None = None) -> Termination:
    path = tmp_path / "trainer.log"
    path.write_bytes(log.encode())
    return explain(code, path, given_up, 1.5)


class TestWell:
    def test_it_ended_by_itself(self, tmp_path: Path) -> None:
        found = ended(tmp_path, 0, "loss 3.1\n")
        assert (found.status, found.code, found.seconds) == (termination.OK, 0, 1.5)
        assert found.log == ()

    @pytest.mark.parametrize("log", ["ValueError: caught", "RESOURCE_EXHAUSTED, tried again"])
    def test_whatever_it_printed(self, tmp_path: Path, log: str) -> None:
        assert ended(tmp_path, 0, log).status == termination.OK

    @given(st.integers(-64, 255).filter(bool))
    def test_with_no_other_exit_code(self, code: int) -> None:
        found = explain(code, Path("/dev/null"), None, 0.0)
        assert found.status in (termination.FAILED, termination.KILLED)
        assert (found.status == termination.KILLED) == (code < 0)
        assert found.code == code
        assert found.reason

    def test_not_where_it_was_given_up(self, tmp_path: Path) -> None:
        """A trainer that catches SIGTERM may still exit with 0."""
        for code in (0, -15, 1):
            found = ended(tmp_path, code, "step 3\n", "it ran for too long")
            assert (found.status, found.reason) == (termination.TIMED_OUT, "it ran for too long")
            assert found.log == ("step 3",)


class TestBadly:
    @pytest.mark.parametrize(
        ("log", "reason"),
        [
            ("Traceback\nValueError: no such key\n", "ValueError: no such key"),
            ("torch.OutOfSpaceError: x\n  jax.errors.JaxRuntimeError: y\n",
             "jax.errors.JaxRuntimeError: y"),
            ("KeyError: 'a'\nduring handling\nRuntimeError: last\nbye\n", "RuntimeError: last"),
            ("KeyboardInterrupt\n", "KeyboardInterrupt"),
            ("an ErrorHandler: was made\n", "it exited with 3: an ErrorHandler: was made"),
            ("", "it exited with 3"),
        ],
    )  # fmt: skip
    def test_the_last_error_is_the_reason(self, tmp_path: Path, log: str, reason: str) -> None:
        found = ended(tmp_path, 3, log)
        assert (found.status, found.reason) == (termination.FAILED, reason)

    def test_a_reason_is_one_line_of_no_great_length(self, tmp_path: Path) -> None:
        found = ended(tmp_path, 1, "ValueError: " + "x" * 9999)
        assert len(found.reason) == 500

    @pytest.mark.parametrize(
        "line",
        ["RESOURCE_EXHAUSTED: Out of HBM", "MemoryError", "Out of memory allocating 5 bytes"],
    )
    def test_out_of_memory(self, tmp_path: Path, line: str) -> None:
        for code in (1, -6):
            assert ended(tmp_path, code, f"step 1\n{line}\n").status == termination.OUT_OF_MEMORY

    @pytest.mark.parametrize(
        ("number", "text"),
        [
            (signal.SIGKILL, "killed (SIGKILL), by hand or because the machine ran out of memory"),
            (signal.SIGSEGV, "SIGSEGV"), (signal.SIGTERM, "SIGTERM"), (40, "signal 40"),
        ],
    )  # fmt: skip
    def test_signals(self, tmp_path: Path, number: int, text: str) -> None:
        found = ended(tmp_path, -number, "ValueError: not the reason\n")
        assert found.status == termination.KILLED
        assert text in found.reason

    def test_the_last_lines_of_the_log_are_kept(self, tmp_path: Path) -> None:
        log = "".join(f"line {i}\n\n   \n" for i in range(100))
        assert ended(tmp_path, 1, log).log == tuple(f"line {i}" for i in range(70, 100))
        assert TAIL_LINES == 30

    def test_of_a_huge_log_only_the_end_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "trainer.log"
        path.write_bytes(
            b"ValueError: early\n" + b"\xff\xfe x\n" * TAIL_CHARACTERS + b"KeyError: late\n"
        )
        found = explain(1, path, None, 1.0)
        assert found.reason == "KeyError: late"

    def test_a_huge_line_hides_nothing(self, tmp_path: Path) -> None:
        found = ended(tmp_path, 1, "ValueError: early\n" + "x" * 10 * TAIL_CHARACTERS)
        assert found.reason == "ValueError: early"
        assert max(map(len, found.log)) <= LINE

    def test_what_it_exits_by_is_told(self, tmp_path: Path) -> None:
        """raise SystemExit("no such file")"""
        assert ended(tmp_path, 1, "loss 3\nno such file\n").reason == (
            "it exited with 1: no such file"
        )
        assert ended(tmp_path, 1).reason == "it exited with 1"
        assert len(ended(tmp_path, 1, "x" * 5000).reason) <= 500

    def test_what_drives_a_terminal_is_not_kept(self, tmp_path: Path) -> None:
        found = ended(tmp_path, 1, "\x1b[2Jstep 1\rstep 2\n\x1b[31mValueError: red\x1b[0m\n")
        assert found.log == ("step 1", "step 2", "ValueError: red")
        assert found.reason == "ValueError: red"


def line(step: int, name: str = "AdamW") -> str:
    """A line of steps.jsonl."""
    event = {"event": "optimizer", "step": step, "name": name, "groups": []}
    return json.dumps(event, ensure_ascii=False) + "\n"


def steps(tail: EventTail) -> list[int]:
    """The steps of the events that are new."""
    found = tail.read()
    assert all(isinstance(event, OptimizerEvent) for event in found)
    return [event.step for event in found if isinstance(event, OptimizerEvent)]


class TestEvents:
    def test_each_is_seen_once(self, tmp_path: Path) -> None:
        path = tmp_path / "steps.jsonl"
        tail = EventTail(path)
        assert tail.read() == []
        path.write_text(line(0) + line(1))
        assert steps(tail) == [0, 1]
        assert tail.read() == []
        with path.open("a") as stream:
            stream.write(line(2))
        assert steps(tail) == [2]

    @settings(deadline=None)  # the first event builds its parser, which takes a busy machine long
    @given(st.lists(st.integers(1, 40), min_size=1, max_size=20))
    def test_however_the_file_grows(self, pieces: list[int]) -> None:
        import tempfile

        data = "".join(line(i, name="é\u2028") for i in range(9)).encode()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "steps.jsonl"
            tail, seen, written = EventTail(path), [], 0
            for piece in [*pieces, len(data)]:
                with path.open("ab") as stream:
                    stream.write(data[written : written + piece])
                written = min(len(data), written + piece)
                seen += steps(tail)
        assert seen == list(range(9))

    def test_what_is_no_event(self, tmp_path: Path) -> None:
        (tmp_path / "steps.jsonl").write_text('{"step": 0}\n')
        with pytest.raises(BadInput, match="event=None"):
            EventTail(tmp_path / "steps.jsonl").read()
