"""The pytest side: one test for each case, pair of engines and rung.

The names of the tests read as the diagnosis. Runs are launched once for a session, and once
altogether under `-n`: a lock for the device, a lock for each Record. An unchanged run is read
from the workspace.

The plugin is loaded in every pytest session of an environment in which the harness is installed. It
stays out of those that have no parity tests: its options begin with `--parity-`, its fixtures with
`parity_`, it prints and registers nothing unless a test uses one of its fixtures, and it handles
signals only while trainers may run. Heavy imports stay inside the fixtures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from harness.base import registry
from harness.base.crash import CRASHED, crashed
from harness.base.errors import BadInput
from harness.cli.signals import signals_interrupt
from harness.devices.device import device, devices
from harness.ladder.ladder import names, preconditions
from harness.ladder.result import Result, RungResult
from harness.ladder.verdict import PairVerdict, Verdict, merged
from harness.plugins.verdict_report import attach, carry, verdicts_of
from harness.report.files import STDOUT, Reports, check_writable, write_reports

if TYPE_CHECKING:
    from harness.record.evidence import Record
    from harness.run.session import Outcome

DEFAULT_CASES = ("llama-tiny", "llama-tiny-bf16")
CRASH = "parity_crash"
"""Name of the property of a test's report in which the harness itself failed."""

FIXTURES = {"parity_result", "parity_gate_result", "parity_workspace"}
"""A test that uses one of them is a parity test."""


@dataclass(frozen=True)
class EnginePair:
    """Two engines that train one case on one device."""

    case: str
    a: str
    b: str
    device: str

    @property
    def id(self) -> str:
        """Part of a test's name."""
        return f"{self.case}-{self.device}-{self.a}-{self.b}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of `pytest tests/parity`."""
    group = parser.getgroup("parity", "parity of two trainers")
    group.addoption(
        "--parity-case", action="append", default=[], metavar="NAME",
        help=f"case to run; may be repeated (default: {', '.join(DEFAULT_CASES)})",
    )  # fmt: skip
    group.addoption(
        "--parity-pair", action="append", default=[], metavar="A,B",
        help="engines to compare; may be repeated (default: hf,torchprime and hf,reference). "
        "An engine may name a source: hf@4.57.6",
    )  # fmt: skip
    group.addoption(
        "--parity-override", action="append", default=[], metavar="KEY=VALUE",
        help="Hydra override for every case, such as case.steps=40; may be repeated",
    )  # fmt: skip
    group.addoption(
        "--parity-target", action="append", default=[], metavar="SLICE",
        help="slice of TPUs that the steps are compiled for, such as v6e:2x2; it need not be "
        "there; may be repeated",
    )  # fmt: skip
    group.addoption(
        "--parity-scale-mesh", action="store_true",
        help="scale each case's mesh along fsdp to the devices that there are "
        "(launcher.scale_mesh=true); otherwise a mesh that does not fit them is refused",
    )  # fmt: skip
    group.addoption(
        "--parity-require", action="append", default=[],
        choices=(*registry.names(registry.DEVICES), *registry.names(registry.ENGINES)),
        help="device or engine: fail, instead of skipping, where it is missing; may be repeated",
    )  # fmt: skip
    group.addoption(
        "--parity-until-decided", type=float, default=None, metavar="TOLERANCE",
        help="judge step times by this tolerance (0.015 is 1.5 %%), and go on with more launches, "
        "up to four times, until it is decided or timing.budget is used up",
    )  # fmt: skip
    group.addoption(
        "--parity-workspace", default="workspace", metavar="DIR", help="where Records are kept"
    )
    group.addoption(
        "--parity-torchprime", default=None, metavar="SOURCE",
        help="torchprime checkout, or a git URL with a ref; also TORCHPRIME_DIR",
    )  # fmt: skip
    group.addoption("--parity-json", default=None, metavar="FILE", help="write the verdict as JSON")
    group.addoption("--parity-html", default=None, metavar="FILE", help="write an HTML report")


def pytest_configure(config: pytest.Config) -> None:
    """Raises UsageError where a verdict that was asked for could not be written at the end."""
    for option in ("--parity-json", "--parity-html"):
        if config.getoption(option):
            file = Path(config.getoption(option))
            if file == STDOUT:
                raise pytest.UsageError(f"{option} -: pytest has the standard output; name a file")
            try:
                check_writable(option, file)
            except BadInput as error:
                raise pytest.UsageError(str(error)) from None


_VERDICTS: pytest.StashKey[dict[tuple[EnginePair, tuple[str, ...]], Any]] = pytest.StashKey()


def pytest_report_collectionfinish(
    config: pytest.Config, items: Sequence[pytest.Item]
) -> str | list[str]:
    """The settings that are in effect, where parity tests were collected."""
    if not any(FIXTURES.intersection(getattr(item, "fixturenames", ())) for item in items):
        return []
    cases = ", ".join(config.getoption("--parity-case") or DEFAULT_CASES)
    workspace = Path(config.getoption("--parity-workspace")).resolve()
    counts = [(found.title, found.count and found.count()) for found in devices()]
    here = "".join(f"; {count} {title}" for title, count in counts if count is not None)
    return f"parity: cases {cases}; workspace {workspace}{here}"


def device_mark(config: pytest.Config, name: str) -> pytest.MarkDecorator:
    """The mark by which `-m tpu` selects tests that train on a device; registered on first use."""
    line = f"{name}: trains on the {device(name).title}"
    if line not in config.getini("markers"):
        config.addinivalue_line("markers", line)
    mark: pytest.MarkDecorator = getattr(pytest.mark, name)
    return mark


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize whatever uses `parity_result` by case, device, pair and rung."""
    if "parity_result" not in metafunc.fixturenames:
        return
    parameters = [
        pytest.param(
            (pair, rung), id=f"{pair.id}-{rung}", marks=device_mark(metafunc.config, pair.device)
        )
        for pair in _pairs(metafunc.config)
        for rung in names()
    ]
    metafunc.parametrize("parity_result", parameters, indirect=True)


def _pairs(config: pytest.Config) -> list[EnginePair]:
    named = config.getoption("--parity-pair") or ["hf,torchprime", "hf,reference"]
    pairs = []
    for text in named:
        engines = text.split(",")
        if len(engines) != 2:
            raise pytest.UsageError(f"--parity-pair {text}: write two engines, as hf,torchprime")
        pairs.append((engines[0], engines[1]))
    # Without XLA nothing is sharded, and torchprime does not train.
    return [
        EnginePair(case, a, b, device.name)
        for device in devices()
        if device.xla
        for case in config.getoption("--parity-case") or DEFAULT_CASES
        for a, b in pairs
    ]


@pytest.fixture
def parity_result(request: pytest.FixtureRequest) -> RungResult:
    """The judgement of one rung of one pair; the runs are launched when the first is asked for."""
    pair, rung = request.param
    with crashes_reported(request.node):
        outcome = pair_outcome(request.config, pair)
        selected = selected_rungs(request, "parity_result", pair)
        result = as_selected(rung, outcome.verdict.pairs[0], selected)
    attach(request.node, outcome.verdict, result)
    return result


def selected_rungs(request: pytest.FixtureRequest, fixture: str, pair: Any) -> list[str]:
    """The rungs of a pair whose tests are in this session; xdist's workers know all of them."""
    selectors = (
        callspec.params.get(fixture)
        for item in request.session.items
        if (callspec := getattr(item, "callspec", None)) is not None
    )
    return [rung for of, rung in filter(None, selectors) if of == pair]


@contextmanager
def crashes_reported(node: Any) -> Iterator[None]:
    """What is no verdict and no bad input is a crash of the harness itself: one sentence, no
    traceback of ours, and an exit code of its own for the session."""
    try:
        yield
    except BadInput as error:
        pytest.fail(f"bad input: {error}", pytrace=False)
    except Exception as error:
        node.user_properties.append((CRASH, True))
        pytest.fail(crashed(error), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The report of a test of one rung carries its verdict to the end of the session."""
    report = yield
    carry(item, report)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """The exit code of a crash of the harness, where there was one."""
    terminal: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and _properties(terminal, CRASH):
        session.exitstatus = CRASHED


def _properties(terminal: Any, name: str) -> list[Any]:
    """The values of a property of ours, from the reports of all tests."""
    return [
        value
        for reports in terminal.stats.values()
        for report in reports
        for key, value in getattr(report, "user_properties", ())
        if key == name
    ]


def as_selected(name: str, verdict: PairVerdict, selected: Collection[str]) -> RungResult:
    """What the test of one rung has to say, given the rungs of the pair whose tests are `selected`.

    Usually what the rung says. But where a rung above it is broken whose own test was deselected,
    or where none of the selected rungs was exercised, a green session would say that all is well
    of which nothing is known: that is INVALID.
    """
    result = verdict.rung(name)
    if result.result not in (Result.PASS, Result.NOT_EXERCISED):
        return result
    unseen = [above for above in preconditions(name) if above not in selected]
    for above in unseen:
        if not verdict.rung(above).holds:
            found = verdict.rung(above)
            text = f"{above}, above it and not selected, is {found.result.value}: "
            return RungResult.invalid(name, f"{text}{found.explanation}")
    judged = [rung for rung in selected if verdict.rung(rung).result is not Result.NOT_EXERCISED]
    if not judged:
        text = f"no selected rung was exercised, so that nothing was judged: {result.explanation}"
        return RungResult.invalid(name, text)
    return result


def assert_holds(result: RungResult, notes: tuple[str, ...] = ()) -> None:
    """Pass, skip (NOT_EXERCISED) or fail the test of one rung, in the user's terms."""
    __tracebackhide__ = True
    if result.result is Result.PASS:
        return
    if result.result is Result.NOT_EXERCISED:
        pytest.skip(f"NOT_EXERCISED: {result.explanation}")
    lines = [f"{result.result.value}: {result.explanation}"]
    lines += [f"  {finding.text}" for finding in result.findings[:8]]
    if result.limit_source:
        lines.append(f"  limit {result.limit}: {result.limit_source}")
    pytest.fail("\n".join([*lines, *notes]), pytrace=False)


def pair_outcome(config: pytest.Config, pair: EnginePair, *overrides: str) -> Outcome:
    """Run, or find, both engines of a pair, and judge them. Skips what this machine cannot do."""
    done = config.stash.setdefault(_VERDICTS, {})
    key = (pair, overrides)
    if key not in done:
        try:
            done[key] = _run(config, pair, overrides)
        except (Exception, pytest.skip.Exception) as error:
            done[key] = error
    if isinstance(done[key], BaseException):
        raise done[key]
    return done[key]  # type: ignore[no-any-return]


def _run(config: pytest.Config, pair: EnginePair, overrides: tuple[str, ...]) -> Outcome:
    from harness.config.compose import load
    from harness.engines.sources import MissingSource
    from harness.run import session
    from harness.run.preflight import ready

    required = config.getoption("--parity-require")
    used = device(pair.device)
    missing = used.missing()
    if missing is not None:
        _missing(pair.device, missing, required)
    words = [
        f"case={pair.case}",
        f"engines=[{pair.a},{pair.b}]",
        f"launcher.device={pair.device}",
        *shared_words(config),
    ]
    if config.getoption("--parity-until-decided") is not None:
        tolerance = config.getoption("--parity-until-decided")
        words += [f"tolerance.step_time={tolerance}", "timing.rounds=5"]
    words += [*config.getoption("--parity-override"), *overrides]  # theirs is the last word
    reporter = reporter_of(config)
    try:
        settings = ready(load(words))
        planned = session.plan(settings, reporter, may_substitute=False)
        with signals_interrupt():
            return session.run(planned, reporter)
    except MissingSource as error:
        _missing(error.engine, str(error), required)
    except BadInput as error:
        pytest.fail(f"bad input: {error}", pytrace=False)
    finally:
        reporter.close()


def shared_words(config: pytest.Config) -> list[str]:
    """The Hydra overrides that options of the ladder and of the gate stand for."""
    from harness.cli.options import overrides_of
    from harness.config.overrides import quoted

    words = [f"workspace={quoted(str(Path(config.getoption('--parity-workspace')).resolve()))}"]
    if targets := config.getoption("--parity-target"):
        words.append(f"target=[{','.join(targets)}]")
    if config.getoption("--parity-scale-mesh"):
        words.append("launcher.scale_mesh=true")
    return words + overrides_of(None, config.getoption("--parity-torchprime"))


def _missing(what: str, reason: str, required: list[str]) -> NoReturn:
    """Something that this machine lacks: a skip that names it, an error where it is required."""
    if what in required:
        pytest.fail(f"--parity-require {what}: {reason}", pytrace=False)
    pytest.skip(reason)


def reporter_of(config: pytest.Config) -> Any:
    """Progress on the terminal behind pytest's capturing; xdist's workers have no terminal."""
    from rich.console import Console

    from harness.report.progress import ConsoleReporter

    quiet = hasattr(config, "workerinput") or config.get_verbosity() < 0
    return ConsoleReporter(Console(file=sys.__stderr__, quiet=quiet, force_terminal=False))


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The ladder of every pair, as far as its rungs were asked for, and the files."""
    verdicts = verdicts_of(terminalreporter)
    if not verdicts:
        return
    from harness.report.terminal import verdict_lines

    reports = _write_reports(config, verdicts)
    for number, verdict in enumerate(verdicts, 1):
        terminalreporter.section("parity")
        lines = verdict_lines(
            verdict,
            terminalreporter._tw.fullwidth,
            terminalreporter._tw.hasmarkup,
            config.get_verbosity() > 0,
            reports.written if number == len(verdicts) else (),
        )
        for line in lines:
            terminalreporter.write_line(line)
    for failure in reports.failures:
        terminalreporter.write_line(failure, red=True)
    if reports.failures:
        session: Any = config.pluginmanager.get_plugin("session")
        session.exitstatus = session.exitstatus or CRASHED  # pytest returns it after this hook


def _write_reports(config: pytest.Config, verdicts: list[Verdict]) -> Reports:
    """Write what was asked for."""
    from harness.record.reader import read_record
    from harness.report.made import made_by

    both = merged(verdicts)

    def records() -> dict[str, Record]:
        # A side that was not run has no Record: its name is empty, which as a path is this folder.
        folders = {r for pair in both.pairs for r in (pair.a_record, pair.b_record) if r}
        return {f: read_record(Path(f)) for f in sorted(folders) if Path(f).is_dir()}

    files = (config.getoption(f"--parity-{name}") for name in ("json", "html"))
    json_file, html = (file and Path(file) for file in files)
    made = made_by("pytest", config.invocation_params.args)
    return write_reports(both, records, made, json_file, html, os.environ)


@pytest.fixture(scope="session")
def parity_workspace(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The workspace of this session, for tests that launch trainers by themselves."""
    with signals_interrupt():
        yield Path(request.config.getoption("--parity-workspace")).resolve()
