# SPDX-License-Identifier: GPL-2.0-only
"""How long work tells its reader where it is, without knowing how that is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Step(Protocol):
    """One running piece of work."""

    def update(self, detail: str, fraction: float | None = None) -> None:
        """Say what happens now; `fraction` is 0.0 to 1.0, None if unknown."""

    def done(self, result: str) -> None:
        """Say in a few words how the step ended, e.g. "cached" or "3.0 MiB"."""


class Progress(Protocol):
    """Where steps are announced. Implementations live in `report`."""

    def step(self, title: str) -> AbstractContextManager[Step]:
        """Announce a step; leaving the context ends it, by exception as failed."""

    def note(self, text: str) -> None:
        """Say one line that stays on the screen (a decision and its reason)."""


class _SilentStep:
    def update(self, detail: str, fraction: float | None = None) -> None:
        pass

    def done(self, result: str) -> None:
        pass


class SilentProgress:
    """Shows nothing: for library use and for unit tests."""

    @contextmanager
    def step(self, _title: str) -> Iterator[Step]:
        """Announce nothing."""
        yield _SilentStep()

    def note(self, text: str) -> None:
        """Say nothing."""


class _Within:
    """Shows steps as the details of another step."""

    def __init__(self, outer: Step) -> None:
        self._outer = outer

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step by updates of the outer one."""
        self._outer.update(title)
        yield _Detail(self._outer, title)

    def note(self, text: str) -> None:
        """Show a note until something else is shown."""
        self._outer.update(text)


class _Detail:
    def __init__(self, outer: Step, title: str) -> None:
        self._outer = outer
        self._title = title

    def update(self, detail: str, fraction: float | None = None) -> None:
        self._outer.update(f"{self._title}: {detail}", fraction)

    def done(self, result: str) -> None:
        pass


def within(step: Step) -> Progress:
    """What announces steps within a step: that one says what they do, and they leave no line."""
    return _Within(step)
