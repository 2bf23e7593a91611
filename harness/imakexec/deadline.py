# SPDX-License-Identifier: GPL-2.0-only
"""One deadline, passed down through nested waits."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """A point on the monotonic clock, in seconds, after which a wait has failed.

    The clock is CLOCK_MONOTONIC, so that a step of the host's wall clock neither
    ends a wait early nor lets it go on for ever.
    """

    at: float
    budget: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """A deadline `seconds` from now."""
        return cls(at=time.monotonic() + seconds, budget=seconds)

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and `seconds` from now."""
        inner = Deadline.after(seconds)
        return inner if inner.at < self.at else self

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.at
