# SPDX-License-Identifier: GPL-2.0-only
"""The scenario suite as a table: who stood what, how long it took, how long it may take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap

from imakexec.suite.catalogue import CATALOGUE
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import TestResult

_WIDTH = 79
_OTHERS = 0  # sorts what belongs to no scenario before them


def summary_lines(results: Iterable[TestResult]) -> Iterator[str]:
    """The table, at most 79 columns wide: a row for each scenario and kernel, and all reasons.

    What belongs to no scenario shares a row for each kernel.
    """
    rows: dict[tuple[int, str], list[TestResult]] = {}
    for result in results:
        subject = result.kernel.subject if result.kernel else ""
        rows.setdefault((result.scenario or _OTHERS, subject), []).append(result)
    yield f"{'scenario':27} {'kernel':7} {' '.join(Outcome)}  longest budget"
    reasons: dict[str, None] = {}
    for (number, subject), group in sorted(rows.items()):
        yield _row(number, subject, group)
        for result in group:
            reasons |= dict.fromkeys(_reasons(number, result))
    for reason in reasons:
        yield from wrap(reason, _WIDTH, subsequent_indent="   ")


def _row(number: int, subject: str, group: Sequence[TestResult]) -> str:
    title = str(CATALOGUE[number]) if number else "   other tests"
    counts = Counter(result.outcome for result in group)
    columns = " ".join(f"{counts[outcome] or '':{len(outcome)}}" for outcome in Outcome)
    longest = max(group, key=lambda result: result.seconds / (result.budget or 1.0))
    time = f"{longest.seconds:5.1f} s"
    if longest.budget:
        over = "!" if longest.seconds > longest.budget else " "
        time += f" {longest.budget:4.0f} s{over}"
    return f"{title:27.27} {subject:7.7} {columns}  {time}".rstrip()


def _reasons(number: int, result: TestResult) -> Iterator[str]:
    place = f"{number or '':2}"
    for line in result.why:
        yield f"{place} {result.outcome}: {line}"
    for attempt in result.attempts:
        test = result.nodeid.rpartition("/")[2]
        yield f"{place} repeated once: {test}: {attempt.why}"
