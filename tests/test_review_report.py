# SPDX-License-Identifier: GPL-2.0-only
"""A review says what a series changes, and vouches for it only if all is green."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from suite_maker import FAILED, HOST_FAILED, KNOWN, PASSED, SKIPPED

from imakexec.handover_meter import Held
from imakexec.handover_run import Sample
from imakexec.kernel.series import PatchSeries
from imakexec.report.review import WIDTH, render
from imakexec.review.behaviour import Change, Ending, by_scenario, change, differences, endings
from imakexec.review.checks import COLUMNS
from imakexec.review.inbox import MailedSeries
from imakexec.review.review import Looked, Review
from imakexec.series.cells import Cell, Row, Status
from imakexec.series.messages import lines_of
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import Found, SuiteRun
from imakexec.suite.runner import Selection, without_subject

PASS = Ending(Outcome.PASS, 1, "IN_SYNC", (), ())
LOST = Ending(Outcome.KNOWN, 1, "OUT_OF_SYNC", ("A1",), ())
FAIL = Ending(Outcome.FAIL, 1, "OUT_OF_SYNC", (), ("O1 replay: it does not match",))
SKIP = Ending(Outcome.SKIP, 1, "", (), ())
INFRA = Ending(Outcome.INFRA, 1, "", (), ())


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (PASS, PASS, Change.SAME),
        (LOST, PASS, Change.BETTER),
        (PASS, LOST, Change.WORSE),
        (LOST, FAIL, Change.WORSE),
        (FAIL, LOST, Change.BETTER),
        (LOST, replace(LOST, defects=("A1", "K4")), Change.WORSE),
        (replace(LOST, defects=("A1", "K4")), LOST, Change.BETTER),
        (LOST, replace(LOST, defects=("K4",)), Change.OTHER),
        (LOST, replace(LOST, verdict="TRUNCATED"), Change.OTHER),
        (SKIP, SKIP, Change.SAME),
        (SKIP, PASS, Change.OTHER),
        (PASS, INFRA, Change.OTHER),
    ],
)
def test_what_has_become_of_a_test(before: Ending, after: Ending, what: Change) -> None:
    assert change(before, after) is what


def test_tests_are_compared_by_what_they_do_and_not_by_their_kernel() -> None:
    gap = "harness/test_gap_events.py::test_gap_events[plain-5]"
    assert without_subject(gap) == "test_gap_events.py::test_gap_events[*-5]"
    assert without_subject(gap) == without_subject(gap.replace("plain", "given"))
    known = replace(KNOWN, nodeid=gap, findings=(Found("O1", "lost", "A1"),))
    run = SuiteRun("", 0.0, (), "", {}, (known, SKIPPED))
    found = endings(run)[without_subject(gap)]
    assert (found.outcome, found.defects, found.faults) == (Outcome.KNOWN, ("A1",), ())
    assert Ending.of(FAILED).faults == FAILED.why
    assert Ending.of(HOST_FAILED).outcome is Outcome.INFRA
    assert by_scenario(endings(run))[KNOWN.scenario or 0][Outcome.KNOWN] == 1
    assert Ending.of(replace(PASSED, scenario=None)).scenario == 0


def test_what_is_only_for_one_kernel_is_not_compared() -> None:
    [found] = differences({"a": LOST, "control": PASS}, {"a": PASS, "new": PASS})
    assert (found.name, found.change) == ("a", Change.BETTER)


def test_a_warning_is_shown_with_its_line() -> None:
    said = "/tree/a.c:12:3: warning: unused variable 'x' [-Wunused-variable]\n"
    message = "a.c: warning: unused variable 'x' [-Wunused-variable]"
    assert list(lines_of(said, "/tree", [message, "b.c: gone"])) == [
        "a.c:12:3: warning: unused variable 'x' [-Wunused-variable]",
        "b.c: gone",
    ]


# The text.


SAMPLE = Sample(50, 4795, 0.0123, 0.00456, 45056, Held(49152, {}, {}), Held(0, {}, {}))
OK = {column.name: Cell(Status.OK, "ok") for column in COLUMNS}


def row(number: int, **cells: Cell) -> Row:
    return Row(number, 2, f"ima: subject of patch number {number}", {**OK, **cells}, 1.0)


def review_of(
    new: Mapping[str, Ending], *cells: Cell, sample: Sample | None = SAMPLE, older: bool = False
) -> Review:
    mailed = MailedSeries(
        what="mbox",
        title="[PATCH v2 0/2] ima: two changes",
        version=2,
        message_id="cover@example.org",
        series=PatchSeries(),
        subjects=("ima: one", "ima: two"),
        authors=("A <a@b>", "A <a@b>"),
        folder=Path("/out/series"),
    )
    base = Looked("base", {"a[*]": LOST, "b[*]": PASS}, SAMPLE, "", Path("/out/base"))
    old = Looked("old", {"a[*]": LOST, "b[*]": PASS}, SAMPLE, "", Path("/out/old"))
    why = "" if sample else "the kernel did not carry its list"
    last = Looked("new", new, sample, why, Path("/out/new"))
    red = {"build": cells[0]} if cells else {}
    return Review(
        mailed=mailed,
        older=replace(mailed, version=1) if older else None,
        base="linux-source-6.1 6.1.176-1",
        platform="x86_64, tcg",
        rows=(row(0), row(1, **red), row(2)),
        kernels=(base, old, last) if older else (base, last),
        range_diff="1:  aaaaaaa = 1:  bbbbbbb ima: one" if older else "",
        selection=Selection(),
        seconds=600.0,
        folder=Path("/out"),
    )


BETTER = {"a[*]": PASS, "b[*]": PASS}
RED = Cell(Status.RED, "1 new message", ("a.c:12:3: warning: unused variable 'x'",))


@pytest.mark.parametrize(
    ("review", "code", "words"),
    [
        (review_of(BETTER), 0, ["All is green", "Tested-by: A Tester <a@b> #"]),
        (review_of(BETTER, RED), 1, ["1 cell of the table is red", "a.c:12:3: warning: unused"]),
        (review_of({"a[*]": FAIL, "b[*]": PASS}), 1, ["1 test failed", "it does not match"]),
        (review_of({"a[*]": LOST, "b[*]": LOST}), 1, ["1 test failed or got worse", "b[*]"]),
        (review_of({"a[*]": INFRA, "b[*]": PASS}), 3, ["1 could not be found out"]),
        (review_of(BETTER, sample=None), 3, ["new could not be measured", "1 could not be"]),
        (review_of(BETTER, Cell(Status.INFRA, "no network")), 3, ["1 could not be found out"]),
        (review_of(BETTER, older=True), 0, ["than on version 1", "1:  aaaaaaa = 1:  bbbbbbb"]),
    ],
)
def test_the_text_of_a_review(review: Review, code: int, words: list[str]) -> None:
    text = render(review, "A Tester <a@b>")
    assert review.exit_code == code
    assert [word for word in words if word not in text] == []
    assert ("Tested-by:" in text) == (code == 0)
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []
    assert text.startswith("Subject: Re: [PATCH v2 0/2] ima: two changes\n")
    assert "In-Reply-To: <cover@example.org>" in text


def test_nobody_is_named_who_is_not_known() -> None:
    assert "Tested-by" not in render(review_of(BETTER), "")
