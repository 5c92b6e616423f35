"""The gate as pytest: one test for each case, thing that is gated, and rung.

pytest tests/parity/test_gate.py --parity-candidate transformers@REF
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.base.errors import BadInput
from harness.cli.signals import signals_interrupt
from harness.ladder.ladder import names
from harness.ladder.result import RungResult
from harness.ladder.verdict import PairVerdict
from harness.plugins.ladder import (
    as_selected,
    crashes_reported,
    device_mark,
    reporter_of,
    selected_rungs,
    shared_words,
)
from harness.plugins.verdict_report import attach

if TYPE_CHECKING:
    from harness.gate.selection import GatePair
    from harness.run.session import Outcome

_DONE: pytest.StashKey[dict[str, Any]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the gate."""
    group = parser.getgroup("parity gate", "does a version still train as before?")
    group.addoption(
        "--parity-candidate", default=None, metavar="REF",
        help="transformers@, torchprime@ or accelerate@REF, or torch_xla@, torch@ or jax@ with a "
        "release or a wheel; or several, separated by commas",
    )  # fmt: skip
    group.addoption(
        "--parity-baseline", default=None, metavar="REF",
        help="what it has to train like (default: the stored baseline)",
    )  # fmt: skip
    group.addoption(
        "--parity-gate-cases", default="smoke", metavar="NAMES",
        help="cases to gate, separated by commas; smoke, or all aligned ones",
    )  # fmt: skip
    group.addoption(
        "--parity-baselines",
        default="baselines",
        metavar="DIR",
        help="folder of the stored baselines",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize whatever uses `parity_gate_result` by what is gated, and rung."""
    if "parity_gate_result" not in metafunc.fixturenames:
        return
    gated = _gated(metafunc.config)
    parameters = [
        pytest.param(
            (pair, rung),
            id=f"{pair.id}-{rung}",
            marks=device_mark(metafunc.config, pair.settings.launcher.device),
        )
        for pair in gated
        for rung in names()
    ]
    if not parameters:
        parameters = [
            pytest.param(
                None, marks=pytest.mark.skip("name what is gated by --parity-candidate REF")
            )
        ]
    metafunc.parametrize("parity_gate_result", parameters, indirect=True)


def _gated(config: pytest.Config) -> tuple[GatePair, ...]:
    if config.getoption("--parity-candidate") is None:
        return ()
    from harness.gate.refs import parse
    from harness.gate.selection import gate_pairs

    words = [*shared_words(config), *config.getoption("--parity-override")]  # theirs is the last
    before = config.getoption("--parity-baseline")
    try:
        return gate_pairs(
            words,
            parse(config.getoption("--parity-candidate")),
            None if before is None else parse(before),
            config.getoption("--parity-gate-cases").split(","),
            Path(config.getoption("--parity-baselines")),
        )
    except BadInput as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture
def parity_gate_result(request: pytest.FixtureRequest) -> RungResult:
    """The judgement of one rung of what is gated; its runs are launched for the first."""
    pair, rung = request.param
    with crashes_reported(request.node):
        outcome = _outcome(request.config, pair)
        verdict: PairVerdict = outcome.verdict.pairs[0]
        selected = selected_rungs(request, "parity_gate_result", pair)
        result = as_selected(rung, verdict, selected)
    attach(request.node, outcome.verdict, result)
    return result


def _outcome(config: pytest.Config, pair: GatePair) -> Outcome:
    """The outcome of one thing that is gated, judged once in a session."""
    done = config.stash.setdefault(_DONE, {})
    if pair.id not in done:
        try:
            done[pair.id] = _judged(config, pair)
        except (Exception, pytest.skip.Exception) as error:
            done[pair.id] = error
    if isinstance(done[pair.id], BaseException):
        raise done[pair.id]
    return done[pair.id]  # type: ignore[no-any-return]


def _judged(config: pytest.Config, pair: GatePair) -> Outcome:
    from harness.gate.gate import NotCompared, judge_pair

    reporter = reporter_of(config)
    try:
        with signals_interrupt():
            return judge_pair(pair, reporter)
    except NotCompared as error:
        pytest.skip(str(error))
    except BadInput as error:
        pytest.fail(f"bad input: {error}", pytrace=False)
    finally:
        reporter.close()
