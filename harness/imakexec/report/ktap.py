# SPDX-License-Identifier: GPL-2.0-only
"""A run of the tests as KTAP, for what collects the results of kernel tests.

The form is version 1 of Linux's Documentation/dev-tools/ktap.rst: a test for each scenario of the
catalogue, with the tests of that scenario as subtests, and one for the tests of none.

    KTAP version 1
    1..1
      KTAP version 1
      1..2
      # kernel: patched 6.1.176, linux-source-6.1 6.1.176-1 with 7 patches
      # duration: 4.2 s
      ok 1 harness/test_gap_events.py::test_gap[patched]
      # why: A1: the list is copied at load
      ok 2 harness/test_gap_events.py::test_gap[plain] # XFAIL A1: the list is copied at load
    ok 1 gap events # tests: 1 pass, 1 known

Kernels and users have a say in names and reasons. None of their text begins a line, has a "#" where
one would begin a directive, or ends a line early.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from imakexec.errors import printable
from imakexec.strict_json import shortened
from imakexec.suite.catalogue import CATALOGUE
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import KernelIdentity, SuiteRun, TestResult

_VERSION = "KTAP version 1"
_INDENT = "  "
_OTHER_TESTS = "other tests"
_NAMELESS = "?"  # a name may be left out, but the kernel's own parser then loses count
_DATA_WIDTH = 200  # of a reason beside a result; the diagnostic lines before it have all of it

# tools/testing/kunit/kunit_parser.py takes these for the end of a console, wherever they stand.
_ENDS_OF_A_CONSOLE = re.compile(
    r"List of all partitions:|Kernel panic - not syncing: VFS:|reboot: System halted"
)


@dataclass(frozen=True)
class _Form:
    """How an outcome is written.

    Attributes:
        result: what counts for a reader that does not know the directive.
        directive: empty for none.
    """

    result: str
    directive: str = ""


_FORMS: Mapping[Outcome, _Form] = MappingProxyType(
    {
        Outcome.PASS: _Form("ok"),
        # As expected, and no news: kselftest.h has "ok" before XFAIL as well.
        Outcome.KNOWN: _Form("ok", "XFAIL"),
        Outcome.SKIP: _Form("ok", "SKIP"),
        Outcome.FAIL: _Form("not ok"),
        # "The execution of a test has failed due to a specific error": that of the host or of the
        # test. SKIP would call it a choice, and the run green; TIMEOUT names a cause that nobody
        # has established, and one that a kernel which hangs has too.
        Outcome.INFRA: _Form("not ok", "ERROR"),
    }
)

_LOUDEST = (Outcome.FAIL, Outcome.INFRA, Outcome.PASS, Outcome.KNOWN, Outcome.SKIP)
"""Which outcome stands for a scenario: a test fails if a subtest does; it is skipped if all are."""


def ktap_lines(run: SuiteRun) -> Iterator[str]:
    """The document, line by line, without their ends."""
    groups: dict[int | None, list[TestResult]] = {}
    for test in run.tests:
        groups.setdefault(test.scenario, []).append(test)
    ordered = sorted(groups.items(), key=lambda item: (item[0] is None, item[0] or 0))
    yield _VERSION
    yield f"1..{len(ordered)}"
    for number, (scenario, tests) in enumerate(ordered, 1):
        yield from (f"{_INDENT}{line}" for line in _subtests(tests))
        outcomes = Counter(test.outcome for test in tests)
        loudest = next(outcome for outcome in _LOUDEST if outcomes[outcome])
        yield _result(number, _name_of(scenario), loudest, f"tests: {_counted(outcomes)}")
    yield from _about(run)


def _name_of(scenario: int | None) -> str:
    if scenario is None:
        return _OTHER_TESTS
    known = CATALOGUE.get(scenario)
    return known.name if known else f"scenario {scenario}"


def _counted(outcomes: Mapping[Outcome, int]) -> str:
    return ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in Outcome if outcomes[outcome])


def _subtests(tests: Sequence[TestResult]) -> Iterator[str]:
    yield _VERSION
    yield f"1..{len(tests)}"
    for number, test in enumerate(tests, 1):
        yield from _diagnostics(test)
        why = next(_lines(test.why), "")
        if why and not _FORMS[test.outcome].directive:
            why = f"why: {why}"  # so that no reason is read as a directive
        yield _result(number, test.nodeid, test.outcome, why)


def _result(number: int, name: str, outcome: Outcome, data: str) -> str:
    form = _FORMS[outcome]
    line = f"{form.result} {number} {_without_hash(name) or _NAMELESS}"
    further = f"{form.directive} {shortened(_without_hash(data), _DATA_WIDTH)}".strip()
    return f"{line} # {further}" if further else line


def _diagnostics(test: TestResult) -> Iterator[str]:
    yield from _said("why", *test.why)
    if test.kernel is not None:
        yield from _said("kernel", _kernel(test.kernel))
    yield from _said("accelerator", test.accelerator)
    yield from _said("host", test.host)
    yield from _said("ending", test.ending)
    yield from _said("verdict", test.verdict)
    for complaint in test.complaints:
        if not complaint.because:
            yield from _said("complaint", f"{complaint.name} in boot {complaint.boot}")
            yield from _said("complaint", complaint.line)
    for attempt in test.attempts:
        yield from _said("earlier try", f"after {attempt.seconds:.1f} s: {attempt.why}")
        yield from _said("earlier try, artefacts", attempt.folder)
    yield from _said("artefacts", test.folder)
    budget = f", budget {test.budget:.0f} s" if test.budget else ""
    yield from _said("duration", f"{test.seconds:.1f} s{budget}")


def _kernel(kernel: KernelIdentity) -> str:
    count = len(kernel.patches)
    patches = f" with {count} patch{'' if count == 1 else 'es'}" if count else ""
    return f"{kernel.subject} {kernel.release}, {kernel.base}{patches}".strip()


def _about(run: SuiteRun) -> Iterator[str]:
    """The run as a whole: after all results, where it is of no test."""
    yield from _said("started", run.started)
    yield from _said("duration", f"{run.seconds:.1f} s")
    yield from _said("command", " ".join(run.command))
    yield from _said("project", run.project)
    for name, value in run.host.items():
        yield from _said("host", f"{name}: {value}")


def _said(topic: str, *texts: str) -> Iterator[str]:
    """Diagnostic lines; the topic is what keeps a text from "Subtest: ...", which has a meaning."""
    return (f"# {topic}: {line}" for line in _lines(texts))


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """The lines of some texts that are not blank, by any end of a line that a reader may know."""
    return (line for text in texts for each in text.splitlines() if (line := _plain(each).strip()))


def _plain(text: str) -> str:
    """A text that is one line to every reader, and ends the console of none."""
    return _ENDS_OF_A_CONSOLE.sub(lambda found: found[0].replace(" ", "_"), printable(text))


def _without_hash(text: str) -> str:
    return _plain(text).replace("#", "?").strip()
