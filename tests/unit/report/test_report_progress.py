"""What is said of runs while they train."""

import io
import time

from rich.console import Console

from harness.record.reader import ValuesEvent
from harness.record.termination import OK, Termination
from harness.report.progress import ConsoleReporter, Forecast, Pace, duration

ENDED = Termination(OK, "it ended by itself", 0, 10.0)


def values(step: int, loss: float = 2.5) -> ValuesEvent:
    return ValuesEvent("values", step, (loss,), None)


def of_three(steps: int = 11) -> tuple[Forecast, Pace]:
    forecast = Forecast(expected=3)
    return forecast, forecast.start("a", steps, 100.0)


def test_nothing_is_promised_before_the_pace_is_known() -> None:
    forecast, run = of_three()
    assert forecast.left(105.0) is None
    for number in (1, 2, 3):
        run.step(number, 110.0 + number)
        assert forecast.left(115.0) is None


def test_the_time_left_is_of_the_whole_session() -> None:
    forecast, run = of_three()  # 20 s until its first step, then a step a second
    for number in range(1, 5):
        run.step(number, 119.0 + number)
    assert forecast.left(123.0) == (130.0 - 123.0) + 2 * 30.0


def test_later_runs_take_as_long_as_those_before() -> None:
    forecast, _ = of_three()
    forecast.end("a", 150.0)
    forecast.start("b", 11, 160.0)
    assert forecast.left(160.0) == 50.0 + 50.0
    assert forecast.left(500.0) == 50.0  # it is late: its own time has run out


def test_runs_at_the_same_time_are_waited_for_once() -> None:
    forecast, run = of_three()
    forecast.start("b", 11, 110.0)
    for number in range(1, 5):
        run.step(number, 119.0 + number)
    # The second is as long as the first, which began 10 s earlier; then the third.
    assert forecast.left(123.0) == (140.0 - 123.0) + 30.0


def test_a_run_that_is_there_already_is_not_waited_for() -> None:
    forecast = Forecast(expected=3)
    forecast.skip()
    assert forecast.numbered(forecast.start("a", 11, 0.0)) == "run 1 of 2"


def test_more_runs_than_were_announced_have_no_total() -> None:
    forecast = Forecast()
    assert forecast.numbered(forecast.start("a", 5, 0.0)) == ""
    assert forecast.numbered(forecast.start("b", 5, 0.0)) == "run 2"


def log(every: float = 1000.0) -> tuple[ConsoleReporter, io.StringIO]:
    """A reporter where there is no terminal, and what it has written."""
    stream = io.StringIO()
    return ConsoleReporter(Console(file=stream, width=40, force_terminal=False), every), stream


def test_a_log_says_which_run_of_how_many_and_never_breaks_a_path() -> None:
    reporter, stream = log()
    reporter.expects(2)
    reporter.started("hf", 5)
    reporter.event("hf", values(4))
    reporter.ended("hf", ENDED)
    reporter.note("from /a/very/long/path/that/does/not/fit/into/forty/columns")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "  hf (run 1 of 2): starting"
    assert lines[1] == "  hf: trained (5 steps, 10 s)"
    assert lines[2].endswith("columns")


def test_runs_at_the_same_time_are_told_apart() -> None:
    reporter, stream = log()
    reporter.expects(3)
    reporter.started("hf", 5)
    reporter.started("reference", 5)
    reporter.event("reference", values(4))
    reporter.ended("reference", ENDED)
    reporter.event("hf", values(1))
    reporter.ended("hf", ENDED)
    assert stream.getvalue().splitlines() == [
        "  hf (run 1 of 3): starting",
        "  reference (run 2 of 3): starting",
        "  reference: trained (5 steps, 10 s)",
        "  hf: trained (2 steps, 10 s)",
    ]


def test_a_terminal_shows_a_line_for_each_that_is_going_on() -> None:
    stream = io.StringIO()
    reporter = ConsoleReporter(Console(file=stream, width=80, force_terminal=True))
    reporter.expects(2)
    reporter.started("hf", 5)
    reporter.started("reference", 5)
    reporter.event("hf", values(1))
    reporter.event("reference", values(3, 7.0))
    assert reporter._progress is not None
    shown = {task.description: task.fields["state"] for task in reporter._progress.tasks}
    assert shown["hf"].startswith("run 1 of 2, step 2 of 5, loss 2.5000")
    assert shown["reference"].startswith("run 2 of 2, step 4 of 5, loss 7.0000")
    reporter.ended("hf", ENDED)
    assert [task.description for task in reporter._progress.tasks] == ["reference"]
    reporter.ended("reference", ENDED)
    assert reporter._progress is None, "the live lines stay"
    assert "hf: trained (2 steps, 10 s)" in stream.getvalue()


def test_a_log_has_a_line_now_and_then_also_while_nothing_happens() -> None:
    reporter, stream = log(every=0.01)
    reporter.started("hf", 5)
    deadline = time.monotonic() + 10
    while stream.getvalue().count("importing") < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    reporter.event("hf", values(1))
    while "step 2 of 5, loss 2.5000" not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    reporter.ended("hf", ENDED)
    written = stream.getvalue()
    assert written.count("importing") >= 2
    assert "step 2 of 5, loss 2.5000" in written
    time.sleep(0.05)
    assert stream.getvalue() == written, "a run that ended is still told of"


def test_what_a_run_says_of_itself_does_not_drive_the_terminal() -> None:
    reporter, stream = log()
    reporter.note("\x1b[2Jgone")
    assert "\x1b" not in stream.getvalue()


def test_durations() -> None:
    assert [duration(s) for s in (0, 89, 91, 5399, 7200)] == [
        "0 s", "89 s", "2 min", "90 min", "2.0 h",
    ]  # fmt: skip
