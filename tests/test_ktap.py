# SPDX-License-Identifier: GPL-2.0-only
"""KTAP of a run, read by the rules of Linux's Documentation/dev-tools/ktap.rst."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suite_maker import (
    FAILED,
    HOST_FAILED,
    HOSTILE,
    KNOWN,
    PASSED,
    RUN,
    SKIPPED,
    TEST_FAILED,
    UNBOUND,
    defaced,
    run_of,
)

from imakexec.report.ktap import ktap_lines
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import SuiteRun, TestResult

# "<result> <number> [<description>][ # [<directive>] [<diagnostic data>]]"; the description is "any
# string of characters other than # or a newline".
RESULT = re.compile(r"(ok|not ok) ([1-9]\d*)(?: ([^#]+?))?(?: # (.*))?")
DIRECTIVE = re.compile(r"(SKIP|TODO|XFAIL|TIMEOUT|ERROR)(?: (.*))?")
LOOSE_RESULT = re.compile(r"\s*(not )?ok\b")
LOOSE_PLAN = re.compile(r"\s*1\.\.")
LOOSE_VERSION = re.compile(r"\s*K?TAP version")

# What kunit_parser.py looks for besides results.
ENDS = ("List of all partitions:", "Kernel panic - not syncing: VFS:", "reboot: System halted")
SUBTEST = re.compile(r"\s*# Subtest: ")


@dataclass
class Read:
    """A test as a reader of KTAP sees it."""

    ok: bool = True
    name: str = ""
    directive: str = ""
    data: str = ""
    diagnostics: list[str] = field(default_factory=list)
    subtests: list[Read] = field(default_factory=list)

    @property
    def ending(self) -> tuple[bool, str]:
        return self.ok, self.directive


class Lines:
    """What is still to be read."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = list(lines)

    def starts_with(self, text: str) -> bool:
        return bool(self._lines) and self._lines[0].startswith(text)

    def take(self, indent: str) -> str:
        line = self._lines.pop(0)
        assert line.startswith(indent), line
        return line.removeprefix(indent)

    def __bool__(self) -> bool:
        return bool(self._lines)


def parse(lines: Lines, indent: str = "") -> Iterator[Read]:
    """A version line, a plan, and as many results as it says, each after its own lines."""
    assert lines.take(indent) == "KTAP version 1"
    plan = re.fullmatch(r"1\.\.(\d+)", lines.take(indent))
    assert plan
    for number in range(1, int(plan[1]) + 1):
        read = Read()
        if lines.starts_with(f"{indent}  KTAP version"):
            read.subtests = list(parse(lines, f"{indent}  "))
        while lines.starts_with(f"{indent}# "):
            read.diagnostics.append(lines.take(indent))
        result = RESULT.fullmatch(lines.take(indent))
        assert result
        assert int(result[2]) == number
        read.ok, read.name, read.data = result[1] == "ok", result[3] or "", result[4] or ""
        directive = DIRECTIVE.fullmatch(read.data)
        if directive:
            read.directive, read.data = directive[1], directive[2] or ""
        yield read


def read(run: SuiteRun) -> tuple[list[Read], list[str]]:
    """The tests, and the diagnostic lines after all of them; no other line is allowed."""
    lines = Lines(ktap_lines(run))
    tests = list(parse(lines))
    rest = []
    while lines:
        rest.append(lines.take("# "))
    return tests, rest


def read_one(test: TestResult) -> Read:
    [[parent], _] = read(run_of(test))
    [subtest] = parent.subtests
    return subtest


def said(test: Read, topic: str) -> list[str]:
    start = f"# {topic}: "
    return [line.removeprefix(start) for line in test.diagnostics if line.startswith(start)]


ENDINGS = {
    Outcome.PASS: (True, ""),
    Outcome.KNOWN: (True, "XFAIL"),
    Outcome.SKIP: (True, "SKIP"),
    Outcome.FAIL: (False, ""),
    Outcome.INFRA: (False, "ERROR"),
}


def test_a_test_per_scenario_and_one_for_the_rest() -> None:
    tests, _ = read(RUN)
    names = ["gap events", "failed second load", "log staging", "other tests"]
    assert [test.name for test in tests] == names
    assert [len(test.subtests) for test in tests] == [2, 3, 1, 2]
    found = {each.name: each.ending for test in tests for each in test.subtests}
    assert found == {test.nodeid.replace("#", "?"): ENDINGS[test.outcome] for test in RUN.tests}


def test_a_scenario_that_this_version_does_not_know_has_its_number() -> None:
    [[parent], _] = read(run_of(replace(PASSED, scenario=99)))
    assert parent.name == "scenario 99"


def test_a_run_without_tests_has_an_empty_plan() -> None:
    assert list(ktap_lines(run_of()))[:2] == ["KTAP version 1", "1..0"]
    assert read(run_of())[0] == []


def test_the_reason_stands_beside_the_result() -> None:
    assert read_one(SKIPPED).data == "needs a kernel of 7.2 or later"
    assert read_one(KNOWN).data == "A1: the list is copied at load"
    assert read_one(HOST_FAILED).data == "QEMU died"
    assert read_one(PASSED).data == ""
    assert read_one(replace(SKIPPED, why=())).ending == (True, "SKIP")


def test_a_failure_has_no_directive_whatever_its_reason() -> None:
    assert read_one(FAILED).data == "why: alive: kernel panic: Oops: 0000 [?1]"
    for outcome in (Outcome.FAIL, Outcome.PASS):
        for word in ("SKIP", "TODO", "XFAIL", "TIMEOUT", "ERROR"):
            test = read_one(replace(FAILED, outcome=outcome, why=(f"{word} x",)))
            assert test.ending == ENDINGS[outcome]


@pytest.mark.parametrize("test", [HOST_FAILED, TEST_FAILED])
def test_trouble_of_the_host_or_the_test_is_an_error_and_not_a_failure(test: TestResult) -> None:
    assert read_one(test).ending == (False, "ERROR")
    [[parent], _] = read(run_of(replace(PASSED, scenario=6), test))
    assert parent.ending == (False, "ERROR")


@pytest.mark.parametrize(
    ("outcomes", "loudest"),
    [
        ("pass known skip fail infra", Outcome.FAIL),
        ("pass known skip infra", Outcome.INFRA),
        ("skip known pass", Outcome.PASS),
        ("skip known", Outcome.KNOWN),
        ("skip skip", Outcome.SKIP),
    ],
)
def test_a_scenario_fails_if_a_test_does_and_is_skipped_if_all_are(
    outcomes: str, loudest: Outcome
) -> None:
    tests = [replace(PASSED, outcome=Outcome(word)) for word in outcomes.split()]
    for order in (tests, tests[::-1]):
        [[parent], _] = read(run_of(*order))
        assert parent.ending == ENDINGS[loudest]
    assert re.search(rf"\b\d {loudest}\b", parent.data)


def test_the_lines_before_a_result_say_what_is_known() -> None:
    failed, missed = read_one(FAILED), read_one(HOST_FAILED)
    assert said(failed, "why") == [
        "alive: kernel panic: Oops: 0000 [#1]",
        "in ima_dump",
        "not asked: O1 replay: dead",
    ]
    assert said(failed, "kernel") == ["debug 6.1.176, linux-source-6.1 6.1.176-1 with 2 patches"]
    assert said(failed, "ending") == ["kernel panic"]
    assert said(failed, "verdict") == []
    assert said(failed, "artefacts") == ["tests/3"]
    assert said(failed, "duration") == ["4.2 s, budget 16 s"]
    assert said(failed, "complaint") == [
        "oops in boot 1",
        "Oops: 0000 [#1] SMP",
        "warning in boot 1",
        "WARNING: CPU: 1",
    ]
    assert said(missed, "earlier try") == ["after 3.5 s: swtpm died", "after 0.0 s: no memory"]
    assert said(read_one(PASSED), "verdict") == ["IN_SYNC"]
    assert said(read_one(PASSED), "accelerator") == ["tcg"]
    assert said(read_one(PASSED), "host") == []
    assert said(read_one(replace(PASSED, host="lab2")), "host") == ["lab2"]
    assert said(read_one(KNOWN), "kernel") == ["plain 6.1.176, linux-source-6.1 6.1.176-1"]
    assert said(read_one(UNBOUND), "kernel") == []
    assert said(read_one(UNBOUND), "duration") == ["1.5 s"]


def test_the_run_is_described_after_all_results() -> None:
    _, rest = read(RUN)
    assert rest == [
        "started: 2026-11-24T14:45:20Z",
        "duration: 300.5 s",
        "command: harness/ -k gap events",
        f"project: {RUN.project}",
        "host: system: Debian GNU/Linux 12",
        "host: python: 3.11.2",
        "host: qemu: 7.2.15",
    ]


def test_a_long_reason_is_cut_beside_the_result_and_whole_before_it() -> None:
    test = read_one(replace(SKIPPED, why=("x" * 5000,)))
    assert len(test.data) == 200
    assert said(test, "why") == ["x" * 5000]


def test_a_line_ends_where_any_reader_may_see_its_end() -> None:
    test = read_one(replace(FAILED, why=("a\r\nb\rc\x0bd\x0ce\x85f\u2028g\u2029\n\n \nh",)))
    assert said(test, "why") == list("abcdefgh")


def check_nothing_is_forged(run: SuiteRun) -> None:
    lines = list(ktap_lines(run))
    assert "\n".join(lines).splitlines() == lines
    tests, _ = read(run)
    found = [each.ending for test in tests for each in test.subtests]
    assert sorted(found) == sorted(ENDINGS[test.outcome] for test in run.tests)
    loose = [
        (LOOSE_RESULT, len(run.tests) + len(tests)),
        (LOOSE_PLAN, 1 + len(tests)),
        (LOOSE_VERSION, 1 + len(tests)),
        (SUBTEST, 0),
    ]
    for pattern, count in loose:
        assert sum(pattern.match(line) is not None for line in lines) == count
    assert not [line for line in lines if any(end in line for end in ENDS)]
    assert all(line.isprintable() for line in lines)


def everywhere(text: str, tests: Sequence[TestResult] = RUN.tests) -> SuiteRun:
    run = run_of(*(defaced(test, text) for test in tests))
    return replace(run, started=text, command=(text,), project=text, host={text: text})


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_forges_a_line(text: str) -> None:
    check_nothing_is_forged(everywhere(text))


BITS = st.sampled_from(
    [" ", "\n", "\r", "#", "ok", "not", "1", "SKIP", "KTAP version 1", "1..2", "-", *HOSTILE]
)


@given(st.lists(BITS | st.characters(), max_size=12).map("".join))
def test_no_text_that_is_put_together_forges_a_line(text: str) -> None:
    check_nothing_is_forged(everywhere(text))


def test_a_name_is_never_empty() -> None:
    assert read_one(replace(PASSED, nodeid=" ")).name == "?"
