# SPDX-License-Identifier: GPL-2.0-only
"""What happened to a machine, in the order in which it was seen, written as it happens.

    {"at": 1.234567, "time": "2026-11-30T12:00:00.123Z", "event": "qmp", "name": "RESET", ...}

`at` is in seconds since the machine began, on the monotonic clock: that of console.log. The file is
whole up to the last line whatever ends the harness.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

FILE = "events.jsonl"
"""What the file is called in a run's folder."""


class EventLog:
    """Writes the events of one machine; thread-safe. Use as a context manager.

    A disk that takes no more of them costs the rest, and nothing else: what is judged is written
    elsewhere, and says so itself.

    Args:
        path: the file to create.
        began: when the machine began, time.monotonic().
    """

    def __init__(self, path: Path, *, began: float) -> None:
        self._began = began
        self._lock = threading.Lock()
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock, suppress(OSError):
            self._file.close()

    @property
    def now(self) -> float:
        """Seconds since the machine began."""
        return time.monotonic() - self._began

    def add(self, event: str, **members: object) -> None:
        """Write one event.

        Args:
            event: its kind.
            members: what else is known of it; what JSON does not know is written as a string.
        """
        clock = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"at": round(self.now, 6), "time": clock, "event": event, **members}
        text = json.dumps(line, default=str)
        with self._lock:
            if not self._file.closed:
                with suppress(OSError):
                    self._file.write(f"{text}\n")
