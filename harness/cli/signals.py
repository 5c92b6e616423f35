"""A session that is terminated ends as one that is interrupted does, trainers and all."""

from __future__ import annotations

import signal
from typing import NoReturn


def interrupt_when_ended() -> None:
    """Raise KeyboardInterrupt where the process is terminated, or its terminal closed.

    From the main thread only. Under nohup the terminal is ignored, and stays so.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
