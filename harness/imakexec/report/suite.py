# SPDX-License-Identifier: GPL-2.0-only
"""The scenario suite as a table: who stood what, how long it took, how long it may take."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Self

from imakexec.suite.catalogue import CATALOGUE
from imakexec.suite.outcome import Outcome

_WIDTH = 79


@dataclass(frozen=True)
class ScenarioResult:
    """How one test of a scenario ended.

    Attributes:
        number: of the scenario.
        kernel: on which it was tried; empty if the test makes its own choice.
        outcome: in a word.
        why: which defects, or the reason of a skip.
        seconds: that it took.
        boot_seconds: that its first boot took, which scales the budget; 0 without one.
    """

    number: int
    kernel: str
    outcome: Outcome
    why: str
    seconds: float
    boot_seconds: float

    def to_json(self) -> str:
        """As a text that comes back from a worker process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` has written."""
        members = json.loads(text)
        return cls(**{**members, "outcome": Outcome(members["outcome"])})

    @property
    def budget(self) -> float:
        """Seconds that it may take on this host."""
        return CATALOGUE[self.number].budget * max(1.0, self.boot_seconds)


def summary_lines(results: Iterable[ScenarioResult]) -> Iterator[str]:
    """The table, at most 79 columns wide: a row for each scenario and kernel, and all reasons."""
    rows: dict[tuple[int, str], list[ScenarioResult]] = {}
    for result in results:
        rows.setdefault((result.number, result.kernel), []).append(result)
    yield f"{'scenario':27} {'kernel':7} {' '.join(Outcome)}  longest budget"
    reasons: dict[str, None] = {}
    for (number, kernel), group in sorted(rows.items()):
        longest = max(group, key=lambda result: result.seconds / result.budget)
        over = "!" if longest.seconds > longest.budget else " "
        counts = Counter(result.outcome for result in group)
        columns = " ".join(f"{counts[outcome] or '':{len(outcome)}}" for outcome in Outcome)
        yield (
            f"{CATALOGUE[number]!s:27.27} {kernel:7.7} {columns}  "
            f"{longest.seconds:5.1f} s {longest.budget:4.0f} s{over}"
        ).rstrip()
        for result in group:
            for line in result.why.splitlines():
                reasons[f"{number:2} {result.outcome}: {line}"] = None
    for reason in reasons:
        yield from wrap(reason, _WIDTH, subsequent_indent="   ")
