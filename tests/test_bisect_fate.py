# SPDX-License-Identifier: GPL-2.0-only
"""How far a kernel comes decides what git is told of it, and nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from suite_maker import FAILED, HOST_FAILED, KNOWN, PASSED, SKIPPED

from imakexec.bisect.fate import (
    Fate,
    Quality,
    RunOfTests,
    Tally,
    aim_of,
    faults_of,
    quality_of,
)
from imakexec.options import Aim
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import Found, SuiteRun, TestResult

GOOD, BAD, SKIP = Quality.GOOD, Quality.BAD, Quality.SKIP


@pytest.mark.parametrize(
    ("aim", "qualities"),
    [
        (Aim.CONFIG, [BAD, GOOD, GOOD, GOOD, GOOD]),
        (Aim.BUILD, [SKIP, BAD, GOOD, GOOD, GOOD]),
        (Aim.BOOT, [SKIP, SKIP, BAD, GOOD, GOOD]),
        (Aim.SCENARIO, [SKIP, SKIP, SKIP, BAD, GOOD]),
    ],
)
def test_what_fails_for_another_reason_is_not_judged(aim: Aim, qualities: list[Quality]) -> None:
    fates = [Fate.NOT_CONFIGURED, Fate.NOT_BUILT, Fate.NOT_BOOTED, Fate.FAILS, Fate.PASSES]
    assert [quality_of(fate, aim) for fate in fates] == qualities
    assert quality_of(Fate.UNDECIDED, aim) is SKIP
    assert quality_of(Fate.UNKNOWN, aim) is SKIP


def test_what_is_looked_for_is_how_far_the_bad_end_comes() -> None:
    assert aim_of(Fate.NOT_CONFIGURED) is Aim.CONFIG
    assert aim_of(Fate.FAILS) is Aim.SCENARIO
    assert [aim_of(fate) for fate in (Fate.PASSES, Fate.UNDECIDED, Fate.UNKNOWN)] == [None] * 3


def fate_after(runs: str, wanted: int) -> Fate | None:
    """What runs come to, each "g" or "b"; none may decide before the last."""
    tally = Tally()
    for number, run in enumerate(runs, 1):
        tally = replace(
            tally, **({"good": tally.good + 1} if run == "g" else {"bad": tally.bad + 1})
        )
        fate = tally.fate(wanted)
        assert fate is None or number == len(runs), f"{fate} after {number} of {runs}"
    return fate


@pytest.mark.parametrize(
    ("runs", "wanted", "fate"),
    [
        ("g", 1, Fate.PASSES),
        ("bb", 1, Fate.FAILS),
        ("bgb", 1, Fate.FAILS),
        ("bgg", 1, Fate.UNDECIDED),
        ("ggg", 3, Fate.PASSES),
        ("gg", 3, None),
        ("ggbgb", 3, Fate.FAILS),
        ("ggbgggggg", 3, Fate.UNDECIDED),
        ("b" + 10 * "g" + "b", 12, Fate.FAILS),
        # A sixth of the runs, from the thirteenth on.
        ("b" + 12 * "g" + "bgb", 12, Fate.FAILS),
    ],
)
def test_a_verdict_takes_as_many_runs_as_it_needs(
    runs: str, wanted: int, fate: Fate | None
) -> None:
    assert fate_after(runs, wanted) is fate


def test_how_likely_a_failure_is_missed() -> None:
    assert Tally(good=2, bad=1).chance_missed(12) == pytest.approx((2 / 3) ** 12)
    assert Tally(good=0, bad=2).chance_missed(1) == 0


DEFECT = Found("O2 prefix", "it is not a prefix", "A1")
FINDING = Found("O1 replay", "it does not match", "")


def test_a_known_defect_is_a_fault_unless_the_good_end_has_it() -> None:
    known = replace(KNOWN, findings=(DEFECT,), mended=())
    assert list(faults_of(known, frozenset())) == ["O2 prefix: it is not a prefix (A1)"]
    assert list(faults_of(known, frozenset({"A1"}))) == []
    assert list(faults_of(known, frozenset({"C4"}))) != []


def test_a_mended_defect_is_no_fault() -> None:
    failed = replace(FAILED, findings=(DEFECT,), mended=("C4",), why=("C4 holds",))
    assert list(faults_of(failed, frozenset({"A1"}))) == []
    failed = replace(failed, findings=(FINDING,))
    assert list(faults_of(failed, frozenset({"A1"}))) == ["O1 replay: it does not match"]


def test_an_assertion_of_the_test_itself_is_a_fault() -> None:
    failed = replace(FAILED, findings=(DEFECT,), mended=(), why=("assert 1 == 2",))
    assert list(faults_of(failed, frozenset({"A1"}))) == ["assert 1 == 2"]


@pytest.mark.parametrize("test", [PASSED, SKIPPED, HOST_FAILED])
def test_no_other_outcome_has_faults(test: TestResult) -> None:
    assert list(faults_of(replace(test, findings=(FINDING,)), frozenset())) == []


def run_of(tests: Sequence[TestResult]) -> SuiteRun:
    return SuiteRun("2026-12-01T00:00:00Z", 1.0, (), "", {}, tuple(tests))


def test_what_a_run_says() -> None:
    known = replace(KNOWN, findings=(DEFECT,), mended=())
    ran = RunOfTests.of(run_of([PASSED, known, SKIPPED, HOST_FAILED]), frozenset())
    assert (ran.tried, ran.infra, ran.defects) == (2, True, frozenset({"A1"}))
    assert ran.silent == (*SKIPPED.why, *HOST_FAILED.why)
    assert len(ran.faults) == 1
    assert RunOfTests.of(run_of([known]), None).faults == ()
    assert RunOfTests.of(run_of([replace(PASSED, outcome=Outcome.SKIP)]), None).tried == 0


def test_a_feature_that_is_gone_is_a_fault() -> None:
    features = frozenset({"late-records", "markers"})
    assert PASSED.kernel is not None
    kernel = replace(PASSED.kernel, features=("late-records",))
    lost = replace(PASSED, kernel=kernel)
    assert RunOfTests.of(run_of([lost]), None, features).faults == (
        "the kernel has no markers any more",
    )
    whole = replace(PASSED, kernel=replace(kernel, features=("markers", "late-records")))
    assert RunOfTests.of(run_of([whole]), None, features).faults == ()
    assert RunOfTests.of(run_of([SKIPPED]), None, features).faults == (), "nobody has looked"
