# SPDX-License-Identifier: GPL-2.0-only
"""One deadline, passed down through nested waits."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """A point on the monotonic clock, in seconds, after which a wait has failed.

    The clock is CLOCK_MONOTONIC, so that a step of the host's wall clock neither
    ends a wait early nor lets it go on for ever.

    Attributes:
        at: the point.
        budget: seconds from when it was set to it.
        silence: seconds for which whoever is waited for may give no sign of progress.
    """

    at: float
    budget: float
    silence: float = math.inf

    @classmethod
    def after(cls, seconds: float, *, silence: float = math.inf) -> Deadline:
        """A deadline `seconds` from now."""
        return cls(at=time.monotonic() + seconds, budget=seconds, silence=silence)

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and `seconds` from now."""
        inner = Deadline.after(seconds, silence=self.silence)
        return inner if inner.at < self.at else self

    def remaining_if_silent_for(self, seconds: float) -> float:
        """Seconds left, never negative, if nothing more comes from whom is waited for.

        Args:
            seconds: since the last sign of progress, which may lie before the wait.
        """
        so_far = min(seconds, time.monotonic() - self.at + self.budget)
        return max(0.0, min(self.remaining, self.silence - so_far))

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.at
