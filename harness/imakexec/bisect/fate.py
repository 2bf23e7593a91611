# SPDX-License-Identifier: GPL-2.0-only
"""How far a kernel comes, and what that means for a bisection; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from imakexec.options import Aim
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import SuiteRun, TestResult


class Fate(StrEnum):
    """How far a kernel has come."""

    NOT_CONFIGURED = "cannot be configured"
    NOT_BUILT = "does not build"
    NOT_BOOTED = "does not boot"
    FAILS = "fails"
    PASSES = "passes"
    UNDECIDED = "fails sometimes"
    UNKNOWN = "not known"
    """The host failed, or no test could be tried; a known good kernel passes."""


class Quality(StrEnum):
    """A commit in git's words."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"


_ORDER = (Fate.NOT_CONFIGURED, Fate.NOT_BUILT, Fate.NOT_BOOTED, Fate.FAILS, Fate.PASSES)
_STAGES = tuple(Aim)


def quality_of(fate: Fate, aim: Aim) -> Quality:
    """What a commit is in a bisection that looks for `aim`.

    What does not come as far as that stage for another reason cannot be judged; what comes past it
    is good, whatever happens to it later.
    """
    if fate not in _ORDER:
        return Quality.SKIP
    reached, wanted = _ORDER.index(fate), _STAGES.index(aim)
    if reached == wanted:
        return Quality.BAD
    return Quality.GOOD if reached > wanted else Quality.SKIP


def aim_of(fate: Fate) -> Aim | None:
    """What a bisection looks for whose bad end comes to this; None if there is nothing bad."""
    if fate is Fate.PASSES or fate not in _ORDER:
        return None
    return _STAGES[_ORDER.index(fate)]


@dataclass(frozen=True)
class Tally:
    """How often the tests were run on one kernel.

    Attributes:
        good: runs without a fault.
        bad: runs with one.
    """

    good: int = 0
    bad: int = 0

    @property
    def runs(self) -> int:
        """All that have said something."""
        return self.good + self.bad

    def fate(self, wanted: int) -> Fate | None:
        """What so many runs come to; None for that it takes more of them.

        A kernel fails that has failed twice, and in a sixth of its runs (syz-bisect's rule). It
        passes that has passed `wanted` runs and failed none. One failure alone is a reason to go
        on, for three times as many runs.

        Args:
            wanted: runs that a good kernel must pass, at least 1.
        """
        if self.bad >= max(2, math.ceil(self.runs / 6)):
            return Fate.FAILS
        if not self.bad:
            return Fate.PASSES if self.good >= wanted else None
        return Fate.UNDECIDED if self.runs >= 3 * wanted else None

    def chance_missed(self, wanted: int) -> float:
        """How likely a kernel that fails as often as this one passes `wanted` runs."""
        return (self.good / self.runs) ** wanted if self.runs else 1.0


def faults_of(test: TestResult, known: frozenset[str]) -> Iterator[str]:
    """What a test says against a kernel, one line each.

    A known defect counts as any other finding, because the bisection may look for it; that one has
    not shown does not.

    Args:
        known: the ids of known defects that the good end shows too.
    """
    if test.outcome not in (Outcome.FAIL, Outcome.KNOWN):
        return
    found = [item for item in test.findings if item.defect not in known]
    yield from (f"{item}{f' ({item.defect})' if item.defect else ''}" for item in found)
    is_own = test.outcome is Outcome.FAIL and not test.mended
    if is_own and all(item.defect for item in test.findings):
        yield from test.why  # an assertion of the test itself has failed


@dataclass(frozen=True)
class RunOfTests:
    """What one run of the tests says of a kernel.

    Attributes:
        faults: against it, one line each, of the tests that have come to a result.
        defects: the ids of known defects that have shown.
        features: what the kernel sets out to do, as far as a test has looked.
        tried: tests that have said something.
        silent: why others have not, one line each.
        infra: whether the host has failed.
    """

    faults: tuple[str, ...]
    defects: frozenset[str]
    features: frozenset[str]
    tried: int
    silent: tuple[str, ...]
    infra: bool

    @classmethod
    def of(
        cls, run: SuiteRun, known: frozenset[str] | None, features: frozenset[str] = frozenset()
    ) -> RunOfTests:
        """Read the results of a run.

        Args:
            known: the ids of known defects that are no fault; None for all of them.
            features: what the kernel must set out to do: tests expect nothing of a kernel that
                never meant to, so that the removal of a feature would go unnoticed.
        """
        defects = frozenset(
            item.defect for test in run.tests for item in test.findings if item.defect
        )
        spoke = [t for t in run.tests if t.outcome not in (Outcome.SKIP, Outcome.INFRA)]
        silent = [t for t in run.tests if t.outcome in (Outcome.SKIP, Outcome.INFRA)]
        excused = defects if known is None else known
        looked = [test.kernel for test in spoke if test.kernel and test.scenario]
        seen = frozenset(feature for kernel in looked for feature in kernel.features)
        gone = sorted(features - seen) if looked else []
        faults = [fault for test in spoke for fault in faults_of(test, excused)]
        return cls(
            faults=(*faults, *(f"the kernel has no {feature} any more" for feature in gone)),
            defects=defects,
            features=seen,
            tried=len(spoke),
            silent=tuple(line for test in silent for line in test.why),
            infra=any(test.outcome is Outcome.INFRA for test in silent),
        )
