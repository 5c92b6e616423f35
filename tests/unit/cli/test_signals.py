"""What SIGTERM and SIGHUP do to a session, and what is left afterwards."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from harness.cli.signals import SIGNALS, signals_interrupt


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The signal handlers of the session that runs these tests."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_terminated_session_ends_as_an_interrupted_one(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_DFL


def test_under_nohup_it_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with signals_interrupt():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.raise_signal(signal.SIGHUP)


def test_handlers_are_nested_and_restored() -> None:
    def handler(*_: object) -> None: ...

    signal.signal(signal.SIGTERM, handler)
    with signals_interrupt():
        with signals_interrupt():
            pass
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_outside_the_main_thread_nothing_changes() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    inside: list[object] = []

    def work() -> None:
        with signals_interrupt():
            inside.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == before
