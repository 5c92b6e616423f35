"""The installed plugin in other people's pytest sessions, which it must not disturb."""

from __future__ import annotations

import re

import pytest

from harness.plugins.ladder import FIXTURES

pytest_plugins = ["pytester"]

FOREIGN = """
import signal

def test_handlers_are_pythons_own():
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGHUP) in (signal.SIG_DFL, signal.SIG_IGN)

def test_its_own_property(record_property):
    record_property("parity", "odd")
"""

OURS = """
def test_rung(parity_result):
    pass
"""


@pytest.fixture
def foreign(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project that knows nothing of the harness."""
    pytester.makepyfile(FOREIGN)
    return pytester


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    """Run in a process of its own, with the plugins that are installed."""
    return pytester.runpytest_subprocess("-W", "error", "--strict-markers", *words)


def test_it_prints_nothing_and_handles_no_signal(foreign: pytest.Pytester) -> None:
    done = run(foreign)
    done.assert_outcomes(passed=2)
    printed = [
        line
        for line in done.outlines
        # pytest lists every installed plugin by its distribution
        if "parity" in line and not line.startswith("plugins:")
    ]
    assert printed == []


def test_it_registers_no_marker(foreign: pytest.Pytester) -> None:
    """A mark that the project forgot to register is the project's error, as it was before."""
    markers = run(foreign, "--markers").stdout.str()
    assert not re.search(r"@pytest\.mark\.(cpu|tpu|slow)\b", markers)
    foreign.makepyfile(test_marked="import pytest\n\n@pytest.mark.tpu\ndef test_x(): pass\n")
    run(foreign).assert_outcomes(errors=1)


def test_every_option_is_ours_by_name(foreign: pytest.Pytester) -> None:
    known = run(foreign, "--help").stdout.str()
    theirs = run(foreign, "-p", "no:parity", "-p", "no:parity_gate", "--help").stdout.str()
    options = r"^  (?:-\w, )?(--[a-z][a-z-]*)"
    added = set(re.findall(options, known, re.M)) - set(re.findall(options, theirs, re.M))
    assert {"--parity-case", "--parity-torchprime", "--parity-candidate"} <= added
    assert [option for option in added if not option.startswith("--parity-")] == []


def test_every_fixture_is_ours_by_name(foreign: pytest.Pytester) -> None:
    listed = run(foreign, "--fixtures").stdout.str()
    ours = re.findall(r"^(\w+) .*harness/plugins", listed, re.M)
    assert set(ours) == FIXTURES


def test_parity_tests_are_parametrized_marked_and_announced(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(OURS)
    done = run(pytester, "--collect-only", "-q", "-m", "tpu", "--parity-pair", "hf,reference")
    assert done.ret == 0
    ids = [line for line in done.outlines if "::" in line]
    assert ids
    assert all("-tpu-hf-reference-" in line for line in ids)
    run(pytester, "--collect-only").stdout.fnmatch_lines(["parity: cases llama-tiny, *"])
