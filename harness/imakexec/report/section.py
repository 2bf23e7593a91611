# SPDX-License-Identifier: GPL-2.0-only
"""What a page shows of one test."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from imakexec.report.artefacts import (
    Artefacts,
    find_artefacts,
    folder_of,
    in_words,
    link,
    regular_file,
)
from imakexec.report.excerpt import Excerpt, read_excerpt
from imakexec.report.gauge import Gauge, StepBar, draw_handovers, draw_steps
from imakexec.report.judged import JudgementNote, RowNote, read_judgement
from imakexec.report.picture import draw_log
from imakexec.report.shapes import LogPicture
from imakexec.strict_json import JsonFault, shortened
from imakexec.suite.catalogue import CATALOGUE
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import Attempt, Complaint, KernelIdentity, TestResult

_MOST_ROWS = 200
_MOST_LINES = 60  # of what was found, and of complaints
_REASON = 240  # characters
_ANCHOR = 80

_MEANINGS: Mapping[Outcome, str] = MappingProxyType(
    {
        Outcome.PASS: "The kernel did what it must.",
        Outcome.KNOWN: "Known defects of this kernel have shown, and nothing else.",
        Outcome.SKIP: "It was not run.",
        Outcome.FAIL: "The kernel did not do what it must.",
        Outcome.INFRA: "The host failed: nothing is said about the kernel.",
    }
)
_BROKEN = "The test itself is broken: nothing is said about the kernel."
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z")


@dataclass(frozen=True)
class AttemptNote:
    """A try that was repeated.

    Attributes:
        attempt: what became of it.
        seconds: that it took.
        artefacts: None if there are none.
    """

    attempt: Attempt
    seconds: str
    artefacts: Artefacts | None


@dataclass(frozen=True)
class Judged:
    """A judgement with its pictures.

    Attributes:
        note: the judgement.
        picture: of the list; None if none was judged.
        gauges: the hand-over buffers.
        more_gauges: how many of them are not shown.
        rows: of the timeline.
        more_rows: how many of them are not shown.
    """

    note: JudgementNote
    picture: LogPicture | None
    gauges: tuple[Gauge, ...]
    more_gauges: int
    rows: tuple[RowNote, ...]
    more_rows: int


@dataclass(frozen=True)
class ConsoleNote:
    """A console.

    Attributes:
        href: of the file.
        size: of it.
        excerpt: what is shown of it.
    """

    href: str
    size: str
    excerpt: Excerpt


@dataclass(frozen=True)
class Section:
    """One test.

    Attributes:
        result: of it.
        anchor: its id in the page.
        scenario: number and name; empty if it is of none.
        file: in which the test stands.
        name: of the test in that file.
        kernel: its name; empty for none.
        red: whether somebody must look at it.
        meaning: of its outcome, in a sentence.
        reason: in one line.
        why: what was found.
        more_why: how many further lines of that there are.
        started: when.
        seconds: that it took.
        budget: that it may take; empty for none.
        over: whether it took more.
        complaints: of the kernels.
        more_complaints: how many of them are not shown.
        attempts: those before.
        steps: as a bar; None if there are none.
        judged: None if there is no judgement that can be read.
        damage: why it cannot be read; empty if it can, or if there is none.
        console: of a red test; None for another one, or if there is none.
        artefacts: None if there are none.
    """

    result: TestResult
    anchor: str
    scenario: str
    file: str
    name: str
    kernel: str
    red: bool
    meaning: str
    reason: str
    why: tuple[str, ...]
    more_why: int
    started: str
    seconds: str
    budget: str
    over: bool
    complaints: tuple[Complaint, ...]
    more_complaints: int
    attempts: tuple[AttemptNote, ...]
    steps: StepBar | None
    judged: Judged | None
    damage: str
    console: ConsoleNote | None
    artefacts: Artefacts | None


def describe_test(test: TestResult, page: Path, anchor: str) -> Section:
    """Gather what the page shows of a test.

    Args:
        test: what it came to.
        page: the folder of the page.
        anchor: see `Section`.
    """
    file, separator, name = test.nodeid.partition("::")
    if not separator:
        file, name = "", test.nodeid
    red = test.outcome in (Outcome.FAIL, Outcome.INFRA)
    folder = folder_of(page, test.folder)
    judged, damage = _judgement(page, folder)
    broken = test.in_test and test.outcome is Outcome.INFRA
    return Section(
        result=test,
        anchor=anchor,
        scenario=_scenario(test.scenario),
        file=file,
        name=name,
        kernel=_kernel(test.kernel),
        red=red,
        meaning=_BROKEN if broken else _MEANINGS[test.outcome],
        reason=_reason(test, judged),
        why=test.why[:_MOST_LINES],
        more_why=len(test.why[_MOST_LINES:]),
        started=moment(test.started),
        seconds=period(test.seconds) if test.seconds else "",
        budget=period(test.budget) if test.budget else "",
        over=0 < test.budget < test.seconds,
        complaints=test.complaints[:_MOST_LINES],
        more_complaints=len(test.complaints[_MOST_LINES:]),
        attempts=tuple(_attempt(attempt, page) for attempt in test.attempts[:_MOST_LINES]),
        steps=draw_steps(test.steps, test.seconds),
        judged=judged,
        damage=damage,
        console=_console(page, folder, test.complaints) if folder and red else None,
        artefacts=_artefacts(page, folder, test.attempts),
    )


def anchors(nodeids: Sequence[str]) -> Iterator[str]:
    """An id in the page for each test: the same in the next run, if that has the same tests."""
    taken: dict[str, int] = {}
    for nodeid in nodeids:
        words = re.findall(r"[a-z0-9]+", nodeid.partition("::")[2].lower())
        name = f"t-{'-'.join(words)[:_ANCHOR]}"
        taken[name] = taken.get(name, 0) + 1
        # No name has two hyphens in a row, so that none is like this one.
        yield name if taken[name] == 1 else f"{name}--{taken[name]}"


def moment(text: str) -> str:
    """A time as people write it."""
    found = _TIME.fullmatch(text)
    return f"{found[1]} {found[2]} UTC" if found else text


def period(seconds: float) -> str:
    """A length of time: "3.2 s", "4 min 05 s", "2 h 03 min"."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _scenario(number: int | None) -> str:
    if number is None:
        return ""
    known = CATALOGUE.get(number)
    return f"{number:02} {known.name}" if known else f"{number:02}"


def _kernel(kernel: KernelIdentity | None) -> str:
    return "" if kernel is None else f"{kernel.subject} {kernel.release}".strip()


def _reason(test: TestResult, judged: Judged | None) -> str:
    """The most telling thing that is known, in one line."""
    unexcused = [item.line for item in test.complaints if not item.because]
    sentences = [judged.note.sentence] if judged and test.outcome is Outcome.FAIL else []
    candidates = [*test.why, test.ending, *unexcused, *sentences]
    first = next((text for text in candidates if text.strip()), "")
    lines = (" ".join(line.split()) for line in first.splitlines())
    return shortened("; ".join(filter(None, lines)), _REASON)


def _judgement(page: Path, folder: Path | None) -> tuple[Judged | None, str]:
    path = regular_file(page, folder / "judgement.json") if folder else None
    if path is None:
        return None, ""
    try:
        note = read_judgement(path)
    except JsonFault as fault:
        return None, f"{fault.field}: {fault}" if fault.field else str(fault)
    rows = note.timeline.rows if note.timeline else ()
    gauges, more = draw_handovers(note.timeline) if note.timeline else ((), 0)
    return Judged(
        note=note,
        picture=draw_log(note),
        gauges=gauges,
        more_gauges=more,
        rows=rows[:_MOST_ROWS],
        more_rows=len(rows[_MOST_ROWS:]),
    ), ""


def _console(page: Path, folder: Path, complaints: Sequence[Complaint]) -> ConsoleNote | None:
    for name in ("console.log", "console-0.log"):
        path = regular_file(page, folder / "evidence" / name)
        if path is None:
            continue
        try:
            size = path.stat().st_size
            return ConsoleNote(link(page, path), in_words(size), read_excerpt(path, complaints))
        except OSError:
            continue
    return None


def _attempt(attempt: Attempt, page: Path) -> AttemptNote:
    folder = folder_of(page, attempt.folder)
    artefacts = find_artefacts(page, folder) if folder else None
    return AttemptNote(attempt, period(attempt.seconds), artefacts)


def _artefacts(page: Path, folder: Path | None, attempts: Sequence[Attempt]) -> Artefacts | None:
    if folder is None:
        return None
    found = find_artefacts(page, folder, without=[page / item.folder for item in attempts])
    return found if found.shelves else None
