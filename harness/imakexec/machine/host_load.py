# SPDX-License-Identifier: GPL-2.0-only
"""How long the processes of a machine had to wait for a CPU of the host.

The clock of a guest goes on while its QEMU or its TPM does not run. What a kernel gives its TPM for
an answer then passes without any fault of the kernel or of the TPM. Load averages do not tell; the
scheduler does, thread by thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

_PERIOD_SECONDS = 0.25
_WINDOW_SECONDS = 5.0
_KEPT_SECONDS = 600.0


@dataclass(frozen=True)
class Wait:
    """The longest that one thread has waited for a CPU within a moment.

    Attributes:
        at: the end of the moment, time.monotonic().
        seconds: that it has waited since the moment before.
    """

    at: float
    seconds: float


class HostLoad:
    """Looks at the threads of some processes four times a second; use as a context manager.

    Args:
        pids: gives the processes, which need not be there yet.
        clock: for tests.
    """

    def __init__(
        self, pids: Callable[[], Sequence[int]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pids = pids
        self._clock = clock
        self._waits: deque[Wait] = deque(maxlen=int(_KEPT_SECONDS / _PERIOD_SECONDS))
        self._before: Mapping[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="host-load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def longest_before(self, at: float, *, seconds: float = _WINDOW_SECONDS) -> float:
        """The longest that any thread has waited within half a second, in the time before a moment.

        Args:
            at: the moment, time.monotonic().
            seconds: how far back to look.
        """
        since, until = at - seconds, at + _PERIOD_SECONDS
        found = [wait.seconds for wait in tuple(self._waits) if since <= wait.at <= until]
        # A wait can lie on both sides of a look.
        return max((earlier + later for earlier, later in pairwise([0.0, *found])), default=0.0)

    def look(self) -> None:
        """Look once."""
        now = read_waits(self._pids())
        # A thread that is new has waited since it began, of which nobody knows when that was.
        longest = max(
            (now[thread] - self._before[thread] for thread in now if thread in self._before),
            default=0.0,
        )
        self._before = now
        self._waits.append(Wait(self._clock(), longest))

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD_SECONDS):
            self.look()


def read_waits(pids: Sequence[int], *, proc: Path = Path("/proc")) -> Mapping[str, float]:
    """Seconds that each thread has waited on a run queue so far, by its path below /proc.

    That is the second number of schedstat, in nanoseconds (Documentation/scheduler/
    sched-stats.rst); a kernel without it gives none.
    """
    found = {}
    for pid in pids:
        for file in (proc / str(pid) / "task").glob("*/schedstat"):
            try:
                found[str(file)] = int(file.read_text().split()[1]) / 1e9
            except (OSError, IndexError, ValueError):
                continue  # it has just ended
    return found
