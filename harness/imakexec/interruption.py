# SPDX-License-Identifier: GPL-2.0-only
"""Ctrl-C, SIGTERM and a closed terminal: one exception, so that every clean-up runs.

The exception is no KeyboardInterrupt, because click takes that for itself and says "Aborted!". An
exception that a signal raises can get lost: a callback of C code that Python was in turns it into
an error code. So it is also remembered, and `check` finds it behind the error that came of it.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

# Who presses Ctrl-C twice is impatient, and must not break the clean-up that the first one began.
# If that one was lost, a later one counts.
_CLEANUP_SECONDS = 5.0

_WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "the terminal was closed",
}


class Interrupted(BaseException):
    """The user, or the system, wants the command to end.

    Args:
        number: the signal.

    Attributes:
        exit_code: as shells report that signal.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"{_WORDS[number]}; everything that was started has been stopped")
        self.exit_code = 128 + number


class _Signals:
    """The signals of this process that end it."""

    def __init__(self) -> None:
        self._first: signal.Signals | None = None
        self._at = 0.0

    def catch(self) -> None:
        for number in _WORDS:
            # What was ignored from the start (nohup, a background job) stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._take)

    def ignore(self) -> None:
        for number in _WORDS:
            signal.signal(number, signal.SIG_IGN)

    def check(self) -> None:
        if self._first is not None:
            raise Interrupted(self._first)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None or now - self._at > _CLEANUP_SECONDS:
            self._first, self._at = self._first or signal.Signals(number), now
            self.check()


_signals = _Signals()


def catch() -> None:
    """Have the signals raise `Interrupted` in the main thread from now on."""
    _signals.catch()


def ignore() -> None:
    """Ignore the signals from now on: nothing is left that would have to be stopped."""
    _signals.ignore()


def check() -> None:
    """Raise `Interrupted` if a signal came, for whoever has an error that it may have caused."""
    _signals.check()
