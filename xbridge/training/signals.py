"""Signals that ask a run to stop: noticed at once, acted on between two updates."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from xbridge.core.errors import Interrupted

STOPPING = ("SIGINT", "SIGTERM", "SIGUSR1")


class StopSignals:
    """While open, SIGINT, SIGTERM and SIGUSR1 set a flag; a second SIGINT is a KeyboardInterrupt.

    Outside the main thread Python delivers no signals, and the flag stays down.
    """

    def __init__(self) -> None:
        self._seen: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for name in STOPPING:
                number = getattr(signal, name, None)
                if number is not None:
                    self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def is_set(self) -> bool:
        """True from the first signal on."""
        return self._seen is not None

    def interrupted(self) -> Interrupted:
        """What to raise once the state is saved; on a rank that saw no signal itself it stands for SIGTERM."""
        number = signal.Signals(self._seen or signal.SIGTERM)
        return Interrupted(number, f"stopped by {number.name}, everything is saved; run again to continue")

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self._seen == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._seen = self._seen or number
