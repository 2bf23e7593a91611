# SPDX-License-Identifier: GPL-2.0-only
"""Breaks the series on purpose, once at a time, and sees whether the tests notice.

A mutation is a file `harness/mutations/NAME.patch`, applied on top of the whole series:

    What is broken, in one line.

    Noticed-by: test_measurement_storm.py::test_nothing_is_lost_in_a_storm[patched-0]
    ---
    diff --git a/...

`Noticed-by` names a test, relative to `harness/`, that may notice; there can be several lines, and
the first of them that fails ends it. A guest that hangs is a failure only with a line `Noticed-as:
hang`, because a host that has become busy looks the same. Adding a mutation is dropping in a file.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, InfraError, UserError
from imakexec.progress import Progress, Step

FOLDER = "harness/mutations"

_NOTICED_BY = re.compile(r"^Noticed-by: (.+)$", re.MULTILINE)
_HANG = re.compile(r"^Noticed-as: hang$", re.MULTILINE)
_DIFF = re.compile(r"^diff --git ", re.MULTILINE)

# One kernel from nothing, or two that differ in a few files.
_BUILD_SECONDS = 3600.0
# Four times what the longest takes, the loads in the debug kernel.
_TEST_SECONDS = 600.0
# pytest's own exit codes: all passed, some failed (or were in error). Any other ran nothing.
_RAN = (0, 1)
# The suite's own for errors and no failure (suite/collector.py); pytest's for a mistake of its own.
_ONLY_ERRORS = 3

# How a failure starts in a JUnit file: the class of an exception and its message, or the
# expression of an assert statement.
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]*):? ?")
_ASSERT = "assert "
_HUNG = "the guest hung"
# The exceptions with which a test says that the kernel under test is wrong.
_FINDINGS = ("AssertionError", "Failed", "GuestFailure")
# Those which say that there is no such kernel.
_REFUSALS = ("BuildFailure", "UserError")
_SETUP_REFUSAL = re.compile(r'^failed on setup with "[\w.]*\b(BuildFailure|UserError): ')


@dataclass(frozen=True)
class Mutation:
    """One deliberate breakage.

    Attributes:
        name: of its file, without the suffix.
        path: the patch file.
        what: what is broken, in one line.
        noticed_by: pytest's names of the tests that may notice, relative to `harness/`.
        hangs: whether the guest hangs of it.
    """

    name: str
    path: Path
    what: str
    noticed_by: tuple[str, ...]
    hangs: bool = False

    @classmethod
    def read(cls, path: Path) -> Mutation:
        """Read a mutation.

        Raises:
            UserError: it has no first line, names no test, or holds no diff; or it is no text.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"the mutation is not UTF-8: {error.reason} at byte {error.start}",
                where=str(path),
                remedy="write it anew",
            ) from error
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
        return cls(path.stem, path, what, tests, _HANG.search(head) is not None)


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
    """A test that may notice it failed, and said of the kernel what is wrong."""
    SURVIVED = "survived"
    """All of them passed: the tests have no teeth there."""
    INVALID = "invalid"
    """It does not apply or build, or the test itself broke: nothing is shown."""
    INFRA = "infra"
    """The host failed: nothing is known."""


@dataclass(frozen=True)
class Outcome:
    """What became of one mutation.

    Attributes:
        mutation: which.
        fate: what.
        test: the test that failed; empty if none did.
        reason: how it failed, or what went wrong; one line.
        seconds: building and testing.
        log: what pytest said.
    """

    mutation: Mutation
    fate: Fate
    test: str
    reason: str
    seconds: float
    log: Path


def mutate(
    project: Path, mutations: Sequence[Mutation], logs: Path, progress: Progress
) -> Iterator[Outcome]:
    """Show that the tests pass without a mutation, then try each and tell what became of it.

    Args:
        logs: an existing folder for what pytest says.

    Raises:
        UserError: a mutation names a test that does not exist, or the series does not build.
        GuestFailure: a test fails without any mutation, so that its failure would prove nothing.
        InfraError: the host failed before the first mutation.
    """
    _require_tests(project, mutations, logs / "tests.log")
    _require_good_tests(project, mutations, logs / "without-mutation.log", progress)
    for number, mutation in enumerate(mutations, 1):
        with progress.step(f"mutation {number} of {len(mutations)}: {mutation.name}") as step:
            outcome = _try(project, mutation, logs / f"{mutation.name}.log", step)
            step.done(f"{outcome.fate}: {outcome.test or outcome.reason}")
        yield outcome


def _tests_of(mutations: Sequence[Mutation]) -> list[str]:
    return list(dict.fromkeys(test for mutation in mutations for test in mutation.noticed_by))


def _require_tests(project: Path, mutations: Sequence[Mutation], log: Path) -> None:
    """Look for the tests, which is quick, before any kernel is built.

    Raises:
        UserError: there is not exactly one of a name, or pytest does not get as far as that.
    """
    files = list(dict.fromkeys(test.partition("::")[0] for test in _tests_of(mutations)))
    for mutation in mutations:
        for test in mutation.noticed_by:
            if not (project / "harness" / test.partition("::")[0]).is_file():
                raise _no_such_test(mutation, test, "its file does not exist")
    ran = _pytest(project, files, log, "--collect-only", "-q", seconds=_TEST_SECONDS)
    if ran.returncode not in _RAN:
        raise UserError(
            "pytest cannot find the tests",
            where=str(log),
            remedy="see its last lines",
            tail="\n".join(ran.output.splitlines()[-20:]),
        )
    known = {line.removeprefix("harness/") for line in ran.output.splitlines() if "::" in line}
    for mutation in mutations:
        for test in mutation.noticed_by:
            if test not in known:
                several = any(name.startswith(f"{test}[") for name in known)
                why = "it needs its parameters, as in NAME[1]" if several else "there is none"
                raise _no_such_test(mutation, test, why)


def _no_such_test(mutation: Mutation, test: str, why: str) -> UserError:
    return UserError(
        f"no test is called {test}: {why}",
        where=f"{mutation.path}, Noticed-by",
        remedy="`pytest harness -m '' --collect-only -q` lists the tests",
    )


def _require_good_tests(
    project: Path, mutations: Sequence[Mutation], log: Path, progress: Progress
) -> None:
    tests = _tests_of(mutations)
    with progress.step(f"{len(tests)} tests without a mutation") as step:
        report = _run_tests(project, tests, log, step=step)
        remedy = "mend that first: a failure with a mutation would prove nothing"
        if report.unbuildable:
            message = f"without any mutation: {report.unbuildable}"
            raise UserError(message, where=str(log), remedy=remedy)
        if report.failures:
            failed = report.failures[0]
            raise GuestFailure(
                f"the tests fail without any mutation: {failed.test}: {failed.message}",
                where=str(log),
                remedy=remedy,
            )
        if report.errors:
            message = f"the tests could not be run: {report.errors[0]}"
            raise InfraError(message, where=str(log), remedy="see there")
        if report.skipped:
            message = f"a test is skipped on this host: {report.skipped[0]}"
            raise InfraError(message, where=str(log), remedy="see there")
        step.done(f"{report.passed} passed")


def _try(project: Path, mutation: Mutation, log: Path, step: Step) -> Outcome:
    started = time.monotonic()
    try:
        option = f"--mutation={mutation.path}"
        report = _run_tests(project, mutation.noticed_by, log, option, step=step)
        fate, test, reason = _judge(report, mutation)
    except InfraError as error:
        fate, test, reason = Fate.INFRA, "", error.what
    return Outcome(mutation, fate, test, reason, time.monotonic() - started, log)


@dataclass(frozen=True)
class Failure:
    """A test that failed.

    Attributes:
        test: its name, relative to `harness/`, with its parameters.
        message: one line; it starts with the class of the exception, if that is no AssertionError.
    """

    test: str
    message: str

    @property
    def exception(self) -> str:
        """The class of the exception, without its module."""
        if self.message.startswith(_ASSERT):
            return "AssertionError"
        found = _EXCEPTION.match(self.message)
        return found[1].rpartition(".")[2] if found else ""


@dataclass(frozen=True)
class TestReport:
    """What pytest's JUnit file says.

    Attributes:
        passed: how many tests passed.
        failures: the tests that failed: the kernel under test, or the test itself.
        errors: what kept tests from being run, as one line each: the host, or the request.
        skipped: why tests were skipped, as one line each.
    """

    __test__ = False  # it is none of pytest's

    passed: int
    failures: tuple[Failure, ...]
    errors: tuple[str, ...]
    skipped: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> TestReport:
        """Read a JUnit file as pytest writes it.

        Raises:
            ElementTree.ParseError: it is none.
        """
        cases = list(ElementTree.fromstring(text).iter("testcase"))
        failures = tuple(
            Failure(_test_name(case), _first_line(end))
            for case in cases
            for end in case.findall("failure")
        )
        errors = tuple(_first_line(end) for case in cases for end in case.findall("error"))
        skipped = tuple(_first_line(end) for case in cases for end in case.findall("skipped"))
        passed = len(cases) - len(failures) - len(errors) - len(skipped)
        return cls(passed, failures, errors, skipped)

    @property
    def unbuildable(self) -> str:
        """The first message which says that what was asked for cannot be built; empty if none."""
        failures = (f.message for f in self.failures if f.exception in _REFUSALS)
        errors = (text for text in self.errors if _SETUP_REFUSAL.search(text))
        return next(chain(failures, errors), "")


def _test_name(case: ElementTree.Element) -> str:
    file = case.get("classname", "").rpartition(".")[2]
    return f"{file}.py::{case.get('name', '')}"


def _first_line(end: ElementTree.Element) -> str:
    return end.get("message", "").partition("\n")[0]


def _judge(report: TestReport, mutation: Mutation) -> tuple[Fate, str, str]:
    """The fate, the test that failed, and why."""
    if report.unbuildable:
        return Fate.INVALID, "", report.unbuildable
    if report.failures:
        [failure, *_] = report.failures
        fate = Fate.KILLED if failure.exception in _FINDINGS else Fate.INVALID
        if _HUNG in failure.message and not mutation.hangs:
            fate = Fate.INFRA
        return fate, failure.test, failure.message
    if report.errors:
        return Fate.INFRA, "", report.errors[0]
    if report.skipped:
        return Fate.INVALID, "", f"skipped: {report.skipped[0]}"
    return Fate.SURVIVED, "", f"{report.passed} tests passed"


def _run_tests(
    project: Path, tests: Sequence[str], log: Path, *options: str, step: Step
) -> TestReport:
    """Run tests in a process of their own until one fails.

    Raises:
        InfraError: pytest did not get as far as a report.
    """
    junit = log.with_suffix(".xml")
    junit.unlink(missing_ok=True)
    seconds = _BUILD_SECONDS + len(tests) * _TEST_SECONDS
    # With workers -x ends pytest as an interruption does.
    options = ("-n0", "-x", "-v", f"--junit-xml={junit}", *options)
    ran = _pytest(project, tests, log, *options, seconds=seconds, on_line=step.update)
    report = TestReport.read(junit.read_text(encoding="utf-8")) if junit.exists() else None
    only_errors = report is not None and report.errors and ran.returncode == _ONLY_ERRORS
    if report is None or not (ran.returncode in _RAN or only_errors):
        raise InfraError(
            f"pytest ended with exit status {ran.returncode} before all tests were run",
            where=str(log),
            remedy="see its last lines",
            tail="\n".join(ran.output.splitlines()[-20:]),
        )
    return report


def _pytest(
    project: Path,
    tests: Sequence[str],
    log: Path,
    *options: str,
    seconds: float,
    on_line: Callable[[str], None] | None = None,
) -> process.Completed:
    """Run pytest in a process of its own, nightly tests included."""
    log.unlink(missing_ok=True)
    return process.run(
        [
            sys.executable,
            *("-m", "pytest", "-m", "", "-p", "no:cacheprovider"),
            *options,
            *(f"harness/{test}" for test in tests),
        ],
        cwd=project,
        log=log,
        deadline=Deadline.after(seconds),
        on_line=on_line,
        check=False,
    )
