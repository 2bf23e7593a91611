# SPDX-License-Identifier: GPL-2.0-only
"""Breaks the series on purpose, once at a time, and sees whether the tests notice.

A mutation is a file `harness/mutations/NAME.patch`, applied on top of the whole series:

    What is broken, in one line.

    Noticed-by: test_storm.py::test_nothing_is_lost_in_a_storm[0]
    ---
    diff --git a/...

`Noticed-by` names a test, relative to `harness/`, that must fail; there can be several lines, and
the first failure ends it. Adding a mutation is dropping in a file.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from xml.etree import ElementTree

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, InfraError, UserError
from imakexec.progress import Progress

FOLDER = "harness/mutations"

_NOTICED_BY = re.compile(r"^Noticed-by: (.+)$", re.MULTILINE)
_DIFF = re.compile(r"^diff --git ", re.MULTILINE)

# One kernel from nothing, or two that differ in a few files, and the tests of one mutation.
_SECONDS = 3600.0
# pytest's own exit codes: all passed, some failed (or were in error). Any other ran nothing.
_RAN = (0, 1)


@dataclass(frozen=True)
class Mutation:
    """One deliberate breakage.

    Attributes:
        name: of its file, without the suffix.
        path: the patch file.
        what: what is broken, in one line.
        noticed_by: pytest's names of the tests that must fail, relative to `harness/`.
    """

    name: str
    path: Path
    what: str
    noticed_by: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Mutation:
        """Read a mutation.

        Raises:
            UserError: it has no first line, names no test, or holds no diff.
        """
        text = path.read_text(encoding="utf-8")
        found = _DIFF.search(text)
        head = text[: found.start()] if found else text
        what = head.partition("\n")[0].strip()
        tests = tuple(_NOTICED_BY.findall(head))
        missing = [
            name
            for name, there in (
                ("a first line that says what is broken", what),
                ("a line Noticed-by: TEST", tests),
                ("a diff made by git", found),
            )
            if not there
        ]
        if missing:
            raise UserError(
                f"the mutation lacks {missing[0]}",
                where=str(path),
                remedy="see the other files beside it, and imakexec/series/mutate.py",
            )
        return cls(path.stem, path, what, tests)


def read_mutations(project: Path, names: Sequence[str] = ()) -> tuple[Mutation, ...]:
    """The mutations of the project, by name; only those named, if any are.

    Raises:
        UserError: there is none of such a name, or a file is no mutation.
    """
    folder = project / FOLDER
    found = {path.stem: path for path in sorted(folder.glob("*.patch"))}
    unknown = [name for name in names if name not in found]
    if unknown or not found:
        raise UserError(
            f"there is no mutation {unknown[0]!r}" if unknown else "there are no mutations",
            where=str(folder),
            remedy=f"one of: {', '.join(found)}" if found else "restore the folder",
        )
    return tuple(Mutation.read(found[name]) for name in (names or found))


class Fate(StrEnum):
    """What became of a mutation."""

    KILLED = "killed"
    """A test that should notice it failed."""
    SURVIVED = "survived"
    """All of them passed: the tests have no teeth there."""
    INVALID = "invalid"
    """It does not apply, does not build, or its tests do not exist."""
    INFRA = "infra"
    """The host failed: nothing is known."""


@dataclass(frozen=True)
class Outcome:
    """What became of one mutation.

    Attributes:
        mutation: which.
        fate: what.
        by: the test that failed, or a few words about what went wrong.
        seconds: building and testing.
        log: what pytest said.
    """

    mutation: Mutation
    fate: Fate
    by: str
    seconds: float
    log: Path


def mutate(
    project: Path, mutations: Sequence[Mutation], logs: Path, progress: Progress
) -> Iterator[Outcome]:
    """Show that the tests pass without a mutation, then try each and tell what became of it.

    Args:
        logs: an existing folder for what pytest says.

    Raises:
        GuestFailure: a test fails without any mutation, so that its failure would prove nothing.
        InfraError: the host failed before the first mutation.
    """
    _require_good_tests(project, mutations, logs, progress)
    for number, mutation in enumerate(mutations, 1):
        with progress.step(f"mutation {number} of {len(mutations)}: {mutation.name}") as step:
            outcome = _try(project, mutation, logs)
            step.done(f"{outcome.fate}: {outcome.by}")
        yield outcome


def _require_good_tests(
    project: Path, mutations: Sequence[Mutation], logs: Path, progress: Progress
) -> None:
    tests = list(dict.fromkeys(test for mutation in mutations for test in mutation.noticed_by))
    with progress.step(f"{len(tests)} tests without a mutation") as step:
        log = logs / "without-mutation.log"
        report = _run_tests(project, tests, log)
        if report.errors and not report.failures:
            raise InfraError(
                f"the tests could not be run: {report.errors[0]}",
                where=str(log),
                remedy="see there",
            )
        if report.failures or report.passed != len(tests):
            broken = report.failures[0] if report.failures else "a test that was not found"
            raise GuestFailure(
                f"the tests fail without any mutation: {broken}",
                where=str(log),
                remedy="mend the series or the test first: its failure would prove nothing",
            )
        step.done(f"{report.passed} passed")


def _try(project: Path, mutation: Mutation, logs: Path) -> Outcome:
    started = time.monotonic()
    log = logs / f"{mutation.name}.log"
    report = _run_tests(project, mutation.noticed_by, log, f"--mutation={mutation.path}")
    fate, by = _judge(report)
    return Outcome(mutation, fate, by, time.monotonic() - started, log)


@dataclass(frozen=True)
class TestReport:
    """What pytest's JUnit file says.

    Attributes:
        passed: how many tests passed.
        failures: names of the tests that failed: the kernel under test.
        errors: what kept tests from being run, as one line each: the host, or the request.
        invalid: the first message which says that what was asked for cannot be built.
    """

    __test__ = False  # it is none of pytest's

    passed: int
    failures: tuple[str, ...]
    errors: tuple[str, ...]
    invalid: str

    @classmethod
    def read(cls, text: str) -> TestReport:
        """Read a JUnit file as pytest writes it.

        Raises:
            ElementTree.ParseError: it is none.
        """
        cases = list(ElementTree.fromstring(text).iter("testcase"))
        failures = [(case, end) for case in cases for end in case.findall("failure")]
        errors = [end.get("message", "") for case in cases for end in case.findall("error")]
        messages = [*errors, *(end.get("message", "") for _, end in failures)]
        skipped = sum(case.find("skipped") is not None for case in cases)
        return cls(
            passed=len(cases) - len(failures) - len(errors) - skipped,
            failures=tuple(case.get("name", "") for case, _ in failures),
            errors=tuple(error.partition("\n")[0] for error in errors),
            invalid=next((text.partition("\n")[0] for text in messages if _is_invalid(text)), ""),
        )


def _is_invalid(error: str) -> bool:
    return "BuildFailure" in error or "UserError" in error


def _judge(report: TestReport) -> tuple[Fate, str]:
    if report.invalid:
        return Fate.INVALID, report.invalid
    if report.failures:
        return Fate.KILLED, report.failures[0]
    if report.errors:
        return Fate.INFRA, report.errors[0]
    if not report.passed:
        return Fate.INVALID, "none of its tests exists"
    return Fate.SURVIVED, f"{report.passed} tests passed"


def _run_tests(project: Path, tests: Sequence[str], log: Path, *options: str) -> TestReport:
    """Run tests in a process of their own until one fails.

    Raises:
        InfraError: pytest did not get as far as a report.
    """
    log.unlink(missing_ok=True)
    junit = log.with_suffix(".xml")
    junit.unlink(missing_ok=True)
    ran = process.run(
        [
            sys.executable,
            *("-m", "pytest", "-x", "-m", "", "-p", "no:cacheprovider"),
            f"--junit-xml={junit}",
            *options,
            *(f"harness/{test}" for test in tests),
        ],
        cwd=project,
        log=log,
        deadline=Deadline.after(_SECONDS),
        check=False,
    )
    if ran.returncode == 4:  # pytest: one of the tests does not exist
        return TestReport(
            passed=0, failures=(), errors=(), invalid="one of its tests does not exist"
        )
    if ran.returncode not in _RAN or not junit.exists():
        raise InfraError(
            f"pytest ended with exit status {ran.returncode} and no report",
            where=str(log),
            remedy="see its last lines",
            tail="\n".join(ran.output.splitlines()[-20:]),
        )
    return TestReport.read(junit.read_text(encoding="utf-8"))
