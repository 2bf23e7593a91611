# SPDX-License-Identifier: GPL-2.0-only
"""What the page of a run shows, in its order and in its words: a template adds only the form."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imakexec.errors import counted
from imakexec.report.artefacts import regular_file
from imakexec.report.section import Section, anchors, describe_test, moment, period
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import KernelIdentity, SuiteRun, TestResult

_WORST_FIRST = (Outcome.FAIL, Outcome.INFRA, Outcome.KNOWN, Outcome.PASS, Outcome.SKIP)
_RESULTS = "results.json"
_NO_SCENARIO = 1 << 30  # after all that there are


@dataclass(frozen=True)
class Fact:
    """Something that has a name.

    Attributes:
        name: what it is called.
        text: what it is.
        code: whether that is to be read letter by letter.
    """

    name: str
    text: str
    code: bool = False


@dataclass(frozen=True)
class KernelNote:
    """A kernel under test.

    Attributes:
        identity: what it is.
        tests: how many were made on it.
    """

    identity: KernelIdentity
    tests: int


@dataclass(frozen=True)
class Count:
    """How many tests ended in the same way.

    Attributes:
        outcome: in which.
        tests: their number.
        x: in a bar of all tests, in per cent.
        width: likewise.
    """

    outcome: Outcome
    tests: int
    x: str
    width: str


@dataclass(frozen=True)
class Page:
    """All of it.

    Attributes:
        headline: the run in a few words.
        started: when.
        tests: how many, and in which time.
        counts: of the outcomes, worst first.
        facts: what was run and where.
        kernels: those under test.
        index: the tests by scenario.
        sections: the tests, worst first.
        red: those that somebody must look at.
        results: link to the document that all this is from; empty if it is not there.
    """

    headline: str
    started: str
    tests: str
    counts: tuple[Count, ...]
    facts: tuple[Fact, ...]
    kernels: tuple[KernelNote, ...]
    index: tuple[Section, ...]
    sections: tuple[Section, ...]
    red: tuple[Section, ...]
    results: str


def describe(run: SuiteRun, folder: Path) -> Page:
    """Gather what the page shows.

    Args:
        run: what the tests came to.
        folder: of the page, which holds their artefacts.
    """
    names = anchors([test.nodeid for test in run.tests])
    index = [
        describe_test(test, folder, anchor)
        for test, anchor in sorted(
            zip(run.tests, names, strict=True), key=lambda item: _by_scenario(item[0])
        )
    ]
    sections = sorted(index, key=lambda item: _WORST_FIRST.index(item.result.outcome))
    red = tuple(section for section in sections if section.red)
    return Page(
        headline=_headline(run, red),
        started=moment(run.started),
        tests=f"{counted(len(run.tests), 'test')} in {period(run.seconds)}",
        counts=tuple(_counts(run.tests)),
        facts=tuple(_facts(run)),
        kernels=tuple(_kernels(run.tests)),
        index=tuple(index),
        sections=tuple(sections),
        red=red,
        results=_RESULTS if regular_file(folder, folder / _RESULTS) else "",
    )


def _headline(run: SuiteRun, red: Sequence[Section]) -> str:
    if not run.tests:
        return "No tests were run"
    if not red:
        return "Nothing is red"
    return f"{len(red)} of {len(run.tests)} tests {'is' if len(red) == 1 else 'are'} red"


def _by_scenario(test: TestResult) -> tuple[int, str]:
    return (_NO_SCENARIO if test.scenario is None else test.scenario, test.nodeid)


def _counts(tests: Sequence[TestResult]) -> Iterator[Count]:
    found = Counter(test.outcome for test in tests)
    at = 0.0
    for outcome in _WORST_FIRST:
        width = 100 * found[outcome] / max(1, len(tests))
        yield Count(outcome, found[outcome], f"{at:.2f}%", f"{width:.2f}%")
        at += width


def _facts(run: SuiteRun) -> Iterator[Fact]:
    yield Fact("command", f"pytest {shlex.join(run.command)}".rstrip(), code=True)
    commit, dirty = run.project.removesuffix("-dirty"), run.project.endswith("-dirty")
    text = (commit or "not known") + (", with files changed since" if dirty else "")
    yield Fact("imakexec", text, code=bool(commit))
    yield Fact("started", moment(run.started))
    yield Fact("duration", period(run.seconds))
    accelerators = Counter(test.accelerator for test in run.tests if test.accelerator)
    if accelerators:
        words = (f"{name} ({counted(tests, 'test')})" for name, tests in accelerators.most_common())
        yield Fact("accelerator", ", ".join(words))
    for name, what in run.host.items():
        yield Fact(name, what)


def _kernels(tests: Sequence[TestResult]) -> Iterator[KernelNote]:
    found = Counter(test.kernel for test in tests if test.kernel is not None)
    for identity, number in found.items():
        yield KernelNote(identity, number)
