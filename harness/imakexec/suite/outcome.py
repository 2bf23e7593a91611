# SPDX-License-Identifier: GPL-2.0-only
"""How tests of scenarios end, in the words of the table that is shown at the end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a test of a scenario ended."""

    PASS = "pass"
    KNOWN = "known"
    """Known defects of the kernel have shown, and nothing else."""
    SKIP = "skip"
    FAIL = "fail"
    INFRA = "infra"
    """The host failed, or the test itself: nothing is said about the kernel."""


@dataclass(frozen=True)
class Conclusion:
    """What a trial comes to: PASS, KNOWN or FAIL.

    Attributes:
        outcome: in a word.
        lines: the defects that showed as expected, or what is wrong.
    """

    outcome: Outcome
    lines: tuple[str, ...]
